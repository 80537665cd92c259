"""The fold: items out of deltas, and turns that were cut."""

import msgspec
import pytest

from trunkline.model import events as ev
from trunkline.model.items import FunctionCall, FunctionCallOutput, Message, Reasoning, RefusalPart, TextPart
from trunkline.model.tokens import TokenLogprob
from trunkline.model.turn import Fold, fold, terminal_for
from trunkline.model.usage import Usage

START = ev.TurnStarted("chatcmpl-1", "m", 7)
NOTE = msgspec.Raw(b'{"type":"url_citation"}')


def content_of(*deltas: ev.Event) -> tuple[object, ...]:
    turn = fold([START, ev.ItemStarted(index=0, kind="message"), *deltas, ev.ItemDone(index=0)])
    item = turn.items[0].item
    assert isinstance(item, Message)
    return item.content


def test_items_are_in_the_order_of_their_indexes_whatever_closed_first() -> None:
    turn = fold(
        [
            START,
            ev.ItemStarted(index=0, kind="reasoning"),
            ev.ItemStarted(index=1, kind="message", choice=1),
            ev.TextDelta(1, "B"),
            ev.ItemDone(index=1),
            ev.ReasoningDelta(0, "r"),
            ev.ItemDone(index=0),
            ev.ItemStarted(index=2, kind="function_call", call_id="c", name="f", tool="custom", hosted=True),
            ev.ArgumentsDelta(2, "{"),
            ev.ArgumentsDelta(2, "}"),
            ev.ItemDone(index=2),
            ev.ChoiceDone(1, "length"),
            ev.ChoiceDone(0, "stop"),
            ev.UsageReported(Usage(input_tokens=1)),
            ev.UsageReported(Usage(input_tokens=2)),
            ev.TurnCompleted(),
        ]
    )
    assert [item.item for item in turn.items] == [
        Reasoning(text="r"),
        Message(role="assistant", content=(TextPart("B"),)),
        FunctionCall(call_id="c", name="f", arguments="{}", tool="custom", hosted=True),
    ]
    assert [item.choice for item in turn.items] == [0, 1, 0]
    assert [(choice.index, choice.finish_reason) for choice in turn.choices] == [(0, "stop"), (1, "length")]
    assert turn.usage == Usage(input_tokens=2)
    assert turn.terminal == ev.TurnCompleted()


def test_text_and_refusal_are_parts_of_their_own() -> None:
    assert content_of(ev.TextDelta(0, "a"), ev.RefusalDelta(0, "b"), ev.RefusalDelta(0, "c"), ev.TextDelta(0, "d")) == (
        TextPart("a"),
        RefusalPart("bc"),
        TextPart("d"),
    )


def test_an_annotation_stays_with_its_text_and_does_not_split_it() -> None:
    one_part = (TextPart("ab", (NOTE,)),)
    assert content_of(ev.TextDelta(0, "ab"), ev.AnnotationAdded(0, NOTE)) == one_part
    assert content_of(ev.TextDelta(0, "a"), ev.AnnotationAdded(0, NOTE), ev.TextDelta(0, "b")) == one_part
    assert content_of(ev.AnnotationAdded(0, NOTE), ev.TextDelta(0, "ab")) == one_part


def test_an_annotation_never_makes_text_of_a_refusal() -> None:
    assert content_of(ev.RefusalDelta(0, "no"), ev.AnnotationAdded(0, NOTE)) == (
        RefusalPart("no"),
        TextPart("", (NOTE,)),
    )


def test_empty_deltas_make_no_parts() -> None:
    assert content_of(ev.TextDelta(0, ""), ev.RefusalDelta(0, "")) == ()
    assert content_of(ev.TextDelta(0, "a"), ev.RefusalDelta(0, ""), ev.TextDelta(0, "b")) == (TextPart("ab"),)


def test_a_summary_is_apart_from_the_reasoning_and_has_parts() -> None:
    turn = fold(
        [
            START,
            ev.ItemStarted(index=0, kind="reasoning", item_id="rs_1"),
            ev.SummaryDelta(0, "a"),
            ev.SummaryDelta(0, "b"),
            ev.ReasoningDelta(0, "r"),
            ev.SummaryDelta(0, "c", part=3),
            ev.ItemDone(index=0, encrypted_content="sealed"),
        ]
    )
    assert turn.items[0].item == Reasoning(text="r", summary=("ab", "c"), encrypted_content="sealed", id="rs_1")


def test_the_item_that_its_end_carries_is_taken_as_it_is() -> None:
    output = FunctionCallOutput(call_id="c", content=(TextPart("x"),), hosted=True)
    turn = fold(
        [START, ev.ItemStarted(index=0, kind="function_call_output", call_id="c"), ev.ItemDone(index=0, item=output)]
    )
    assert turn.items[0].item is output


def test_a_cut_turn_keeps_what_had_arrived() -> None:
    turn = fold(
        [START, ev.ItemStarted(index=0, kind="message", item_id="msg_1"), ev.TextDelta(0, "par"), ev.TurnCancelled()]
    )
    assert turn.items[0].item == Message(role="assistant", content=(TextPart("par"),), id="msg_1", status="incomplete")
    assert turn.choices[0].finish_reason is None
    assert turn.terminal == ev.TurnCancelled()


def test_a_turn_without_its_end_reads_as_cancelled() -> None:
    folding = Fold()
    folding.feed(START)
    assert folding.turn().terminal == ev.TurnCancelled()


def test_exact_tokens_and_extensions_stay_with_their_place() -> None:
    token = TokenLogprob("a", -0.5, id=3)
    of_turn, of_choice = (ev.Extension(name="x", payload=NOTE, choice=choice) for choice in (None, 0))
    early, late = (ev.Extension(name=name, payload=NOTE, index=0) for name in ("early", "late"))
    turn = fold(
        [
            START,
            of_turn,
            of_choice,
            ev.ItemStarted(index=0, kind="message"),
            ev.TokensDelta(0, (3,), (token,)),
            ev.TextDelta(0, "a"),
            early,
            ev.ItemDone(index=0),
            late,
            ev.ChoiceDone(0, "stop"),
            ev.TurnCompleted(),
        ]
    )
    assert turn.extensions == (of_turn,)
    assert turn.choices[0].extensions == (of_choice,)
    assert turn.items[0].extensions == (early, late)
    assert turn.items[0].token_ids == (3,)
    assert turn.items[0].logprobs == (token,)


@pytest.mark.parametrize(
    ("reasons", "terminal"),
    [
        (["stop"], ev.TurnCompleted()),
        (["tool_calls", "stop"], ev.TurnCompleted()),
        (["stop", "length"], ev.TurnIncomplete("max_output_tokens")),
        (["content_filter"], ev.TurnIncomplete("content_filter")),
        (["content_filter", "length"], ev.TurnIncomplete("max_output_tokens")),
    ],
)
def test_the_end_of_a_turn_follows_from_its_finish_reasons(
    reasons: list[ev.FinishReason], terminal: ev.Terminal
) -> None:
    assert terminal_for(reasons) == terminal
