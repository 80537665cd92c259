"""Events of an answer to the chunks of its stream, one for each delta.

The hot path, a text delta with nothing pending, is two byte strings made once per choice with the JSON text of the delta between
them; everything else goes through `_chunk`. What belongs to a chunk but comes as an event of its own (log probabilities, unknown
keys) waits for the next chunk of its choice.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import msgspec

from trunkline.config.profiles import Profile
from trunkline.dialects.openai_chat import parts
from trunkline.dialects.openai_chat.messages import write_call
from trunkline.dialects.openai_chat.own_events import OwnEvents
from trunkline.dialects.writing import write_json
from trunkline.model import events as ev
from trunkline.model.errors import ErrorInfo
from trunkline.model.items import FunctionCall, ToolKind
from trunkline.model.request import Request, ToolEvents
from trunkline.model.tokens import TokenLogprob
from trunkline.model.usage import Usage
from trunkline.wire.sse import DONE

_HEAD_KEYS = frozenset(
    {"system_fingerprint", "service_tier"}
)  # every chunk carries these; the SDK keeps the last one's
_encode = msgspec.json.encode
_HOLE = "\u2603"  # stands for the delta's text while a template is made
_HOLE_JSON = _encode(_HOLE)


class _Choice:
    """What one choice of the stream has said, and what waits for its next chunk."""

    __slots__ = ("annotated", "annotations", "calls", "delta_extras", "extras", "logprobs", "open", "said", "templates")

    def __init__(self) -> None:
        self.open = False  # its role has been sent
        self.said = False  # content, a refusal or a tool call has been sent
        self.annotations: list[msgspec.Raw] = []  # of the open item
        self.annotated = 0  # annotations that have been sent
        self.calls = 0
        self.logprobs: list[TokenLogprob] = []
        self.extras: dict[str, msgspec.Raw] = {}
        self.delta_extras: dict[str, msgspec.Raw] = {}
        self.templates: dict[object, tuple[bytes, bytes]] = {}

    @property
    def pending(self) -> bool:
        return bool(self.logprobs or self.extras or self.delta_extras)


class ChatEncoder:
    """Events of one answer to the bytes of its stream."""

    def __init__(self, request: Request, profile: Profile, *, tool_events: ToolEvents) -> None:
        self._request = request
        self._profile = profile
        self._tool_events = tool_events
        self._spaced = profile.json_spacing
        self._head: dict[str, object] = {}
        self._choices: dict[int, _Choice] = {}
        # item index -> choice, call number, tool kind; hosted items are absent
        self._items: dict[int, tuple[int, int, ToolKind]] = {}
        self._extras: dict[str, msgspec.Raw] = {}
        self._usage: Usage | None = None
        self._own: OwnEvents | None = None  # made for the first of them: most streams have none
        self._mid_thought = False  # reasoning has been sent that does not end its line; kept where lines come between
        self._finished: list[ev.ChoiceDone] = []  # wait for the usage, where that goes with them

    def feed(self, event: ev.Event) -> bytes:
        rule = self._RULES.get(type(event))
        return rule(self, event) if rule is not None else b""

    def _turn_started(self, event: ev.TurnStarted) -> bytes:
        self._head = {
            "id": event.turn_id,
            "object": "chat.completion.chunk",
            "created": event.created_at,
            "model": self._request.model or event.model,
        }
        return b""

    def _item_started(self, event: ev.ItemStarted) -> bytes:
        if event.hosted or event.kind in ("function_call_output", "opaque"):
            return b""
        choice = self._choice(event.choice)
        self._items[event.index] = (event.choice, choice.calls, event.tool)
        if event.kind != "function_call":
            return b""
        number, choice.calls = choice.calls, choice.calls + 1
        call = write_call(FunctionCall(call_id=event.call_id or "", name=event.name or "", tool=event.tool))
        return self._chunk(event.choice, {"tool_calls": [{"index": number, **call}]})

    def _text(self, event: ev.TextDelta) -> bytes:
        return self._delta(event.index, "content", event.text)

    def _reasoning(self, event: ev.ReasoningDelta) -> bytes:
        if self._tool_events == "reasoning" and event.text and event.index in self._items:
            self._mid_thought = not event.text.endswith("\n")
        return self._delta(event.index, "reasoning_content", event.text)

    def _refusal(self, event: ev.RefusalDelta) -> bytes:
        return self._delta(event.index, "refusal", event.text)

    def _delta(self, item: int, key: str, text: str) -> bytes:
        entry = self._items.get(item)
        if entry is None:
            return b""
        choice = self._choices[entry[0]]
        if not choice.open or choice.pending or self._extras:
            return self._chunk(entry[0], {key: text}, refusal=key == "refusal")
        template = choice.templates.get(key)
        if template is None:
            choice.said = choice.said or key in parts.SAID
            template = choice.templates[key] = self._template(entry[0], {key: _HOLE})
        return template[0] + _encode(text) + template[1]

    def _arguments(self, event: ev.ArgumentsDelta) -> bytes:
        entry = self._items.get(event.index)
        if entry is None:
            return b""
        choice = self._choices[entry[0]]
        if choice.pending or self._extras:
            return self._chunk(entry[0], _call_delta(entry[1], entry[2], event.text))
        template = choice.templates.get(entry[1])
        if template is None:
            template = choice.templates[entry[1]] = self._template(entry[0], _call_delta(entry[1], entry[2], _HOLE))
        return template[0] + _encode(event.text) + template[1]

    def _tokens(self, event: ev.TokensDelta) -> bytes:
        entry = self._items.get(event.index)
        if entry is not None:
            self._choices[entry[0]].logprobs.extend(event.logprobs)
        return b""

    def _annotation(self, event: ev.AnnotationAdded) -> bytes:
        # Collected for one chunk: the official SDK's accumulation (openai-python 3.54, lib/streaming/_deltas.py) fails
        # on a second list of entries without `index`.
        entry = self._items.get(event.index)
        annotation = parts.write_annotation(event.annotation)
        if entry is not None and annotation is not None:
            self._choices[entry[0]].annotations.append(annotation)
        return b""

    def _item_done(self, event: ev.ItemDone) -> bytes:
        entry = self._items.get(event.index)
        # Logprobs of tokens whose text never came (a multi-byte character cut by the end) still belong to the client.
        if entry is None:
            return b""
        choice = self._choices[entry[0]]
        if choice.annotations:
            annotations, choice.annotations = choice.annotations, []
            first, choice.annotated = choice.annotated, choice.annotated + len(annotations)
            numbered = (
                annotations if first == 0 else [_numbered(one, first + place) for place, one in enumerate(annotations)]
            )
            return self._chunk(entry[0], {"annotations": numbered})
        return self._chunk(entry[0], {}) if choice.logprobs else b""

    def _choice_done(self, event: ev.ChoiceDone) -> bytes:
        if self._profile.chat_usage == "finish":
            self._finished.append(event)
            return b""
        return self._finish(event)

    def _finish(self, event: ev.ChoiceDone, *, usage: Usage | None = None) -> bytes:
        # Neither text nor a call nor a refusal: the content is an empty string, as in the whole answer.
        choice = self._choice(event.choice)
        said = choice.said or not choice.delta_extras.keys().isdisjoint(parts.SAID)
        opening = b"" if said else self._chunk(event.choice, {"content": self._profile.empty_answer})
        return opening + self._chunk(event.choice, {}, finish_reason=event.finish_reason, usage=usage)

    def _usage_reported(self, event: ev.UsageReported) -> bytes:
        self._usage = event.usage
        return b""

    def _extension(self, event: ev.Extension) -> bytes:
        """Keeps it for the next chunk. One that would overwrite another (audio comes in pieces) sends that one first."""
        sent = b""
        if event.index is not None:
            entry = self._items.get(event.index)
            if entry is not None:
                choice = self._choices[entry[0]]
                if event.name in choice.delta_extras:
                    sent = self._chunk(entry[0], {})
                choice.delta_extras[event.name] = event.payload
        elif event.choice is not None:
            choice = self._choice(event.choice)
            if event.name in choice.extras:
                sent = self._chunk(event.choice, {})
            choice.extras[event.name] = event.payload
        elif event.name in _HEAD_KEYS:
            self._head[event.name] = event.payload
            for choice in self._choices.values():
                choice.templates.clear()
        else:
            self._extras[self._profile.own_name if event.name == ev.OWN else event.name] = event.payload
        return sent

    def _tool_progress(self, event: ev.ToolProgress) -> bytes:
        own = self._own_events()
        line = own.tool_line(event)
        return self._line(line) if line else own.tool_frame(event)

    def _approval_requested(self, event: ev.ApprovalRequested) -> bytes:
        own = self._own_events()
        line = own.approval_line(event)
        return self._line(line) if line else own.approval_requested(event)

    def _approval_resolved(self, event: ev.ApprovalResolved) -> bytes:
        own = self._own_events()
        line = own.approval_line(event)
        return self._line(line) if line else own.approval_resolved(event)

    def _line(self, line: str) -> bytes:
        """A line of reasoning that is the server's own, and so begins one."""
        begun, self._mid_thought = self._mid_thought, False
        return self._chunk(0, {"reasoning_content": f"\n{line}" if begun else line})

    def _own_events(self) -> OwnEvents:
        if self._own is None:
            self._own = OwnEvents(
                self._head,
                name=self._profile.own_name,
                tools=self._tool_events,
                shape=self._profile.tool_event_shape,
                spaced=self._spaced,
                emojis=self._profile.tool_emojis,
            )
        return self._own

    def _completed(self, event: ev.TurnCompleted) -> bytes:
        return self._ended()

    def _incomplete(self, event: ev.TurnIncomplete) -> bytes:
        # A turn cut because its client left has nobody to tell; one cut by a limit has finish reasons in all its choices.
        return self._ended() if event.reason in ("max_output_tokens", "content_filter") else b""

    def _failed(self, event: ev.TurnFailed) -> bytes:
        # Decision 4: an error object ends the stream; neither a finish reason nor [DONE] may pretend success.
        return self._frame(parts.write_error(event.error, own_name=self._profile.own_name))

    def _cancelled(self, event: ev.TurnCancelled) -> bytes:
        return self._frame(
            parts.write_error(ErrorInfo(message="the answer was cancelled", type="server_error", code="cancelled"))
        )

    def _ended(self) -> bytes:
        """What is left to say at a good end."""
        finished = [
            self._finish(event, usage=(self._usage or Usage()) if event is self._finished[-1] else None)
            for event in self._finished
        ]
        return b"".join([*finished, self._trailer(), DONE])

    def _trailer(self) -> bytes:
        """The usage chunk, where the client asked for it, and unknown keys that no chunk has carried yet."""
        # Decision 6: no chunk without choices for a client that has not asked for it, since it would read choices[0].
        usage = Usage() if self._usage is None and self._profile.chat_usage != "known" else self._usage
        if not self._request.include_usage or (usage is None and not self._extras):
            return b""
        chunk: dict[str, object] = {**self._head, "choices": []}
        chunk["usage"] = None if usage is None else parts.write_usage(usage)
        return self._frame(self._with_extras(chunk))

    def _choice(self, index: int) -> _Choice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice()
        return choice

    def _chunk(
        self,
        index: int,
        delta: dict[str, object],
        *,
        finish_reason: str | None = None,
        refusal: bool = False,
        usage: Usage | None = None,
    ) -> bytes:
        choice = self._choice(index)
        if choice.delta_extras:
            delta = {**delta, **choice.delta_extras}
            choice.delta_extras = {}
        choice.said = choice.said or not delta.keys().isdisjoint(parts.SAID)
        if not choice.open:
            choice.open = True
            first: dict[str, object] = {"role": "assistant"}
            if "content" not in delta:
                first["content"] = None
            delta = {**first, **delta}
        wire: dict[str, object] = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        if choice.logprobs:
            written = parts.write_logprobs(tuple(choice.logprobs))
            wire["logprobs"] = (
                {"content": None, "refusal": written} if refusal else {"content": written, "refusal": None}
            )
            choice.logprobs = []
        if choice.extras:
            wire.update(choice.extras)
            choice.extras = {}
        chunk = self._with_extras(self._envelope(wire))
        if usage is not None:
            chunk["usage"] = parts.write_usage(usage)
        return self._frame(chunk)

    def _envelope(self, choice: Mapping[str, object]) -> dict[str, object]:
        chunk: dict[str, object] = {**self._head, "choices": [choice]}
        if self._request.include_usage:
            chunk["usage"] = None
        return chunk

    def _with_extras(self, chunk: dict[str, object]) -> dict[str, object]:
        if self._extras:
            chunk.update(self._extras)
            self._extras = {}
        return chunk

    def _frame(self, value: Mapping[str, object]) -> bytes:
        return b"data: " + write_json(value, spaced=self._spaced) + b"\n\n"

    def _template(self, index: int, delta: dict[str, object]) -> tuple[bytes, bytes]:
        chunk = self._envelope({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})
        before, _, after = self._frame(chunk).rpartition(_HOLE_JSON)
        return before, after

    # One table for all, of plain functions: bound methods in each instance would tie it in a cycle that only the
    # garbage collector undoes, and memory would wait for it.
    _RULES: ClassVar[dict[type, Callable[..., bytes]]] = {
        ev.TextDelta: _text,
        ev.TurnStarted: _turn_started,
        ev.ItemStarted: _item_started,
        ev.ReasoningDelta: _reasoning,
        ev.RefusalDelta: _refusal,
        ev.ArgumentsDelta: _arguments,
        ev.TokensDelta: _tokens,
        ev.AnnotationAdded: _annotation,
        ev.ItemDone: _item_done,
        ev.ChoiceDone: _choice_done,
        ev.UsageReported: _usage_reported,
        ev.Extension: _extension,
        ev.ToolProgress: _tool_progress,
        ev.ApprovalRequested: _approval_requested,
        ev.ApprovalResolved: _approval_resolved,
        ev.TurnCompleted: _completed,
        ev.TurnIncomplete: _incomplete,
        ev.TurnFailed: _failed,
        ev.TurnCancelled: _cancelled,
    }


def _numbered(annotation: msgspec.Raw, index: int) -> object:
    """An annotation of a second message of the choice, with the `index` that the SDK then needs."""
    value = msgspec.json.decode(annotation)
    return {"index": index, **value} if isinstance(value, dict) else annotation


def _call_delta(number: int, tool: ToolKind, text: str) -> dict[str, object]:
    inner = {"custom": {"input": text}} if tool == "custom" else {"function": {"arguments": text}}
    return {"tool_calls": [{"index": number, **inner}]}
