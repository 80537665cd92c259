"""Carries events from where an agent runs to where its answer is read: one task or one thread to one reader.

What gathers between two looks of the reader travels as one batch, and the reader is woken once for it, however many
events a thread has put. The channel is bounded: a producer far ahead of a slow client waits. A producer on the loop
also lets the reader go first when the oldest event has waited for MAX_AGE_S, so that an agent which blocks the loop
between two words still streams.
"""

import asyncio
import threading
from collections.abc import Sequence

from trunkline.model.events import Event
from trunkline.ports.runtime import Clock

LIMIT = 256
MAX_AGE_S = 0.005


class Channel:
    """One answer's events in flight. Made on the loop that reads."""

    def __init__(self, *, clock: Clock) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._lock = threading.Condition(threading.Lock())
        self._events: list[Event] = []
        self._since_s = 0.0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._waking = False
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False

    def put(self, events: Sequence[Event]) -> bool:
        """On the loop. True asks the producer to await `drained` before it goes on."""
        if self._closed:
            return False
        if self._events:
            self._events += events
            return len(self._events) >= LIMIT or self._clock.monotonic_s() - self._since_s > MAX_AGE_S
        self._since_s = self._clock.monotonic_s()
        self._events += events
        self._wake()
        return False

    async def drained(self) -> None:
        """Returns once the reader has taken what was there."""
        if self._events and not self._closed:
            self._writer = self._loop.create_future()
            await self._writer

    def put_from_thread(self, events: Sequence[Event]) -> bool:
        """In a thread: waits while the channel is full. False when nobody reads any more."""
        with self._lock:
            while len(self._events) >= LIMIT and not self._closed:
                self._lock.wait()
            if self._closed:
                return False
            self._events += events
            if self._waking:
                return True
            self._waking = True
        return self.call_on_loop()

    def call_on_loop(self) -> bool:
        """Wakes the reader from a thread. False when the loop is gone."""
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed: the process is stopping
            return False
        return True

    def end(self, error: BaseException | None = None) -> None:
        """On the loop: nothing follows. The reader gets what was put before, then the error. The first end counts."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        self._wake()

    def close(self) -> None:
        """On the loop: nobody reads any more; a waiting producer goes on and is told so."""
        with self._lock:
            self._closed = True
            self._events = []
            self._lock.notify_all()
        self._resume_writer()

    async def take(self) -> list[Event]:
        """The next batch; an empty one after the last. Raises what the producer ended with."""
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._ended:
                return []
            self._reader = self._loop.create_future()
            await self._reader
        with self._lock:
            batch, self._events = self._events, []
            self._waking = False
            self._lock.notify()
        self._resume_writer()
        return batch

    def _wake(self) -> None:
        reader = self._reader
        if reader is not None:
            self._reader = None
            if not reader.done():
                reader.set_result(None)

    def _resume_writer(self) -> None:
        writer = self._writer
        if writer is not None:
            self._writer = None
            if not writer.done():
                writer.set_result(None)
