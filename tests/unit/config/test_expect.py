"""The walk over a document and msgspec's own decoding agree on what is acceptable."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.config.expect import phrase, problems
from trunkline.config.load import CONFIG_TYPE
from trunkline.config.schema import Config

SCALARS = st.one_of(
    st.booleans(), st.integers(-2, 70_000), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=4)
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.text(max_size=3), SCALARS, max_size=2))


def names(*fields: str) -> st.SearchStrategy[str]:
    return st.sampled_from(fields)


SERVER = st.dictionaries(
    names("host", "port", "api_keys", "keepalive_s", "access_log", "log_level", "default_model", "prot", "keys"),
    st.one_of(VALUES, names("info", "debug"), st.lists(st.fixed_dictionaries({"name": st.text(), "key": st.text()}))),
    max_size=4,
)
BACKEND = st.builds(
    lambda kind, rest: {**rest, **({} if kind is None else {"type": kind})},
    st.one_of(names("http", "python", "embedded", "scripted", "command"), st.none(), st.integers()),
    st.dictionaries(
        names("timeout_s", "max_queue", "endpoints", "dialect", "target", "history", "script", "models", "slots"),
        st.one_of(VALUES, st.lists(st.text(max_size=3), max_size=2), names("openai_chat", "full")),
        max_size=4,
    ),
)
ROUTE = st.one_of(VALUES, st.fixed_dictionaries({"backend": st.text()}, optional={"model": st.text()}))
MODEL = st.one_of(VALUES, st.fixed_dictionaries({"name": st.text(), "routes": st.lists(ROUTE, max_size=2)}))
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "server": st.one_of(SERVER, VALUES),
        "backends": st.one_of(st.dictionaries(st.text(max_size=3), st.one_of(BACKEND, VALUES), max_size=2), VALUES),
        "models": st.one_of(st.lists(MODEL, max_size=2), VALUES),
        "store": VALUES,
    },
)


@given(DOCUMENTS)
def test_what_the_walk_accepts_is_what_the_schema_accepts(document: dict[str, Any]) -> None:
    problem = next(problems(document, CONFIG_TYPE), None)
    try:
        msgspec.convert(document, Config)
    except msgspec.ValidationError:
        assert problem is not None
    else:
        assert problem is None


@pytest.mark.parametrize("number", [math.inf, math.nan, -math.inf])
def test_no_setting_takes_a_number_that_is_not_finite(number: float) -> None:
    problem = next(problems({"server": {"shutdown_grace_s": number}}, CONFIG_TYPE), None)
    assert problem is not None
    assert problem.key == "server.shutdown_grace_s"


def test_every_setting_has_a_description() -> None:
    def walk(kind: msgspec.inspect.Type) -> None:
        assert phrase(kind)
        match kind:
            case msgspec.inspect.StructType(fields=fields):
                for field in fields:
                    walk(field.type)
            case msgspec.inspect.UnionType(types=kinds):
                for member in kinds:
                    if not isinstance(member, msgspec.inspect.NoneType):
                        walk(member)
            case msgspec.inspect.VarTupleType(item_type=item):
                walk(item)
            case msgspec.inspect.DictType(value_type=value):
                walk(value)
            case _:
                pass

    walk(CONFIG_TYPE)
