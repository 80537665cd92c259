"""Stop sequences for backends that do not apply them: the answer is cut before the first one that appears in its text.

Text that could be the beginning of a stop sequence is held back until it is decided. When every choice has been cut, the
backend is told to stop. Log probabilities of text that is held back wait with it.
"""

from collections.abc import AsyncIterator, Sequence

from trunkline.model import events as ev
from trunkline.model.errors import TrunklineError
from trunkline.model.turn import terminal_for
from trunkline.ports.backend import EventBatch, stop


async def cut_at_stops(
    batches: AsyncIterator[EventBatch], stops: Sequence[str], *, choices: int
) -> AsyncIterator[EventBatch]:
    """The same events up to the first stop sequence of each choice."""
    cutter = StopCutter(stops, choices=choices)
    try:
        async for batch in batches:
            events: list[ev.Event] = []
            for event in batch:
                cutter.feed(event, events)
                if cutter.ended:
                    break
            if events:
                yield events
            if cutter.ended:
                return
    except TrunklineError:
        if rest := cutter.rest():
            yield rest
        raise
    finally:
        await stop(batches)


class StopCutter:
    """Walks one turn's events."""

    def __init__(self, stops: Sequence[str], *, choices: int) -> None:
        self._stops = tuple(stops)
        self._choices = choices
        self._held: dict[int, list[ev.Event]] = {}  # item -> its text and token events that are not decided yet
        self._choice_of: dict[int, int] = {}
        self._cut: set[int] = set()
        self._reasons: list[ev.FinishReason] = []
        self.ended = False

    def feed(self, event: ev.Event, out: list[ev.Event]) -> None:
        """Appends to `out` what may be said now."""
        match event:
            case ev.ItemStarted():
                self._choice_of[event.index] = event.choice
                if event.choice not in self._cut:
                    out.append(event)
            case ev.TextDelta() | ev.TokensDelta():
                if self._choice_of[event.index] not in self._cut:
                    self._held.setdefault(event.index, []).append(event)
                    if isinstance(event, ev.TextDelta):
                        self._decide(event.index, out)
            case (
                ev.ReasoningDelta()
                | ev.SummaryDelta()
                | ev.RefusalDelta()
                | ev.ArgumentsDelta()
                | ev.AnnotationAdded()
                | ev.ItemDone()
            ):
                if self._choice_of[event.index] not in self._cut:
                    out.extend(self._held.pop(event.index, ()))
                    out.append(event)
            case ev.ChoiceDone():
                if event.choice not in self._cut:
                    self._reasons.append(event.finish_reason)
                    out.append(event)
            case ev.TurnCompleted() | ev.TurnIncomplete() | ev.TurnFailed() | ev.TurnCancelled():
                out.extend(self.rest())
                out.append(event)
            case _:
                out.append(event)

    def rest(self) -> list[ev.Event]:
        """What is held back where the answer is cut: half a stop sequence is text like any other."""
        rest = [event for held in self._held.values() for event in held]
        self._held.clear()
        return rest

    def _decide(self, item: int, out: list[ev.Event]) -> None:
        held = self._held[item]
        text = "".join([event.text for event in held if isinstance(event, ev.TextDelta)])
        # The first to be complete cuts, and of those the longest: the same wherever the text was split.
        found = [(position + len(stop), position) for stop in self._stops if (position := text.find(stop)) >= 0]
        if found:
            self._emit(held, min(found)[1], out)
            self._end_choice(item, out)
            return
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held[item] = self._emit(held, len(text) - keep, out)

    def _emit(self, held: list[ev.Event], size: int, out: list[ev.Event]) -> list[ev.Event]:
        """Says the first `size` characters with the tokens that belong to them; gives what remains."""
        for position, event in enumerate(held):
            if isinstance(event, ev.TextDelta):
                if len(event.text) > size:
                    if size:
                        out.append(ev.TextDelta(event.index, event.text[:size]))
                    return [ev.TextDelta(event.index, event.text[size:]), *held[position + 1 :]]
                size -= len(event.text)
                out.append(event)
            elif size > 0 or position + 1 == len(held):
                out.append(event)
            else:
                return held[position:]
        return []

    def _end_choice(self, item: int, out: list[ev.Event]) -> None:
        choice = self._choice_of[item]
        self._cut.add(choice)
        self._held.pop(item, None)
        self._reasons.append("stop")
        out.append(ev.ItemDone(index=item))
        out.append(ev.ChoiceDone(choice, "stop"))
        if len(self._reasons) >= self._choices:
            self.ended = True
            out.append(terminal_for(self._reasons))


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
