"""An answer as it is kept: its events, because every surface can be fed with them.

Deltas that follow each other are joined, of several usage reports the last one stays: the same turn in as few events as can be.
The answer cache keeps it, and what was answered under an idempotency key.
"""

from collections.abc import Iterable

import msgspec

from trunkline.model import events as ev
from trunkline.model.tokens import TokenLogprob
from trunkline.model.usage import Usage

DELTAS = (ev.TextDelta, ev.ReasoningDelta, ev.SummaryDelta, ev.RefusalDelta, ev.ArgumentsDelta)
_EVENTS = msgspec.json.Decoder(list[ev.Event])


class _Run:
    """Deltas of one kind that follow each other in one item, and the exact tokens that came with them."""

    def __init__(self, first: ev.Delta) -> None:
        self.first = first
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []

    def takes(self, event: ev.Delta) -> bool:
        if isinstance(self.first, ev.SummaryDelta):
            return isinstance(event, ev.SummaryDelta) and event.part == self.first.part
        return type(event) is type(self.first)

    def events(self) -> list[ev.Event]:
        joined = msgspec.structs.replace(self.first, text="".join(self.texts))
        if not self.token_ids and not self.logprobs:
            return [joined]
        return [ev.TokensDelta(self.first.index, tuple(self.token_ids), tuple(self.logprobs)), joined]


class Recorder:
    """Feeds on an answer's events; `events` is what to keep of it once it has ended."""

    def __init__(self) -> None:
        self._said: list[ev.Event | _Run] = []
        self._runs: dict[int, _Run] = {}  # of open items, until something else is said
        self._waiting: dict[int, list[ev.TokensDelta]] = {}  # tokens whose delta has not come
        self.usage: Usage | None = None

    def add(self, batch: Iterable[ev.Event]) -> None:
        for event in batch:
            if isinstance(event, DELTAS):
                self._add_delta(event)
            elif isinstance(event, ev.TokensDelta):
                self._waiting.setdefault(event.index, []).append(event)
            elif isinstance(event, ev.UsageReported):
                self.usage = event.usage
            else:
                for waiting in self._waiting.values():
                    self._said.extend(waiting)
                self._runs.clear()
                self._waiting.clear()
                if isinstance(event, ev.TERMINALS) and self.usage is not None:
                    self._said.append(ev.UsageReported(self.usage))
                self._said.append(event)

    def _add_delta(self, event: ev.Delta) -> None:
        run = self._runs.get(event.index)
        if run is None or not run.takes(event):
            run = self._runs[event.index] = _Run(event)
            self._said.append(run)
        for tokens in self._waiting.pop(event.index, ()):
            run.token_ids.extend(tokens.token_ids)
            run.logprobs.extend(tokens.logprobs)
        run.texts.append(event.text)

    def events(self) -> list[ev.Event]:
        """The same answer in as few events as can be."""
        events: list[ev.Event] = []
        for one in self._said:
            if isinstance(one, _Run):
                events.extend(one.events())
            else:
                events.append(one)
        return events


def read(data: bytes) -> list[ev.Event]:
    """Events that were kept as JSON."""
    return _EVENTS.decode(data)
