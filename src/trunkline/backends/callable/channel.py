"""Carries what an agent says from where it runs to where its answer is read: any number of threads and tasks, one
reader.

What is said becomes events here, under the lock: two threads that speak at once then cannot mix up their items. What
gathers between two looks of the reader travels as one batch, and the reader is woken once for it, however much a
thread has said. The channel is bounded: a producer far ahead of a slow client waits. A producer on the loop also lets
the reader go first when the oldest event has waited for MAX_AGE_S, so that an agent which blocks the loop between two
words still streams.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from trunkline.backends.callable.doorbell import Doorbell
from trunkline.model.events import Event
from trunkline.ports.runtime import Clock

LIMIT = 256
MAX_AGE_S = 0.005

Value = TypeVar("Value")
Feed = Callable[[Value], Sequence[Event]]


class Channel:
    """One answer's events in flight, to a reader on the doorbell's loop."""

    def __init__(self, *, clock: Clock, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._loop = doorbell.loop
        self._monotonic_s = clock.monotonic_s
        self._mutex = threading.Lock()
        self._room = threading.Condition(self._mutex)
        self._blocked = 0  # threads that wait for room: telling nobody costs as much as the rest of a read
        self._events: list[Event] = []
        self._since_s = 0.0
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        self._waking = False
        self._finished = False
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False

    @property
    def over(self) -> bool:
        """Whether what is said now comes too late."""
        return self._closed or self._finished

    def put(self, feed: Feed[Value], value: Value) -> bool:
        """On the loop: says a value, which `feed` makes events of. True asks to await `drained` before going on."""
        with self._mutex:
            if self._closed or self._finished:
                return False
            events = feed(value)
            if not events:
                return False
            if self._events:
                self._events += events
                return len(self._events) >= LIMIT or self._monotonic_s() - self._since_s > MAX_AGE_S
            self._since_s = self._monotonic_s()
            self._events += events
        if self._reader is not None:
            self._wake()
        return False

    async def drained(self) -> None:
        """Returns once the reader has taken what was there."""
        if self._events and not self._closed:
            writer = self._loop.create_future()
            self._writers.append(writer)
            await writer

    def put_from_thread(self, feed: Feed[Value], value: Value) -> bool:
        """In a thread: as `put`, but waits while the channel is full. False when nobody reads any more."""
        with self._mutex:
            while len(self._events) >= LIMIT and not self._closed:
                self._blocked += 1
                self._room.wait()
                self._blocked -= 1
            if self._closed or self._finished:
                return False
            events = feed(value)
            if not events:
                return True
            self._events += events
            if self._waking:
                return True
            self._waking = True
        return self._doorbell.ring(self._wake)

    def finish(self, feed: Feed[Value], value: Value) -> None:
        """On the loop: the last that is said. Whatever comes after it comes too late."""
        with self._mutex:
            if self._finished:
                return
            if not self._closed:
                self._events += feed(value)
            self._finished = True
        self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """On the loop: nothing follows. The reader gets what was put before, then the error. The first end counts."""
        if self._ended:
            return
        self._ended = self._finished = True
        self._error = error
        self._wake()

    def close(self) -> None:
        """On the loop: nobody reads any more; a waiting producer goes on and is told so."""
        with self._mutex:
            self._closed = True
            self._events = []
            self._room.notify_all()
        self._resume_writers()

    async def take(self) -> list[Event]:
        """The next batch; an empty one after the last. Raises what the producer ended with."""
        while not self._events:
            if self._error is not None:
                error, self._error = self._error, None
                try:
                    raise error
                finally:
                    del error  # its traceback holds this frame
            if self._ended:
                return []
            self._reader = self._loop.create_future()
            await self._reader
        with self._mutex:
            batch, self._events = self._events, []
            self._waking = False
            if self._blocked:
                self._room.notify_all()
        if self._writers:
            self._resume_writers()
        return batch

    def _wake(self) -> None:
        reader = self._reader
        if reader is not None:
            self._reader = None
            if not reader.done():
                reader.set_result(None)

    def _resume_writers(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                writer.set_result(None)
