"""`metadata` of a stored resource, in a body and as a filter: strings by name, bounded as the API bounds them."""

import re
from urllib.parse import parse_qs

import msgspec
from starlette.types import Scope

from trunkline.dialects import reading
from trunkline.dialects.reading import Json, Object
from trunkline.model.errors import InvalidParameter

MAX_PAIRS = 16
MAX_NAME_CHARACTERS = 64
MAX_VALUE_CHARACTERS = 512
_FILTER = re.compile(r"metadata\[(.+)\]", re.DOTALL)


def metadata_of(source: Object) -> bytes:
    """The body's `metadata` as JSON; an empty object where there is none. Raises InvalidParameter."""
    value: Json = source.get("metadata")
    if value is None:
        return b"{}"
    pairs = reading.string_map(value, "metadata")
    if len(pairs) > MAX_PAIRS:
        raise InvalidParameter(
            f"Invalid 'metadata': too many properties. Expected an object with at most {MAX_PAIRS} properties, "
            f"but got an object with {len(pairs)} properties instead.",
            code="object_above_max_properties",
            param="metadata",
        )
    for name, text in pairs.items():
        if len(name) > MAX_NAME_CHARACTERS:
            raise InvalidParameter(
                f"Invalid 'metadata': property name too long. Expected a name with maximum length "
                f"{MAX_NAME_CHARACTERS}, but got '{reading.shorten(name)}' with length {len(name)} instead.",
                code="property_name_above_max_length",
                param="metadata",
            )
        if len(text) > MAX_VALUE_CHARACTERS:
            raise InvalidParameter(
                f"Invalid 'metadata.{name}': string too long. Expected a string with maximum length "
                f"{MAX_VALUE_CHARACTERS}, but got a string with length {len(text)} instead.",
                code="string_above_max_length",
                param=f"metadata.{name}",
            )
    return msgspec.json.encode(pairs)


def required_metadata_of(source: Object) -> bytes:
    """The same for an update, which is about nothing else; null empties it."""
    if "metadata" not in source:
        reading.missing("metadata")
    return metadata_of(source)


def metadata_filter(scope: Scope) -> bytes | None:
    """The pairs that `metadata[NAME]=VALUE` ask for in the query, as a JSON object; None where nothing does."""
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)  # an empty value is one, too
    found = ((_FILTER.fullmatch(key), values[-1]) for key, values in query.items())
    pairs = {match[1]: value for match, value in found if match is not None}
    return msgspec.json.encode(pairs) if pairs else None
