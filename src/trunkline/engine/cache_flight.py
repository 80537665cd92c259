"""One answer on its way into the cache, and everybody who asked the same meanwhile.

    the first call ──▶ a task asks the backend ──▶ batches, kept to the end ──▶ readers: the first call, those that joined
                                └── the terminal event: what may be kept is, before anybody reads it

The task belongs to no client: one that leaves does not end it for the others, and the last one that leaves does. Those that join
read along as the answer is made, so nobody waits longer for a first word than without the cache. What fails, fails for all of
them: each would have failed alike.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

from trunkline.engine.answer_size import AnswerSize
from trunkline.engine.cache_turn import Recorder, Replay
from trunkline.engine.call import Call
from trunkline.model import events as ev
from trunkline.ports.backend import EventBatch, RelayBatch


class Source(Protocol):
    """An answer under way, wherever it comes from."""

    @property
    def relayed(self) -> bool: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def relay_batches(self) -> AsyncIterator[RelayBatch]: ...

    def event_batches(self) -> AsyncIterator[EventBatch]: ...

    async def aclose(self) -> None: ...


class Events:
    """What sources have in common that are events and never bytes."""

    relayed = False
    headers: Mapping[str, str] = {}

    def relay_batches(self) -> AsyncIterator[RelayBatch]:
        raise AssertionError("an answer of the cache is never relayed")


class Kept(Events):
    """An answer that was there."""

    def __init__(self, events: EventBatch) -> None:
        self._events = events

    async def event_batches(self) -> AsyncIterator[EventBatch]:
        yield self._events

    async def aclose(self) -> None:
        pass


class Flight:
    """One call of a backend. `ended` is told with what was recorded, or with None where it failed, or was left, before its end."""

    def __init__(
        self,
        call: Call,
        ask: Callable[[Call], Awaitable[Source]],
        ended: Callable[["Flight", Recorder | None], None],
    ) -> None:
        self.call = call
        self._ask = ask
        self._tell_end = ended
        self._readers = 0
        self._ended = False  # the terminal event has come
        self._over = False  # and the backend has been closed, or it failed
        self._grown = asyncio.Event()
        self.batches: list[EventBatch] = []
        self.task = asyncio.create_task(self._fly(), name="cached answer")

    async def opened(self) -> None:
        """Until there is something to say. Raises what asking has raised."""
        await self.more(0)

    def join(self, replay: Replay | None = None) -> "Reader":
        """One more who reads it; with `replay` as an answer of their own."""
        self._readers += 1
        return Reader(self, replay)

    async def leave(self) -> None:
        """A reader has read enough. After the last one nothing goes on."""
        self._readers -= 1
        if self._readers == 0:
            if not self._ended:  # what has come to its end closes by itself
                # Now: a backend may take its time to stop, and nobody is to join what is dying.
                self._tell_end(self, None)
                self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def more(self, position: int) -> bool:
        """Waits for what follows the first `position` batches. False: nothing does. Raises what ended it."""
        while len(self.batches) == position:
            if self._over:
                await self.task
                return False
            await self._grown.wait()
        return True

    async def _fly(self) -> None:
        recorder, size = Recorder(), AnswerSize()
        try:
            source = await self._ask(self.call)
            try:
                async for batch in source.event_batches():
                    size.add(batch)
                    recorder.add(batch)
                    self._ended = isinstance(batch[-1], ev.TERMINALS)
                    if self._ended:
                        self._tell_end(self, recorder)
                    self.batches.append(batch)
                    self._tell()
                    if self._ended:
                        break
            finally:
                await source.aclose()
        finally:
            self._over = True
            if not self._ended:
                self._tell_end(self, None)
            self._tell()

    def _tell(self) -> None:
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()


class Reader(Events):
    """Reads a flight from its beginning."""

    def __init__(self, flight: Flight, replay: Replay | None) -> None:
        self._flight = flight
        self._replay = replay
        self._closed = False

    async def event_batches(self) -> AsyncIterator[EventBatch]:
        position, batches = 0, self._flight.batches
        while await self._flight.more(position):
            batch = [event for one in batches[position:] for event in one]
            position = len(batches)
            yield batch if self._replay is None else self._replay.again(batch)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._flight.leave()
