"""The dialect behind: requests out, answers in.

One decoder reads streams and whole bodies: a whole answer is a stream's only line, with `done: true`. Items are opened and
closed as the lines imply: thinking, then text, then calls, each of which comes whole. There is no mark after the last
line; the line with `done` ends the answer.
"""

from collections.abc import Sequence

import msgspec

from trunkline.dialects import openai_wire
from trunkline.dialects.decoding import FrameDecoder, decode_object, give_tokens, is_json, unnamed
from trunkline.dialects.ollama_chat.encode_request import encode_request, forward_body
from trunkline.dialects.ollama_chat.times import unix_seconds
from trunkline.dialects.reading import NOT_JSON, Json, Object, raw
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, BackendProtocolError, BackendRejected, BackendUnavailable
from trunkline.model.items import Item, Status
from trunkline.model.request import OpaqueTool, Request, Tool
from trunkline.model.tokens import TokenLogprob
from trunkline.model.turn import terminal_for
from trunkline.model.usage import Usage
from trunkline.wire.ndjson import NdjsonReader

NAME = "ollama_chat"
_LINE_KEYS = frozenset(
    {"model", "created_at", "message", "done", "done_reason", "logprobs", "prompt_eval_count", "eval_count", "error"}
)
_MESSAGE_KEYS = frozenset({"role", "content", "thinking", "tool_calls"})
_CUT = frozenset({"length", "content_filter"})
_REASONS: dict[str, ev.FinishReason] = {
    "": "stop",  # not said: older versions, and a runner whose connection closed
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",  # never Ollama's own: what our surface says
}


class OllamaBackend:
    """The codec for an Ollama server, POST /api/chat."""

    name = NAME

    def encode_request(self, request: Request, *, model: str) -> bytes:
        return encode_request(request, model=model)

    def forward_body(self, body: bytes, request: Request, *, model: str, own_items: Sequence[Item]) -> bytes:
        if request.items != own_items:
            return encode_request(request, model=model)
        return forward_body(body, request, model=model)

    def decoder(
        self,
        fallback: ev.TurnStarted,
        *,
        streamed: bool,
        tools: Sequence[Tool | OpaqueTool] | None = None,
    ) -> "OllamaDecoder":
        return OllamaDecoder(fallback, streamed=streamed)

    def decode_error(self, status: int, body: bytes) -> BackendError:
        """`{"error": "…"}`, or whatever stood in its place. A 404 that says something is about the model: a path that is not
        there is answered in plain text."""
        error = openai_wire.decode_error(status, body)
        if status == 404 and _says_error(body):
            return BackendRejected(error.message, status=404, code="model_not_found", param="model")
        return error


class OllamaDecoder(FrameDecoder[bytes]):
    """Bytes of one answer to events."""

    def __init__(self, fallback: ev.TurnStarted, *, streamed: bool) -> None:
        self._reader = NdjsonReader() if streamed else None
        super().__init__(fallback, self._reader)
        self._next_item = 0
        self._item = -1  # index of the open item, -1 for none
        self._kind: ev.ItemKind = "message"
        self._calls = 0
        self._held: tuple[TokenLogprob, ...] = ()  # tokens that came before anything they could belong to
        self._seen_extras: dict[str, Json] = {}

    def close(self) -> list[ev.Event]:
        events: list[ev.Event] = []
        if not self.ended:
            self._last_line(events)
        if not self.ended:
            raise BackendUnavailable("the upstream ended its answer before it was done")
        return events

    def _last_line(self, events: list[ev.Event]) -> None:
        if self._reader is None:
            self.read_frame(self._take_body(), events)
            return
        rest = self._reader.rest()
        if is_json(rest):  # only its line end is missing
            self.read_frame(rest, events)

    def read_frame(self, frame: bytes, events: list[ev.Event]) -> None:
        line = decode_object(frame)
        if line.get("error") is not None:
            raise openai_wire.read_error(200, line["error"])
        if not self._started:
            self._start(line, events)
        if not line.keys() <= _LINE_KEYS:
            for key, value in unnamed(line, _LINE_KEYS):
                # Keys such as remote_model come with every line; they are said once.
                if self._seen_extras.get(key) != value:
                    self._seen_extras[key] = value
                    events.append(ev.Extension(name=key, payload=raw(value)))
        message = line.get("message")
        tokens = openai_wire.read_logprobs(line.get("logprobs"))
        self._message(message if isinstance(message, dict) else {}, tokens, events)
        if line.get("done") is True:
            self._done(line, events)

    def _start(self, line: Object, events: list[ev.Event]) -> None:
        if "message" not in line and "done" not in line:
            raise BackendProtocolError(
                "upstream sent JSON that is not an Ollama chat answer: it has neither 'message' nor 'done'"
            )
        created = line.get("created_at")
        created_at = unix_seconds(created) if isinstance(created, str) else None
        self._begin(events, model=line.get("model"), created_at=created_at)

    def _message(self, message: Object, tokens: tuple[TokenLogprob, ...], events: list[ev.Event]) -> None:
        # Tokens belong to the first thing of this line that has any, or of a later one: a parser may hold text back.
        tokens, self._held = (*self._held, *tokens), ()
        thinking, content = message.get("thinking"), message.get("content")
        if isinstance(thinking, str) and thinking:
            item = self._open("reasoning", events)
            if not content:
                tokens = give_tokens(item, tokens, events)
            events.append(ev.ReasoningDelta(item, thinking))
        text = content if isinstance(content, str) else ""
        others = [] if message.keys() <= _MESSAGE_KEYS else unnamed(message, _MESSAGE_KEYS)
        if others:
            # They belong to the text they come with; without any, to what is open.
            item = self._item if self._item >= 0 and not text else self._open("message", events)
            for key, value in others:
                events.append(ev.Extension(name=key, payload=raw(value), index=item))
        if text:
            item = self._open("message", events)
            tokens = give_tokens(item, tokens, events)
            events.append(ev.TextDelta(item, text))
        elif content is not None and not isinstance(content, str):
            raise BackendProtocolError("upstream sent 'content' that is not a string")
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            for call in calls:
                tokens = self._call(call, tokens, events)
        if tokens and self._item >= 0:
            give_tokens(self._item, tokens, events)
        else:
            self._held = tokens

    def _call(self, call: Json, tokens: tuple[TokenLogprob, ...], events: list[ev.Event]) -> tuple[TokenLogprob, ...]:
        """One entry of `tool_calls`, which is a whole call; returns the tokens that are left to give."""
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(function, dict):
            raise BackendProtocolError("upstream sent a tool call without a function")
        name, call_id, arguments = function.get("name"), call.get("id"), function.get("arguments")
        if not isinstance(name, str) or not name:
            raise BackendProtocolError("upstream sent a tool call without a name")
        self._close(events)
        item, self._next_item = self._next_item, self._next_item + 1
        self._calls += 1
        if not isinstance(call_id, str) or not call_id:
            call_id = f"call_{self._fallback.turn_id.rpartition('-')[2]}_{item}"
        events.append(ev.ItemStarted(index=item, kind="function_call", call_id=call_id, name=name))
        tokens = give_tokens(item, tokens, events)
        # Compatible servers send the arguments as JSON text.
        text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments or {}).decode()
        if text:
            events.append(ev.ArgumentsDelta(item, text))
        events.append(ev.ItemDone(index=item))
        return tokens

    def _done(self, line: Object, events: list[ev.Event]) -> None:
        if self._held:
            give_tokens(self._open("message", events), self._held, events)
        said = line.get("done_reason")
        said = said if isinstance(said, str) else ""
        reason = _REASONS.get(said)
        # What was open when the limit was hit is not whole, and its own end says so. A call always is.
        self._close(events, "incomplete" if reason in _CUT else "completed")
        if reason is None:
            events.append(ev.Extension(name="native_finish_reason", payload=raw(said), choice=0))
            reason = "stop"
        if reason == "stop" and self._calls:
            reason = "tool_calls"
        events.append(ev.ChoiceDone(0, reason))
        counts = [line.get("prompt_eval_count"), line.get("eval_count")]
        if any(type(count) is int for count in counts):
            # A count of 0 is left out on the wire.
            given, made = (count if type(count) is int else 0 for count in counts)
            events.append(ev.UsageReported(Usage(input_tokens=given, output_tokens=made)))
        self.ended = True
        events.append(terminal_for([reason]))

    def _open(self, kind: ev.ItemKind, events: list[ev.Event]) -> int:
        """The open item of this kind; another one that is open is closed first."""
        if self._item < 0 or self._kind != kind:
            self._close(events)
            self._item, self._kind = self._next_item, kind
            self._next_item += 1
            events.append(ev.ItemStarted(index=self._item, kind=kind))
        return self._item

    def _close(self, events: list[ev.Event], status: Status = "completed") -> None:
        if self._item >= 0:
            events.append(ev.ItemDone(index=self._item, status=status))
            self._item = -1


def _says_error(body: bytes) -> bool:
    try:
        source: Json = msgspec.json.decode(body)
    except NOT_JSON:
        return False
    return isinstance(source, dict) and "error" in source
