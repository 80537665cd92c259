"""What the engine's grammar cannot enforce is refused under strict, else left out; native code gets bounded input."""

import pytest

from trunkline.backends.embedded.schemas import MAX_DEPTH, Json, enforceable
from trunkline.model.errors import InvalidParameter


def read(schema: dict[str, Json], *, strict: bool = False, moved_to: str = "#") -> dict[str, Json]:
    return enforceable(schema, param="response_format", strict=strict, moved_to=moved_to)


UNENFORCEABLE: list[tuple[dict[str, Json], str]] = [
    ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
    ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "not"),
    ({"type": "string", "pattern": "foo"}, "pattern"),
    ({"type": "string", "maxLength": 5000}, "maxLength"),
]


@pytest.mark.parametrize(("schema", "name"), UNENFORCEABLE)
def test_strict_refuses_by_name_what_cannot_be_enforced(schema: dict[str, Json], name: str) -> None:
    with pytest.raises(InvalidParameter, match=name) as caught:
        read(schema, strict=True)
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(("schema", "name"), UNENFORCEABLE)
def test_without_strict_it_is_left_out(schema: dict[str, Json], name: str) -> None:
    assert f"'{name}'" not in repr(read(schema))


def test_properties_that_are_named_like_keywords_stay() -> None:
    schema: dict[str, Json] = {
        "type": "object",
        "properties": {"not": {"type": "string"}, "pattern": {"type": "string"}, "$ref": {"type": "integer"}},
        "required": ["not"],
        "enum": [{"uniqueItems": 1}],
    }
    assert read(schema, strict=True) == schema


def test_references_follow_a_schema_to_its_new_place() -> None:
    schema: dict[str, Json] = {"properties": {"u": {"$ref": "#/$defs/u"}}, "$defs": {"u": {"enum": ["c"]}}}
    moved = read(schema, moved_to="#/anyOf/1/properties/arguments")
    assert moved["properties"] == {"u": {"$ref": "#/anyOf/1/properties/arguments/$defs/u"}}


def test_a_schema_deeper_than_the_bound_is_refused() -> None:
    schema: dict[str, Json] = {"type": "string"}
    for _ in range(MAX_DEPTH + 1):
        schema = {"type": "array", "items": schema}
    with pytest.raises(InvalidParameter, match="deeper"):
        read(schema)


def test_more_repetitions_than_the_engine_takes_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="minItems"):
        read({"type": "array", "items": {"type": "integer"}, "minItems": 2001})
