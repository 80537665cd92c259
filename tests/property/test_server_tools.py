"""Tools that run side by side while their agent speaks, as items of the server's: streams, whole answers and logs say the same."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.property.strategies import examples
from tests.responses import Streamed, check_stream
from trunkline.config.profiles import Profile
from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.dialects.openai_responses.emitter import Emitted
from trunkline.dialects.openai_responses.read_log import LogReader
from trunkline.model import events as ev
from trunkline.model.items import FunctionCallOutput, TextPart
from trunkline.model.request import Request
from trunkline.model.turn import fold

REQUEST = Request(model="m", items=(), stream=True)
STARTED = ev.TurnStarted("resp_ours", "m", 1_700_000_000)
SURFACE = ResponsesSurface(Profile(tool_items="mcp_call"), now=lambda: 1_700_000_009.0)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ENDS: tuple[ev.Terminal, ...] = (
    ev.TurnCompleted(),
    ev.TurnCancelled(),
    ev.TurnIncomplete("max_output_tokens"),
)
STEP = st.one_of(
    st.tuples(st.just("run"), st.text(max_size=4), st.booleans()),
    st.tuples(st.just("end"), st.text(max_size=4), st.booleans()),
    st.tuples(st.just("say"), st.text(min_size=1, max_size=4), st.booleans()),
    st.tuples(st.just("call"), st.text(max_size=4), st.booleans()),
)


@st.composite
def answers(draw: st.DrawFn) -> list[ev.Event]:
    """Runs begin and end in any order between texts; some of their ids come twice, some never end."""
    events: list[ev.Event] = [STARTED]
    running: list[str] = []
    index = -1
    for kind, text, flag in draw(st.lists(STEP, max_size=12)):
        if kind == "end" and not running:
            continue
        index += 1
        if kind == "say":
            events += [ev.ItemStarted(index=index, kind="message"), ev.TextDelta(index, text), ev.ItemDone(index=index)]
        elif kind == "end":
            call_id = running.pop(draw(st.integers(0, len(running) - 1)))
            if flag:
                events.append(ev.ToolProgress(call_id=call_id, name="look", status="completed", failed=flag))
            output = FunctionCallOutput(
                call_id=call_id, content=(TextPart(text),), as_string=True, name="look", hosted=True, failed=flag
            )
            started = ev.ItemStarted(index=index, kind="function_call_output", call_id=call_id, hosted=True)
            events += [started, ev.ItemDone(index=index, item=output)]
        else:
            hosted = kind == "run"
            call_id = f"c{index // 2}" if hosted else f"d{index}"
            events.append(
                ev.ItemStarted(index=index, kind="function_call", call_id=call_id, name="look", hosted=hosted)
            )
            events += [ev.ArgumentsDelta(index, text)] if text else []
            events.append(ev.ItemDone(index=index))
            if hosted:
                running.append(call_id)
                if flag:
                    events.append(ev.ToolProgress(call_id=call_id, name="look", status="running"))
    if draw(st.booleans()) and len(events) > 1:  # cut in the midst of an item
        events = events[: draw(st.integers(1, len(events)))]
        return [*events, ev.TurnCancelled()]
    end: ev.Terminal = draw(st.sampled_from(ENDS))
    return [*events, *([] if isinstance(end, ev.TurnCancelled) else [ev.ChoiceDone(0, "stop")]), end]


def emitted(events: list[ev.Event]) -> list[Emitted]:
    emitter = SURFACE.emitter(REQUEST)
    return [one for event in events for one in emitter.feed_events(event)]


@given(answers())
@examples(150)
def test_a_stream_keeps_every_promise_and_is_the_whole_answer(events: list[ev.Event]) -> None:
    said = emitted(events)
    final = check_stream([Streamed(kind, None, data) for kind, data in said])
    assert final["output"] == msgspec.json.decode(SURFACE.encode_turn(fold(events), REQUEST))["output"]


@given(answers())
@examples(80)
def test_the_official_client_puts_the_same_answer_together(events: list[ev.Event]) -> None:
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    said = emitted(events)
    for _, data in said:
        state.handle_event(EVENT.validate_json(data))
    if said[-1][0] == "response.completed":
        completed = state._completed_response
        assert completed is not None
        assert [one.type for one in completed.output] == [
            one["type"] for one in msgspec.json.decode(said[-1][1])["response"]["output"]
        ]


@given(answers(), st.data())
@examples(150)
def test_a_log_that_breaks_off_is_gone_on_with_as_if_it_had_not(events: list[ev.Event], data: st.DataObject) -> None:
    """What was said stays as it was said, and what was open is closed."""
    kept = emitted(events[: data.draw(st.integers(1, len(events) - 1))])
    reader, emitter = LogReader(SURFACE, STARTED), SURFACE.emitter(REQUEST)
    emitter.feed_events(STARTED)
    for one in kept:
        for event in reader.feed(one):
            if not isinstance(event, ev.TurnStarted):
                emitter.feed_events(event)
    emitter.sequence_number = len(kept)
    closing = emitter.feed_events(ev.TurnCancelled())
    check_stream([Streamed(kind, None, data) for kind, data in (*kept, *closing)])
