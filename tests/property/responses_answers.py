"""Generated answers in the form in which the Responses dialect says them.

`answers` gives event streams for which decode(encode(events)) == events holds as it is. The form:

    - items of the first choice only, each with an id; deltas are not empty;
    - text and refusals of a message alternate in parts, with annotations after text; tokens come just before a text, with bytes,
      and with all ids or none;
    - parts of a summary count up from 0 and come before the reasoning's text or after it, never between;
    - no item is hosted (the wire does not say who runs a tool), no progress, no approvals;
    - the last report of usage comes just before the end; the choice's end says what the items say.

`cut` ends an answer anywhere. `wild_answers` adds what the dialect leaves out: other choices, hosted runs, missing ids.
"""

import msgspec
from hypothesis import strategies as st

from tests.property.strategies import JSON, NAME, TEXT, raw, token_lists, usages
from trunkline.model import events as ev
from trunkline.model.errors import ErrorInfo
from trunkline.model.ids import item_id as own_id
from trunkline.model.items import FunctionCallOutput, ImagePart, OpaqueItem, TextPart

RESPONSE_ID = "resp_0123456789abcdef01234567"
CREATED_AT = 1_700_000_000
STARTED = ev.TurnStarted(RESPONSE_ID, "upstream-model", CREATED_AT)
EXTRA = st.dictionaries(
    st.sampled_from(["x_one", "x_two"]), JSON.filter(lambda value: value is not None).map(raw), max_size=2
)


def url_citation(number: int) -> msgspec.Raw:
    url = f"https://example.com/{number}"
    return raw({"type": "url_citation", "url": url, "title": "T", "start_index": 0, "end_index": 1})


@st.composite
def _tokens(draw: st.DrawFn, index: int) -> list[ev.Event]:
    if draw(st.booleans()):
        return []
    ids = draw(st.booleans())
    entries = draw(token_lists(ids=ids))
    full = tuple(
        msgspec.structs.replace(
            entry,
            bytes=tuple(entry.token.encode()),
            top=tuple(msgspec.structs.replace(top, bytes=tuple(top.token.encode())) for top in entry.top),
        )
        for entry in entries
    )
    token_ids = tuple(entry.id for entry in full if entry.id is not None)
    return [ev.TokensDelta(index, token_ids if ids else (), full)]


@st.composite
def _message(draw: st.DrawFn, index: int) -> list[ev.Event]:
    events: list[ev.Event] = [
        ev.ItemStarted(index=index, kind="message", item_id=own_id("msg_", RESPONSE_ID, index), extra=draw(EXTRA)),
    ]
    kind = draw(st.sampled_from(["text", "refusal"]))
    for _ in range(draw(st.integers(0, 3))):
        for _ in range(draw(st.integers(1, 3))):
            if kind == "refusal":
                events.append(ev.RefusalDelta(index, draw(TEXT)))
            else:
                events += draw(_tokens(index))
                events.append(ev.TextDelta(index, draw(TEXT)))
        if kind == "text":
            events += [ev.AnnotationAdded(index, url_citation(number)) for number in range(draw(st.integers(0, 2)))]
        kind = "refusal" if kind == "text" else "text"
    return [*events, ev.ItemDone(index=index)]


@st.composite
def _reasoning(draw: st.DrawFn, index: int) -> list[ev.Event]:
    summary: list[ev.Event] = [
        ev.SummaryDelta(index, draw(TEXT), part)
        for part in range(draw(st.integers(0, 2)))
        for _ in range(draw(st.integers(1, 2)))
    ]
    text: list[ev.Event] = [ev.ReasoningDelta(index, draw(TEXT)) for _ in range(draw(st.integers(0, 3)))]
    return [
        ev.ItemStarted(index=index, kind="reasoning", item_id=own_id("rs_", RESPONSE_ID, index), extra=draw(EXTRA)),
        *(summary + text if draw(st.booleans()) else text + summary),
        ev.ItemDone(index=index, encrypted_content=draw(st.none() | TEXT)),
    ]


@st.composite
def _call(draw: st.DrawFn, index: int) -> list[ev.Event]:
    custom = draw(st.booleans())
    return [
        ev.ItemStarted(
            index=index,
            kind="function_call",
            item_id=own_id("fc_", RESPONSE_ID, index),
            call_id=f"call_{index}",
            name=draw(NAME),
            tool="custom" if custom else "function",
            extra=draw(EXTRA),
        ),
        *[ev.ArgumentsDelta(index, draw(TEXT)) for _ in range(draw(st.integers(0, 3)))],
        ev.ItemDone(index=index),
    ]


@st.composite
def _output(draw: st.DrawFn, index: int) -> list[ev.Event]:
    custom = draw(st.booleans())
    tool, item_id, name = "custom" if custom else "function", own_id("fco_", RESPONSE_ID, index), draw(NAME)
    item = FunctionCallOutput(
        call_id=f"call_{index}",
        content=draw(
            st.builds(lambda text: (TextPart(text),), TEXT)
            | st.just((TextPart("see"), ImagePart(url="https://example.com/a.png", detail="auto")))
        ),
        name=name,
        tool=tool,  # type: ignore[arg-type]
        id=item_id,
    )
    item = msgspec.structs.replace(item, as_string=len(item.content) == 1)
    return [
        ev.ItemStarted(
            index=index,
            kind="function_call_output",
            item_id=item_id,
            call_id=item.call_id,
            tool=tool,  # type: ignore[arg-type]
        ),
        ev.ItemDone(index=index, item=item),
    ]


@st.composite
def _opaque(draw: st.DrawFn, index: int) -> list[ev.Event]:
    item_id = own_id("ws_", RESPONSE_ID, index)
    head = {"type": "web_search_call", "id": item_id, "action": {"type": "search", "query": "cats"}}
    opening = {**head, "status": "in_progress"}
    done = {**head, "status": "completed", "x": draw(JSON)}
    events: list[ev.Event] = [
        ev.ItemStarted(
            index=index, kind="opaque", item_id=item_id, extra={key: raw(value) for key, value in opening.items()}
        )
    ]
    for name in ("in_progress", "searching")[: draw(st.integers(0, 2))]:
        payload = raw({"item_id": item_id})
        events.append(ev.Extension(name=f"response.web_search_call.{name}", payload=payload, index=index))
    item = OpaqueItem(wire_type="web_search_call", dialect="openai_responses", payload=raw(done), id=item_id)
    return [*events, ev.ItemDone(index=index, item=item)]


@st.composite
def answers(draw: st.DrawFn, *, endings: tuple[str, ...] = ("stop", "length", "content_filter")) -> list[ev.Event]:
    events: list[ev.Event] = [STARTED]
    pending: set[str] = set()
    for index in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from([_message, _message, _reasoning, _call, _call, _output, _opaque]))
        item = draw(kind(index))
        if kind is _call:
            pending.add(f"call_{index}")
        events += item
    if draw(st.booleans()):
        events.append(ev.Extension(name="x_turn", payload=draw(JSON.filter(lambda value: value is not None).map(raw))))
    events.append(ev.UsageReported(draw(usages())))
    match draw(st.sampled_from(endings)):
        case "length":
            events += [ev.ChoiceDone(0, "length"), ev.TurnIncomplete("max_output_tokens")]
        case "content_filter":
            events += [ev.ChoiceDone(0, "content_filter"), ev.TurnIncomplete("content_filter")]
        case _:
            events += [ev.ChoiceDone(0, "tool_calls" if pending else "stop"), ev.TurnCompleted()]
    return events


CUTS: st.SearchStrategy[ev.Terminal] = st.sampled_from(
    [
        ev.TurnFailed(ErrorInfo(message="gone", type="server_error", code="backend_unavailable", status=503)),
        ev.TurnFailed(ErrorInfo(message="slow down", type="rate_limit_error", status=429)),
        ev.TurnCancelled(),
        ev.TurnIncomplete("client_disconnected"),
        ev.TurnIncomplete("max_output_tokens"),
    ]
)


@st.composite
def cut(draw: st.DrawFn, whole: st.SearchStrategy[list[ev.Event]]) -> list[ev.Event]:
    """An answer that ends anywhere."""
    events = draw(whole)
    return [*events[: draw(st.integers(1, len(events) - 1))], draw(CUTS)]
