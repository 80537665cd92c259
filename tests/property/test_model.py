"""The grammar and the fold over generated answers: what is whole is accepted, every single fault is named."""

from collections.abc import Callable
from typing import get_args

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.property.strategies import agent_answers, chat_answers, examples
from trunkline.model import events as ev
from trunkline.model.errors import BackendProtocolError, ErrorInfo
from trunkline.model.grammar import DELTAS, WHOLE, Grammar
from trunkline.model.items import Message
from trunkline.model.turn import Fold, fold
from trunkline.model.usage import Usage

Events = list[ev.Event]
Mutation = Callable[[Events, st.DataObject], Events]
CUTTABLE = (ev.TextDelta, ev.ReasoningDelta, ev.SummaryDelta, ev.RefusalDelta, ev.ArgumentsDelta)


def accept(events: Events) -> bool:
    grammar = Grammar()
    for event in events:
        grammar.feed(event)
    return grammar.ended


def pick(events: Events, data: st.DataObject, *kinds: type) -> int:
    places = [place for place, event in enumerate(events) if isinstance(event, kinds)]
    assume(places)
    return data.draw(st.sampled_from(places))


def dropped(*kinds: type) -> Mutation:
    def mutate(events: Events, data: st.DataObject) -> Events:
        place = pick(events, data, *kinds)
        return [*events[:place], *events[place + 1 :]]

    return mutate


def doubled(*kinds: type) -> Mutation:
    def mutate(events: Events, data: st.DataObject) -> Events:
        place = pick(events, data, *kinds)
        return [*events[: place + 1], *events[place:]]

    return mutate


def replaced(kind: type, **changes: object) -> Mutation:
    def mutate(events: Events, data: st.DataObject) -> Events:
        place = pick(events, data, kind)
        return [*events[:place], msgspec.structs.replace(events[place], **changes), *events[place + 1 :]]

    return mutate


def choice_never_done(events: Events, data: st.DataObject) -> Events:
    """Of choice 0 or one that has items: of others the grammar cannot know that the client asked for them."""
    known = {0} | {event.choice for event in events if isinstance(event, ev.ItemStarted)}
    ends = [place for place, event in enumerate(events) if isinstance(event, ev.ChoiceDone) and event.choice in known]
    place = data.draw(st.sampled_from(ends))
    return [*events[:place], *events[place + 1 :]]


def delta_after_its_item(events: Events, data: st.DataObject) -> Events:
    place = pick(events, data, *CUTTABLE)
    delta = events[place]
    assert isinstance(delta, CUTTABLE)
    done = next(
        number for number, event in enumerate(events) if isinstance(event, ev.ItemDone) and event.index == delta.index
    )
    return [*events[: done + 1], delta, *events[done + 1 :]]


def wrong_delta(events: Events, data: st.DataObject) -> Events:
    place = pick(events, data, ev.ItemStarted)
    started = events[place]
    assert isinstance(started, ev.ItemStarted)
    wrong = data.draw(st.sampled_from([kind for kind in CUTTABLE if kind not in DELTAS[started.kind]]))
    return [*events[: place + 1], wrong(started.index, "x"), *events[place + 1 :]]


def skipped_index(events: Events, data: st.DataObject) -> Events:
    place = pick(events, data, ev.ItemStarted)
    started = events[place]
    assert isinstance(started, ev.ItemStarted)
    return [*events[:place], msgspec.structs.replace(started, index=started.index + 1), *events[place + 1 :]]


def call_without_id(events: Events, data: st.DataObject) -> Events:
    calls = [
        place
        for place, event in enumerate(events)
        if isinstance(event, ev.ItemStarted) and event.kind in ("function_call", "function_call_output")
    ]
    assume(calls)
    place = data.draw(st.sampled_from(calls))
    return [*events[:place], msgspec.structs.replace(events[place], call_id=None), *events[place + 1 :]]


def item_where_it_does_not_belong(events: Events, data: st.DataObject) -> Events:
    place = pick(events, data, ev.ItemDone)
    done = events[place]
    assert isinstance(done, ev.ItemDone)
    item = Message(role="assistant") if done.item is None else None
    return [*events[:place], msgspec.structs.replace(done, item=item), *events[place + 1 :]]


def choice_done_before_its_last_item(events: Events, data: st.DataObject) -> Events:
    choices = {event.index: event.choice for event in events if isinstance(event, ev.ItemStarted)}
    place = pick(events, data, ev.ItemDone)
    done = events[place]
    assert isinstance(done, ev.ItemDone)
    return [*events[:place], ev.ChoiceDone(choices[done.index], "stop"), *events[place:]]


def item_of_a_done_choice(events: Events, _data: st.DataObject) -> Events:
    following = sum(isinstance(event, ev.ItemStarted) for event in events)
    return [*events[:-1], ev.ItemStarted(index=following, kind="message"), ev.ItemDone(index=following), events[-1]]


def extension_of_no_item(events: Events, _data: st.DataObject) -> Events:
    return [*events[:-1], ev.Extension(name="x", payload=msgspec.Raw(b"1"), index=10_000), events[-1]]


def not_an_event(events: Events, data: st.DataObject) -> Events:
    place = data.draw(st.integers(1, len(events) - 1))
    return [*events[:place], "text", *events[place:]]  # type: ignore[list-item]


MUTATIONS: dict[str, Mutation] = {
    "no start": dropped(ev.TurnStarted),
    "two starts": doubled(ev.TurnStarted),
    "item never started": dropped(ev.ItemStarted),
    "item started twice": doubled(ev.ItemStarted),
    "item never done": dropped(ev.ItemDone),
    "item done twice": doubled(ev.ItemDone),
    "choice never done": choice_never_done,
    "choice done twice": doubled(ev.ChoiceDone),
    "two ends": doubled(ev.TurnCompleted),
    "more after the end": lambda events, _data: [*events, ev.UsageReported(Usage())],
    "delta of an unknown item": replaced(ev.TextDelta, index=10_000),
    "delta after its item": delta_after_its_item,
    "delta of another kind": wrong_delta,
    "index skipped": skipped_index,
    "call without id": call_without_id,
    "item on the wrong kind": item_where_it_does_not_belong,
    "choice done too early": choice_done_before_its_last_item,
    "item after its choice": item_of_a_done_choice,
    "extension of no item": extension_of_no_item,
    "not an event": not_an_event,
}


@given(agent_answers())
@examples(30)
def test_the_grammar_accepts_every_whole_answer(events: Events) -> None:
    assert accept(events)


@given(agent_answers(), st.data())
@examples(30)
def test_failure_and_cancellation_may_cut_anywhere(events: Events, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(events) - 1))
    ends: list[ev.Event] = [ev.TurnFailed(ErrorInfo(message="gone", type="server_error")), ev.TurnCancelled()]
    assert accept([*events[:cut], data.draw(st.sampled_from(ends))])


@given(agent_answers())
@examples(30)
def test_an_answer_without_an_end_has_not_ended(events: Events) -> None:
    assert not accept(events[:-1])


@pytest.mark.parametrize("name", MUTATIONS)
@given(events=agent_answers(), data=st.data())
@examples(10)
def test_the_grammar_rejects_every_single_fault(name: str, events: Events, data: st.DataObject) -> None:
    with pytest.raises(BackendProtocolError, match="backend "):
        accept(MUTATIONS[name](events, data))


def test_the_tables_of_the_grammar_name_every_kind() -> None:
    assert set(DELTAS) == set(get_args(ev.ItemKind))
    assert {kind for kind, deltas in DELTAS.items() if not deltas} == WHOLE


@given(agent_answers(), st.data())
@examples(30)
def test_the_fold_does_not_depend_on_how_deltas_are_cut(events: Events, data: st.DataObject) -> None:
    recut: Events = []
    for event in events:
        if isinstance(event, CUTTABLE):
            cuts = sorted(data.draw(st.lists(st.integers(0, len(event.text)), max_size=3)))
            for start, end in zip([0, *cuts], [*cuts, len(event.text)], strict=True):
                recut.append(msgspec.structs.replace(event, text=event.text[start:end]))
        else:
            recut.append(event)
    assert fold(recut) == fold(events)


@given(chat_answers(), st.data())
@examples(30)
def test_looking_at_a_turn_midway_changes_nothing(events: Events, data: st.DataObject) -> None:
    looks = data.draw(st.sets(st.integers(0, len(events)), max_size=4))
    folding = Fold()
    for number, event in enumerate(events):
        folding.feed(event)
        if number in looks:
            assert folding.turn() == fold(events[: number + 1])
    assert folding.turn() == fold(events)


@given(agent_answers())
@examples(30)
def test_events_survive_their_json(events: Events) -> None:
    decoded = [msgspec.json.decode(msgspec.json.encode(event), type=ev.Event) for event in events]
    assert decoded == events
