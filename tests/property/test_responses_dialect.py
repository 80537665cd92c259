"""What the openai_responses dialect promises for every answer, not only for the golden ones (S1 to S11 of the API's invariants)."""

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import msgspec
import pydantic
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent

from tests.property.responses_answers import STARTED, answers, cut
from tests.property.strategies import agent_answers, chat_answers, examples, splits
from trunkline.config.profiles import Profile
from trunkline.dialects.codec import encode_all
from trunkline.dialects.openai_responses import ResponsesBackend, ResponsesSurface
from trunkline.dialects.openai_responses.read_items import items_from_stored
from trunkline.dialects.openai_responses.write_items import input_items
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, ErrorInfo, RequestError
from trunkline.model.grammar import Grammar
from trunkline.model.request import Request
from trunkline.model.turn import fold
from trunkline.wire.sse import DONE, SseReader

Json = Any
NOW = 1_700_000_009.75
REQUEST = Request(model=None, items=(), stream=True, logprobs=True)
PLAIN = Request(model="asked", items=(), stream=True)
KEYS = frozenset(
    {
        *(
            "id",
            "object",
            "created_at",
            "completed_at",
            "status",
            "error",
            "incomplete_details",
            "instructions",
            "model",
        ),
        *("previous_response_id", "tools", "tool_choice", "parallel_tool_calls", "output", "metadata", "temperature"),
        *("top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "truncation", "text", "reasoning", "usage"),
        *("max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "safety_identifier"),
        *("prompt_cache_key", "output_text"),
    }
)
NEVER_NULL = (
    *("tools", "tool_choice", "temperature", "top_p", "presence_penalty", "frequency_penalty", "truncation"),
    *("service_tier", "parallel_tool_calls", "text"),
)
EVENT_TYPES: Mapping[str, Any] = {
    get_args(cls.model_fields["type"].annotation)[0]: pydantic.TypeAdapter(cls)
    for cls in get_args(get_args(ResponseStreamEvent)[0])
}
ANY = answers() | cut(answers()) | chat_answers() | agent_answers() | cut(agent_answers())


def surface(*, spaced: bool = False, details: bool = True) -> ResponsesSurface:
    return ResponsesSurface(Profile(json_spacing=spaced, usage_details=details), now=lambda: NOW)


def encode(events: Iterable[ev.Event], request: Request = REQUEST, **settings: bool) -> bytes:
    return encode_all(surface(**settings).encoder(request), events)


def decode(pieces: Iterable[bytes], *, streamed: bool) -> list[ev.Event]:
    decoding = ResponsesBackend().decoder(STARTED, streamed=streamed)
    events = [event for piece in pieces for event in decoding.feed(piece)]
    return events + decoding.close()


def frames(data: bytes) -> list[Json]:
    """The events of a stream; S1 on the way: each frame's `event` is its `type`."""
    read = SseReader().feed(data)
    assert read[-1].data == b"[DONE]"
    parsed = [msgspec.json.decode(frame.data) for frame in read[:-1]]
    assert [frame.event for frame in read[:-1]] == [event["type"] for event in parsed]
    return parsed


def of(stream: list[Json], event_type: str, output_index: int) -> list[Json]:
    return [event for event in stream if event["type"] == event_type and event["output_index"] == output_index]


@given(answers())
@examples(70)
def test_decoding_an_encoded_stream_gives_the_same_events(events: list[ev.Event]) -> None:
    assert decode([encode(events, details=False)], streamed=True) == events


@given(answers())
@examples(40)
def test_spacing_changes_no_event(events: list[ev.Event]) -> None:
    """But for the JSON of an opaque item, which is kept as it was written."""
    decoded = decode([encode(events, spaced=True, details=False)], streamed=True)
    assert msgspec.json.decode(msgspec.json.encode(decoded)) == msgspec.json.decode(msgspec.json.encode(events))


@given(answers(), st.data(), st.sampled_from([b"\n", b"\r\n", b"\r"]))
@examples(60)
def test_no_split_of_the_bytes_changes_the_events(events: list[ev.Event], data: st.DataObject, ends: bytes) -> None:
    wire = encode(events, details=False).replace(b"\n", ends)
    assert decode(data.draw(splits(wire)), streamed=True) == events


@given(answers(), st.sampled_from([1, 2, 3, 7]))
@examples(20)
def test_no_read_size_changes_the_events(events: list[ev.Event], size: int) -> None:
    wire = encode(events, details=False)
    assert decode([wire[at : at + size] for at in range(0, len(wire), size)], streamed=True) == events


@given(answers() | cut(answers()))
@examples(60)
def test_what_is_decoded_follows_the_grammar_and_ends_as_it_ended(events: list[ev.Event]) -> None:
    grammar = Grammar()
    decoded = decode([encode(events)], streamed=True)
    for event in decoded:
        grammar.feed(event)
    assert grammar.ended
    assert type(decoded[-1]) is type(events[-1])


@given(answers())
@examples(60)
def test_a_whole_response_carries_the_whole_turn(events: list[ev.Event]) -> None:
    turn = fold(events)
    body = surface(details=False).encode_turn(turn, REQUEST)
    again = fold(decode([body], streamed=False))
    assert surface(details=False).encode_turn(again, REQUEST) == body


@given(ANY, st.sampled_from([REQUEST, PLAIN]))
@examples(60)
def test_every_event_is_what_the_sdk_types_say(events: list[ev.Event], request: Request) -> None:
    """S3. Annotations of a chat backend are in the chat API's form, as backends send them."""
    for frame in SseReader().feed(encode(events, request))[:-1]:
        event = msgspec.json.decode(frame.data)
        if event["type"] in EVENT_TYPES:
            EVENT_TYPES[event["type"]].validate_json(frame.data, strict=True)


@given(ANY, st.sampled_from([REQUEST, PLAIN]))
@examples(70)
def test_numbers_are_contiguous_and_every_part_and_item_is_closed_before_the_next(
    events: list[ev.Event], request: Request
) -> None:
    """S2, S4, S5, S9, S10."""
    stream = frames(encode(events, request))
    assert [event["sequence_number"] for event in stream] == list(range(len(stream)))
    assert [event["type"] for event in stream[:2]] == ["response.created", "response.in_progress"]
    terminals = ("response.completed", "response.failed", "response.incomplete")
    assert [event["type"] in terminals for event in stream] == [False] * (len(stream) - 1) + [True]
    assert {event["response"]["id"] for event in stream if "response" in event} == {events[0].turn_id}  # type: ignore[union-attr]
    item: Json = None
    part: Json = None
    summary: Json = None
    following = contents = 0
    for event in stream[2:-1]:
        match event["type"]:
            case "response.output_item.added":
                assert item is None
                assert event["output_index"] == following
                item, following = event["item"], following + 1
                contents = 0
            case "response.output_item.done":
                assert item is not None
                assert part is None
                assert summary is None
                assert (event["item"]["id"], event["item"]["type"]) == (item["id"], item["type"])
                item = None
            case "response.content_part.added":
                assert part is None
                assert event["content_index"] == contents
                part, contents = event["content_index"], contents + 1
            case "response.content_part.done":
                assert event["content_index"] == part
                part = None
            case "response.reasoning_summary_part.added":
                assert summary is None
                summary = event["summary_index"]
            case "response.reasoning_summary_part.done":
                assert event["summary_index"] == summary
                summary = None
            case _:
                pass
        if "output_index" in event and item is not None:
            assert event["output_index"] == following - 1
            assert event.get("item_id", item["id"]) == item["id"]
        if "content_index" in event and event["type"] != "response.content_part.done":
            assert event["content_index"] == part
    assert item is None


@given(ANY, st.sampled_from([REQUEST, PLAIN]))
@examples(70)
def test_deltas_done_item_and_final_object_agree(events: list[ev.Event], request: Request) -> None:
    """S6, S7, S8."""
    stream = frames(encode(events, request))
    output = stream[-1]["response"]["output"]
    assert [event["item"] for event in stream if event["type"] == "response.output_item.done"] == output
    for number, item in enumerate(output):
        if item["type"] == "message":
            for place, part in enumerate(item["content"]):
                _agree(stream, number, ("content_index", place), part)
        elif item["type"] == "reasoning":
            for place, part in enumerate(item.get("content", [])):
                _agree(stream, number, ("content_index", place), part)
            for place, part in enumerate(item["summary"]):
                deltas = of(stream, "response.reasoning_summary_text.delta", number)
                said = "".join(event["delta"] for event in deltas if event["summary_index"] == place)
                assert said == part["text"]
                [done] = [
                    event
                    for event in of(stream, "response.reasoning_summary_part.done", number)
                    if event["summary_index"] == place
                ]
                assert done["part"] == part
        elif item["type"] in ("function_call", "custom_tool_call"):
            base, key = {
                "function_call": ("response.function_call_arguments", "arguments"),
                "custom_tool_call": ("response.custom_tool_call_input", "input"),
            }[item["type"]]
            assert "".join(event["delta"] for event in of(stream, f"{base}.delta", number)) == item[key]
            [done] = of(stream, f"{base}.done", number)
            assert done[key] == item[key]


def _agree(stream: list[Json], number: int, place: tuple[str, int], part: Json) -> None:
    key = "refusal" if part["type"] == "refusal" else "text"
    base = f"response.{part['type']}"
    at = [
        event
        for event in stream
        if event.get("output_index") == number and event.get(place[0]) == place[1] and "item_id" in event
    ]
    assert "".join(event["delta"] for event in at if event["type"] == f"{base}.delta") == part[key]
    [done] = [event for event in at if event["type"] == f"{base}.done"]
    assert done[key] == part[key]
    [part_done] = [event for event in at if event["type"] == "response.content_part.done"]
    assert part_done["part"] == part
    if part["type"] == "output_text":
        annotations = [event for event in at if event["type"] == "response.output_text.annotation.added"]
        assert [event["annotation"] for event in annotations] == part["annotations"]
        assert [event["annotation_index"] for event in annotations] == list(range(len(annotations)))
        assert done["logprobs"] == part.get("logprobs", [])
        deltas = [one for event in at if event["type"] == f"{base}.delta" for one in event["logprobs"]]
        assert deltas == done["logprobs"][: len(deltas)]


@given(ANY, st.sampled_from([REQUEST, PLAIN]))
@examples(70)
def test_the_object_is_whole_and_the_same_streamed_or_not(events: list[ev.Event], request: Request) -> None:
    """S11, R1 and the object's keys; also what the log of a background response would keep."""
    stream = frames(encode(events, request))
    for event in stream:
        if "response" in event:
            assert event["response"].keys() >= KEYS
            assert [key for key in NEVER_NULL if event["response"][key] is None] == []
    final = stream[-1]["response"]
    assert surface().encode_turn(fold(events), request) == msgspec.json.encode(final)
    Response.model_validate_json(msgspec.json.encode(final), strict=True)
    if final["status"] in ("completed", "incomplete"):
        assert final["usage"]["input_tokens_details"].keys() >= {"cached_tokens", "cache_write_tokens"}
        assert final["usage"]["output_tokens_details"].keys() >= {"reasoning_tokens"}
    emitter = surface().emitter(request)
    logged = [one for event in events for one in emitter.feed_events(event)]
    assert [msgspec.json.decode(data) for _, data in logged] == stream
    assert [event_type for event_type, _ in logged] == [event["type"] for event in stream]
    assert emitter.response == msgspec.json.encode(final)
    assert emitter.sequence_number == len(stream)


@given(answers(endings=("stop",)))
@examples(60)
def test_the_sdk_accumulates_the_stream_to_the_whole_response(events: list[ev.Event]) -> None:
    state: ResponseStreamState[None] = ResponseStreamState(input_tools=omit, text_format=omit)
    stream = frames(encode(events))
    for event in stream:
        state.handle_event(EVENT_TYPES[event["type"]].validate_python(event))
    completed = state._completed_response
    assert completed is not None
    texts = [
        part["text"]
        for item in stream[-1]["response"]["output"]
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    ]
    assert completed.output_text == "".join(texts) == stream[-1]["response"]["output_text"]
    assert [item.type for item in completed.output] == [item["type"] for item in stream[-1]["response"]["output"]]


@given(agent_answers())
@examples(60)
def test_items_without_ids_get_ids_of_ours_that_are_unique(events: list[ev.Event]) -> None:
    final = frames(encode(events))[-1]["response"]
    ids = [item["id"] for item in final["output"]]
    assert len(set(ids)) == len(ids)
    prefixes = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_", "custom_tool_call": "ctc_"}
    for item in final["output"]:
        assert item["id"].startswith(prefixes.get(item["type"], ""))


@given(cut(answers()), st.booleans())
@examples(60)
def test_a_background_response_is_queued_before_it_is_in_progress(events: list[ev.Event], started: bool) -> None:
    emitter = surface().emitter(msgspec.structs.replace(PLAIN, background=True))
    queued = emitter.queued(STARTED)
    upstream = msgspec.structs.replace(STARTED, turn_id="resp_upstream", created_at=1)
    rest = [upstream, *events[1:]] if started else events[-1:]
    logged = queued + [one for event in rest for one in emitter.feed_events(event)]
    stream = [msgspec.json.decode(data) for _, data in logged]
    begun = ["response.created", "response.queued", *(["response.in_progress"] if started else [])]
    assert [event["type"] for event in stream][: len(begun)] == begun
    assert [event["sequence_number"] for event in stream] == list(range(len(stream)))
    assert [event["response"]["status"] for event in stream[:2]] == ["queued", "queued"]
    seen = {(event["response"]["id"], event["response"]["created_at"]) for event in stream if "response" in event}
    assert seen == {(STARTED.turn_id, STARTED.created_at)}
    assert DONE not in b"".join(data for _, data in logged)


@given(answers(), st.data())
@examples(60)
def test_a_log_that_was_cut_is_ended_by_a_new_emitter_as_the_lost_one_would_have(
    events: list[ev.Event], data: st.DataObject
) -> None:
    """What a restart does: events are logged in the groups in which the emitter gave them, so a log is cut between groups."""
    request = msgspec.structs.replace(REQUEST, background=True)
    lost = surface().emitter(request)
    groups = [lost.queued(STARTED), *[lost.feed_events(event) for event in events[:-1]]]
    logged = [one for group in groups[: data.draw(st.integers(2, len(groups)))] for one in group]
    heir, decoding = surface().emitter(request), ResponsesBackend().decoder(STARTED, streamed=True)
    heir.queued(STARTED)
    for one in logged:
        for event in decoding.feed(surface().frame(one)):
            heir.feed_events(event)
    assert heir.sequence_number == len(logged)
    ending = heir.feed_events(ev.TurnFailed(ErrorInfo(message="lost", type="server_error", code="worker_lost")))
    stream = [msgspec.json.decode(data) for _, data in [*logged, *ending]]
    assert [event["sequence_number"] for event in stream] == list(range(len(stream)))
    counts = {
        what: sum(event["type"].endswith(f".{what}") for event in stream)
        for what in ("output_item.added", "output_item.done", "part.added", "part.done")
    }
    assert counts["output_item.added"] == counts["output_item.done"]
    assert counts["part.added"] == counts["part.done"]
    done = [event["item"] for event in stream if event["type"] == "response.output_item.done"]
    assert stream[-1]["response"]["output"] == done
    assert stream[-1]["response"]["error"]["code"] == "worker_lost"


MUTANT = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["message", "function_call", "reasoning", "user", "input_text", "auto", "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "role", "content", "text", "id", "call_id", "name", "arguments", "output", "summary"),
                    *(
                        "format",
                        "schema",
                        "mode",
                        "tools",
                        "effort",
                        "status",
                        "input_audio",
                        "image_url",
                        "annotations",
                    ),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
PARAMETERS = st.sampled_from(
    [
        *("input", "tools", "tool_choice", "text", "reasoning", "include", "metadata", "conversation", "instructions"),
        *(
            "stream",
            "store",
            "background",
            "temperature",
            "max_output_tokens",
            "stream_options",
            "prompt",
            "top_logprobs",
        ),
    ]
)


@given(st.dictionaries(PARAMETERS, MUTANT, max_size=4))
@examples(200)
def test_no_body_breaks_the_reader_and_what_it_accepts_can_be_sent_stored_and_answered(body: dict[str, Json]) -> None:
    data = msgspec.json.encode({"model": "m", "input": "Hi", **body})
    codec = surface()
    try:
        request = codec.decode_request(data)
    except RequestError:
        return
    ResponsesBackend().encode_request(request, model="up")
    ResponsesBackend().forward_body(data, request, model="up", own_items=request.items[1:])
    codec.encode_turn(fold([STARTED, ev.ChoiceDone(0, "stop"), ev.TurnCompleted()]), request)
    stored = [msgspec.json.encode(item) for item in input_items(request.items, response_id="resp_1")]
    items_from_stored(stored)


@given(answers(), st.data())
@examples(60)
def test_no_stream_breaks_the_decoder_and_what_it_gives_follows_the_grammar(
    events: list[ev.Event], data: st.DataObject
) -> None:
    read = [msgspec.json.decode(frame.data) for frame in SseReader().feed(encode(events))[:-1]]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(read) - 1))
        match data.draw(st.sampled_from(["drop", "twice", "swap", "member"])):
            case "drop":
                del read[at]
            case "twice":
                read.insert(at, read[at])
            case "swap":
                read[at], read[-1] = read[-1], read[at]
            case _:
                key = data.draw(st.sampled_from(sorted(read[at])))
                read[at] = {**read[at], key: data.draw(MUTANT)}
        if not read:
            break
    wire = b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in read)
    decoding, grammar = ResponsesBackend().decoder(STARTED, streamed=True), Grammar()
    try:
        decoded = [*decoding.feed(wire), *(() if decoding.ended else decoding.close())]
    except BackendError:
        return
    for event in decoded:
        grammar.feed(event)
    assert grammar.ended
