"""Query parameters of the resources, read like a body's: typed, bounded, refused by name."""

import re
from urllib.parse import parse_qs

from starlette.types import Scope

from trunkline.model.errors import InvalidParameter
from trunkline.ports.stores import Order, Page

MAX_LIMIT = 100
_INTEGER = re.compile(r"-?[0-9]{1,18}")  # what a database can hold


def query_of(scope: Scope, *, blank: bool = False) -> dict[str, str]:
    """The last value of each parameter. One without a value is as good as none, unless `blank` ones count, too."""
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=blank)
    return {name: values[-1] for name, values in query.items()}


def integer_of(query: dict[str, str], name: str, default: int, *, low: int, high: int | None = None) -> int:
    text = query.get(name)
    if text is None:
        return default
    if _INTEGER.fullmatch(text) is None:
        raise InvalidParameter(
            f"Invalid type for '{name}': expected an integer, but got '{text[:100]}' instead.",
            code="invalid_type",
            param=name,
        )
    value = int(text)
    if value < low or (high is not None and value > high):
        between = f">= {low}" if high is None else f"from {low} to {high}"
        raise InvalidParameter(f"Invalid '{name}': expected a value {between}, but got {value} instead.", param=name)
    return value


def flag_of(query: dict[str, str], name: str) -> bool:
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidParameter(f"Invalid '{name}': expected true or false, but got '{text[:100]}'.", param=name)
    return text == "true"


def page_of(scope: Scope, *, order: Order = "desc") -> Page:
    """`limit`, `order` and `after`, as every list of the API has them; they differ in the order when nothing is said."""
    query = query_of(scope)
    wanted = query.get("order", order)
    if wanted not in ("asc", "desc"):
        raise InvalidParameter(f"Invalid value: '{wanted[:100]}'. Supported values are: 'asc', 'desc'.", param="order")
    limit = integer_of(query, "limit", 20, low=1, high=MAX_LIMIT)
    return Page(limit=limit, order="asc" if wanted == "asc" else "desc", after=query.get("after"))
