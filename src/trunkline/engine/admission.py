"""How many turns a backend works on at once: slots, and a bounded first-in-first-out queue before them.

A full queue is an honest 429 with Retry-After. A waiter that leaves gives up its place; a slot handed to a waiter that was
cancelled in the same moment goes on to the next one.
"""

import asyncio
from collections import deque

from trunkline.model.errors import RateLimited

RETRY_AFTER_S = 1.0


class Admission:
    """The slots of one backend."""

    def __init__(self, name: str, *, max_concurrency: int, max_queue: int) -> None:
        self._name = name
        self._max_queue = max_queue
        self._waiters: deque[asyncio.Future[None]] = deque()
        self.capacity = max_concurrency
        self.active = 0

    @property
    def queued(self) -> int:
        return len(self._waiters)

    async def acquire(self, *, patient: bool = False) -> None:
        """Takes a slot, waiting for one if the queue has room. Raises RateLimited when it has not, unless `patient`."""
        if self.active < self.capacity and not self._waiters:
            self.active += 1
            return
        if len(self._waiters) >= self._max_queue and not patient:
            raise RateLimited(
                f"backend {self._name!r} is busy: {self.active} turns in progress and {len(self._waiters)} waiting",
                retry_after_s=RETRY_AFTER_S,
            )
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def release(self) -> None:
        """Gives a slot back: to the longest waiter, or to nobody."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.active -= 1
