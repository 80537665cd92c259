"""Who may use the engine's slots: strictly first come, first served.

The engine would queue by itself, but in a queue that cannot be left before the first token and in which a call for
several choices is overtaken for ever by calls for one. Here a waiting call costs nothing, leaves when it is
cancelled, and the head of the queue is never overtaken.
"""

import asyncio
from collections import deque


class SlotQueue:
    """A counting lock with a fair queue. Belongs to one event loop."""

    def __init__(self, capacity: int) -> None:
        self._free = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def free(self) -> int:
        return self._free

    async def acquire(self, count: int) -> None:
        """Takes `count` slots at once. Cancelled: takes none."""
        if not self._waiting and self._free >= count:
            self._free -= count
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (count, granted)
        self._waiting.append(entry)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._waiting.remove(entry)
                self._admit()
            else:  # granted in the same turn of the loop
                self.release(count)
            raise

    def release(self, count: int) -> None:
        self._free += count
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            count, granted = self._waiting[0]
            if granted.cancelled():  # its owner has not run yet; it removes the entry itself
                return
            self._waiting.popleft()
            self._free -= count
            granted.set_result(None)
