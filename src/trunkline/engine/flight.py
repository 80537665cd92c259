"""One answer under way, and everybody who reads it.

    the first call ──▶ a task asks the backend ──▶ batches, kept to the end ──▶ readers: the first call, those that joined
                                └── the terminal event: what is to be kept of it is, before anybody reads it

The task belongs to no client: one that leaves does not end it for the others. Whether the last one that leaves ends it is said
when it begins. Those that join read along as the answer is made, so nobody waits longer for a first word than if they had asked
themselves. What fails, fails for all of them: each would have failed alike. The answer cache and idempotency keys work this way.

What the backend cost is noted once, in the flight's own outcome. The request that began it shows it as its own, if it is still
there at the end; otherwise the flight writes it down itself.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

from trunkline.engine.answer_size import AnswerSize
from trunkline.engine.turn_record import Recorder
from trunkline.model import events as ev
from trunkline.model.errors import TrunklineError, shutting_down
from trunkline.ports.backend import EventBatch, RelayBatch
from trunkline.telemetry.outcome import Outcome


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
        raise AssertionError("an answer that is kept is never relayed")


class Kept(Events):
    """An answer that was there."""

    def __init__(self, events: EventBatch) -> None:
        self._events = events

    async def event_batches(self) -> AsyncIterator[EventBatch]:
        yield self._events

    async def aclose(self) -> None:
        pass


Ended = Callable[["Flight", Recorder | None], Awaitable[None]]
"""Told once, before anybody reads the terminal event, with what was recorded; with None where there will be none. What it raises is
how the answer ends."""
Alone = Callable[[Outcome], None]
"""Told of an answer that has ended after the request that began it had gone."""
Again = Callable[[EventBatch], EventBatch]
"""Makes of events those of another call's own answer."""


class Flight:
    """One call of a backend. `lasts`: it goes on when nobody reads it any more, until `stop`."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[Source]],
        ended: Ended,
        *,
        outcome: Outcome,
        alone: Alone,
        lasts: bool = False,
    ) -> None:
        self.outcome = outcome
        self._ask = ask
        self._tell_end = ended
        self._tell_alone = alone
        self._lasts = lasts
        self._readers = 0
        self._begun = False
        self._stopped = False
        self._left = False  # by the request that began it
        self._told = False  # whoever keeps it
        self._ended = False  # the terminal event has come
        self._over = False  # and the backend has been closed, or it failed
        self._failure: TrunklineError | None = None
        self._grown = asyncio.Event()
        self.batches: list[EventBatch] = []
        self.task = asyncio.create_task(self._fly(), name="shared answer")
        self.task.add_done_callback(_heard)

    @property
    def over(self) -> bool:
        return self._over

    async def opened(self) -> None:
        """Until there is something to say. Raises what asking has raised."""
        await self.until(lambda: bool(self.batches))

    async def more(self, position: int) -> bool:
        """Waits for what follows the first `position` batches. False: nothing does. Raises what ended it."""
        return await self.until(lambda: len(self.batches) > position)

    async def until(self, ready: Callable[[], bool]) -> bool:
        """False: it is over, and that will never be. Raises what ended it."""
        while not ready():
            if self._over:
                if self.task.cancelled():
                    raise shutting_down()
                if self._failure is not None:
                    raise self._failure.again()
                await self.task
                return False
            await self._grown.wait()
        return True

    def join(self, outcome: Outcome, *, first: bool = False, again: Again | None = None) -> "Reader":
        """One more who reads it, for a request with this outcome. `first`: it began it; `again`: what makes the events another's
        own."""
        self._readers += 1
        return Reader(self, outcome, first=first, again=again)

    async def leave(self, *, first: bool) -> None:
        """A reader has read enough; the `first` is the one that began it."""
        self._readers -= 1
        if self._readers == 0 and not (self._lasts and not self._ended):
            if not self._ended:  # what has come to its end closes by itself
                # Now: a backend may take its time to stop, and nobody is to join what is dying.
                await self._tell_nothing_comes()
                self.stop()
            await asyncio.gather(self.task, return_exceptions=True)
        if first:
            self._left = not self._over

    def stop(self) -> None:
        """Ends it for everybody."""
        self._stopped = True
        if self._begun:  # a task that has not would end without telling anybody
            self.task.cancel()

    def tell(self) -> None:
        """Has those who wait look again."""
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    async def _fly(self) -> None:
        recorder, size = Recorder(), AnswerSize()
        try:
            self._begun = True
            if self._stopped:
                raise asyncio.CancelledError
            source = await self._ask()
            try:
                async for batch in source.event_batches():
                    size.add(batch)
                    recorder.add(batch)
                    if isinstance(batch[-1], ev.TERMINALS):
                        batch = await self._end(batch, recorder)
                    self.batches.append(batch)
                    self.tell()
                    if self._ended:
                        break
            finally:
                await source.aclose()
        except TrunklineError as error:
            self._failure = error.again()
        finally:
            await self._tell_nothing_comes()
            self._over = True
            if self._left:
                self._tell_alone(self.outcome)
            self.tell()
            del self._ask, self._tell_end  # what they know holds this flight, and the request's body

    async def _end(self, batch: EventBatch, recorder: Recorder) -> EventBatch:
        self._told = True
        try:
            await self._tell_end(self, recorder)
        except TrunklineError as error:
            failed = ev.TurnFailed(error.info())
            self.outcome.note(failed)
            batch = [*[event for event in batch[:-1] if not isinstance(event, ev.ChoiceDone)], failed]
        self._ended = True
        return batch

    async def _tell_nothing_comes(self) -> None:
        if not self._told:
            self._told = True
            await self._tell_end(self, None)


class Reader(Events):
    """Reads a flight from its beginning."""

    def __init__(self, flight: Flight, outcome: Outcome, *, first: bool, again: Again | None) -> None:
        self._flight = flight
        self._outcome = outcome
        self._first = first
        self._again = again
        self._closed = False

    async def opened(self) -> None:
        """Until there is something to say. Raises what asking has raised; then this is closed."""
        opened = False
        try:
            await self._flight.opened()
            self._note()
            opened = True
        finally:
            if not opened:  # it failed, or the client has left
                await self.aclose()

    async def event_batches(self) -> AsyncIterator[EventBatch]:
        position, batches = 0, self._flight.batches
        while await self._flight.more(position):
            batch = [event for one in batches[position:] for event in one]
            position = len(batches)
            yield batch if self._again is None else self._again(batch)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._flight.leave(first=self._first)
            if self._flight.over:
                self._note()
            elif self._first:
                self._outcome.backend = None  # the flight counts the call, once

    def _note(self) -> None:
        """What was done for one request is nobody else's. But that somebody has acted holds for whoever hears how it went."""
        if self._first:
            self._outcome.adopt(self._flight.outcome)
        else:
            self._outcome.acted = self._flight.outcome.acted


def _heard(task: asyncio.Task[None]) -> None:
    """Whoever reads hears of a failure; where nobody does any more, it is in the outcome."""
    if not task.cancelled():
        task.exception()
