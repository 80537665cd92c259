"""The event log of one run while it is alive: what has been committed, for any number of readers.

Events are appended after the store has them, so a reader never sees what a crash could take back. Readers share one list and
wait on one condition; a reader that joins late begins wherever it likes. What has ended is read from the store instead.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from trunkline.ports.stores import LoggedEvent


class RunLog:
    """Committed events, in order, from sequence number `first` on."""

    def __init__(self, first: int = 0) -> None:
        self._first = first
        self._events: list[LoggedEvent] = []
        self._more = asyncio.Event()
        self.ended = False

    def publish(self, events: Sequence[LoggedEvent], *, ended: bool = False) -> None:
        """Shows committed events to every reader."""
        self._events.extend(events)
        self.ended = ended
        self._more.set()
        self._more = asyncio.Event()

    async def read(self, *, after: int) -> AsyncIterator[Sequence[LoggedEvent]]:
        """Events with a greater sequence number, as they come, to the last one."""
        position = max(after + 1 - self._first, 0)
        while True:
            more = self._more
            if position < len(self._events):
                events = self._events[position:]
                position += len(events)
                yield events
            elif self.ended:
                return
            else:
                await more.wait()

    @property
    def first(self) -> int:
        return self._first
