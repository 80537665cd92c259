"""Work that outlives its request: background responses.

    queued ── a slot ──▶ in_progress ── the backend's last event ──▶ completed | incomplete | failed
       └──────────────── cancel ────────────────┴──▶ cancelled

One task works on a run. It writes what its emitter says to the store, several events to a transaction, and shows it to readers only
then. The end is one transaction: the last event, the final object and the status; whoever comes second, a cancel or the worker,
finds the run ended and stops. After a restart a queued run simply runs; one that was being answered has lost its worker and fails
with `worker_lost` (decision 44), its log complete and ended.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec

from trunkline.dialects.openai_responses import ResponsesBackend, ResponsesSurface
from trunkline.dialects.openai_responses.emitter import Emitted, ResponseEmitter
from trunkline.engine.call import Call
from trunkline.engine.chaining import Chained, Chaining
from trunkline.engine.gateway import Answer, Gateway
from trunkline.engine.recording import conversation_items, stored_response
from trunkline.engine.run_log import RunLog
from trunkline.model import events as ev
from trunkline.model.errors import (
    BackendUnavailable,
    ErrorInfo,
    InternalError,
    RequestError,
    StoreError,
    TrunklineError,
)
from trunkline.ports.runtime import Clock
from trunkline.ports.stores import LoggedEvent, Store, StoredResponse, StoredRun
from trunkline.telemetry.outcome import Outcome

MAX_AT_WORK = 64
MAX_PENDING = 4096
RETRY_AFTER_S = (0.1, 0.5, 2.0, 5.0, 10.0)
PAGE = 512
CANCEL_WAIT_S = 10.0
WORKER_LOST = ErrorInfo(
    message="the server was stopped while it worked on this response", type="server_error", code="worker_lost"
)
logger = logging.getLogger("trunkline.runs")


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to run again: the client's body and what surrounds it."""

    body: bytes
    model: str
    request_id: str
    session_id: str | None = None


class Run:
    """A run being worked on, or about to be.

    Attributes:
        task: drives the run to its end; only a stopping server cancels it.
        answering: the part of it that waits for a place and for the backend; a cancel cancels that.
        over: set when the end is durable.
    """

    def __init__(self, *, call: Call, chained: Chained, emitter: ResponseEmitter, log: RunLog) -> None:
        self.call = call
        self.chained = chained
        self.emitter = emitter
        self.log = log
        self.task: asyncio.Task[None] | None = None
        self.answering: asyncio.Task[ev.Terminal] | None = None
        self.answer: Answer | None = None
        self.cancelled = False
        self.over = asyncio.Event()

    @property
    def id(self) -> str:
        return self.call.turn_id

    def cancel(self) -> None:
        """Stops the work, once; the end that says so follows."""
        if not self.cancelled:
            self.cancelled = True
            if self.answering is not None:
                self.answering.cancel()


class Runs:
    """All runs of this process. `start` deals with those that an earlier process left, `close` lets go of all."""

    def __init__(
        self, store: Store, gateway: Gateway, chaining: Chaining, codec: ResponsesSurface, *, clock: Clock
    ) -> None:
        self._store = store
        self._gateway = gateway
        self._chaining = chaining
        self._codec = codec
        self._clock = clock
        self._alive: dict[tuple[str, str], Run] = {}
        self._places = asyncio.Semaphore(MAX_AT_WORK)

    async def start(self) -> None:
        for run in await self._store.unfinished_runs():
            try:
                await (self._resume(run) if run.status == "queued" else self._lose(run))
            except Exception as error:
                logger.error("run %s could not be taken up after a restart", run.id, exc_info=error)

    async def close(self) -> None:
        """Stops working. What was queued is still queued for the next start; what was in progress ends as lost then."""
        tasks = [run.task for run in self._alive.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def submit(self, call: Call, chained: Chained, *, body: bytes) -> bytes:
        """Takes on a background response. Gives its first object, durable by then."""
        emitter = self._codec.emitter(call.request)
        emitted = emitter.queued(self._started(call))
        run = Run(call=call, chained=chained, emitter=emitter, log=RunLog())
        snapshot = _response_in(emitted[-1])
        request = RunRequest(
            body=body, model=call.request.model or "", request_id=call.request_id, session_id=call.session_id
        )
        stored = StoredRun(
            id=run.id,
            status="queued",
            request=msgspec.msgpack.encode(request),
            created_at=call.created_at,
            tenant=call.tenant,
        )
        events = _logged(emitted, first=0)
        await self._store.create_run(
            stored, stored_response(snapshot, chained, background=True), events, history=chained.history
        )
        run.log.publish(events)
        self._begin(run)
        return snapshot

    async def cancel(self, tenant: str, run_id: str) -> bool:
        """Ends a run as cancelled, durably, and stops its work. False if it was not alive (any more).

        Raises StoreError when the store will not take the end; the work has stopped all the same.
        """
        run = self._alive.get((tenant, run_id))
        if run is None:
            return False
        run.cancel()
        try:
            await asyncio.wait_for(run.over.wait(), CANCEL_WAIT_S)
        except TimeoutError:
            raise StoreError("the work has stopped, but its end could not be stored yet") from None
        return True

    async def events(self, tenant: str, run_id: str, *, after: int) -> AsyncIterator[Sequence[LoggedEvent]]:
        """The run's events after that sequence number, to the last: from the store what is past, then as they come."""
        run = self._alive.get((tenant, run_id))
        if run is None or after < run.log.first - 1:
            while events := await self._store.read_events(tenant, run_id, after=after, limit=PAGE):
                yield events
                after = events[-1].sequence_number
        if run is not None:
            async for events in run.log.read(after=after):
                yield events

    async def _resume(self, stored: StoredRun) -> None:
        """A run that was still queued when the server stopped."""
        try:
            run = await self._again(stored)
        except RequestError as error:  # what it continues has changed meanwhile: it cannot be answered any more
            run = await self._again(stored, alone=True)
            await self._end(run, ev.TurnFailed(error.info()), insist=False)
        else:
            self._begin(run)

    async def _lose(self, stored: StoredRun) -> None:
        """A run that was being answered when the server died: what it had said is kept, its open items are closed."""
        run = await self._again(stored, alone=True)
        emitter, started = run.emitter, self._started(run.call)
        decoder = ResponsesBackend().decoder(started, streamed=True)
        emitter.feed_events(started)
        after = -1
        while events := await self._store.read_events(stored.tenant, stored.id, after=after, limit=PAGE):
            after = events[-1].sequence_number
            for logged in events:
                for event in decoder.feed(self._codec.frame((logged.type, logged.data))):
                    if not isinstance(event, (ev.TurnStarted, *ev.TERMINALS)):
                        emitter.feed_events(event)
        emitter.sequence_number = stored.next_sequence
        await self._end(run, ev.TurnFailed(WORKER_LOST), insist=False)

    async def _again(self, stored: StoredRun, *, alone: bool = False) -> Run:
        """The run as it was before it began to be answered; `alone`: without its history, for one that has to end."""
        asked = _REQUEST.decode(stored.request)
        request = msgspec.structs.replace(self._codec.decode_request(asked.body), model=asked.model)
        take_up = self._chaining.alone if alone else self._chaining.again
        chained = await take_up(request, tenant=stored.tenant, response_id=stored.id)
        call = Call(
            request=chained.request,
            body=None,
            dialect=self._codec.name,
            turn_id=stored.id,
            created_at=stored.created_at,
            request_id=asked.request_id,
            tenant=stored.tenant,
            outcome=Outcome(),
            session_id=asked.session_id,
            own_ids=True,
            patient=True,
        )
        emitter = self._codec.emitter(chained.request)
        emitter.queued(self._started(call))
        return Run(call=call, chained=chained, emitter=emitter, log=RunLog(first=stored.next_sequence))

    def _started(self, call: Call) -> ev.TurnStarted:
        return ev.TurnStarted(call.turn_id, call.request.model or "", call.created_at)

    def _begin(self, run: Run) -> None:
        key = (run.call.tenant, run.id)
        self._alive[key] = run
        run.task = asyncio.create_task(self._work(run), name=f"run {run.id}")
        run.task.add_done_callback(lambda _: self._alive.pop(key, None))

    async def _work(self, run: Run) -> None:
        """Drives a run to its end. Only a stopping server leaves one without."""
        pump = _Pump(self._store, run)
        writing = asyncio.create_task(pump.write(), name=f"write {run.id}")
        run.answering = answering = asyncio.create_task(self._answer(run, pump), name=f"answer {run.id}")
        if run.cancelled:
            answering.cancel()
        try:
            await asyncio.wait({answering, writing}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():  # the run is gone, or the store has refused for long
                answering.cancel()
            await asyncio.wait({answering})
            pump.finish()
            await writing
            terminal = ev.TurnFailed(pump.failure.info()) if pump.failure else ev.TurnCancelled()
            await self._end(run, terminal if answering.cancelled() else answering.result(), before=pump.pending)
        finally:
            answering.cancel()
            writing.cancel()
            await asyncio.gather(answering, writing, return_exceptions=True)
            if run.answer is not None:
                await run.answer.aclose()

    async def _answer(self, run: Run, pump: "_Pump") -> ev.Terminal:
        """Has the run answered once there is a place. Gives the terminal event, which the end's transaction writes."""
        emitter, call = run.emitter, run.call
        try:
            async with self._places:
                first = emitter.sequence_number
                emitted = emitter.feed_events(self._started(call))
                snapshot = stored_response(_response_in(emitted[-1]), run.chained, background=True)
                await pump.start(snapshot, _logged(emitted, first=first))
                run.answer = await self._gateway.answer(call)
                return await self._pump_out(run.answer, emitter, pump)
        except TrunklineError as error:
            return ev.TurnFailed(error.info())
        except Exception as error:
            logger.error("run %s failed", run.id, exc_info=error)
            return ev.TurnFailed(InternalError(request_id=call.request_id).info())

    async def _pump_out(self, answer: Answer, emitter: ResponseEmitter, pump: "_Pump") -> ev.Terminal:
        async for batch in answer.event_batches():
            for event in batch:
                if isinstance(event, ev.TERMINALS):
                    return event
                if not isinstance(event, ev.TurnStarted):
                    first = emitter.sequence_number
                    pump.put(_logged(emitter.feed_events(event), first=first))
            await pump.room()
        return ev.TurnFailed(BackendUnavailable("the backend ended without a last event").info())

    async def _end(
        self, run: Run, terminal: ev.Terminal, *, before: Sequence[LoggedEvent] = (), insist: bool = True
    ) -> None:
        """The end in one transaction, with the events that are not stored yet; nothing if the run is gone.

        `insist`: it is tried until the store takes it, as a run without an end would say `in_progress` for ever.
        """
        emitter, call = run.emitter, run.call
        first = emitter.sequence_number
        events = [*before, *_logged(emitter.feed_events(terminal), first=first)]
        assert emitter.response is not None
        final = stored_response(emitter.response, run.chained, background=True)
        items = conversation_items(final, run.chained)
        ended = None
        while ended is None:
            try:
                ended = await _patiently(
                    lambda: self._store.append_events(call.tenant, run.id, events, final=final, items=items)
                )
            except StoreError as error:
                if not insist:
                    raise
                logger.error("the end of run %s could not be stored yet: %s", run.id, error.message)
        run.log.publish(events if ended else (), ended=True)
        run.over.set()


class _Pump:
    """From the emitter to the store: what has gathered while one transaction was written goes into the next.

    Attributes:
        pending: what is not stored yet, in order.
        failure: why the store takes nothing any more.
    """

    def __init__(self, store: Store, run: Run) -> None:
        self._store = store
        self._run = run
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._finished = False
        self._snapshot: StoredResponse | None = None
        self.pending: list[LoggedEvent] = []
        self.failure: StoreError | None = None

    async def start(self, snapshot: StoredResponse, events: Sequence[LoggedEvent]) -> None:
        """Says that the run has begun. Returns once that is stored: nothing may be asked of a backend before."""
        self._snapshot = snapshot
        self.put(events)
        await self._written.wait()

    def put(self, events: Sequence[LoggedEvent]) -> None:
        self.pending.extend(events)
        self._wake.set()

    async def room(self) -> None:
        """Returns once there is room for more."""
        while len(self.pending) >= MAX_PENDING:
            self._written.clear()
            await self._written.wait()

    def finish(self) -> None:
        self._finished = True
        self._wake.set()

    async def write(self) -> None:
        """Writes until finished, until the run is gone or until the store has refused for long."""
        while not (self._finished and not self.pending):
            await self._wake.wait()
            self._wake.clear()
            events = self.pending[:]
            if not events:
                continue
            try:
                if not await _patiently(lambda written=events: self._write(written)):  # type: ignore[misc]
                    return
            except StoreError as error:
                self.failure = error
                return
            self._snapshot = None
            del self.pending[: len(events)]
            self._run.log.publish(events)
            self._written.set()

    async def _write(self, events: Sequence[LoggedEvent]) -> bool:
        tenant, run_id = self._run.call.tenant, self._run.id
        if self._snapshot is not None:
            return await self._store.start_run(tenant, run_id, response=self._snapshot, events=events)
        return await self._store.append_events(tenant, run_id, events)


async def _patiently(write: Callable[[], Awaitable[bool]]) -> bool:
    """A full disk or a locked file passes: a run is worth waiting for. Raises StoreError when it does not."""
    for wait_s in RETRY_AFTER_S:
        try:
            return await write()
        except StoreError as error:
            logger.warning("a run's events could not be stored yet: %s", error.message)
            await asyncio.sleep(wait_s)
    return await write()


def _logged(emitted: Sequence[Emitted], *, first: int) -> list[LoggedEvent]:
    return [LoggedEvent(number, kind, data) for number, (kind, data) in enumerate(emitted, first)]


class _WithResponse(msgspec.Struct):
    response: msgspec.Raw


_WITH_RESPONSE = msgspec.json.Decoder(_WithResponse)
_REQUEST = msgspec.msgpack.Decoder(RunRequest)


def _response_in(emitted: Emitted) -> bytes:
    """The Response object of an event that carries one."""
    return bytes(_WITH_RESPONSE.decode(emitted[1]).response)
