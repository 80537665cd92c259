"""What a value should be, in words, and the places where a document is not that.

msgspec decodes the configuration; its messages name types, not values, and its paths stop at the keys of a table
(`$.backends[...]`). So the document is first walked along the same type description: the walk knows the whole path, the
value seen, and names close to what was written. The reference pages use the same words for the same types.
"""

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import msgspec
from msgspec import inspect

Document: TypeAlias = Mapping[str, object]

SECRET_KEYS = frozenset({"key", "api_key", "api_keys"})
"""Settings whose value is never repeated in a message."""

NOT_YET = frozenset(
    {
        "rollouts",                                                                         # tables
        "command",                                                                          # backend types
        "anthropic_messages", "vllm", "sglang", "llama_cpp",  # dialects
        "preset", "hold_s", "tokenizer",                               # backend settings
        "claude-agent", "atropos",                                                          # profiles
    }
)  # fmt: skip
"""Names that trunkline's design knows and this version does not have: the message says so, rather than "unknown"."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Problem(msgspec.Struct, frozen=True):
    """Something wrong with a document: at which key, and a sentence about it. `unknown`: the name of a setting that its table
    has not, for whoever knows the other tables."""

    key: str
    message: str
    unknown: str | None = None


def join(path: str, key: str) -> str:
    """`path.key`, the key quoted where TOML would need it."""
    shown = key if _BARE_KEY.fullmatch(key) else msgspec.json.encode(key).decode()
    return f"{path}.{shown}" if path else shown


def quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def unknown(name: str, known: Iterable[str], *, what: str) -> str:
    """A sentence on a name that is not among those known; says which one was probably meant."""
    names = sorted(known)
    if name in NOT_YET:
        reason = f"{name!r} is not in this version of trunkline"
    else:
        close = difflib.get_close_matches(name, names, n=1)
        reason = f"unknown {what} {name!r}" + (f" (did you mean {close[0]!r}?)" if close else "")
    return f"{reason}; known: {quoted(names) if names else 'none'}"


def seen(value: object, *, secret: bool = False) -> str:
    """The value as a reader of the file would recognize it."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            if secret:
                return "a string"
            return repr(value if len(value) <= 80 else value[:77] + "...")
        case list() | tuple():
            return "a list" if value else "an empty list"
        case dict():
            return "a table"
        case _:
            return f"a {type(value).__name__}"


def _range(low: float | None, above: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f", {low} or more"
    return f" above {above}" if above is not None else ""


def phrase(expected: inspect.Type) -> str:
    """The type in words, with its article: `an integer from 0 to 65535`."""
    match expected:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "an integer" + _range(expected.ge, expected.gt, expected.le)
        case inspect.FloatType():
            return "a number" + _range(expected.ge, expected.gt, expected.le)
        case inspect.StrType():
            return "a non-empty string" if expected.min_length else "a string"
        case inspect.LiteralType():
            return ("one of " if len(expected.values) > 1 else "") + quoted(str(value) for value in expected.values)
        case inspect.VarTupleType():
            least = "non-empty " if expected.min_length else ""
            return f"a {least}list, each {phrase(expected.item_type)}"
        case inspect.UnionType():
            return " or ".join(phrase(kind) for kind in expected.types if not isinstance(kind, inspect.NoneType))
        case inspect.StructType() | inspect.DictType():
            return "a table"
        case _:
            raise TypeError(f"no words for {expected!r}; the settings have no such type yet")


def problems(value: object, expected: inspect.Type, *, path: str = "", secret: bool = False) -> Iterator[Problem]:
    """Walks the document along the type. Nothing: msgspec will accept it."""
    match expected:
        case inspect.StructType():
            yield from _in_struct(value, expected, path=path)
        case inspect.DictType():
            if not isinstance(value, dict):
                yield _mismatch(value, expected, path=path)
                return
            for key, item in value.items():
                yield from problems(item, expected.value_type, path=join(path, key))
        case inspect.VarTupleType():
            yield from _in_list(value, expected, path=path, secret=secret)
        case inspect.UnionType():
            yield from _in_union(value, expected, path=path, secret=secret)
        case inspect.LiteralType():
            if not isinstance(value, str):
                yield _mismatch(value, expected, path=path)
            elif value not in expected.values:
                yield Problem(path, unknown(value, [str(known) for known in expected.values], what="value"))
        case _:
            if not _scalar_fits(value, expected):
                yield _mismatch(value, expected, path=path, secret=secret)


def _scalar_fits(value: object, expected: inspect.Type) -> bool:
    match expected:
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.StrType():
            return isinstance(value, str) and len(value) >= (expected.min_length or 0)
        case inspect.IntType():
            number = isinstance(value, int) and not isinstance(value, bool)
        case inspect.FloatType():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        case _:
            raise TypeError(f"no rule for {expected!r}; the settings have no such type yet")
    if not number or not isinstance(value, int | float):
        return False
    low = expected.ge is None or value >= expected.ge
    return low and (expected.gt is None or value > expected.gt) and (expected.le is None or value <= expected.le)


def _mismatch(value: object, expected: inspect.Type, *, path: str, secret: bool = False) -> Problem:
    if isinstance(value, str) and isinstance(expected, inspect.IntType | inspect.FloatType | inspect.BoolType):
        return Problem(path, f"expected {phrase(expected)}, got the string {seen(value)}")
    meant = None if secret else _meant(value, expected, path=path)
    hint = f" (did you mean {meant}?)" if meant else ""
    return Problem(path, f"expected {phrase(expected)}, got {seen(value, secret=secret)}{hint}")


def _meant(value: object, expected: inspect.Type, *, path: str) -> str | None:
    """The same value, as the file would have it there."""
    match expected, value:
        case inspect.VarTupleType(item_type=inspect.StrType()), str():
            return f"[{value!r}]"
        case inspect.VarTupleType(item_type=inspect.StructType()), dict() if "[" not in path:
            return f"[[{path}]]"
        case inspect.DictType(), list():
            return f"[{path}.NAME]"
        case inspect.StructType(fields=fields), str():
            required = [field.encode_name for field in fields if field.required]
            return f"{{ {required[0]} = {value!r} }}" if len(required) == 1 else None
        case _:
            return None


def _in_list(value: object, expected: inspect.VarTupleType, *, path: str, secret: bool) -> Iterator[Problem]:
    if not isinstance(value, list) or len(value) < (expected.min_length or 0):
        yield _mismatch(value, expected, path=path, secret=secret)
        return
    for index, item in enumerate(value):
        yield from problems(item, expected.item_type, path=f"{path}[{index}]", secret=secret)


def _in_union(value: object, expected: inspect.UnionType, *, path: str, secret: bool) -> Iterator[Problem]:
    kinds = [kind for kind in expected.types if not isinstance(kind, inspect.NoneType)]
    if len(kinds) == 1:
        yield from problems(value, kinds[0], path=path, secret=secret)
    elif all(isinstance(kind, inspect.StructType) for kind in kinds):
        yield from _in_tagged(value, kinds, path=path)
    elif all(any(problems(value, kind, path=path)) for kind in kinds):
        yield _mismatch(value, expected, path=path, secret=secret)


def _in_tagged(value: object, kinds: list[inspect.Type], *, path: str) -> Iterator[Problem]:
    """A table whose `type` says which of several it is."""
    tables = {str(kind.tag): kind for kind in kinds if isinstance(kind, inspect.StructType)}
    if not isinstance(value, dict):
        yield Problem(path, f"expected a table whose type is one of {quoted(sorted(tables))}, got {seen(value)}")
        return
    tag = value.get("type")
    if "type" not in value:
        yield Problem(join(path, "type"), f"missing; it is one of {quoted(sorted(tables))}")
    elif not isinstance(tag, str):
        yield Problem(join(path, "type"), f"expected one of {quoted(sorted(tables))}, got {seen(tag)}")
    elif tag not in tables:
        yield Problem(join(path, "type"), unknown(tag, tables, what="backend type"))
    else:
        yield from _in_struct(value, tables[tag], path=path)


def _in_struct(value: object, expected: inspect.StructType, *, path: str) -> Iterator[Problem]:
    if not isinstance(value, dict):
        yield _mismatch(value, expected, path=path)
        return
    fields = {field.encode_name: field for field in expected.fields}
    for key in value:
        if key not in fields and key != expected.tag_field:
            yield Problem(join(path, key), unknown(key, fields, what="setting"), unknown=key)
    for key, field in fields.items():
        if key in value:
            yield from problems(value[key], field.type, path=join(path, key), secret=key in SECRET_KEYS)
        elif field.required:
            yield Problem(join(path, key), f"missing; expected {phrase(field.type)}")
