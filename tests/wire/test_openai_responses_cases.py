"""The openai_responses dialect against its golden cases, each operation in the way a backend, a surface or the store uses it."""

from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from tests.wire.golden import (
    Case,
    check,
    check_complete,
    decode_answer,
    decode_error,
    encode_error,
    encode_events,
    events_of,
    find_cases,
    forward,
    pretty,
)
from trunkline.config.profiles import Profile
from trunkline.dialects.openai_responses import ResponsesBackend, ResponsesSurface
from trunkline.dialects.openai_responses.read_items import items_from_stored
from trunkline.dialects.openai_responses.write_items import check_calls, input_items
from trunkline.model.errors import RequestError
from trunkline.model.events import TurnStarted
from trunkline.model.request import Request
from trunkline.model.turn import fold

FALLBACK = TurnStarted("resp_ours", "fallback-model", 1700000000)
BACKEND = ResponsesBackend()


def surface(case: Case) -> ResponsesSurface:
    return ResponsesSurface(
        Profile(
            json_spacing=case.flag("json_spacing"),
            error_style="plain" if case.settings.get("error_style") == "plain" else "openai",
            done_sentinel=case.settings.get("done_sentinel") != "false",
            usage_details=case.settings.get("usage_details") != "false",
            tool_items="mcp_call" if case.settings.get("tool_items") == "mcp_call" else "function_call",
        ),
        now=lambda: 1700000009.75,
    )


def asked(case: Case) -> Request:
    body = case.settings.get("request")
    if body is not None:
        return surface(case).decode_request(body.encode())
    return Request(model=case.settings.get("model"), items=(), stream=True, logprobs=case.flag("logprobs"))


def decode_request(case: Case) -> str:
    codec = surface(case)
    try:
        request = codec.decode_request(case.data)
    except RequestError as error:
        return f"raises {type(error).__name__} {error.status}\n{pretty(codec.encode_error(error.info()))}"
    return pretty(msgspec.json.encode(request))


def encode_stream(case: Case) -> str:
    return encode_events(surface(case).encoder(asked(case)), case)


def encode_turn(case: Case) -> str:
    data = surface(case).encode_turn(fold(events_of(case)), asked(case))
    return data.decode() + "\n" if case.flag("json_spacing") else pretty(data)


def encode_request(case: Case) -> str:
    request = surface(case).decode_request(case.data)
    return pretty(BACKEND.encode_request(request, model=case.settings["backend_model"]))


def forward_body(case: Case) -> str:
    history = items_from_stored([case.settings["history"].encode()]) if "history" in case.settings else ()
    return forward(BACKEND, surface(case), case, history=history)


def stored_items(case: Case) -> str:
    """A request's input as the store keeps it; what comes out reads back as what went in."""
    items = surface(case).decode_request(case.data).items
    stored = [msgspec.json.encode(item) for item in input_items(items, response_id="resp_ours")]
    again = items_from_stored(stored)
    assert [msgspec.json.encode(item) for item in input_items(again, response_id="resp_other")] == stored
    return pretty(b"[" + b",".join(stored) + b"]")


def calls(case: Case) -> str:
    codec = surface(case)
    try:
        check_calls(codec.decode_request(case.data).items)
    except RequestError as error:
        return pretty(codec.encode_error(error.info()))
    return "fine\n"


OPERATIONS: dict[str, Callable[[Case], str]] = {
    "calls": calls,
    "decode_body": partial(decode_answer, BACKEND, FALLBACK),
    "decode_error": partial(decode_error, BACKEND),
    "decode_request": decode_request,
    "decode_stream": partial(decode_answer, BACKEND, FALLBACK),
    "encode_error": lambda case: encode_error(surface(case), case),
    "encode_request": encode_request,
    "encode_stream": encode_stream,
    "encode_turn": encode_turn,
    "forward_body": forward_body,
    "stored_items": stored_items,
}
CASES = list(find_cases("openai_responses", *OPERATIONS))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation}/{case.path.stem}")
def test_case(case: Case) -> None:
    check(case, OPERATIONS[case.operation](case))


def test_every_operation_has_cases_and_every_case_an_operation() -> None:
    check_complete(CASES, OPERATIONS)
