"""The dialect behind: requests out, answers in.

The decoder trusts the items more than the deltas: a server may send a text only with its item, or items only with the last event,
and none of it is lost or said twice. Items of this turn come one after another; what an upstream says of another item meanwhile
waits for its turn. The upstream's ids and time are never used: state is ours, and so are its names. An item's id that names the
turn is ours already (a log of ours is read again); a native item gets one under its own prefix, by which servers know its kind.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, cast

import msgspec

from trunkline.dialects.decoding import FrameDecoder, decode_object, give_tokens
from trunkline.dialects.openai_responses import parts
from trunkline.dialects.openai_responses.encode_request import encode_request, forward_body
from trunkline.dialects.openai_responses.read_items import NAME, RawMembers, read_item
from trunkline.dialects.openai_responses.write_items import EVENT_PREFIX
from trunkline.dialects.openai_wire import decode_error, read_error, read_logprobs
from trunkline.dialects.reading import Json, Object, raw
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, BackendProtocolError, BackendUnavailable, RequestError
from trunkline.model.ids import item_id as own_item_id
from trunkline.model.items import FunctionCallOutput, Item, OpaqueItem, Status
from trunkline.model.request import OpaqueTool, Request, Tool
from trunkline.wire.sse import SseEvent, SseReader

_OWN_KEYS = frozenset(
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
        *("previous_response_id", "tools", "tool_choice", "parallel_tool_calls", "output", "output_text", "metadata"),
        *("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "truncation", "text"),
        *("reasoning", "usage", "max_output_tokens", "max_tool_calls", "store", "background", "safety_identifier"),
        *("prompt_cache_key", "conversation", "user", "prompt", "type"),
    }
)
"""Keys of the object that say what was asked, whose it is and how it went: none of it is an extension."""

_KINDS: Mapping[str, ev.ItemKind] = {
    "message": "message",
    "reasoning": "reasoning",
    "function_call": "function_call",
    "custom_tool_call": "function_call",
    "function_call_output": "function_call_output",
    "custom_tool_call_output": "function_call_output",
}
_ITEM_KEYS: Mapping[ev.ItemKind, frozenset[str]] = {
    "message": frozenset({"id", "type", "role", "status", "content"}),
    "reasoning": frozenset({"id", "type", "status", "summary", "content", "encrypted_content"}),
    "function_call": frozenset({"id", "type", "status", "call_id", "name", "arguments", "input"}),
    "function_call_output": frozenset({"id", "type", "status", "call_id", "name", "output"}),
}
_ENVELOPE = ("type", "sequence_number", "output_index", "obfuscation")
_ID_PREFIX = re.compile(r"[a-z]{1,16}_")
_LAST = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_BEGUN = ("response.created", "response.in_progress")
_SHAPING = frozenset({*_BEGUN, *_LAST, "response.queued", "response.output_item.added", "response.output_item.done"})
"""Events that shape a stream: one under another name must not become one of these."""
MAX_WAITING_BYTES = 16 * 1024 * 1024
_SILENT = frozenset({"keepalive", "ping", "response.queued"})


class ResponsesBackend:
    """The codec for an upstream that speaks Responses."""

    name = NAME

    def encode_request(self, request: Request, *, model: str) -> bytes:
        return encode_request(request, model=model)

    def forward_body(self, body: bytes, request: Request, *, model: str, own_items: Sequence[Item]) -> bytes:
        return forward_body(body, request, model=model, own_items=own_items)

    def decoder(
        self, fallback: ev.TurnStarted, *, streamed: bool, tools: Sequence[Tool | OpaqueTool] | None = None
    ) -> "ResponsesDecoder":
        return ResponsesDecoder(fallback, streamed=streamed, tools=tools)

    def decode_error(self, status: int, body: bytes) -> BackendError:
        return decode_error(status, body)


class _Open:
    """The item that is open: its index here, what it is, and how much of it has been said."""

    __slots__ = ("call_id", "hosted", "index", "kind", "members", "said", "wire_index")

    def __init__(
        self,
        index: int,
        wire_index: int,
        kind: ev.ItemKind,
        call_id: str | None,
        members: frozenset[str],
        *,
        hosted: bool,
    ) -> None:
        self.hosted = hosted
        self.call_id = call_id
        self.index = index
        self.wire_index = wire_index
        self.kind = kind
        self.members = members  # those that no field names and ItemStarted carried
        self.said: set[tuple[str, int]] = set()  # kinds and numbers of the parts of which deltas have come


class ResponsesDecoder(FrameDecoder[SseEvent]):
    """Bytes of one answer to events.

    A call of a function that is not among `tools` is one the upstream ran by itself. The wire does not say so, and who has to run
    the calls he gets must not be asked to run that one.
    """

    def __init__(
        self, fallback: ev.TurnStarted, *, streamed: bool, tools: Sequence[Tool | OpaqueTool] | None = None
    ) -> None:
        super().__init__(fallback, SseReader() if streamed else None)
        self._runnable = _runnable(tools)
        self._open: _Open | None = None
        self._closed: dict[int, int] = {}  # the wire's output index -> ours
        self._waiting: dict[int, list[tuple[str, Object, bytes]]] = {}  # events of other items than the open one
        self._waiting_bytes = 0
        self._calls: set[str | None] = set()  # calls for the client that nobody has answered in this turn
        self._ids: dict[str, str] = {}  # the upstream's id of a native item -> ours

    def read_frame(self, frame: SseEvent, events: list[ev.Event]) -> None:
        data = frame.data
        if not data or data.startswith(b"[DONE]"):
            return
        event = decode_object(data)
        kind = event.get("type")
        if not isinstance(kind, str):
            if event.get("error") is not None:
                raise read_error(200, event["error"])
            raise BackendProtocolError("upstream sent an event without a type")
        if kind in _SILENT:
            return
        if kind == "error":
            raise parts.read_failure(event)
        if kind in _LAST:
            response = event.get("response")
            if not isinstance(response, dict):
                raise BackendProtocolError(f"upstream sent '{kind}' without its response")
            self._terminal(response, _member(data, "response"), events)
            return
        if not self._started:
            self._begin_with(event.get("response"), events)
        wire_index = event.get("output_index")
        if kind in _BEGUN:
            return
        waits = self._open is not None and type(wire_index) is int and wire_index != self._open.wire_index
        if waits and wire_index not in self._closed:
            self._wait(cast("int", wire_index), (kind, event, data))
            return
        self._dispatch(kind, event, data, events)
        if kind == "response.output_item.done":
            self._release(events)

    def close(self) -> list[ev.Event]:
        events: list[ev.Event] = []
        if self._frames is None:
            data = self._take_body()
            body = decode_object(data)
            if isinstance(body.get("error"), dict) and body.get("object") != "response":
                raise read_error(200, body["error"])
            if body.get("object") != "response" and not isinstance(body.get("output"), list):
                raise BackendProtocolError("upstream sent JSON that is not a response: it has no 'output'")
            self._terminal(body, data, events)
        if not self.ended:
            raise BackendUnavailable("the upstream ended its answer before its terminal event")
        return events

    def _wait(self, wire_index: int, said: tuple[str, Object, bytes]) -> None:
        self._waiting_bytes += len(said[2])
        if self._waiting_bytes > MAX_WAITING_BYTES:
            raise BackendProtocolError(f"upstream said {MAX_WAITING_BYTES} bytes of items while another one was open")
        self._waiting.setdefault(wire_index, []).append(said)

    def _dispatch(self, kind: str, event: Object, data: bytes, events: list[ev.Event]) -> None:
        if kind == "response.output_item.added":
            self._item_added(event, data, events)
        elif kind == "response.output_item.done":
            self._item_done(event, data, events)
        else:
            rule = self._RULES.get(kind)
            if rule is not None and (self._open is None or self._open.kind != "opaque"):
                rule(self, event, events)
            else:
                self._pass_on(kind, event, events)

    def _release(self, events: list[ev.Event]) -> None:
        """Says what waited for the open item to close: one item after the other, until one of them stays open."""
        while self._waiting and self._open is None:
            wire_index = next(iter(self._waiting))
            for kind, event, data in self._waiting.pop(wire_index):
                self._waiting_bytes -= len(data)
                self._dispatch(kind, event, data, events)

    def _nothing(self, event: Object, events: list[ev.Event]) -> None:
        """It repeats what the deltas said, and the item will say it once more."""

    def _begin_with(self, response: Json, events: list[ev.Event]) -> None:
        self._begin(events, model=response.get("model") if isinstance(response, dict) else None)

    # Deltas

    def _at(self, event: Object, kind: ev.ItemKind) -> _Open:
        item = self._open
        if item is None or item.kind != kind:
            raise BackendProtocolError(f"upstream sent '{event['type']}' while no item of its kind was open")
        return item

    def _text_delta(self, event: Object, events: list[ev.Event]) -> None:
        item = self._at(event, "message")
        item.said.add(("text", _number(event, "content_index")))
        give_tokens(item.index, read_logprobs(event.get("logprobs")), events)
        if text := _delta(event):
            events.append(ev.TextDelta(item.index, text))

    def _refusal_delta(self, event: Object, events: list[ev.Event]) -> None:
        item = self._at(event, "message")
        item.said.add(("text", _number(event, "content_index")))
        if text := _delta(event):
            events.append(ev.RefusalDelta(item.index, text))

    def _reasoning_delta(self, event: Object, events: list[ev.Event]) -> None:
        item = self._at(event, "reasoning")
        item.said.add(("text", _number(event, "content_index")))
        if text := _delta(event):
            events.append(ev.ReasoningDelta(item.index, text))

    def _summary_delta(self, event: Object, events: list[ev.Event]) -> None:
        item = self._at(event, "reasoning")
        number = _number(event, "summary_index")
        item.said.add(("summary", number))
        if text := _delta(event):
            events.append(ev.SummaryDelta(item.index, text, number))

    def _arguments_delta(self, event: Object, events: list[ev.Event]) -> None:
        item = self._at(event, "function_call")
        item.said.add(("text", 0))
        if text := _delta(event):
            events.append(ev.ArgumentsDelta(item.index, text))

    def _annotation(self, event: Object, events: list[ev.Event]) -> None:
        item = self._at(event, "message")
        number = _number(event, "content_index")
        item.said.add(("annotation", number))
        if event.get("annotation") is not None:
            events.append(ev.AnnotationAdded(item.index, raw(event["annotation"])))

    def _pass_on(self, kind: str, event: Object, events: list[ev.Event]) -> None:
        """An event that the union cannot name. Outside the API's own names it is prefixed, so that it stays an event."""
        wire_index = event.get("output_index")
        index = None
        if type(wire_index) is int:
            open_item = self._open
            index = open_item.index if open_item is not None and open_item.wire_index == wire_index else None
            if index is None:
                index = self._closed.get(wire_index)
        members = {key: value for key, value in event.items() if key not in _ENVELOPE}
        if isinstance(item_id := members.get("item_id"), str):
            members["item_id"] = self._ids.get(item_id, item_id)
        name = kind if kind.startswith(EVENT_PREFIX) else EVENT_PREFIX + kind
        known = name in self._RULES or name in _SHAPING
        if known and (name != kind or index is None):
            raise BackendProtocolError(f"upstream sent '{kind[:100]}' where it has no place")
        events.append(ev.Extension(name=name, payload=raw(members), index=index))

    # Items

    def _item_added(self, event: Object, data: bytes, events: list[ev.Event]) -> None:
        item = event.get("item")
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            raise BackendProtocolError("upstream announced an item without a type")
        self._start(item, _number(event, "output_index", len(self._closed)), events)

    def _start(self, item: Object, wire_index: int, events: list[ev.Event]) -> _Open:
        if self._open is not None or wire_index in self._closed:
            raise BackendProtocolError(f"upstream announced output item {wire_index} twice")
        wire_type = cast("str", item["type"])
        kind = _KINDS.get(wire_type, "opaque")
        call_id, name, item_id = (value if isinstance(value := item.get(key), str) else None for key in _NAMES)
        if kind in ("function_call", "function_call_output") and not call_id:
            raise BackendProtocolError(f"upstream sent a {wire_type} without call_id")
        index = len(self._closed)
        if kind == "opaque":
            call_id, name = None, None
            extra = {key: raw(value) for key, value in item.items()}
            if item_id:
                item_id = self._native_id(item_id, index)
                extra["id"] = raw(item_id)
        else:
            item_id = self._own_id(item_id)
            extra = _unnamed(item, _ITEM_KEYS[kind])
        hosted = kind == "function_call" and self._runnable is not None and name not in self._runnable
        self._open = _Open(index, wire_index, kind, call_id, frozenset(extra), hosted=hosted)
        events.append(
            ev.ItemStarted(
                index=index,
                kind=kind,
                item_id=item_id,
                call_id=call_id,
                name=name,
                tool="custom" if wire_type.startswith("custom_tool_call") else "function",
                hosted=hosted,
                extra=extra,
            )
        )
        return self._open

    def _own_id(self, item_id: str | None) -> str | None:
        """The id if it is ours. None: the item's id follows from its turn and place."""
        turn = self._fallback.turn_id.rpartition("_")[2]
        return item_id if item_id is not None and item_id.split("_")[1:2] == [turn] else None

    def _native_id(self, item_id: str, index: int) -> str:
        """The id under which its events come too; the upstream may give one to several items."""
        prefix = found.group() if (found := _ID_PREFIX.match(item_id)) else "item_"
        self._ids[item_id] = self._own_id(item_id) or own_item_id(prefix, self._fallback.turn_id, index)
        return self._ids[item_id]

    def _item_done(self, event: Object, data: bytes, events: list[ev.Event]) -> None:
        item = event.get("item")
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            raise BackendProtocolError("upstream closed an item without a type")
        wire_index = _number(event, "output_index", len(self._closed) if self._open is None else self._open.wire_index)
        if wire_index in self._closed:
            return
        self._finish(item, wire_index, _member(data, "item"), events)

    def _finish(self, item: Object, wire_index: int, data: bytes, events: list[ev.Event]) -> None:
        """Closes an item, opening it where nobody had, and says what of it has not been said."""
        opened = self._open or self._start(item, wire_index, events)
        if opened.kind != _KINDS.get(cast("str", item["type"]), "opaque"):
            raise BackendProtocolError(f"upstream opened an item as one kind and closed it as '{item['type']}'")
        self._say_rest(opened, item, events)
        known: Status = (
            "incomplete" if item.get("status") == "incomplete" else "completed"
        )  # some never touch the field
        done = ev.ItemDone(index=opened.index, status=known)
        match opened.kind:
            case "opaque":
                item_id = item.get("id")
                if isinstance(item_id, str) and item_id:
                    item_id = self._native_id(item_id, opened.index)
                    data = msgspec.json.encode({**_RAW_MEMBERS.decode(data), "id": item_id})
                opaque = OpaqueItem(
                    wire_type=cast("str", item["type"]),
                    dialect=NAME,
                    payload=msgspec.Raw(data),
                    id=item_id if isinstance(item_id, str) else None,
                )
                done = ev.ItemDone(index=opened.index, item=opaque)
            case "function_call_output":
                output = _read_output(item)
                output = msgspec.structs.replace(output, id=self._own_id(output.id))
                done = ev.ItemDone(index=opened.index, status=known, item=output)
                self._calls.discard(opened.call_id)
            case "function_call":
                if not opened.hosted:
                    self._calls.add(opened.call_id)
            case "reasoning":
                encrypted = item.get("encrypted_content")
                if isinstance(encrypted, str) and encrypted:  # llama.cpp gives an empty one
                    done = ev.ItemDone(index=opened.index, status=known, encrypted_content=encrypted)
            case "message":
                pass
        if opened.kind != "opaque":
            for key, value in _unnamed(item, _ITEM_KEYS[opened.kind] | opened.members).items():
                events.append(ev.Extension(name=key, payload=value, index=opened.index))
        events.append(done)
        self._closed[wire_index] = opened.index
        self._open = None

    def _say_rest(self, opened: _Open, item: Object, events: list[ev.Event]) -> None:
        """The parts of which no delta came."""
        index = opened.index
        match opened.kind:
            case "message":
                for number, part in enumerate(_list(item, "content")):
                    if isinstance(part, dict):
                        self._say_part(opened, number, part, events)
            case "reasoning":
                for number, part in enumerate(_list(item, "summary")):
                    text = part.get("text") if isinstance(part, dict) else None
                    if isinstance(text, str) and text and ("summary", number) not in opened.said:
                        events.append(ev.SummaryDelta(index, text, number))
                for number, part in enumerate(_list(item, "content")):
                    text = part.get("text") if isinstance(part, dict) else None
                    if isinstance(text, str) and text and ("text", number) not in opened.said:
                        events.append(ev.ReasoningDelta(index, text))
            case "function_call":
                text = item.get("input" if item["type"] == "custom_tool_call" else "arguments")
                if isinstance(text, str) and text and ("text", 0) not in opened.said:
                    events.append(ev.ArgumentsDelta(index, text))
            case _:
                pass

    def _say_part(self, opened: _Open, number: int, part: Object, events: list[ev.Event]) -> None:
        index, kind = opened.index, part.get("type")
        if ("text", number) not in opened.said:
            text = part.get("refusal" if kind == "refusal" else "text")
            give_tokens(index, read_logprobs(part.get("logprobs")), events)
            if isinstance(text, str) and text:
                events.append(ev.RefusalDelta(index, text) if kind == "refusal" else ev.TextDelta(index, text))
        if ("annotation", number) not in opened.said:
            events.extend(ev.AnnotationAdded(index, raw(one)) for one in _list(part, "annotations"))

    # The end

    def _terminal(self, response: Object, data: bytes, events: list[ev.Event]) -> None:
        status = response.get("status")
        if not self._started and status == "failed":
            raise parts.read_failure(response.get("error"))
        if status in ("queued", "in_progress"):
            raise BackendProtocolError(f"upstream ended its answer with status '{status}'")
        if not self._started:
            self._begin_with(response, events)
        if status != "failed":
            self._say_output(response, data, events)
        for key, value in response.items():
            if key not in _OWN_KEYS and value is not None and (key, value) != ("service_tier", "auto"):
                events.append(ev.Extension(name=key, payload=raw(value)))
        usage = response.get("usage")
        if isinstance(usage, dict):
            events.append(ev.UsageReported(parts.read_usage(usage)))
        self.ended = True
        match status:
            case "failed":
                events.append(ev.TurnFailed(parts.read_failure(response.get("error")).info()))
            case "cancelled":
                events.append(ev.TurnCancelled())
            case "incomplete":
                self._incomplete(response, events)
            case _:
                events.append(ev.ChoiceDone(0, "tool_calls" if self._calls else "stop"))
                events.append(ev.TurnCompleted())

    def _say_output(self, response: Object, data: bytes, events: list[ev.Event]) -> None:
        """Items that only the whole response has, and those it closes."""
        output = _list(response, "output")
        members: RawMembers | None = None
        for wire_index, item in enumerate(output):
            if wire_index in self._closed or not isinstance(item, dict) or not isinstance(item.get("type"), str):
                continue
            if self._open is not None and self._open.wire_index != wire_index:
                continue
            members = members or RawMembers(data, "output")
            self._finish(item, wire_index, bytes(members[f"output[{wire_index}]"]), events)
        if self._open is not None:
            if self._open.kind in ("opaque", "function_call_output"):
                raise BackendProtocolError("upstream ended its answer without closing an item")
            events.append(ev.ItemDone(index=self._open.index))
            self._open = None

    def _incomplete(self, response: Object, events: list[ev.Event]) -> None:
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        if reason == "content_filter":
            events.append(ev.ChoiceDone(0, "content_filter"))
            events.append(ev.TurnIncomplete("content_filter"))
        elif reason is None:  # the upstream's own client left, or somebody stopped it
            events.append(ev.TurnIncomplete("cancelled"))
        else:
            events.append(ev.ChoiceDone(0, "length"))
            events.append(ev.TurnIncomplete("max_output_tokens"))

    # Functions, not bound methods: a table of those in each instance would be a cycle for the collector.
    _RULES: ClassVar[dict[str, Callable[..., None]]] = {
        "response.output_text.delta": _text_delta,
        "response.content_part.added": _nothing,
        "response.content_part.done": _nothing,
        "response.output_text.done": _nothing,
        "response.refusal.delta": _refusal_delta,
        "response.refusal.done": _nothing,
        "response.reasoning_text.delta": _reasoning_delta,
        "response.reasoning_text.done": _nothing,
        "response.reasoning.delta": _reasoning_delta,  # the name in Open Responses (decision 32)
        "response.reasoning.done": _nothing,
        "response.reasoning_summary_part.added": _nothing,
        "response.reasoning_summary_part.done": _nothing,
        "response.reasoning_summary_text.delta": _summary_delta,
        "response.reasoning_summary_text.done": _nothing,
        "response.function_call_arguments.delta": _arguments_delta,
        "response.function_call_arguments.done": _nothing,
        "response.custom_tool_call_input.delta": _arguments_delta,
        "response.custom_tool_call_input.done": _nothing,
        "response.output_text.annotation.added": _annotation,
    }


_NAMES = ("call_id", "name", "id")


def _runnable(tools: Sequence[Tool | OpaqueTool] | None) -> frozenset[str] | None:
    """What the client may be asked to run. None where that cannot be told: an opaque tool may hold or find functions."""
    if tools is None or any(isinstance(tool, OpaqueTool) for tool in tools):
        return None
    return frozenset([tool.name for tool in tools if isinstance(tool, Tool)])


def _read_output(item: Object) -> FunctionCallOutput:
    try:
        read = read_item(item, "output", {})
    except RequestError as error:
        raise BackendProtocolError(f"upstream sent a tool's output that cannot be read: {error.message}") from None
    assert isinstance(read, FunctionCallOutput)
    return read


def _unnamed(item: Object, named: frozenset[str]) -> dict[str, msgspec.Raw]:
    """Members that no field names; null says nothing."""
    return {key: raw(value) for key, value in item.items() if key not in named and value is not None}


def _list(source: Object, key: str) -> list[Json]:
    value = source.get(key)
    return value if isinstance(value, list) else []


def _delta(event: Object) -> str:
    delta = event.get("delta")
    if not isinstance(delta, str):
        raise BackendProtocolError(f"upstream sent '{event['type']}' without the text of its delta")
    return delta


def _number(source: Object, key: str, default: int = 0) -> int:
    value = source.get(key)
    return value if type(value) is int else default


_RAW_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _member(data: bytes, key: str) -> bytes:
    return bytes(_RAW_MEMBERS.decode(data)[key])
