"""Requests of the Responses API: none of it is missing, nothing is changed on the way, what is stored is valid."""

from typing import Any

import msgspec
import pydantic
import pytest
from openai.types.responses import Response, ResponseItem
from openai.types.responses.response_create_params import ResponseCreateParamsBase, ResponseCreateParamsStreaming

from tests.wire.golden import ROOT, read_case
from trunkline.config.profiles import Profile
from trunkline.dialects.openai_responses import ResponsesBackend, ResponsesSurface
from trunkline.dialects.openai_responses.decode_request import OPAQUE, READERS
from trunkline.dialects.openai_responses.encode_request import EXPRESSIBLE
from trunkline.dialects.openai_responses.read_items import items_from_stored
from trunkline.dialects.openai_responses.write_items import input_items
from trunkline.model import events as ev
from trunkline.model.items import OpaqueItem
from trunkline.model.request import OpaqueTool, Request
from trunkline.model.turn import fold

SURFACE = ResponsesSurface(Profile(), now=lambda: 1700000009.75)
EMPTY: list[ev.Event] = [ev.TurnStarted("resp_1", "m", 1700000000), ev.ChoiceDone(0, "stop"), ev.TurnCompleted()]
VALID = [
    case
    for path in sorted((ROOT / "openai_responses" / "decode_request").glob("*.txt"))
    if not (case := read_case(path)).expected.startswith("raises")
]


def request_of(**members: object) -> Request:
    return SURFACE.decode_request(msgspec.json.encode({"model": "m", **members}))


def test_every_parameter_of_the_api_is_read_kept_or_structural() -> None:
    """Compared with the official SDK's own table, so that a new parameter fails here first."""
    known = set(READERS) | OPAQUE | {"input", "model"}
    params = set(ResponseCreateParamsBase.__annotations__) | set(ResponseCreateParamsStreaming.__annotations__)
    assert params - known == set()


def test_what_is_asked_is_named_as_the_request_and_its_capabilities_name_it() -> None:
    fields = {field.name for field in msgspec.structs.fields(Request)}
    for case in VALID:
        request = SURFACE.decode_request(case.data)
        assert set(request.asked) <= fields | OPAQUE, case.path.name
        assert set(request.asked) <= EXPRESSIBLE | OPAQUE, case.path.name


def test_what_no_class_names_is_kept_byte_for_byte() -> None:
    item = b'{"type":"web_search_call",  "id":"ws_1", "n":1.50, "big":123456789012345678901234567890, "u":"\\u00e9"}'
    tool = b'{ "type":"mcp","server_label":"s", "x":1e2}'
    body = b'{"model":"m","tools":[' + tool + b'],"input":[{"role":"user","content":"Hi"},' + item + b"]}"
    request = SURFACE.decode_request(body)
    opaque, hosted = request.items[1], request.tools[0]
    assert isinstance(opaque, OpaqueItem)
    assert bytes(opaque.payload) == item
    assert isinstance(hosted, OpaqueTool)
    assert bytes(hosted.payload) == tool
    written = ResponsesBackend().encode_request(request, model="up")
    assert item in written
    assert tool in written


def test_an_upstream_never_hears_of_state() -> None:
    body = msgspec.json.encode(
        {
            "model": "m",
            "input": "Hi",
            "store": True,
            "background": True,
            "previous_response_id": "resp_1",
            "truncation": "auto",
            "include": ["reasoning.encrypted_content"],
        }
    )
    request, backend = SURFACE.decode_request(body), ResponsesBackend()
    for written in (
        backend.encode_request(request, model="up"),
        backend.forward_body(body, request, model="up", own_items=request.items),
        backend.forward_body(body, request, model="up", own_items=()),
    ):
        sent = msgspec.json.decode(written)
        assert sent["store"] is False
        assert sent.keys() == {"model", "input", "store", "include"}
        assert sent["include"] == ["reasoning.encrypted_content"]


def test_an_input_is_forwarded_as_it_came_as_far_back_as_nothing_changed_it() -> None:
    texts = [{"role": "user", "content": [{"type": "input_text", "text": text, "x": 1}]} for text in ("a", "b", "c")]
    body = msgspec.json.encode({"model": "m", "input": texts})
    request = SURFACE.decode_request(body)
    first, second, third = request.items
    anew = {"type": "message", "role": "user", "content": "a"}
    for items, expected in (
        ((second, third), texts[1:]),  # cut
        ((first, first, third), [anew, anew, texts[2]]),  # one of them means another
        ((first, *request.items), [anew, *texts]),  # history
        ((first,), [anew]),
    ):
        changed = msgspec.structs.replace(request, items=items)
        written = ResponsesBackend().forward_body(body, changed, model="up", own_items=request.items)
        assert msgspec.json.decode(written)["input"] == expected


@pytest.mark.parametrize("case", VALID, ids=lambda case: case.path.stem)
def test_the_object_echoes_every_request_as_the_sdk_reads_it(case: Any) -> None:
    request = SURFACE.decode_request(case.data)
    if case.path.stem == "native_tools":  # an MCP choice there names no tool, which the API leaves open and the SDK too
        assert Response.model_validate_json(SURFACE.encode_turn(fold(EMPTY), request)).tools
        return
    Response.model_validate_json(SURFACE.encode_turn(fold(EMPTY), request), strict=True)


@pytest.mark.parametrize("name", ["input_items", "minimal", "allowed_tools"])
def test_stored_input_is_what_the_sdk_lists(name: str) -> None:
    items = SURFACE.decode_request(read_case(ROOT / "openai_responses" / "decode_request" / f"{name}.txt").data).items
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseItem)
    for stored in input_items(items, response_id="resp_1"):
        adapter.validate_json(msgspec.json.encode(stored), strict=True)


def test_an_answers_items_read_back_as_history() -> None:
    """Text, a call and its output, reasoning with what is encrypted: the next turn gets all of it."""
    events: list[ev.Event] = [
        EMPTY[0],
        ev.ItemStarted(index=0, kind="reasoning"),
        ev.SummaryDelta(0, "Thought."),
        ev.ItemDone(index=0, encrypted_content="xyz"),
        ev.ItemStarted(index=1, kind="message"),
        ev.TextDelta(1, "Hello"),
        ev.ItemDone(index=1),
        ev.ItemStarted(index=2, kind="function_call", call_id="call_1", name="f"),
        ev.ArgumentsDelta(2, "{}"),
        ev.ItemDone(index=2),
        *EMPTY[1:],
    ]
    output = msgspec.json.decode(SURFACE.encode_turn(fold(events), request_of(input="Hi")))["output"]
    history = items_from_stored([msgspec.json.encode(item) for item in output])
    assert [item["id"] for item in output] == [item.id for item in history]
    assert input_items(history, response_id="resp_2") == output


def test_a_lone_text_is_a_string_however_it_was_written() -> None:
    plain = request_of(input=[{"role": "user", "content": "Hi"}]).items
    parts = request_of(input=[{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]).items
    assert plain == parts == request_of(input="Hi").items
