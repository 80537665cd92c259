"""A demanded tool call is read while it is written, wherever the engine cuts its text."""

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from trunkline.backends.embedded.calls import CallReader

ARGUMENTS = st.dictionaries(
    st.text(max_size=6),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
SPACE = st.text(alphabet=" \n\t", max_size=3)


def pieces(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({cut % (len(text) + 1) for cut in cuts} | {0, len(text)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]


@given(
    name=st.text(min_size=1, max_size=8),
    arguments=ARGUMENTS,
    indent=st.none() | st.integers(0, 3),
    spaces=st.tuples(SPACE, SPACE, SPACE, SPACE),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_any_split_gives_the_name_and_the_arguments(
    name: str, arguments: dict[str, object], indent: int | None, spaces: tuple[str, str, str, str], cuts: list[int]
) -> None:
    written = json.dumps(arguments, indent=indent)
    before, middle, after, end = spaces
    text = f'{before}{{{middle}"name"{middle}:{json.dumps(name)},{after}"arguments":{after}{written}{end}}}{end}'
    reader = CallReader()
    read = "".join([reader.feed(piece) for piece in pieces(text, cuts)]) + reader.close(whole=True)
    assert reader.name == name
    assert read == written


def test_arguments_arrive_before_the_call_is_whole() -> None:
    reader = CallReader()
    assert reader.feed('{"name": "f", "arguments": {"city": "Par') == '{"city": "Par'
    assert reader.feed('is"}') == 'is"'
    assert reader.feed("}") == ""
    assert reader.close(whole=True) == "}"


def test_arguments_cut_by_length_keep_their_braces() -> None:
    reader = CallReader()
    assert reader.feed('{"name": "f", "arguments": {"a": {"b": 1}') + reader.close(whole=False) == '{"a": {"b": 1}'


def test_a_call_cut_in_its_head_has_no_name() -> None:
    reader = CallReader()
    assert reader.feed('{"name": "get_wea') == ""
    assert reader.close(whole=False) == ""
    assert reader.name is None
