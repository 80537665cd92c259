"""An answer as the cache keeps it is the same answer, whatever it consists of."""

import msgspec
from hypothesis import given

from tests.fakes.stores import HandClock
from tests.property.strategies import agent_answers, chat_answers, examples
from trunkline.engine.cache_entries import ENTRY_BYTES, CacheEntries, Entry
from trunkline.engine.cache_turn import Replay, kept_data
from trunkline.engine.call import Call
from trunkline.engine.turn_record import Recorder, read
from trunkline.model import events as ev
from trunkline.model.grammar import Grammar
from trunkline.model.items import FunctionCall, FunctionCallOutput
from trunkline.model.request import Request
from trunkline.model.turn import Turn, fold
from trunkline.ports.runtime import SystemEntropy
from trunkline.telemetry.outcome import Outcome

Events = list[ev.Event]


def recorded(events: Events, *, at_once: int = 3) -> Recorder:
    recorder = Recorder()
    for start in range(0, len(events), at_once):
        recorder.add(events[start : start + at_once])
    return recorder


def follow_the_grammar(events: Events) -> None:
    grammar = Grammar()
    for event in events:
        grammar.feed(event)
    assert grammar.ended


@given(chat_answers() | agent_answers())
@examples(200)
def test_joined_deltas_fold_to_the_same_turn(events: Events) -> None:
    joined = recorded(events).events()
    follow_the_grammar(joined)
    assert fold(joined) == fold(events)
    assert len(joined) <= len(events)


@given(chat_answers() | agent_answers())
@examples(200)
def test_what_is_kept_is_read_as_it_was(events: Events) -> None:
    recorder = recorded(events)
    data = kept_data(recorder)
    assert data is None or read(data) == recorder.events()


def without_ids(turn: Turn) -> tuple[object, ...]:
    calls: dict[str, int] = {}
    items = []
    for one in turn.items:
        item = one.item
        if isinstance(item, FunctionCall | FunctionCallOutput):
            item = msgspec.structs.replace(item, call_id=str(calls.setdefault(item.call_id, len(calls))))
        items.append(msgspec.structs.replace(one, item=msgspec.structs.replace(item, id=None)))
    return items, turn.choices, turn.terminal, turn.extensions


@given(chat_answers() | agent_answers())
@examples(200)
def test_another_call_gets_the_same_under_its_own_names(events: Events) -> None:
    call = Call(
        request=Request(model="m", items=()),
        body=None,
        dialect="openai_chat",
        turn_id="ours",
        created_at=7,
        request_id="req",
        tenant="t",
        outcome=Outcome(),
    )
    replay = Replay(call, entropy=SystemEntropy())
    given_again = [event for one in events for event in replay.again([one])]
    follow_the_grammar(given_again)
    before, after = fold(events), fold(given_again)
    assert (after.turn_id, after.created_at, after.model) == ("ours", 7, before.model)
    assert without_ids(before) == without_ids(after)
    if before.usage is not None:
        assert after.usage is not None
        assert (after.usage.input_tokens, after.usage.output_tokens) == (
            before.usage.input_tokens,
            before.usage.output_tokens,
        )
        assert after.usage.cached_tokens == before.usage.input_tokens
        assert call.outcome.usage == after.usage
    theirs = {one.item.call_id for one in before.items if isinstance(one.item, FunctionCall)}
    assert not theirs & {one.item.call_id for one in after.items if isinstance(one.item, FunctionCall)}


def test_a_tool_that_has_not_come_back_is_not_kept() -> None:
    def answer(*last: ev.Event) -> Events:
        return [
            ev.TurnStarted("t", "m", 1),
            ev.ToolProgress(call_id="c", name="search", status="running"),
            *last,
            ev.ItemStarted(index=0, kind="message"),
            ev.TextDelta(0, "found"),
            ev.ItemDone(index=0),
            ev.ChoiceDone(0, "stop"),
            ev.TurnCompleted(),
        ]

    assert kept_data(recorded(answer())) is None
    assert kept_data(recorded(answer(ev.ToolProgress(call_id="c", name="search", status="completed")))) is not None


def test_encrypted_reasoning_is_not_kept() -> None:
    def answer(secret: str | None) -> Events:
        return [
            ev.TurnStarted("t", "m", 1),
            ev.ItemStarted(index=0, kind="reasoning", item_id="rs_1"),
            ev.SummaryDelta(0, "Thought."),
            ev.ItemDone(index=0, encrypted_content=secret),
            ev.ChoiceDone(0, "stop"),
            ev.TurnCompleted(),
        ]

    assert kept_data(recorded(answer("gAAA"))) is None
    assert kept_data(recorded(answer(None))) is not None


def entry(key: str, *, expires_s: float, size_bytes: int = 1, model: str = "m") -> Entry:
    return Entry(
        key=key.encode(),
        tenant="t",
        model=model,
        events=b"x" * (size_bytes - len(model)),
        ignored=(),
        expires_s=expires_s,
        group=b"g",
    )


def test_an_answer_is_gone_when_its_time_is_over() -> None:
    clock = HandClock()
    entries = CacheEntries(ttl_s=60, max_bytes=100_000, clock=clock)
    entries.put(entry("a", expires_s=entries.expiry_s()))
    clock.now += 59.5
    assert entries.get(b"a") is not None  # being used does not make it younger
    assert [one.key for one in entries.group(b"g")] == [b"a"]
    clock.now += 0.5
    assert entries.group(b"g") == []
    assert entries.get(b"a") is None
    assert [(row.entries, row.size_bytes) for row in entries.rows("t")] == [(0, 0)]


def test_what_was_used_longest_ago_gives_way() -> None:
    entries = CacheEntries(ttl_s=60, max_bytes=3 * (ENTRY_BYTES + 100), clock=HandClock())
    for key in ("a", "b", "c"):
        entries.put(entry(key, expires_s=entries.expiry_s(), size_bytes=100))
    assert entries.get(b"a") is not None
    entries.put(entry("d", expires_s=entries.expiry_s(), size_bytes=100))
    assert [entries.get(key) is not None for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert {one.key for one in entries.group(b"g")} == {b"a", b"c", b"d"}
    entries.put(entry("d", expires_s=entries.expiry_s(), size_bytes=50))  # the same again takes its own place
    assert [row.size_bytes for row in entries.rows("t")] == [3 * ENTRY_BYTES + 250]
