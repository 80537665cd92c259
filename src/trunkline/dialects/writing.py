"""JSON as a profile spaces it."""

import msgspec


def write_json(value: object, *, spaced: bool) -> bytes:
    """The value as JSON. `spaced`: as `json_spacing` of a profile has it."""
    data = msgspec.json.encode(value)
    return msgspec.json.format(data, indent=0) if spaced else data
