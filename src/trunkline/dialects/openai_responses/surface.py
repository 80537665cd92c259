"""The dialect in front: requests in, answers out.

The stream's framing is a thin layer over the emitter, whose events the log of a background response and a WebSocket take as they
are. Time comes in from outside: `now` gives unix seconds for `completed_at`.
"""

from collections.abc import Callable

import msgspec

from trunkline.config.profiles import Profile
from trunkline.dialects.codec import EVENT_STREAM, KeepingEncoder
from trunkline.dialects.openai_responses.decode_request import decode_request
from trunkline.dialects.openai_responses.emitter import TERMINAL_TYPES, Emitted, ResponseEmitter
from trunkline.dialects.openai_responses.parts import write_failure
from trunkline.dialects.openai_responses.read_items import NAME
from trunkline.dialects.openai_responses.response import ResponseBuilder, Settings, shows_approvals
from trunkline.dialects.openai_wire import write_error
from trunkline.dialects.writing import write_json
from trunkline.model.errors import ErrorInfo
from trunkline.model.events import Event, TextDelta
from trunkline.model.request import Request, ToolEvents, ToolItems
from trunkline.model.turn import Turn
from trunkline.wire.sse import DONE

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NULL = msgspec.Raw(b"null")


class ResponsesSurface:
    """The codec for clients of the Responses API. `tool_events`, `tool_items`: in place of the profile's."""

    name = NAME
    framing = EVENT_STREAM

    def __init__(
        self,
        profile: Profile,
        *,
        now: Callable[[], float],
        tool_events: ToolEvents | None = None,
        tool_items: ToolItems | None = None,
    ) -> None:
        self.own_name = profile.own_name
        self._profile = profile
        self._tool_events = tool_events
        self._tool_items = tool_items
        self._plain_errors = profile.error_style == "plain"
        self._now = now
        self._settings = Settings(
            json_spacing=profile.json_spacing,
            done_sentinel=profile.done_sentinel,
            usage_details=profile.usage_details,
            tool_output_lists=profile.tool_output_lists,
            own_name=profile.own_name,
            shows_approvals=(tool_events or profile.tool_events) == "events",
            tool_items=tool_items or profile.tool_items,
        )

    def at(self, now: Callable[[], float]) -> "ResponsesSurface":
        """The same at another time, for what was answered before."""
        return ResponsesSurface(self._profile, now=now, tool_events=self._tool_events, tool_items=self._tool_items)

    def decode_request(self, body: bytes, *, needs_input: bool = True) -> Request:
        return decode_request(body, needs_input=needs_input)

    def shows_approvals(self, request: Request) -> bool:
        """Whether its events show what an agent asks."""
        return shows_approvals(request, self._settings)

    def emitter(self, request: Request) -> ResponseEmitter:
        """Events without framing."""
        return ResponseEmitter(request, self._settings, self._now)

    def encoder(self, request: Request) -> "ResponsesEncoder":
        return ResponsesEncoder(self.emitter(request), done_sentinel=self._settings.done_sentinel)

    def encode_turn(self, turn: Turn, request: Request) -> bytes:
        response = ResponseBuilder(request, self._settings).ended(turn, now=self._now())
        return write_json(response, spaced=self._settings.json_spacing)

    def encode_error(self, error: ErrorInfo) -> bytes:
        plain = {"error": error.type, "detail": error.message}
        written = plain if self._plain_errors else write_error(error, own_name=self.own_name)
        return write_json(written, spaced=self._settings.json_spacing)

    def frame(self, emitted: Emitted) -> bytes:
        """One event as server-sent event, with the sentinel after a terminal one: for replaying a log."""
        return frame(emitted, done_sentinel=self._settings.done_sentinel)


class ResponsesEncoder(KeepingEncoder):
    """Events of one answer to the bytes of its stream."""

    def __init__(self, emitter: ResponseEmitter, *, done_sentinel: bool) -> None:
        self._emitter = emitter
        self._done_sentinel = done_sentinel

    @property
    def response(self) -> bytes | None:
        """The final object, once the terminal event has been fed."""
        return self._emitter.response

    def failed_instead(self, data: bytes, error: ErrorInfo) -> bytes:
        """The same frames, but the terminal one says `response.failed` with the same number and output."""
        head = data[: data.rfind(b"\n\nevent: ") + 2] if b"\n\nevent: " in data else b""  # JSON has no line breaks
        return head + frame(failed_end(self._emitter, error), done_sentinel=self._done_sentinel)

    def feed(self, event: Event) -> bytes:
        if type(event) is TextDelta:
            data = self._emitter.text_goes_on(event)
            if data is not None:
                return b"event: response.output_text.delta\ndata: %b\n\n" % data
        emitted = self._emitter.feed_events(event)
        if len(emitted) == 1:
            return frame(emitted[0], done_sentinel=self._done_sentinel)
        return b"".join([frame(one, done_sentinel=self._done_sentinel) for one in emitted])


def failed_end(emitter: ResponseEmitter, error: ErrorInfo) -> Emitted:
    """What to say in place of the terminal event: `response.failed` with the same number and output."""
    assert emitter.response is not None
    failed = _MEMBERS.decode(emitter.response)
    failed.update(dict.fromkeys(("completed_at", "incomplete_details"), _NULL))
    failed["status"] = msgspec.Raw(b'"failed"')
    failed["error"] = msgspec.Raw(msgspec.json.encode(write_failure(error)))
    event = {"type": "response.failed", "sequence_number": emitter.sequence_number - 1, "response": failed}
    return "response.failed", msgspec.json.encode(event)


def frame(emitted: Emitted, *, done_sentinel: bool) -> bytes:
    event_type, data = emitted
    framed = b"event: %b\ndata: %b\n\n" % (event_type.encode(), data)
    return framed + DONE if done_sentinel and event_type in TERMINAL_TYPES else framed
