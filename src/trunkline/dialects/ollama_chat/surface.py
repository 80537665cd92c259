"""The dialect in front: requests in, answers out.

/api/chat and /api/generate say the same things in two shapes: a delta of a `message`, or `response` beside it. So there is
one encoder and one whole answer, and a shape for each. A text delta with nothing pending is two byte strings made once, with the
JSON of its text between them; everything else goes through `_line`. A call is written when it is whole, because its arguments
are an object here. What belongs to a line but comes as an event of its own (log probabilities, unknown keys) waits for the next.

Times are real or absent. `elapsed_ns` says how long ago the exchange began and becomes `total_duration`; the other durations are
written where the backend has measured them. `created_at` is the turn's own, in whole seconds.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import msgspec

from trunkline.dialects import openai_wire
from trunkline.dialects.codec import JSON_LINES
from trunkline.dialects.ollama_chat.decode_request import decode_chat_request, decode_generate_request
from trunkline.dialects.ollama_chat.messages import write_call
from trunkline.dialects.ollama_chat.times import timestamp
from trunkline.dialects.reading import raw
from trunkline.model import events as ev
from trunkline.model.errors import BackendProtocolError, ErrorInfo
from trunkline.model.items import FunctionCall, Message, Reasoning, RefusalPart, TextPart
from trunkline.model.request import Request
from trunkline.model.tokens import TokenLogprob
from trunkline.model.turn import Turn
from trunkline.model.usage import Usage

_encode = msgspec.json.encode
_HOLE = "\u2603"  # stands for the delta's text while a template is made
_HOLE_JSON = _encode(_HOLE)
_CUT = frozenset({"length", "content_filter"})
"""Finish reasons that explain a call whose arguments are not whole: it is left out, as a model's own would be."""

Shape = Callable[[str, Mapping[str, object]], dict[str, object]]
"""Text and the other members of what is said, to the members of a line."""


def _as_message(text: str, members: Mapping[str, object]) -> dict[str, object]:
    return {"message": {"role": "assistant", "content": text, **members}}


def _as_response(text: str, members: Mapping[str, object]) -> dict[str, object]:
    return {"response": text, **members}


class OllamaChatSurface:
    """The codec for clients of POST /api/chat. One for each exchange: `elapsed_ns` counts from its beginning."""

    name = "ollama_chat"
    own_name = ev.OWN
    framing = JSON_LINES

    def __init__(self, *, elapsed_ns: Callable[[], int]) -> None:
        self._elapsed_ns = elapsed_ns

    def decode_request(self, body: bytes) -> Request:
        return decode_chat_request(body)

    def encoder(self, request: Request) -> "OllamaEncoder":
        return OllamaEncoder(request, shape=_as_message, elapsed_ns=self._elapsed_ns)

    def encode_turn(self, turn: Turn, request: Request) -> bytes:
        return _whole(turn, request, shape=_as_message, elapsed_ns=self._elapsed_ns)

    def encode_loaded(self, request: Request, *, reason: str, created_at: int) -> bytes:
        """The answer to a request that only asked to load or unload: `decode_request.asks_to_load`."""
        return _loaded(request, reason, created_at, shape=_as_message)

    def encode_error(self, error: ErrorInfo) -> bytes:
        return _encode({"error": error.message})


class OllamaGenerateSurface:
    """The codec for clients of POST /api/generate. One for each exchange: `elapsed_ns` counts from its beginning."""

    name = "ollama_generate"
    own_name = ev.OWN
    framing = JSON_LINES

    def __init__(self, *, elapsed_ns: Callable[[], int]) -> None:
        self._elapsed_ns = elapsed_ns

    def decode_request(self, body: bytes) -> Request:
        return decode_generate_request(body)

    def encoder(self, request: Request) -> "OllamaEncoder":
        return OllamaEncoder(request, shape=_as_response, elapsed_ns=self._elapsed_ns)

    def encode_turn(self, turn: Turn, request: Request) -> bytes:
        return _whole(turn, request, shape=_as_response, elapsed_ns=self._elapsed_ns)

    def encode_loaded(self, request: Request, *, reason: str, created_at: int) -> bytes:
        """The answer to a request that only asked to load or unload: `decode_request.asks_to_load`."""
        return _loaded(request, reason, created_at, shape=_as_response)

    def encode_error(self, error: ErrorInfo) -> bytes:
        return _encode({"error": error.message})


class OllamaEncoder:
    """Events of one answer to the lines of its stream."""

    def __init__(self, request: Request, *, shape: Shape, elapsed_ns: Callable[[], int]) -> None:
        self._request = request
        self._shape = shape
        self._elapsed_ns = elapsed_ns
        self._head: dict[str, object] = {}
        self._items: dict[int, ev.ItemStarted] = {}  # those that are said
        self._arguments: list[str] = []  # of the open call
        self._calls = 0
        self._broken: str | None = None  # the tool whose call cannot be said
        self._logprobs: list[TokenLogprob] = []
        self._members: dict[str, msgspec.Raw] = {}  # unknown keys of the message
        self._extras: dict[str, msgspec.Raw] = {}  # unknown keys of the line
        self._templates: dict[str, tuple[bytes, bytes]] = {}
        self._usage: Usage | None = None
        self._reason = ""

    def feed(self, event: ev.Event) -> bytes:
        rule = self._RULES.get(type(event))
        return rule(self, event) if rule is not None else b""

    def _turn_started(self, event: ev.TurnStarted) -> bytes:
        self._head = _head(self._request, event.model, event.created_at)
        return b""

    def _item_started(self, event: ev.ItemStarted) -> bytes:
        if event.choice == 0 and not event.hosted and event.kind not in ("function_call_output", "opaque"):
            self._items[event.index] = event
            self._arguments = []
        return b""

    def _text(self, event: ev.TextDelta | ev.RefusalDelta) -> bytes:
        return self._delta(event.index, "content", event.text)

    def _reasoning(self, event: ev.ReasoningDelta) -> bytes:
        return self._delta(event.index, "thinking", event.text)

    def _delta(self, item: int, key: str, text: str) -> bytes:
        if item not in self._items:
            return b""
        if self._logprobs or self._members or self._extras:
            return self._line(text) if key == "content" else self._line("", {key: text})
        template = self._templates.get(key)
        if template is None:
            made = self._line(_HOLE) if key == "content" else self._line("", {key: _HOLE})
            before, _, after = made.rpartition(_HOLE_JSON)
            template = self._templates[key] = before, after
        return template[0] + _encode(text) + template[1]

    def _arguments_delta(self, event: ev.ArgumentsDelta) -> bytes:
        if event.index in self._items:
            self._arguments.append(event.text)
        return b""

    def _tokens(self, event: ev.TokensDelta) -> bytes:
        if event.index in self._items:
            self._logprobs.extend(event.logprobs)
        return b""

    def _item_done(self, event: ev.ItemDone) -> bytes:
        started = self._items.get(event.index)
        if started is None:
            return b""
        if started.kind == "function_call":
            call = FunctionCall(
                call_id=started.call_id or "",
                name=started.name or "",
                arguments="".join(self._arguments),
                tool=started.tool,
            )
            written = write_call(call, self._calls)
            if written is not None:
                self._calls += 1
                return self._line("", {"tool_calls": [written]})
            self._broken = call.name
        # Logprobs of tokens whose text never came still belong to the client.
        return self._line("") if self._logprobs else b""

    def _choice_done(self, event: ev.ChoiceDone) -> bytes:
        if event.choice == 0:
            self._reason = self._reason or _done_reason(event.finish_reason)
            if event.finish_reason in _CUT:
                self._broken = None
        return b""

    def _usage_reported(self, event: ev.UsageReported) -> bytes:
        self._usage = event.usage
        return b""

    def _extension(self, event: ev.Extension) -> bytes:
        """Keeps it for the next line. One that would overwrite another sends that one first."""
        sent = b""
        if event.index is not None:
            if event.index in self._items:
                if event.name in self._members:
                    sent = self._line("")
                self._members[event.name] = event.payload
        elif event.name == "native_finish_reason":
            reason = msgspec.json.decode(event.payload)
            self._reason = reason if isinstance(reason, str) and event.choice == 0 else self._reason
        elif not event.choice:
            if event.name in self._extras:
                sent = self._line("")
            self._extras[event.name] = event.payload
        return sent

    def _completed(self, event: ev.TurnCompleted | ev.TurnIncomplete) -> bytes:
        # A turn cut because its client left has nobody to tell; one cut by a limit has a finish reason.
        if isinstance(event, ev.TurnIncomplete) and event.reason not in ("max_output_tokens", "content_filter"):
            return b""
        if self._broken is not None:
            return _error_line(_broken_call(self._broken).message)
        return self._line("", ending=_ending(self._reason, self._usage, self._elapsed_ns()))

    def _failed(self, event: ev.TurnFailed) -> bytes:
        return _error_line(event.error.message)

    def _cancelled(self, event: ev.TurnCancelled) -> bytes:
        return _error_line("the answer was cancelled")

    def _line(
        self, text: str, members: Mapping[str, object] = {}, *, ending: Mapping[str, object] | None = None
    ) -> bytes:
        line = {**self._head, **self._shape(text, {**members, **self._members}), "done": ending is not None}
        if self._logprobs:
            line["logprobs"] = openai_wire.write_logprobs(tuple(self._logprobs))
            self._logprobs = []
        if ending is not None:
            line.update(ending)
        if self._extras:
            line.update(self._extras)
            self._extras = {}
        self._members = {}
        return _encode(line) + b"\n"

    # One table for all, of plain functions: bound methods in each instance would tie it in a cycle that only the
    # garbage collector undoes, and memory would wait for it.
    _RULES: ClassVar[dict[type, Callable[..., bytes]]] = {
        ev.TextDelta: _text,
        ev.TurnStarted: _turn_started,
        ev.ItemStarted: _item_started,
        ev.ReasoningDelta: _reasoning,
        ev.RefusalDelta: _text,
        ev.ArgumentsDelta: _arguments_delta,
        ev.TokensDelta: _tokens,
        ev.ItemDone: _item_done,
        ev.ChoiceDone: _choice_done,
        ev.UsageReported: _usage_reported,
        ev.Extension: _extension,
        ev.TurnCompleted: _completed,
        ev.TurnIncomplete: _completed,
        ev.TurnFailed: _failed,
        ev.TurnCancelled: _cancelled,
    }


def _head(request: Request, model: str, created_at: int) -> dict[str, object]:
    return {"model": request.model or model, "created_at": timestamp(created_at)}


def _done_reason(reason: ev.FinishReason | None) -> str:
    return "stop" if reason in ("tool_calls", "function_call", None) else reason


def _ending(reason: str, usage: Usage | None, elapsed_ns: int) -> dict[str, object]:
    """The members of an answer's last line. A duration of 0 is left out, as Ollama does."""
    ending: dict[str, object] = {"done_reason": reason}
    if elapsed_ns > 0:
        ending["total_duration"] = elapsed_ns
    if usage is not None:
        ending["prompt_eval_count"] = usage.input_tokens
        ending["eval_count"] = usage.output_tokens
    return ending


def _broken_call(name: str) -> BackendProtocolError:
    return BackendProtocolError(
        f"the model called the tool '{name[:100]}' with arguments that are not a JSON object, which this API cannot say"
    )


def _error_line(message: str) -> bytes:
    return _encode({"error": message}) + b"\n"


def _loaded(request: Request, reason: str, created_at: int, *, shape: Shape) -> bytes:
    return _encode({**_head(request, "", created_at), **shape("", {}), "done": True, "done_reason": reason})


def _whole(turn: Turn, request: Request, *, shape: Shape, elapsed_ns: Callable[[], int]) -> bytes:
    """The whole answer as one line. Raises BackendProtocolError for a call that cannot be said, as the stream ends with it."""
    text: list[str] = []
    thinking: list[str] = []
    calls: list[object] = []
    logprobs: list[TokenLogprob] = []
    members: list[ev.Extension] = []
    choice = next((one for one in turn.choices if one.index == 0), None)
    finish_reason = choice.finish_reason if choice else None
    for turn_item in turn.items:
        if turn_item.choice != 0:
            continue
        match turn_item.item:
            case Message(content=content):
                text.extend([part.text for part in content if isinstance(part, TextPart | RefusalPart)])
            case Reasoning():
                thinking.append(turn_item.item.text)
            case FunctionCall(hosted=False):
                written = write_call(turn_item.item, len(calls))
                if written is not None:
                    calls.append(written)
                elif finish_reason not in _CUT and finish_reason is not None:
                    raise _broken_call(turn_item.item.name)
            case _:
                continue
        logprobs.extend(turn_item.logprobs)
        members.extend(turn_item.extensions)
    said: dict[str, object] = {}
    if any(thinking):
        said["thinking"] = "".join(thinking)
    if calls:
        said["tool_calls"] = calls
    extras = openai_wire.join_extensions([*turn.extensions, *(choice.extensions if choice else ())])
    native = extras.pop("native_finish_reason", raw(_done_reason(finish_reason)))
    line = {
        **_head(request, turn.model, turn.created_at),
        **shape("".join(text), {**said, **openai_wire.join_extensions(members)}),
        "done": True,
        **_ending("", turn.usage, elapsed_ns()),
        "done_reason": native,
    }
    if logprobs:
        line["logprobs"] = openai_wire.write_logprobs(tuple(logprobs))
    return _encode({**line, **extras})
