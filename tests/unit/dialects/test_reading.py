"""Typed access to a client's JSON, and the errors that name the path."""

import pytest

from trunkline.dialects import reading
from trunkline.model.errors import InvalidParameter, RequestError


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (None, "null"),
        (True, "a boolean"),
        (1, "an integer"),
        (1.5, "a decimal"),
        ("x", "a string"),
        ([], "an array"),
        ({}, "an object"),
    ],
)
def test_what_was_seen_is_named(value: reading.Json, word: str) -> None:
    assert reading.describe(value) == word


@pytest.mark.parametrize(("value", "result"), [(5, 5), (5.0, 5), (-0.0, 0)])
def test_an_integer_may_be_written_as_a_decimal(value: float, result: int) -> None:
    read = reading.integer(value, "n")
    assert read == result
    assert type(read) is int


@pytest.mark.parametrize("value", [True, "5", 5.5, None, [5], {}])
def test_what_is_no_integer_is_refused(value: reading.Json) -> None:
    with pytest.raises(InvalidParameter) as caught:
        reading.integer(value, "a.b[0]")
    assert caught.value.param == "a.b[0]"
    assert caught.value.code == "invalid_type"


@pytest.mark.parametrize(
    ("value", "code"),
    [(-3, "integer_below_min_value"), (3, "integer_above_max_value"), (10**400, "integer_above_max_value")],
)
def test_bounds_are_named(value: int, code: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        reading.integer(value, "n", low=-2, high=2)
    assert caught.value.code == code


@pytest.mark.parametrize(("value", "result"), [(True, True), (False, False), ("true", True), ("false", False)])
def test_booleans_may_come_as_strings_where_forms_send_them(value: reading.Json, result: bool) -> None:
    assert reading.lenient_boolean(value, "stream") is result
    if isinstance(value, str):
        with pytest.raises(InvalidParameter):
            reading.boolean(value, "stream")


@pytest.mark.parametrize("value", ["True", "yes", "", 1, 0, None])
def test_nothing_else_is_a_boolean(value: reading.Json) -> None:
    with pytest.raises(InvalidParameter):
        reading.lenient_boolean(value, "stream")


def test_a_missing_member_is_named_with_its_path() -> None:
    for source in ({}, {"text": None}):
        with pytest.raises(InvalidParameter) as caught:
            reading.text_field(source, "text", "messages[1].content[0]")  # type: ignore[arg-type]
        assert caught.value.param == "messages[1].content[0].text"
        assert caught.value.code == "missing_required_parameter"


def test_an_optional_member_may_be_absent_or_null_but_not_of_another_type() -> None:
    assert reading.optional_text({}, "name", "m") is None
    assert reading.optional_text({"name": None}, "name", "m") is None
    assert reading.optional_text({"name": "x"}, "name", "m") == "x"
    with pytest.raises(InvalidParameter):
        reading.optional_text({"name": 5}, "name", "m")


def test_long_values_are_cut() -> None:
    assert reading.shorten("x" * 100) == "x" * 100
    assert reading.shorten("x" * 101) == "x" * 100 + "…"


def test_the_place_of_a_wrong_byte_is_counted_from_the_beginning_of_the_body() -> None:
    with pytest.raises(RequestError, match=r"not UTF-8 \(invalid start byte at byte 10\)"):
        reading.decode_body(b'{"a": "abc\xff"}')
