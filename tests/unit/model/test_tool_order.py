"""Calls and what they gave, as chat models want them. An entry is a kind and an id: `c1` calls, `o1` is its output."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.model.tool_order import Kind, tools_in_order

KINDS: dict[str, Kind] = {"c": "call", "o": "output", "s": "said", "u": "asked"}


def read(entry: str) -> tuple[Kind, str]:
    return KINDS[entry[0]], entry[1:2]


@pytest.mark.parametrize(
    ("happened", "ordered"),
    [
        ("c1 o1", "c1 o1"),
        ("s c1 o1 s c2 o2 s", "s c1 o1 s c2 o2 s"),
        ("c1 s o1 s", "s c1 o1 s"),
        ("c1 s s c2 o2 s o1 s", "s s s c1 c2 o2 o1 s"),
        ("c1 c2 o2 c3 o1 o3 s", "c1 c2 c3 o2 o1 o3 s"),
        ("c1 u o1 s", "c1 o1 u s"),
        ("c1 o1 c1 s o1", "c1 o1 s c1 o1"),
        ("o1 s c1 o1", "s c1 o1"),
        ("c1 o1 o1", "c1 o1"),
        ("c1 s u", "c1 x1 s u"),
        ("c1 c2 s o2", "c1 x1 s c2 o2"),
        ("c1 c2 o1", "c1 c2 o1 x2"),
        ("", ""),
    ],
)
def test_outputs_follow_their_calls(happened: str, ordered: str) -> None:
    made = tools_in_order(happened.split(), read, unfinished=lambda call: f"x{call[1:]}")
    assert " ".join(made) == ordered


def test_a_call_stays_open_where_nobody_ends_it() -> None:
    assert tools_in_order(["s", "c1", "c2"], read) == ["s", "c1", "c2"]


@given(st.lists(st.sampled_from(["c1", "c2", "c3", "o1", "o2", "o3", "s", "u"]), max_size=20))
def test_every_call_has_one_output_before_anything_else_follows(happened: list[str]) -> None:
    ordered = tools_in_order(happened, read, unfinished=lambda call: f"o{call[1:]}")
    waiting: list[str] = []
    answering = False
    for entry in ordered:
        if entry[0] == "c":
            assert not (waiting and answering)
            waiting.append(entry[1:])
            answering = False
        elif entry[0] == "o":
            waiting.remove(entry[1:])
            answering = True
        else:
            assert not waiting
    assert not waiting
    for kept in "csu":
        assert [entry for entry in ordered if entry[0] == kept] == [entry for entry in happened if entry[0] == kept]
