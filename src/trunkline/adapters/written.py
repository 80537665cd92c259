"""What an agent's output is as text, where it is none."""

from collections.abc import Callable

import msgspec


def as_text(output: object) -> str:
    """A text as it is, anything else as JSON, as far as JSON can say it. Models of pydantic write themselves."""
    if isinstance(output, str):
        return output
    write: Callable[[], str] | None = getattr(output, "model_dump_json", None)
    return write() if callable(write) else msgspec.json.encode(output, enc_hook=str).decode()
