"""Which turns may go, and what never does."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.dialects.openai_responses.write_items import check_calls
from trunkline.engine.truncation import Truncation, older_turns
from trunkline.model.items import FunctionCall, FunctionCallOutput, Item, Message, OpaqueItem, Role, TextPart
from trunkline.model.request import Request


def said(role: Role, text: str = "") -> Message:
    return Message(role=role, content=(TextPart(text),))


def call(call_id: str) -> FunctionCall:
    return FunctionCall(call_id=call_id, name="f", arguments="{}")


def output(call_id: str) -> FunctionCallOutput:
    return FunctionCallOutput(call_id=call_id, content=(TextPart("x"),))


def hosted(call_id: object) -> OpaqueItem:
    return OpaqueItem(
        wire_type="computer_call",
        dialect="openai_responses",
        payload=msgspec.Raw(msgspec.json.encode({"call_id": call_id})),
    )


USER, ANSWER, SYSTEM = said("user"), said("assistant"), said("system")


@pytest.mark.parametrize(
    ("items", "older"),
    [
        ([], []),
        ([USER], []),
        ([USER, ANSWER], []),
        ([USER, ANSWER, USER], [[0, 1]]),
        ([USER, USER, ANSWER, USER, USER], [[0, 1, 2]]),
        ([ANSWER, USER, ANSWER, USER], [[0], [1, 2]]),
        ([SYSTEM, USER, said("developer"), ANSWER, USER], [[1, 3]]),
        ([USER, SYSTEM, USER], []),
        ([USER, call("a"), output("a"), ANSWER, USER], [[0, 1, 2, 3]]),
        ([USER, ANSWER, USER, call("a"), USER, output("a"), ANSWER, USER], [[0, 1], [2, 3, 4, 5, 6]]),
        ([USER, ANSWER, USER, call("a"), USER, output("a")], [[0, 1]]),
        ([USER, call("a"), USER, call("b"), USER, output("b"), output("a"), USER], [[0, 1, 2, 3, 4, 5, 6]]),
        ([USER, hosted("a"), USER, ANSWER, USER, hosted("a"), USER], [[0, 1, 2, 3, 4, 5]]),
        ([USER, hosted(None), USER, hosted(5), USER], [[0, 1], [2, 3]]),
    ],
)
def test_turns_go_whole_and_the_newest_stays(items: list[Item], older: list[list[int]]) -> None:
    assert older_turns(items) == older


@pytest.mark.parametrize("step", [1, -1])
def test_calls_that_are_answered_much_later_cost_a_long_conversation_no_more(step: int) -> None:
    ids = [f"call_{number}" for number in range(8000)]
    asked = [item for call_id in ids for item in (USER, call(call_id))]
    answered = [item for call_id in ids[::step] for item in (USER, output(call_id))]
    assert older_turns([*asked, *answered, USER]) == [list(range(32_000))]


@st.composite
def conversations(draw: st.DrawFn) -> list[Item]:
    """Any order of messages and calls in which each output comes after its call."""
    items: list[Item] = []
    for number in range(draw(st.integers(0, 12))):
        roles: list[Role] = ["user", "assistant", "system"]
        if draw(st.integers(0, 3)) == 0:
            items.append(call(str(number)))
            items.insert(draw(st.integers(items.index(items[-1]) + 1, len(items))), output(str(number)))
        else:
            items.insert(draw(st.integers(0, len(items))), said(draw(st.sampled_from(roles)), str(number)))
    return items


@given(conversations())
def test_whatever_goes_no_call_and_output_part_and_order_stays(items: list[Item]) -> None:
    truncation = Truncation(Request(model="m", items=tuple(items), truncation="auto"))
    newest = next((item for item in reversed(items) if isinstance(item, Message) and item.role == "user"), None)
    while (shorter := truncation.halve()) is not None:
        check_calls(shorter.items)
        assert [item for item in items if item in shorter.items] == list(shorter.items)
        assert [item for item in shorter.items if isinstance(item, Message) and item.role == "system"] == [
            item for item in items if isinstance(item, Message) and item.role == "system"
        ]
        assert newest is None or newest in shorter.items


def talk(turns: int) -> Request:
    items = [item for turn in range(turns) for item in (said("user", f"u{turn}"), said("assistant", f"a{turn}"))]
    items = [SYSTEM, *items, said("user", "last")]
    places = tuple([f"input[{position}]" for position in range(len(items))])
    return Request(model="m", items=tuple(items), places=places, truncation="auto")


def test_each_refusal_halves_what_is_left_until_only_the_newest_is() -> None:
    truncation = Truncation(talk(5))
    lengths = []
    while (shorter := truncation.halve()) is not None:
        assert shorter.items[0] == SYSTEM
        assert shorter.items[-1] == said("user", "last")
        assert len(shorter.places) == len(shorter.items)
        lengths.append(len(shorter.items))
    assert lengths == [6, 4, 2]
    assert shorter is None
    assert truncation.dropped == 5


@pytest.mark.parametrize(("context_tokens", "kept"), [(100, 12), (10, 8), (6, 6), (2, 2), (1, 2)])
async def test_a_backend_that_counts_loses_no_turn_that_fits(context_tokens: int, kept: int) -> None:
    async def count(request: Request) -> int:
        return len(request.items)

    request = await Truncation(talk(5)).fit(count, context_tokens=context_tokens)
    assert len(request.items) == kept
    assert request.items[0] == SYSTEM
    assert request.items[-1] == said("user", "last")


async def test_an_answer_of_the_length_that_is_asked_for_fits_too() -> None:
    async def count(request: Request) -> int:
        return len(request.items)

    asking = Request(model="m", items=talk(5).items, max_output_tokens=8)
    assert len((await Truncation(asking).fit(count, context_tokens=16)).items) == 8
