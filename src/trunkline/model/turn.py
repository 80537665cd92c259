"""The answered turn: `Turn = fold(events)`.

This is the only place where deltas become items, so the final object of a stream, the non-streamed answer and what is stored
are the same by construction. A turn cut short keeps what had arrived; items that were still open get status `incomplete`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import msgspec

from trunkline.model import events as ev
from trunkline.model.items import (
    FunctionCall,
    FunctionCallOutput,
    Item,
    Message,
    OpaqueItem,
    Part,
    Reasoning,
    RefusalPart,
    Status,
    TextPart,
)
from trunkline.model.tokens import TokenLogprob
from trunkline.model.usage import Usage


class TurnItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item of an answer with the choice it belongs to, its exact tokens and what the wire said besides.

    `logprob_ends` says how many of the log probabilities belong to the content parts up to each but the last.
    """

    index: int
    choice: int
    item: Item
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    logprob_ends: tuple[int, ...] = ()
    extensions: tuple[ev.Extension, ...] = ()


class ChoiceEnd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a choice ended. `finish_reason` is None when the turn was cut before it did."""

    index: int
    finish_reason: ev.FinishReason | None = None
    extensions: tuple[ev.Extension, ...] = ()


class Turn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer, whole. `terminal` says how it ended."""

    turn_id: str
    model: str
    created_at: int
    items: tuple[TurnItem, ...]
    choices: tuple[ChoiceEnd, ...]
    terminal: ev.Terminal
    usage: Usage | None = None
    extensions: tuple[ev.Extension, ...] = ()


def terminal_for(finish_reasons: Iterable[ev.FinishReason]) -> ev.TurnCompleted | ev.TurnIncomplete:
    """The terminal event that follows these finish reasons: a turn cut by length or by a filter is incomplete."""
    reasons = set(finish_reasons)
    if "length" in reasons:
        return ev.TurnIncomplete("max_output_tokens")
    if "content_filter" in reasons:
        return ev.TurnIncomplete("content_filter")
    return ev.TurnCompleted()


class OpenItem:
    """Assembles one item from its events. Emitters that must show an item when it closes use it too."""

    __slots__ = (
        "_annotations",
        "_parts",
        "_segment_kind",
        "_segments",
        "_summary",
        "_summary_part",
        "extensions",
        "logprob_ends",
        "logprobs",
        "settled",
        "started",
        "token_ids",
    )

    def __init__(self, started: ev.ItemStarted) -> None:
        self.started = started
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.extensions: list[ev.Extension] = []
        self._segments: list[str] = []
        self._segment_kind: type[TextPart] | type[RefusalPart] = TextPart
        self._annotations: list[msgspec.Raw] = []  # of the open segment
        self._parts: list[Part] = []
        self.settled = 0  # log probabilities whose text has come
        self.logprob_ends: list[int] = []  # of the parts that are closed
        self._summary: list[list[str]] = []
        self._summary_part = -1

    def feed(self, event: ev.Delta | ev.TokensDelta | ev.AnnotationAdded) -> None:
        match event:
            case ev.TextDelta():
                self.add_text(event.text)
            case ev.RefusalDelta():
                self._segment(RefusalPart, event.text)
            case ev.ReasoningDelta() | ev.ArgumentsDelta():
                self._segments.append(event.text)
            case ev.SummaryDelta():
                self._summarize(event)
            case ev.TokensDelta():
                self.token_ids.extend(event.token_ids)
                self.logprobs.extend(event.logprobs)
            case ev.AnnotationAdded():
                if self._segment_kind is RefusalPart:
                    self._close_segment()
                self._annotations.append(event.annotation)

    def add_text(self, text: str) -> None:
        """What `feed` does with the text of a TextDelta."""
        if text and self._segment_kind is TextPart:
            self._segments.append(text)
            self.settled = len(self.logprobs)
        else:
            self._segment(TextPart, text)

    def item(self, status: Status, whole: Item | None = None, encrypted_content: str | None = None) -> Item:
        """The item as it stands. `whole` is the item its ItemDone carried; it keeps the id with which it opened."""
        started = self.started
        if whole is not None:
            return whole if whole.id == started.item_id else msgspec.structs.replace(whole, id=started.item_id)
        match started.kind:
            case "reasoning":
                return Reasoning(
                    text="".join(self._segments),
                    summary=tuple(["".join(part) for part in self._summary]),
                    encrypted_content=encrypted_content,
                    id=started.item_id,
                    status=status,
                    extra=started.extra,
                )
            case "function_call":
                return FunctionCall(
                    call_id=started.call_id or "",
                    name=started.name or "",
                    arguments="".join(self._segments),
                    tool=started.tool,
                    hosted=started.hosted,
                    id=started.item_id,
                    status=status,
                    extra=started.extra,
                )
            case "function_call_output":  # cut before it was there
                return FunctionCallOutput(
                    call_id=started.call_id or "",
                    name=started.name,
                    tool=started.tool,
                    hosted=started.hosted,
                    id=started.item_id,
                    status=status,
                    extra=started.extra,
                )
            case "opaque":  # cut: what was known when it opened
                return OpaqueItem(
                    wire_type="",
                    dialect="",
                    payload=msgspec.Raw(msgspec.json.encode(started.extra)),
                    id=started.item_id,
                )
            case "message":
                content = (*self._parts, *self._open_part())
                return Message(
                    role="assistant", content=content, id=started.item_id, status=status, extra=started.extra
                )

    def close(self, done: ev.ItemDone) -> TurnItem:
        """The item of a turn that these events make."""
        return TurnItem(
            index=self.started.index,
            choice=self.started.choice,
            item=self.item(done.status, done.item, done.encrypted_content),
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            logprob_ends=tuple(self.logprob_ends),
            extensions=tuple(self.extensions),
        )

    def _summarize(self, event: ev.SummaryDelta) -> None:
        if not event.text:
            return
        if event.part > self._summary_part:
            self._summary_part = event.part
            self._summary.append([])
        self._summary[-1].append(event.text)

    def _segment(self, kind: type[TextPart] | type[RefusalPart], text: str) -> None:
        if not text:
            return
        if kind is not self._segment_kind:
            self._close_segment()
            self._segment_kind = kind
        self._segments.append(text)
        self.settled = len(self.logprobs)

    def _close_segment(self) -> None:
        for part in self._open_part():
            self._parts.append(part)
            self.logprob_ends.append(self.settled)
        self._segments, self._annotations = [], []
        self._segment_kind = TextPart

    def _open_part(self) -> tuple[Part, ...]:
        """Text and its annotations are one part, wherever between the deltas the annotations came."""
        text = "".join(self._segments)
        if self._segment_kind is RefusalPart:
            return (RefusalPart(text),) if text else ()
        return (TextPart(text, tuple(self._annotations)),) if text or self._annotations else ()


class Fold:
    """Feeds on events, gives the turn. `turn()` is valid after the terminal event; before it, it gives a cut turn."""

    def __init__(self) -> None:
        self._started = ev.TurnStarted("", "", 0)
        self._open: dict[int, OpenItem] = {}
        self._items: dict[int, TurnItem] = {}
        self._choices: dict[int, ev.FinishReason | None] = {}
        self._usage: Usage | None = None
        self._extensions: dict[int | None, list[ev.Extension]] = {}
        self._terminal: ev.Terminal | None = None

    def feed(self, event: ev.Event) -> None:
        if type(event) is ev.TextDelta:  # nearly all are
            self._open[event.index].add_text(event.text)
            return
        rule = self._RULES.get(type(event))
        if rule is not None:
            rule(self, event)

    def open_item(self, index: int) -> OpenItem:
        """The open item of this index, for emitters that must show it."""
        return self._open[index]

    def closed_item(self, index: int) -> TurnItem:
        """The closed item of this index."""
        return self._items[index]

    @property
    def open_indexes(self) -> tuple[int, ...]:
        """The items that are open, in order."""
        return tuple(self._open)

    def turn(self) -> Turn:
        items = dict(self._items)
        for index, open_item in self._open.items():
            items[index] = open_item.close(ev.ItemDone(index=index, status="incomplete"))
        return Turn(
            turn_id=self._started.turn_id,
            model=self._started.model,
            created_at=self._started.created_at,
            items=tuple(items[index] for index in sorted(items)),
            choices=tuple(
                ChoiceEnd(index=index, finish_reason=reason, extensions=tuple(self._extensions.get(index, ())))
                for index, reason in sorted(self._choices.items())
            ),
            terminal=self._terminal or ev.TurnCancelled(),
            usage=self._usage,
            extensions=tuple(self._extensions.get(None, ())),
        )

    def _turn_started(self, event: ev.TurnStarted) -> None:
        self._started = event

    def _item_started(self, event: ev.ItemStarted) -> None:
        self._choices.setdefault(event.choice, None)
        self._open[event.index] = OpenItem(event)

    def _delta(self, event: ev.Delta) -> None:
        self._open[event.index].feed(event)

    def _item_done(self, event: ev.ItemDone) -> None:
        self._items[event.index] = self._open.pop(event.index).close(event)

    def _choice_done(self, event: ev.ChoiceDone) -> None:
        self._choices[event.choice] = event.finish_reason

    def _usage_reported(self, event: ev.UsageReported) -> None:
        self._usage = event.usage

    def _extension(self, event: ev.Extension) -> None:
        if event.index is None:
            self._extensions.setdefault(event.choice, []).append(event)
        elif event.index in self._open:
            self._open[event.index].extensions.append(event)
        else:
            item = self._items[event.index]
            self._items[event.index] = msgspec.structs.replace(item, extensions=(*item.extensions, event))

    def _end(self, event: ev.Terminal) -> None:
        self._terminal = event

    # One table for all, of plain functions: bound methods in each instance would tie it in a cycle that only the
    # garbage collector undoes, and memory would wait for it.
    _RULES: ClassVar[dict[type, Callable[..., None]]] = {
        ev.TurnStarted: _turn_started,
        ev.ItemStarted: _item_started,
        ev.ItemDone: _item_done,
        ev.ChoiceDone: _choice_done,
        ev.UsageReported: _usage_reported,
        ev.Extension: _extension,
        **dict.fromkeys(ev.PIECES, _delta),
        **dict.fromkeys(ev.TERMINALS, _end),
    }


def fold(events: Sequence[ev.Event]) -> Turn:
    """The turn these events make."""
    folding = Fold()
    for event in events:
        folding.feed(event)
    return folding.turn()
