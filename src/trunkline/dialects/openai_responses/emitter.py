"""Events of a turn to the events of a streamed response.

    created · in_progress · [ item added · [ part added · deltas · text done · part done ]… · item done ]… · terminal

The emitter owns `sequence_number`, `output_index`, `content_index` and item ids; a background response begins with `created` and
`queued`, said before any backend was asked. Every part and item is closed before the next opens, also where the turn is cut; but an
`mcp_call` stays open until its tool has ended. What "done" events and the final object say is read from the same fold, so deltas,
done, item and final agree by construction.

A turn that was cancelled ends with `response.incomplete` whose object has status `cancelled`: the API has no terminal event of that
name, and a client that reads to a terminal event must find one.

The hot path, a text delta with nothing pending, is three byte strings made once per part around the sequence number and the JSON
text of the delta. An item of another dialect than ours has no form here and is left out; so are all choices but the first.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import msgspec

from trunkline.dialects.openai_responses import mcp_calls
from trunkline.dialects.openai_responses.agent_events import ToolRuns, question
from trunkline.dialects.openai_responses.mcp_calls import MCP_CALL, Waiting
from trunkline.dialects.openai_responses.parts import write_annotation, write_logprobs
from trunkline.dialects.openai_responses.response import ResponseBuilder, Settings, shows_approvals
from trunkline.dialects.openai_responses.write_items import (
    EVENT_PREFIX,
    derived_id,
    with_output_list,
    write_output_item,
    write_text,
)
from trunkline.dialects.writing import write_json
from trunkline.model import events as ev
from trunkline.model.items import FunctionCall, Message, Reasoning, RefusalPart, TextPart
from trunkline.model.request import Request
from trunkline.model.tokens import TokenLogprob
from trunkline.model.turn import Fold, OpenItem, TurnItem

Emitted = tuple[str, bytes]
"""An event: its type, and its JSON."""

TERMINAL_TYPES = frozenset({"response.completed", "response.incomplete", "response.failed"})
_TERMINAL_OF: Mapping[type, str] = {
    ev.TurnCompleted: "response.completed",
    ev.TurnIncomplete: "response.incomplete",
    ev.TurnCancelled: "response.incomplete",
    ev.TurnFailed: "response.failed",
}
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.encode
_NUMBER_HOLE, _TEXT_HOLE = "\u2603", "\u2604"  # stand for the number and the text while a template is made
_NUMBER_JSON, _TEXT_JSON = _encode(_NUMBER_HOLE), _encode(_TEXT_HOLE)
_Template = tuple[bytes, bytes, bytes]


class _Shown:
    """An item of the stream: where it stands, and which of its parts is open."""

    __slots__ = (
        "annotations",
        "arguments",
        "content_index",
        "item_id",
        "kind",
        "logprobs",
        "open_item",
        "output_index",
        "part",
        "summary",
        "summary_index",
        "template",
        "wire_type",
    )

    def __init__(self, open_item: OpenItem, wire_type: str, item_id: str) -> None:
        self.open_item = open_item  # what has come of it so far
        self.kind = open_item.started.kind
        self.wire_type = wire_type
        self.item_id = item_id
        self.output_index = -1  # not announced yet
        self.part: Literal["output_text", "refusal", "reasoning_text"] | None = None
        self.content_index = -1
        self.annotations = 0
        self.logprobs: list[TokenLogprob] = []  # for the next delta
        self.summary = -1  # the open part of the summary, by its event's number
        self.summary_index = -1
        self.template: _Template | None = None  # of the open part's deltas


class ResponseEmitter:
    """Feeds on the events of one turn. `response` is the final object, once the terminal event has come."""

    def __init__(self, request: Request, settings: Settings, now: Callable[[], float]) -> None:
        self._logprobs = request.logprobs
        self._spaced = settings.json_spacing
        self._tool_output_lists = settings.tool_output_lists
        self._own_name = settings.own_name
        self._asks = shows_approvals(request, settings)
        self._now = now
        self._builder = ResponseBuilder(request, settings)
        self._fold = Fold()
        self._started: ev.TurnStarted | None = None
        self._items: dict[int, _Shown] = {}
        self._tools: ToolRuns | None = None  # most answers are no agent's
        # The end of an agent's own call, by its call_id: what comes next may say that its tool has begun, which goes with it.
        self._held: tuple[str | None, str, dict[str, object]] | None = None
        # Where such a call and its output are one item: those whose output has not come, and by the output's index those that wait
        # for its end.
        self._runs: Waiting[_Shown] | None = Waiting() if settings.tool_items == MCP_CALL else None
        self._ending: dict[int, _Shown] = {}
        self.next_output = 0
        """The place that the next item gets."""
        self.sequence_number = 0
        """The number that the next event gets."""
        self.response: bytes | None = None
        # The item whose text the last event was, and what stands around the number and the text of its next delta.
        self._writing: tuple[int, OpenItem, _Template] | None = None

    def text_goes_on(self, event: ev.TextDelta) -> bytes | None:
        """The JSON of the one `response.output_text.delta` that this makes if it does what the last event did. Otherwise None, and
        nothing has been done."""
        text = event.text
        if self._writing is None or not text:
            return None
        index, open_item, (head, middle, tail) = self._writing
        if index != event.index:
            return None
        open_item.add_text(text)
        number = self.sequence_number
        self.sequence_number = number + 1
        return b"%b%d%b%b%b" % (head, number, middle, _encode(text), tail)

    def feed_events(self, event: ev.Event) -> list[Emitted]:
        """The streamed events that this event makes, each as its type and its JSON."""
        self._writing = None
        rule = self._RULES.get(type(event))
        if self._held is None:
            return rule(self, event) if rule is not None else []
        if isinstance(event, ev.ToolProgress) and event.status == "running" and event.call_id == self._held[0]:
            self._tools = self._tools or ToolRuns()
            self._held[2]["progress"] = self._tools.began(event, now=self._now())
            return self._let_go()
        return [*self._let_go(), *(rule(self, event) if rule is not None else [])]

    def queued(self, started: ev.TurnStarted, *, again: bool = False) -> list[Emitted]:
        """The beginning of a background response, before a backend has said anything. `in_progress` comes with TurnStarted.
        `again`: of one that was created before."""
        self._begin(started)
        said = ("queued",) if again else ("created", "queued")
        return [self._object(f"response.{what}", self._builder.begun(started, "queued")) for what in said]

    def _begin(self, started: ev.TurnStarted) -> None:
        self._started = started
        self._fold.feed(started)

    def _turn_started(self, event: ev.TurnStarted) -> list[Emitted]:
        emitted: list[Emitted] = []
        if self._started is None:
            self._begin(event)
            emitted.append(self._object("response.created", self._builder.begun(event, "in_progress")))
        else:  # queued before: the id and the time are those of then
            self._begin(msgspec.structs.replace(self._started, model=event.model))
        assert self._started is not None
        emitted.append(self._object("response.in_progress", self._builder.begun(self._started, "in_progress")))
        return emitted

    def _keep(self, event: ev.Event) -> list[Emitted]:
        self._fold.feed(event)
        return []

    # Items

    def _item_started(self, event: ev.ItemStarted) -> list[Emitted]:
        if event.choice != 0:
            return []
        self._fold.feed(event)
        if self._runs is not None and mcp_calls.is_run(event):
            return self._run_started(event)
        if self._runs is not None and event.kind == "function_call_output":
            run = self._runs.take(event.call_id)
            if run is not None:
                self._ending[event.index] = run
                return []
        wire_type = event.kind.replace("function_call", "custom_tool_call") if event.tool == "custom" else event.kind
        item_id = event.item_id or derived_id(wire_type, self._turn_id, str(event.index))
        shown = _Shown(self._fold.open_item(event.index), wire_type, item_id)
        self._items[event.index] = shown
        if event.kind != "opaque":
            progress = None if self._tools is None else self._tools.ended(event.call_id)
            return [self._announce(shown, self._opening(shown, event), progress)]
        if "type" not in event.extra:  # nothing is known yet
            return []
        return [self._announce(shown, {**event.extra, "id": event.extra.get("id", shown.item_id)})]

    def _opening(self, shown: _Shown, event: ev.ItemStarted) -> Mapping[str, object]:
        """The item as it is announced: everything but its content."""
        opening: dict[str, object] = {"id": shown.item_id, "type": shown.wire_type}
        match event.kind:
            case "message":
                opening |= {"role": "assistant", "status": "in_progress", "content": []}
            case "reasoning":
                opening |= {"status": "in_progress", "summary": []}
            case "function_call":
                text_key = "input" if event.tool == "custom" else "arguments"
                opening |= {"status": "in_progress", "call_id": event.call_id, "name": event.name or "", text_key: ""}
            case _:
                opening |= {"status": "in_progress", "call_id": event.call_id, "output": ""}
        for name, value in event.extra.items():
            opening.setdefault(name, value)
        return opening

    def _announce(
        self, shown: _Shown, item: Mapping[str, object], progress: Mapping[str, object] | None = None
    ) -> Emitted:
        shown.output_index = self.next_output
        self.next_output += 1
        members: dict[str, object] = {"output_index": shown.output_index, "item": item}
        if progress is not None:
            members["progress"] = progress
        return self._emit("response.output_item.added", members)

    def _item_done(self, event: ev.ItemDone) -> list[Emitted]:
        run = self._ending.pop(event.index, None)
        if run is not None:
            self._fold.feed(event)
            return self._run_ended(run, self._fold.closed_item(event.index))
        shown = self._items.get(event.index)
        if shown is None:
            return []
        if shown.wire_type == MCP_CALL:
            return self._run_called(shown, event)
        emitted = self._close_parts(shown)
        self._fold.feed(event)
        item = write_output_item(self._fold.closed_item(event.index), self._turn_id, logprobs=self._logprobs)
        if item is not None:
            if self._tool_output_lists:
                item = with_output_list(item)
            if shown.output_index < 0:
                emitted.append(self._announce(shown, item))
            members: dict[str, object] = {"output_index": shown.output_index, "item": item}
            started = shown.open_item.started
            if started.hosted and started.kind == "function_call":
                self._held = started.call_id, "response.output_item.done", members
            else:
                emitted.append(self._emit("response.output_item.done", members))
        del self._items[event.index]
        return emitted

    # Tools that the backend runs, where a call and its output are one item

    def _run_started(self, event: ev.ItemStarted) -> list[Emitted]:
        item_id = mcp_calls.run_id(event.item_id, self._turn_id, event.index)
        shown = self._items[event.index] = _Shown(self._fold.open_item(event.index), MCP_CALL, item_id)
        return [
            self._announce(shown, mcp_calls.opening(item_id, name=event.name, call_id=event.call_id)),
            self._of_item("response.mcp_call.in_progress", shown, {}),
        ]

    def _run_called(self, shown: _Shown, event: ev.ItemDone) -> list[Emitted]:
        """The call is whole. Its item stays open until the output is there."""
        assert self._runs is not None
        self._fold.feed(event)
        call = self._fold.closed_item(event.index).item
        assert isinstance(call, FunctionCall)
        members = {"item_id": shown.item_id, "output_index": shown.output_index, "arguments": call.arguments}
        self._held = call.call_id, "response.mcp_call_arguments.done", members
        self._runs.add(call.call_id, shown)
        del self._items[event.index]
        return []

    def _run_ended(self, shown: _Shown, output: TurnItem | None) -> list[Emitted]:
        started = shown.open_item.started
        item = mcp_calls.write_run(self._fold.closed_item(started.index), output, self._turn_id)
        ended = mcp_calls.ended_event(item)
        members: dict[str, object] = {"output_index": shown.output_index, "item": item}
        progress = None if self._tools is None else self._tools.ended(started.call_id)
        if progress is not None:
            members["progress"] = progress
        emitted = [] if ended is None else [self._of_item(ended, shown, {})]
        emitted.append(self._emit("response.output_item.done", members))
        return emitted

    @property
    def _turn_id(self) -> str:
        return "" if self._started is None else self._started.turn_id

    # Content

    def _text(self, event: ev.TextDelta) -> list[Emitted]:
        shown = self._items.get(event.index)
        if shown is None or not event.text:
            return []
        emitted = [] if shown.part == "output_text" else self._open_part(shown, "output_text")
        shown.open_item.feed(event)
        if shown.logprobs:
            logprobs, shown.logprobs = write_logprobs(shown.logprobs), []
            members = {"content_index": shown.content_index, "delta": event.text, "logprobs": logprobs}
            emitted.append(self._of_item("response.output_text.delta", shown, members))
        else:
            emitted.append(self._delta("response.output_text.delta", shown, event.text))
            if shown.template is not None:
                self._writing = (event.index, shown.open_item, shown.template)
        return emitted

    def _refusal(self, event: ev.RefusalDelta) -> list[Emitted]:
        shown = self._items.get(event.index)
        if shown is None or not event.text:
            return []
        emitted = [] if shown.part == "refusal" else self._open_part(shown, "refusal")
        shown.open_item.feed(event)
        shown.logprobs.clear()
        emitted.append(self._delta("response.refusal.delta", shown, event.text))
        return emitted

    def _reasoning(self, event: ev.ReasoningDelta) -> list[Emitted]:
        shown = self._items.get(event.index)
        if shown is None or not event.text:
            return []
        emitted = [] if shown.part == "reasoning_text" else self._open_part(shown, "reasoning_text")
        shown.open_item.feed(event)
        emitted.append(self._delta("response.reasoning_text.delta", shown, event.text))
        return emitted

    def _summary(self, event: ev.SummaryDelta) -> list[Emitted]:
        shown = self._items.get(event.index)
        if shown is None or not event.text:
            return []
        emitted: list[Emitted] = []
        if event.part > shown.summary:
            emitted += self._close_summary(shown)
            shown.summary = event.part
            shown.summary_index += 1
            members = {"summary_index": shown.summary_index, "part": {"type": "summary_text", "text": ""}}
            emitted.append(self._of_item("response.reasoning_summary_part.added", shown, members))
        shown.open_item.feed(event)
        members = {"summary_index": shown.summary_index, "delta": event.text}
        emitted.append(self._of_item("response.reasoning_summary_text.delta", shown, members))
        return emitted

    def _arguments(self, event: ev.ArgumentsDelta) -> list[Emitted]:
        shown = self._items.get(event.index)
        if shown is None or not event.text:
            return []
        shown.open_item.feed(event)
        return [self._delta(_ARGUMENTS_TYPES[shown.wire_type] + ".delta", shown, event.text)]

    def _tokens(self, event: ev.TokensDelta) -> list[Emitted]:
        shown = self._items.get(event.index)
        if shown is not None:
            shown.open_item.feed(event)
            if self._logprobs and shown.kind == "message":
                shown.logprobs.extend(event.logprobs)
        return []

    def _annotation(self, event: ev.AnnotationAdded) -> list[Emitted]:
        shown = self._items.get(event.index)
        if shown is None:
            return []
        emitted = [] if shown.part == "output_text" else self._open_part(shown, "output_text")
        shown.open_item.feed(event)
        members = {
            "content_index": shown.content_index,
            "annotation_index": shown.annotations,
            "annotation": write_annotation(event.annotation),
        }
        shown.annotations += 1
        emitted.append(self._of_item("response.output_text.annotation.added", shown, members))
        return emitted

    def _extension(self, event: ev.Extension) -> list[Emitted]:
        """A member of an object waits for it; an event that no name of ours fits is passed on, renumbered."""
        shown = None if event.index is None else self._items.get(event.index)
        if not event.name.startswith(EVENT_PREFIX):
            if event.index is None or shown is not None or event.index in self._ending:
                self._fold.feed(event)
            return []
        members: dict[str, object] = {**_MEMBERS.decode(event.payload)}
        if event.index is None:
            return [self._emit(event.name, members)]
        if shown is None or shown.output_index < 0:
            return []
        if shown.kind != "opaque" and "item_id" in members:
            members["item_id"] = shown.item_id
        return [self._emit(event.name, {"output_index": shown.output_index, **members})]

    def _let_go(self) -> list[Emitted]:
        if self._held is None:
            return []
        (_, event_type, members), self._held = self._held, None
        return [self._emit(event_type, members)]

    def _tool_progress(self, event: ev.ToolProgress) -> list[Emitted]:
        """That it has ended waits for its output, which comes next."""
        if self._tools is not None and event.status == "completed":
            self._tools.end(event, now=self._now())
        return []

    def _question(self, event: ev.ApprovalRequested | ev.ApprovalResolved) -> list[Emitted]:
        if not self._asks:
            return []
        return [self._emit(*question(event, own_name=self._own_name, response_id=self._turn_id))]

    # Parts

    def _open_part(self, shown: _Shown, kind: Literal["output_text", "refusal", "reasoning_text"]) -> list[Emitted]:
        emitted = self._close_content(shown, whole=False)
        shown.part = kind
        shown.content_index += 1
        shown.annotations = 0
        shown.template = None
        part = self._part(kind, "", None)
        members = {"content_index": shown.content_index, "part": part}
        emitted.append(self._of_item("response.content_part.added", shown, members))
        return emitted

    def _part(self, kind: str, text: str, said: TextPart | None, logprobs: object = None) -> dict[str, object]:
        if kind == "refusal":
            return {"type": kind, "refusal": text}
        if kind == "reasoning_text":
            return {"type": kind, "text": text}
        part = write_text(text, said.annotations if said is not None else ())
        if self._logprobs:
            part["logprobs"] = logprobs or []
        return part

    def _close_parts(self, shown: _Shown) -> list[Emitted]:
        """Closes what an item has open; nothing of the item follows."""
        emitted = self._close_summary(shown)
        emitted += self._close_content(shown, whole=True)
        if shown.kind == "function_call":
            base = _ARGUMENTS_TYPES[shown.wire_type]
            call = shown.open_item.item("in_progress")
            assert isinstance(call, FunctionCall)
            members = {"name": call.name, "arguments": call.arguments}
            if shown.wire_type == "custom_tool_call":
                members = {"input": call.arguments}
            emitted.append(self._of_item(f"{base}.done", shown, members))
        return emitted

    def _close_summary(self, shown: _Shown) -> list[Emitted]:
        if shown.summary < 0:
            return []
        reasoning = shown.open_item.item("in_progress")
        assert isinstance(reasoning, Reasoning)
        text = reasoning.summary[-1]
        place = {"summary_index": shown.summary_index}
        shown.summary = -1
        return [
            self._of_item("response.reasoning_summary_text.done", shown, {**place, "text": text}),
            self._of_item(
                "response.reasoning_summary_part.done", shown, {**place, "part": {"type": "summary_text", "text": text}}
            ),
        ]

    def _close_content(self, shown: _Shown, *, whole: bool) -> list[Emitted]:
        kind = shown.part
        if kind is None:
            return []
        shown.part = None
        item = shown.open_item.item("in_progress")
        place = {"content_index": shown.content_index}
        said: TextPart | None = None
        done: dict[str, object]
        logprobs: list[dict[str, object]] = []
        if isinstance(item, Reasoning):
            text = item.text
            done = {**place, "text": text}
        else:
            assert isinstance(item, Message)
            last = item.content[-1]
            assert isinstance(last, TextPart | RefusalPart)
            text = last.text
            if isinstance(last, TextPart):
                said = last
                logprobs = self._part_logprobs(shown.open_item, whole=whole)
                done = {**place, "text": text, "logprobs": logprobs}
            else:
                done = {**place, "refusal": text}
        part = self._part(kind, text, said, logprobs)
        return [
            self._of_item(f"response.{kind}.done", shown, done),
            self._of_item("response.content_part.done", shown, {**place, "part": part}),
        ]

    def _part_logprobs(self, item: OpenItem, *, whole: bool) -> list[dict[str, object]]:
        if not self._logprobs:
            return []
        start = item.logprob_ends[-1] if item.logprob_ends else 0
        return write_logprobs(item.logprobs[start : len(item.logprobs) if whole else item.settled])

    # The end

    def cut(self) -> list[Emitted]:
        """Closes what is open as it stands."""
        emitted = self._let_go()
        for index in self._fold.open_indexes:
            emitted += self._item_done(ev.ItemDone(index=index, status="incomplete"))
        emitted += self._let_go()
        for run in () if self._runs is None else self._runs.take_all():
            emitted += self._run_ended(run, None)
        return emitted

    def _end(self, event: ev.Terminal) -> list[Emitted]:
        emitted = self.cut()
        self._fold.feed(event)
        self.response = _encode(self._builder.ended(self._fold.turn(), now=self._now(), streamed=True))
        emitted.append(self._object(_TERMINAL_OF[type(event)], msgspec.Raw(self.response)))
        return emitted

    # Writing

    def _object(self, event_type: str, response: object) -> Emitted:
        return self._emit(event_type, {"response": response})

    def _of_item(self, event_type: str, shown: _Shown, members: Mapping[str, object]) -> Emitted:
        return self._emit(event_type, {"item_id": shown.item_id, "output_index": shown.output_index, **members})

    def _emit(self, event_type: str, members: Mapping[str, object]) -> Emitted:
        event = {"type": event_type, "sequence_number": self.sequence_number, **members}
        self.sequence_number += 1
        return event_type, write_json(event, spaced=self._spaced)

    def _delta(self, event_type: str, shown: _Shown, text: str) -> Emitted:
        template = shown.template
        if template is None:
            template = shown.template = self._template(event_type, shown)
        number = self.sequence_number
        self.sequence_number = number + 1
        return event_type, b"%b%d%b%b%b" % (template[0], number, template[1], _encode(text), template[2])

    def _template(self, event_type: str, shown: _Shown) -> _Template:
        event: dict[str, object] = {
            "type": event_type,
            "sequence_number": _NUMBER_HOLE,
            "item_id": shown.item_id,
            "output_index": shown.output_index,
        }
        if shown.content_index >= 0:
            event["content_index"] = shown.content_index
        event["delta"] = _TEXT_HOLE
        if event_type == "response.output_text.delta":
            event["logprobs"] = []
        head, _, rest = write_json(event, spaced=self._spaced).partition(_NUMBER_JSON)
        middle, _, tail = rest.rpartition(_TEXT_JSON)
        return head, middle, tail

    # Functions, not bound methods: a table of those in each instance would be a cycle for the collector.
    _RULES: ClassVar[dict[type, Callable[..., list[Emitted]]]] = {
        ev.TextDelta: _text,
        ev.TurnStarted: _turn_started,
        ev.ItemStarted: _item_started,
        ev.ReasoningDelta: _reasoning,
        ev.SummaryDelta: _summary,
        ev.RefusalDelta: _refusal,
        ev.ArgumentsDelta: _arguments,
        ev.TokensDelta: _tokens,
        ev.AnnotationAdded: _annotation,
        ev.ItemDone: _item_done,
        ev.Extension: _extension,
        ev.ToolProgress: _tool_progress,
        ev.ApprovalRequested: _question,
        ev.ApprovalResolved: _question,
        ev.UsageReported: _keep,
        ev.TurnCompleted: _end,
        ev.TurnIncomplete: _end,
        ev.TurnFailed: _end,
        ev.TurnCancelled: _end,
    }


_ARGUMENTS_TYPES: Mapping[str, str] = {
    MCP_CALL: "response.mcp_call_arguments",
    "function_call": "response.function_call_arguments",
    "custom_tool_call": "response.custom_tool_call_input",
}
