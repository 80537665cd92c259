"""Reading a client's JSON: typed access that knows its path.

Bodies are decoded to plain JSON values and read by hand, not into Structs, for three reasons: every error names the path and
says what was expected in the words OpenAI's own API uses; unknown keys are seen instead of dropped; and a union such as
`content` (string, parts or null) reads as one sentence. Measured, it costs the same as typed decoding for bodies of this size.
"""

from collections.abc import Container, Sequence
from typing import NoReturn, cast

import msgspec

from trunkline.model.errors import InvalidParameter, RequestError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Object = dict[str, Json]

NOT_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What reading JSON raises for what is none, and for what is nested too deeply to be read."""

MAX_PAIRS = 16
MAX_NAME_CHARACTERS = 64
MAX_VALUE_CHARACTERS = 512
"""Of the metadata of what is kept, as the API bounds them."""


def decode_body(body: bytes) -> Object:
    """The body as a JSON object. Raises RequestError for anything else, however long or deep."""
    try:
        value: Json = msgspec.json.decode(body)
    except RecursionError:
        raise RequestError("Invalid JSON: nested too deeply", code="invalid_json") from None
    except UnicodeDecodeError:
        raise RequestError(f"Invalid JSON: the body is not UTF-8{_where(body)}", code="invalid_json") from None
    except msgspec.DecodeError as error:
        what = str(error) if body.strip() else "expected a JSON object, got an empty body"
        raise RequestError(f"Invalid JSON: {what}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError(f"Invalid JSON: expected an object, but got {describe(value)} instead", code="invalid_type")
    return value


def _where(body: bytes) -> str:
    try:
        body.decode()
    except UnicodeDecodeError as error:  # the JSON decoder counts from the string's beginning, this from the body's
        return f" ({error.reason} at byte {error.start})"
    return ""


def raw(value: Json) -> msgspec.Raw:
    """The value as JSON text."""
    return msgspec.Raw(msgspec.json.encode(value))


def describe(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def wrong_type(path: str, expected: str, value: Json) -> NoReturn:
    raise InvalidParameter(
        f"Invalid type for '{path}': expected {expected}, but got {describe(value)} instead.",
        code="invalid_type",
        param=path,
    )


def missing(path: str, *, instead_of: str | None = None) -> NoReturn:
    """`instead_of`: what there is, and probably stands for it."""
    hint = "" if instead_of is None else f" It has '{instead_of}'; did you mean that as '{path}'?"
    raise InvalidParameter(
        f"Missing required parameter: '{path}'.{hint}", code="missing_required_parameter", param=path
    )


def text(value: Json, path: str) -> str:
    if type(value) is not str:
        wrong_type(path, "a string", value)
    return value


def boolean(value: Json, path: str) -> bool:
    if type(value) is not bool:
        wrong_type(path, "a boolean", value)
    return value


def lenient_boolean(value: Json, path: str) -> bool:
    """Also the strings "true" and "false": clients that build JSON from form values send them (decision 33)."""
    if value == "true":
        return True
    if value == "false":
        return False
    return boolean(value, path)


def integer(value: Json, path: str, *, low: int | None = None, high: int | None = None) -> int:
    if type(value) is not int:
        if type(value) is not float or not value.is_integer():
            wrong_type(path, "an integer", value)
        value = int(value)
    if (low is not None and value < low) or (high is not None and value > high):
        _out_of_range(value, path, "integer", low, high)
    return value


def number(value: Json, path: str, *, low: float | None = None, high: float | None = None) -> float:
    if type(value) is not float and type(value) is not int:
        wrong_type(path, "a decimal", value)
    if (low is not None and value < low) or (high is not None and value > high):
        _out_of_range(value, path, "decimal", low, high)
    return value


def _out_of_range(value: float, path: str, kind: str, low: float | None, high: float | None) -> NoReturn:
    if low is not None and value < low:
        raise InvalidParameter(
            f"Invalid '{path}': {kind} below minimum value. Expected a value >= {low}, but got {value} instead.",
            code=f"{kind}_below_min_value",
            param=path,
        )
    raise InvalidParameter(
        f"Invalid '{path}': {kind} above maximum value. Expected a value <= {high}, but got {value} instead.",
        code=f"{kind}_above_max_value",
        param=path,
    )


def array(value: Json, path: str) -> list[Json]:
    if type(value) is not list:
        wrong_type(path, "an array", value)
    return value


def mapping(value: Json, path: str) -> Object:
    if type(value) is not dict:
        wrong_type(path, "an object", value)
    return value


def one_of(value: Json, path: str, allowed: Sequence[str]) -> str:
    if type(value) is not str:
        wrong_type(path, "a string", value)
    if value not in allowed:
        choices = ", ".join(f"'{choice}'" for choice in allowed)
        raise InvalidParameter(
            f"Invalid value: '{shorten(value)}'. Supported values are: {choices}.", code="invalid_value", param=path
        )
    return value


def field(source: Object, key: str, path: str) -> Json:
    """A required, non-null member."""
    value = source.get(key)
    if value is None:
        missing(f"{path}.{key}")
    return value


def text_field(source: Object, key: str, path: str) -> str:
    value = source.get(key)
    if type(value) is str:
        return value
    return text(field(source, key, path), f"{path}.{key}")


def optional_text(source: Object, key: str, path: str) -> str | None:
    value = source.get(key)
    return None if value is None else text(value, f"{path}.{key}")


def tool_name(source: Object, path: str) -> str:
    """Of a function or a custom tool: what a model can write, and a template in one line."""
    name = text_field(source, "name", path)
    if not name or not name.isprintable():
        got = "an empty string" if not name else shorten(ascii(name))
        raise InvalidParameter(
            f"Invalid '{path}.name': expected a name of visible characters, but got {got} instead.",
            param=f"{path}.name",
        )
    return name


def function_parameters(source: Object, path: str) -> msgspec.Raw | None:
    """The JSON Schema of a function's arguments, which are an object."""
    value, path = source.get("parameters"), f"{path}.parameters"
    if value is None:
        return None
    if not isinstance(value, dict):
        got = describe(value)
    elif (kind := value.get("type", "object")) != "object":
        got = f"one of type {shorten(msgspec.json.encode(kind).decode())}"
    elif not isinstance(properties := value.get("properties", {}), dict):
        got = f"one whose 'properties' are {describe(properties)}"
    elif not isinstance(required := value.get("required", []), list) or not all(type(key) is str for key in required):
        got = "one whose 'required' is not a list of names"
    else:
        return raw(value)
    raise InvalidParameter(
        f"Invalid '{path}': expected a JSON Schema object, but got {got} instead.",
        code="invalid_function_parameters",
        param=path,
    )


def unnamed(key: str, value: Json, known: Container[str]) -> msgspec.Raw:
    """The value of a member that nothing here names, to be passed on.

    Raises InvalidParameter for one that differs from a known name in its case alone. There are servers that take it for that name,
    and would then answer with another model, say, than was asked for here.
    """
    if key not in known and key.casefold() in known:
        raise InvalidParameter(
            f"Unknown parameter: '{key}'. Names are case-sensitive: did you mean '{key.casefold()}'?",
            code="unknown_parameter",
            param=key,
        )
    return raw(value)


def only(source: Object, known: Sequence[str]) -> None:
    """Raises InvalidParameter for a member that is none of these: of what is not passed on to anybody."""
    unknown = next((key for key in source if key not in known), None)
    if unknown is not None:
        names = ", ".join([f"'{key}'" for key in known])
        raise InvalidParameter(
            f"Unknown parameter: '{shorten(unknown)}'. What is known here: {names}.",
            code="unknown_parameter",
            param=shorten(unknown),
        )


def string_map(value: Json, path: str) -> dict[str, str]:
    """An object whose values are all strings."""
    source = mapping(value, path)
    for key, member in source.items():
        text(member, f"{path}.{shorten(key)}")
    return cast("dict[str, str]", source)


def metadata(value: Json) -> dict[str, str]:
    """The metadata of something that is kept: strings by name, bounded."""
    pairs = string_map(value, "metadata")
    if len(pairs) > MAX_PAIRS:
        raise InvalidParameter(
            f"Invalid 'metadata': too many properties. Expected an object with at most {MAX_PAIRS} properties, "
            f"but got an object with {len(pairs)} properties instead.",
            code="object_above_max_properties",
            param="metadata",
        )
    for name, member in pairs.items():
        if len(name) > MAX_NAME_CHARACTERS:
            raise InvalidParameter(
                f"Invalid 'metadata': property name too long. Expected a name with maximum length "
                f"{MAX_NAME_CHARACTERS}, but got '{shorten(name)}' with length {len(name)} instead.",
                code="property_name_above_max_length",
                param="metadata",
            )
        if len(member) > MAX_VALUE_CHARACTERS:
            raise InvalidParameter(
                f"Invalid 'metadata.{name}': string too long. Expected a string with maximum length "
                f"{MAX_VALUE_CHARACTERS}, but got a string with length {len(member)} instead.",
                code="string_above_max_length",
                param=f"metadata.{name}",
            )
    return pairs


def shorten(value: str, *, limit: int = 100) -> str:
    """A client's text for an error message: bounded, so that a megabyte is not echoed."""
    return value if len(value) <= limit else value[:limit] + "…"
