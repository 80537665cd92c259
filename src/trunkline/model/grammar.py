"""Which event may follow which, as a table that is checked where backends hand over their events.

    turn     new ──TurnStarted──▶ started ──terminal──▶ ended
    choice   (seen by its first ItemStarted) ──ChoiceDone──▶ done            choice 0 always ends
    item     ──ItemStarted──▶ open ──deltas of its kind──▶ open ──ItemDone──▶ closed

    - TurnStarted is first, exactly one terminal event is last.
    - Item indexes count up from 0 and are never used twice; at most one item of a choice is open.
    - A delta names an open item, and DELTAS says which deltas its kind takes.
    - ItemDone carries the item exactly for kinds in WHOLE: their content does not travel as deltas.
    - ChoiceDone comes when the choice has no open item, once; nothing of that choice follows.
    - TurnCompleted, and TurnIncomplete for a reason in LIMITS, need every item closed and every choice done: a model that ran
      into a limit has come to an end of its own. The other terminals may cut at any point.

A broken backend therefore fails once, here, with BackendProtocolError, and not in every surface in its own way.
"""

from collections.abc import Callable
from typing import ClassVar, NoReturn

from trunkline.model import events as ev
from trunkline.model.errors import BackendProtocolError

DELTAS: dict[ev.ItemKind, tuple[type[ev.Event], ...]] = {
    "message": (ev.TextDelta, ev.RefusalDelta, ev.TokensDelta, ev.AnnotationAdded),
    "reasoning": (ev.ReasoningDelta, ev.SummaryDelta, ev.TokensDelta),
    "function_call": (ev.ArgumentsDelta, ev.TokensDelta),
    "function_call_output": (),
    "opaque": (),
}
LIMITS: frozenset[ev.IncompleteReason] = frozenset({"max_output_tokens", "content_filter"})
WHOLE: frozenset[ev.ItemKind] = frozenset({"function_call_output", "opaque"})


class Grammar:
    """Walks the table. `feed` raises BackendProtocolError at the first event that breaks it."""

    def __init__(self) -> None:
        self._started = False
        self._ended = False
        self._open: dict[int, tuple[ev.ItemKind, int]] = {}  # item index -> kind, choice
        self._next_index = 0
        self._choices: dict[int, bool] = {}  # choice -> done
        self._text_item = -1  # an open item that takes text: nearly every event is one more delta of it

    @property
    def ended(self) -> bool:
        return self._ended

    def feed(self, event: ev.Event) -> None:
        if type(event) is ev.TextDelta and event.index == self._text_item:
            return
        rule = self._RULES.get(type(event))
        if rule is None:
            raise BackendProtocolError(f"backend yielded {type(event).__name__}, which is not an event")
        if not self._started and type(event) is not ev.TurnStarted:
            _broken(event, "came before TurnStarted")
        if self._ended:
            _broken(event, "came after the terminal event")
        rule(self, event)

    def _turn_started(self, event: ev.TurnStarted) -> None:
        if self._started:
            _broken(event, "came twice")
        self._started = True

    def _item_started(self, event: ev.ItemStarted) -> None:
        if event.index != self._next_index:
            _broken(event, f"has index {event.index}, expected {self._next_index}")
        if self._choices.get(event.choice):
            _broken(event, f"opens an item of choice {event.choice}, which is done")
        for index, (_, choice) in self._open.items():
            if choice == event.choice:
                _broken(event, f"opens item {event.index} while item {index} of choice {choice} is open")
        if event.kind in ("function_call", "function_call_output") and not event.call_id:
            _broken(event, f"opens a {event.kind} without call_id")
        self._next_index += 1
        self._choices[event.choice] = False
        self._open[event.index] = (event.kind, event.choice)

    def _delta(self, event: ev.TextDelta) -> None:
        entry = self._open.get(event.index)
        if entry is None:
            _broken(event, f"names item {event.index}, which is not open")
        if type(event) not in DELTAS[entry[0]]:
            _broken(event, f"does not belong to a {entry[0]} item")
        if type(event) is ev.TextDelta:
            self._text_item = event.index

    def _item_done(self, event: ev.ItemDone) -> None:
        entry = self._open.pop(event.index, None)
        self._text_item = -1
        if entry is None:
            _broken(event, f"names item {event.index}, which is not open")
        if (event.item is not None) != (entry[0] in WHOLE):
            _broken(event, f"must{'' if entry[0] in WHOLE else ' not'} carry the item of a {entry[0]}")

    def _choice_done(self, event: ev.ChoiceDone) -> None:
        if self._choices.get(event.choice):
            _broken(event, f"ends choice {event.choice} twice")
        for index, (_, choice) in self._open.items():
            if choice == event.choice:
                _broken(event, f"ends choice {choice} while its item {index} is open")
        self._choices[event.choice] = True

    def _extension(self, event: ev.Extension) -> None:
        if event.index is not None and event.index >= self._next_index:
            _broken(event, f"names item {event.index}, which has not begun")

    def _anytime(self, event: ev.Event) -> None:
        pass

    def _completed(self, event: ev.TurnCompleted | ev.TurnIncomplete) -> None:
        if self._open:
            _broken(event, f"came while item {next(iter(self._open))} is open")
        if not self._choices.get(0) or not all(self._choices.values()):
            _broken(event, "came before every choice was done")
        self._ended, self._text_item = True, -1

    def _incomplete(self, event: ev.TurnIncomplete) -> None:
        if event.reason in LIMITS:
            self._completed(event)
        self._ended, self._text_item = True, -1

    def _cut(self, event: ev.Event) -> None:
        self._ended, self._text_item = True, -1

    # One table for all, of plain functions: bound methods in each instance would tie it in a cycle that only the
    # garbage collector undoes, and memory would wait for it.
    _RULES: ClassVar[dict[type, Callable[..., None]]] = {
        ev.TurnStarted: _turn_started,
        ev.ItemStarted: _item_started,
        ev.ItemDone: _item_done,
        ev.ChoiceDone: _choice_done,
        ev.Extension: _extension,
        ev.TurnCompleted: _completed,
        ev.TurnIncomplete: _incomplete,
        ev.TurnFailed: _cut,
        ev.TurnCancelled: _cut,
        **dict.fromkeys(ev.PIECES, _delta),
        **dict.fromkeys((ev.ToolProgress, ev.UsageReported, ev.ApprovalRequested, ev.ApprovalResolved), _anytime),
    }


def _broken(event: ev.Event, what: str) -> NoReturn:
    raise BackendProtocolError(f"backend broke the event grammar: {type(event).__name__} {what}")
