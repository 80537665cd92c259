"""The openai_chat dialect against its golden cases, each operation in the way a backend or a surface uses it."""

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
from trunkline.config.profiles import PROFILES, Profile
from trunkline.dialects.openai_chat import ChatBackend, ChatSurface
from trunkline.model.errors import RequestError
from trunkline.model.events import TurnFailed, TurnStarted
from trunkline.model.request import Request, ToolEvents
from trunkline.model.turn import fold

FALLBACK = TurnStarted("chatcmpl-fallback", "fallback-model", 1700000000)
BACKEND = ChatBackend()


def surface(case: Case) -> ChatSurface:
    if "profile" in case.settings:
        return ChatSurface(PROFILES[case.settings["profile"]])
    return ChatSurface(
        Profile(
            json_spacing=case.flag("json_spacing"),
            error_style="plain" if case.settings.get("error_style") == "plain" else "openai",
        )
    )


def asked(case: Case) -> Request:
    return Request(
        model=case.settings.get("model"),
        items=(),
        stream=True,
        include_usage=case.flag("include_usage"),
        tool_events=msgspec.convert(case.settings.get("tool_events"), ToolEvents | None),
    )


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
    events = events_of(case)
    assert not isinstance(events[-1], TurnFailed)
    data = surface(case).encode_turn(fold(events), asked(case))
    return data.decode() + "\n" if b'": ' in data else pretty(data)


def encode_request(case: Case) -> str:
    request = surface(case).decode_request(case.data)
    return pretty(BACKEND.encode_request(request, model=case.settings["backend_model"]))


OPERATIONS: dict[str, Callable[[Case], str]] = {
    "decode_body": partial(decode_answer, BACKEND, FALLBACK),
    "decode_error": partial(decode_error, BACKEND),
    "decode_request": decode_request,
    "decode_stream": partial(decode_answer, BACKEND, FALLBACK),
    "encode_error": lambda case: encode_error(surface(case), case),
    "encode_request": encode_request,
    "encode_stream": encode_stream,
    "encode_turn": encode_turn,
    "forward_body": lambda case: forward(BACKEND, surface(case), case),
}
CASES = list(find_cases("openai_chat", *OPERATIONS))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation}/{case.path.stem}")
def test_case(case: Case) -> None:
    check(case, OPERATIONS[case.operation](case))


def test_every_operation_has_cases_and_every_case_an_operation() -> None:
    check_complete(CASES, OPERATIONS)
