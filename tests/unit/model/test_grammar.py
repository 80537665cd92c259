"""What the grammar says when it refuses; tests/property shows that it refuses every fault."""

import pytest

from trunkline.model import events as ev
from trunkline.model.errors import BackendProtocolError
from trunkline.model.grammar import Grammar

START = ev.TurnStarted("chatcmpl-1", "m", 7)
OPEN = ev.ItemStarted(index=0, kind="message")


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([ev.TextDelta(0, "x")], "TextDelta came before TurnStarted"),
        ([START, START], "TurnStarted came twice"),
        ([START, ev.TextDelta(0, "x")], "TextDelta names item 0, which is not open"),
        ([START, OPEN, ev.ArgumentsDelta(0, "x")], "ArgumentsDelta does not belong to a message item"),
        ([START, ev.ItemStarted(index=1, kind="message")], "ItemStarted has index 1, expected 0"),
        ([START, OPEN, ev.ItemStarted(index=1, kind="message")], "opens item 1 while item 0 of choice 0 is open"),
        ([START, ev.ItemStarted(index=0, kind="function_call")], "opens a function_call without call_id"),
        ([START, OPEN, ev.ChoiceDone(0, "stop")], "ends choice 0 while its item 0 is open"),
        ([START, OPEN, ev.TurnCompleted()], "TurnCompleted came while item 0 is open"),
        ([START, ev.TurnCompleted()], "TurnCompleted came before every choice was done"),
        ([START, ev.ChoiceDone(1, "stop"), ev.TurnCompleted()], "TurnCompleted came before every choice was done"),
        ([START, ev.ChoiceDone(0, "stop"), OPEN], "opens an item of choice 0, which is done"),
        ([START, ev.TurnCancelled(), ev.TurnCancelled()], "TurnCancelled came after the terminal event"),
        ([START, ev.ItemStarted(index=0, kind="opaque"), ev.ItemDone(index=0)], "must carry the item of a opaque"),
        ([START, 5], "backend yielded int, which is not an event"),
    ],
)
def test_the_first_fault_is_named(events: list[ev.Event], message: str) -> None:
    grammar = Grammar()
    for event in events[:-1]:
        grammar.feed(event)
    with pytest.raises(BackendProtocolError) as caught:
        grammar.feed(events[-1])
    assert message in caught.value.message
    assert caught.value.status == 502


def test_items_of_different_choices_are_open_side_by_side() -> None:
    grammar = Grammar()
    events: list[ev.Event] = [
        START,
        OPEN,
        ev.ItemStarted(index=1, kind="reasoning", choice=1),
        ev.TextDelta(0, "a"),
        ev.ReasoningDelta(1, "b"),
        ev.ItemDone(index=1),
        ev.ItemDone(index=0),
        ev.ChoiceDone(1, "stop"),
        ev.ChoiceDone(0, "stop"),
    ]
    for event in events:
        grammar.feed(event)
        assert not grammar.ended
    grammar.feed(ev.TurnCompleted())
    assert grammar.ended
