"""The dialect behind: requests out, answers in.

One decoder reads streams and whole bodies: a completion is a chunk whose `message` is one large delta. Items are opened and
closed as the deltas imply; a choice has one item open at a time. Tool calls are sequential in this dialect: arguments for a
call that was already followed by another break the protocol.
"""

from collections.abc import Sequence

import msgspec

from trunkline.dialects.decoding import FrameDecoder, decode_object, give_tokens, is_json, unnamed
from trunkline.dialects.openai_chat import parts
from trunkline.dialects.openai_chat.encode_request import encode_request, forward_body
from trunkline.dialects.openai_chat.shape import Shape, shape_of
from trunkline.dialects.reading import Json, Object, raw
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, BackendProtocolError, BackendUnavailable
from trunkline.model.items import Item, Status
from trunkline.model.request import OpaqueTool, Request, Tool
from trunkline.model.tokens import TokenLogprob
from trunkline.model.turn import terminal_for
from trunkline.wire.sse import SseEvent, SseReader

NAME = "openai_chat"
_CUT = frozenset({"length", "content_filter"})
_Tokens = tuple[TokenLogprob, ...]
_CHUNK_KEYS = frozenset({"id", "object", "created", "model", "choices", "usage", "error"})
_CHOICE_KEYS = frozenset({"index", "delta", "message", "logprobs", "finish_reason", "text"})
MAX_USELESS_SHAPES = 8  # an upstream whose chunks differ in more than the text is read in full
_DELTA_KEYS = frozenset({"role", "content", "refusal", "tool_calls", "reasoning_content", "reasoning", "annotations"})


class ChatBackend:
    """The codec for an upstream that speaks chat completions."""

    name = NAME

    def encode_request(self, request: Request, *, model: str) -> bytes:
        return encode_request(request, model=model, want_usage=True)

    def forward_body(self, body: bytes, request: Request, *, model: str, own_items: Sequence[Item]) -> bytes:
        if request.items != own_items:
            return encode_request(request, model=model, want_usage=True)
        return forward_body(body, request, model=model, want_usage=True)

    def decoder(
        self,
        fallback: ev.TurnStarted,
        *,
        streamed: bool,
        tools: Sequence[Tool | OpaqueTool] | None = None,
    ) -> "ChatDecoder":
        return ChatDecoder(fallback, streamed=streamed)

    def decode_error(self, status: int, body: bytes) -> BackendError:
        return parts.decode_error(status, body)


class _Choice:
    """Where one choice stands: its open item, and the tool call that item is."""

    __slots__ = ("arguments", "call_index", "call_key", "done", "index", "item", "kind")

    def __init__(self, index: int) -> None:
        self.index = index
        self.item = -1  # index of the open item, -1 for none
        self.kind: ev.ItemKind = "message"
        self.call_index = -1  # the wire's index of the newest tool call
        self.call_key: str | None = None
        self.arguments: list[str] = []  # of the newest tool call
        self.done = False


class ChatDecoder(FrameDecoder[SseEvent]):
    """Bytes of one answer to events."""

    def __init__(self, fallback: ev.TurnStarted, *, streamed: bool) -> None:
        self._reader = SseReader() if streamed else None
        super().__init__(fallback, self._reader)
        self._next_item = 0
        self._choices: dict[int, _Choice] = {}
        self._reasons: list[ev.FinishReason] = []
        self._seen_extras: dict[str, Json] = {}
        self._shape: Shape | None = None  # of the last chunk, if it was a delta like those around it
        self._useless_shapes = 0  # that fitted no other chunk, in a row

    def feed(self, data: bytes) -> list[ev.Event]:
        if self._shape is None or self._reader is None or not self._reader.idle:
            return super().feed(data)
        events: list[ev.Event] = []
        rest = self._shape.read(data, events)
        if rest:
            events += super().feed(rest)
        return events

    def read_frame(self, frame: SseEvent, events: list[ev.Event]) -> None:
        if frame.data.startswith(b"[DONE]"):
            self._end(events)
        elif frame.data and (self._shape is None or not self._shape.read_chunk(frame.data, events)):
            self._unlike_the_last(frame.data, events)

    def close(self) -> list[ev.Event]:
        events: list[ev.Event] = []
        if self._reader is None:
            self._chunk(decode_object(self._take_body()), events)
        self._end(events)
        return events

    def _end(self, events: list[ev.Event]) -> None:
        if self.ended:
            return
        if not self._reasons or not all(choice.done for choice in self._choices.values()):
            raise BackendUnavailable("the upstream ended its answer before a finish reason")
        self.ended = True
        events.append(terminal_for(self._reasons))

    def _unlike_the_last(self, data: bytes, events: list[ev.Event]) -> None:
        """Reads a chunk in full. If it is one delta in an item that is open, the next ones probably differ in the text alone."""
        shape, self._shape = self._shape, None
        if shape is not None:
            self._useless_shapes = 0 if shape.fitted else self._useless_shapes + 1
        before, chunk = len(events), decode_object(data)
        self._chunk(chunk, events)
        # Deltas of an item that is open change nothing in here, so the next ones are read as this one was.
        if len(events) == before + 1 and self._useless_shapes < MAX_USELESS_SHAPES:
            delta = events[-1]
            if isinstance(delta, ev.TextDelta | ev.ReasoningDelta):
                self._shape = shape_of(data, chunk, delta)

    def _chunk(self, chunk: Object, events: list[ev.Event]) -> None:
        if chunk.get("error") is not None:
            raise parts.read_error(200, chunk["error"])
        if chunk.get("object") == "error":  # older vLLM
            raise parts.read_error(200, chunk)
        if not self._started:
            self._start(chunk, events)
        if not chunk.keys() <= _CHUNK_KEYS:
            for key, value in unnamed(chunk, _CHUNK_KEYS):
                # Constant keys such as system_fingerprint come with every chunk; they are said once.
                if self._seen_extras.get(key) != value:
                    self._seen_extras[key] = value
                    events.append(ev.Extension(name=key, payload=raw(value)))
        choices = chunk.get("choices")
        if isinstance(choices, list):
            for choice in choices:
                if not isinstance(choice, dict):
                    raise BackendProtocolError("upstream sent a choice that is not an object")
                self._choice(choice, events)
        usage, groq = chunk.get("usage"), chunk.get("x_groq")
        if usage is None and isinstance(groq, dict):
            usage = groq.get("usage")
        if isinstance(usage, dict):
            events.append(ev.UsageReported(parts.read_usage(usage)))

    def _start(self, chunk: Object, events: list[ev.Event]) -> None:
        if "choices" not in chunk:
            raise BackendProtocolError("upstream sent JSON that is not a chat completion: it has no 'choices'")
        created = chunk.get("created")
        created_at = int(created) if isinstance(created, int | float) and 0 < created < 2**53 else None
        self._begin(events, model=chunk.get("model"), turn_id=chunk.get("id"), created_at=created_at)

    def _choice(self, wire: Object, events: list[ev.Event]) -> None:
        index = wire.get("index")
        number = index if isinstance(index, int) else 0
        choice = self._choices.get(number)
        if choice is None:
            choice = self._choices[number] = _Choice(number)
        delta = wire.get("delta")
        if delta is None:
            delta = wire.get("message")
        finish = wire.get("finish_reason")
        if choice.done:
            # Some servers repeat the finish chunk; a delta after the end would be lost text.
            if isinstance(delta, dict) and (delta.get("content") or delta.get("tool_calls")):
                raise BackendProtocolError(f"upstream sent content after the finish reason of choice {number}")
            return
        if not wire.keys() <= _CHOICE_KEYS:
            for key, value in unnamed(wire, _CHOICE_KEYS):
                events.append(ev.Extension(name=key, payload=raw(value), choice=number))
        if isinstance(delta, dict):
            self._delta(choice, delta, wire.get("logprobs"), events)
        if isinstance(finish, str):
            self._finish(choice, finish, events)

    def _delta(self, choice: _Choice, delta: Object, logprobs: Json, events: list[ev.Event]) -> None:
        # Tokens belong to the first thing of this delta that has any.
        tokens = parts.read_logprobs(logprobs.get("content")) if isinstance(logprobs, dict) else ()
        thinking = delta.get("reasoning_content") or delta.get("reasoning")
        content = delta.get("content")
        if isinstance(content, list):
            thinking, content = _typed_content(content)
        if isinstance(thinking, str) and thinking:
            item = self._item(choice, "reasoning", events)
            if not content:
                tokens = give_tokens(item, tokens, events)
            events.append(ev.ReasoningDelta(item, thinking))
        if not delta.keys() <= _DELTA_KEYS:
            for key, value in unnamed(delta, _DELTA_KEYS):
                events.append(ev.Extension(name=key, payload=raw(value), index=self._any_item(choice, events)))
        refusal = delta.get("refusal")
        if isinstance(content, str) and content:
            item = self._item(choice, "message", events)
            tokens = give_tokens(item, tokens, events)
            events.append(ev.TextDelta(item, content))
        elif content is not None and not isinstance(content, str):
            raise BackendProtocolError("upstream sent 'content' that is not a string")
        if isinstance(logprobs, dict) and logprobs.get("refusal"):
            tokens = (*tokens, *parts.read_logprobs(logprobs["refusal"]))
        if isinstance(refusal, str) and refusal:
            item = self._item(choice, "message", events)
            tokens = give_tokens(item, tokens, events)
            events.append(ev.RefusalDelta(item, refusal))
        annotations = delta.get("annotations")
        if isinstance(annotations, list):
            for annotation in annotations:
                events.append(ev.AnnotationAdded(self._item(choice, "message", events), raw(annotation)))
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            for position, call in enumerate(calls):
                if not isinstance(call, dict):
                    raise BackendProtocolError("upstream sent a tool call that is not an object")
                tokens = self._call(choice, call, position, tokens, events)
        if tokens:  # of text that has not come yet (half a character), or of none (an end-of-turn token)
            give_tokens(self._any_item(choice, events), tokens, events)

    def _call(self, choice: _Choice, call: Object, position: int, tokens: _Tokens, events: list[ev.Event]) -> _Tokens:
        """One entry of `tool_calls`; returns the tokens that are left to give.

        A new index begins a new call. So does, under the same one, a new id with a name; and where there are no ids
        (Gemini's compatible API), a name after arguments that are complete.
        """
        index, call_id = call.get("index"), call.get("id")
        custom = call.get("type") == "custom" or isinstance(call.get("custom"), dict)
        inner = call.get("custom" if custom else "function")
        function: Object = inner if isinstance(inner, dict) else {}
        number = index if isinstance(index, int) else (position if self._reader is None else max(choice.call_index, 0))
        key = call_id if isinstance(call_id, str) and call_id else None
        name = function.get("name")
        named = isinstance(name, str) and name != ""
        if number > choice.call_index or (named and _begins_another(choice, key)):
            self._close_item(choice, events)
            choice.call_index, choice.call_key, choice.arguments = max(number, choice.call_index), key, []
            choice.item, choice.kind = self._next_item, "function_call"
            self._next_item += 1
            events.append(
                ev.ItemStarted(
                    index=choice.item,
                    kind="function_call",
                    choice=choice.index,
                    call_id=key or f"call_{self._fallback.turn_id.rpartition('-')[2]}_{choice.item}",
                    name=name if isinstance(name, str) else "",
                    tool="custom" if custom else "function",
                )
            )
        elif number != choice.call_index or choice.kind != "function_call" or choice.item < 0:
            raise BackendProtocolError(
                f"upstream sent arguments for tool call {number} after it had gone on to something else"
            )
        tokens = give_tokens(choice.item, tokens, events)
        arguments = function.get("input" if custom else "arguments")
        if isinstance(arguments, dict):  # Ollama's habit: arguments as an object
            arguments = msgspec.json.encode(arguments).decode()
        if isinstance(arguments, str) and arguments:
            choice.arguments.append(arguments)
            events.append(ev.ArgumentsDelta(choice.item, arguments))
        return tokens

    def _any_item(self, choice: _Choice, events: list[ev.Event]) -> int:
        return choice.item if choice.item >= 0 else self._item(choice, "message", events)

    def _item(self, choice: _Choice, kind: ev.ItemKind, events: list[ev.Event]) -> int:
        """The open item of this kind; another one that is open is closed first."""
        if choice.item >= 0 and choice.kind == kind:
            return choice.item
        self._close_item(choice, events)
        choice.item, choice.kind = self._next_item, kind
        self._next_item += 1
        events.append(ev.ItemStarted(index=choice.item, kind=kind, choice=choice.index))
        return choice.item

    def _close_item(self, choice: _Choice, events: list[ev.Event], status: Status = "completed") -> None:
        if choice.item >= 0:
            events.append(ev.ItemDone(index=choice.item, status=status))
            choice.item = -1

    def _finish(self, choice: _Choice, finish: str, events: list[ev.Event]) -> None:
        reason = parts.FINISH_REASONS.get(finish)
        # The item that was open when the limit was hit is not whole, and its own end says so. A call is if it can be made.
        cut = reason in _CUT and not (choice.kind == "function_call" and is_json("".join(choice.arguments)))
        self._close_item(choice, events, "incomplete" if cut else "completed")
        choice.done = True
        if reason is None:
            events.append(ev.Extension(name="native_finish_reason", payload=raw(finish), choice=choice.index))
            reason = "stop"
        if reason == "error":
            raise BackendError(f"the upstream ended its answer with finish reason '{finish}'")
        self._reasons.append(reason)
        events.append(ev.ChoiceDone(choice.index, reason))


def _begins_another(choice: _Choice, key: str | None) -> bool:
    """Whether a named entry under the index of the newest call is another call, not a repetition of its name."""
    if key is not None or choice.call_key is not None:
        return key is not None and key != choice.call_key
    return is_json("".join(choice.arguments))


def _typed_content(content: list[Json]) -> tuple[str, str]:
    """Reasoning and text of content in parts: Mistral's reasoning models stream `thinking` and `text` parts."""
    thinking: list[str] = []
    text: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        member = part.get(kind) if isinstance(part, dict) and isinstance(kind, str) else None
        if kind == "text" and isinstance(member, str):
            text.append(member)
        elif kind == "thinking" and isinstance(member, list):
            thinking.append(_typed_content(member)[1])
        elif kind != "reference":  # a citation's number, which has no text
            raise BackendProtocolError(
                f"upstream sent a content part of type {kind!r}, which is neither text nor thinking"
            )
    return "".join(thinking), "".join(text)
