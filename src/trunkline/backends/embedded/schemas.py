"""JSON Schema in the form the engine's grammar can enforce.

llama.cpp turns a schema into a grammar. What that grammar cannot say it drops, sometimes with a line on standard
error that holds the client's own text. So the schema is read here first: under `strict` what cannot be enforced is
refused by name, otherwise it is left out, which is what the engine would do. Depth and repetitions are bounded: they
are a recursion and a table in native code.
"""

from trunkline.model.errors import InvalidParameter

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MAX_DEPTH = 64
MAX_REPETITIONS = 2000
"""llama.cpp's own bound (MAX_REPETITION_THRESHOLD), beyond which it refuses the grammar."""

_NAMED = frozenset({"properties", "$defs", "definitions"})  # name -> schema
_LITERAL = frozenset({"enum", "const", "default", "examples", "required"})
_UNENFORCED = frozenset(
    {
        "contains",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "maxContains",
        "maxProperties",
        "minContains",
        "minProperties",
        "multipleOf",
        "not",
        "patternProperties",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
        "uniqueItems",
    }
)
_REPETITIONS = ("minLength", "maxLength", "minItems", "maxItems")


def enforceable(schema: dict[str, Json], *, param: str, strict: bool, moved_to: str = "#") -> dict[str, Json]:
    """The schema to give to the engine.

    Args:
        param: what to name in an error.
        strict: whether what cannot be enforced is refused.
        moved_to: where in a larger schema this one will stand; its references are rewritten accordingly.
    """
    return _Reader(param, strict=strict, moved_to=moved_to).schema(schema, 0)


class _Reader:
    def __init__(self, param: str, *, strict: bool, moved_to: str) -> None:
        self._param = param
        self._strict = strict
        self._moved_to = moved_to

    def schema(self, source: dict[str, Json], depth: int) -> dict[str, Json]:
        self._check_depth(depth)
        read: dict[str, Json] = {}
        for key, value in source.items():
            if key in _LITERAL:
                read[key] = value
            elif key in _NAMED and isinstance(value, dict):
                read[key] = {name: self._value(member, depth + 1) for name, member in value.items()}
            elif key == "$ref" and isinstance(value, str):
                read[key] = self._moved_to + value[1:] if value.startswith("#/") else value
            elif self._is_enforced(key, value):
                read[key] = self._value(value, depth + 1)
        return read

    def _value(self, value: Json, depth: int) -> Json:
        if isinstance(value, dict):
            return self.schema(value, depth)
        if isinstance(value, list):
            self._check_depth(depth)
            return [self._value(member, depth + 1) for member in value]
        return value

    def _check_depth(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise InvalidParameter(f"Invalid schema: nested deeper than {MAX_DEPTH} levels.", param=self._param)

    def _is_enforced(self, key: str, value: Json) -> bool:
        if key in _UNENFORCED:
            return self._drop(f"'{key}'")
        if key == "pattern" and isinstance(value, str) and not (value.startswith("^") and value.endswith("$")):
            return self._drop("a 'pattern' without '^' and '$'")
        if key in _REPETITIONS and isinstance(value, int | float) and value > MAX_REPETITIONS:
            if key.startswith("min"):
                raise InvalidParameter(
                    f"Invalid schema: '{key}' is {value}, the embedded engine takes at most {MAX_REPETITIONS}.",
                    param=self._param,
                )
            return self._drop(f"'{key}' above {MAX_REPETITIONS}")
        return True

    def _drop(self, what: str) -> bool:
        if self._strict:
            raise InvalidParameter(
                f"Invalid schema: the embedded engine cannot enforce {what}, which 'strict' demands.",
                code="invalid_json_schema",
                param=self._param,
            )
        return False
