"""The operations of the openai_responses dialect that have golden cases."""

import msgspec

from tests.wire.golden import Case, Operation, common, events_of, forward, pretty
from trunkline.config.profiles import Profile
from trunkline.dialects.openai_responses import ResponsesBackend, ResponsesSurface
from trunkline.dialects.openai_responses.read_items import items_from_stored
from trunkline.dialects.openai_responses.write_items import check_calls, input_items
from trunkline.model.errors import RequestError
from trunkline.model.request import Request
from trunkline.model.turn import fold

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


def encode_turn(case: Case) -> str:
    data = surface(case).encode_turn(fold(events_of(case)), asked(case))
    return data.decode() + "\n" if case.flag("json_spacing") else pretty(data)


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


OPERATIONS: dict[str, Operation] = {
    **common(BACKEND, surface, asked, turn_id="resp_ours"),
    "calls": calls,
    "encode_turn": encode_turn,
    "forward_body": forward_body,
    "stored_items": stored_items,
}
