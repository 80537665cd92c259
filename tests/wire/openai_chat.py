"""The operations of the openai_chat dialect that have golden cases."""

import msgspec

from tests.wire.golden import Case, Operation, common, events_of, pretty
from trunkline.config.profiles import PROFILES, Profile
from trunkline.dialects.openai_chat import ChatBackend, ChatSurface
from trunkline.model.events import TurnFailed
from trunkline.model.request import Request, ToolEvents
from trunkline.model.turn import fold

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


def encode_turn(case: Case) -> str:
    events = events_of(case)
    assert not isinstance(events[-1], TurnFailed)
    data = surface(case).encode_turn(fold(events), asked(case))
    return data.decode() + "\n" if b'": ' in data else pretty(data)


OPERATIONS: dict[str, Operation] = {
    **common(BACKEND, surface, asked, turn_id="chatcmpl-fallback"),
    "encode_turn": encode_turn,
}
