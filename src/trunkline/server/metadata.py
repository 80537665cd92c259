"""`metadata` of a stored resource, in a body and as a filter: strings by name, bounded as the API bounds them."""

import re
from urllib.parse import parse_qs

import msgspec
from starlette.types import Scope

from trunkline.dialects import reading
from trunkline.dialects.reading import Json, Object

_FILTER = re.compile(r"metadata\[(.+)\]", re.DOTALL)


def metadata_of(source: Object) -> bytes:
    """The body's `metadata` as JSON; an empty object where there is none. Raises InvalidParameter."""
    value: Json = source.get("metadata")
    if value is None:
        return b"{}"
    return msgspec.json.encode(reading.metadata(value))


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
