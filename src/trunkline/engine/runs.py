"""Work that outlives its request: background responses, which are runs too.

    queued ── a slot ──▶ in_progress ── the backend's last event ──▶ completed | incomplete | failed
      ▲└──────────────── cancel ─────────────────┴──▶ cancelled
      └── the server left or was lost, and the backend restarts ──┘

One task works on a run. It writes what its emitter says to the store, several events to a transaction, and shows it to readers only
then. The end is one transaction: the last event, the final object and the status; whoever comes second, a cancel or the worker,
finds the run ended and stops.

A server that is told to leave begins no run any more. What is being answered has the same grace as any answer; then it ends as
`worker_lost`, before the process does. After a crash the next start does that (decision 44). A backend with `on_lost = "restart"`
has such a run answered again. That a server was told to leave is not the run's failure; but it may be lost with its server
MAX_RESTARTS times at most, as a run that kills its server must not do so for ever. A run that does not let go of its work before
the server has to is lost, too.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from functools import partial

import msgspec

from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.dialects.openai_responses.emitter import Emitted, ResponseEmitter
from trunkline.engine.answer_size import AnswerSize
from trunkline.engine.call import Call
from trunkline.engine.chaining import Chained, Chaining
from trunkline.engine.gateway import Answer, Gateway
from trunkline.engine.idempotency import keyed_answer
from trunkline.engine.recording import conversation_items, response_in, stored_response
from trunkline.engine.run_log import FrameOf, Frames, LogPages, RunLog, follow
from trunkline.engine.run_pump import Pump, patiently
from trunkline.engine.run_replay import Replayed, give_up, replay, shifted
from trunkline.engine.run_request import rebuilt, written
from trunkline.engine.run_room import MAX_RUNS, RunRoom
from trunkline.model import events as ev
from trunkline.model.errors import (
    BackendUnavailable,
    ErrorInfo,
    InternalError,
    RequestError,
    StoreError,
    TrunklineError,
    shutting_down,
)
from trunkline.ports.runtime import Clock
from trunkline.ports.stores import LoggedEvent, Store, StoredRun
from trunkline.telemetry.accounts import Accounts
from trunkline.telemetry.logs import logfields
from trunkline.telemetry.outcome import Outcome

MAX_RESTARTS = 3
CANCEL_WAIT_S = 10.0
_CANCELLED = ev.TurnCancelled()
CLOSE_WAIT_S = 10.0
logger = logging.getLogger("trunkline.runs")


class Run:
    """A run being worked on, or about to be.

    Attributes:
        attempt: which time it is answered; 1 unless its worker was lost before.
        shift: how far its items stand behind those of earlier attempts.
        held_bytes: about what it keeps in memory before it begins.
        task: drives the run to its end; only a stopping server cancels it.
        answering: the part of it that waits for a slot and for the backend; a stop cancels that.
        begun: whether it is in progress; before that it is queued.
        left: whether it has been let go, for the next start.
        stopped: the end that whoever stopped the work wants for it.
        over: set when the end is durable.
        turn: its turn in its conversation; closed when its work has ended.
    """

    def __init__(
        self, *, call: Call, chained: Chained, emitter: ResponseEmitter, log: RunLog, backend: str, started_s: float
    ) -> None:
        self.call = call
        self.chained = chained
        self.emitter = emitter
        self.log = log
        self.backend = backend
        self.started_s = started_s
        self.attempt = 1
        self.shift = 0
        self.held_bytes = _held_bytes(chained, call.body or b"")
        self.task: asyncio.Task[None] | None = None
        self.answering: asyncio.Task[ev.Terminal] | None = None
        self.answer: Answer | None = None
        self.begun = False
        self.left = False
        self.stopped: ev.Terminal | None = None
        self.over = asyncio.Event()
        self.turn = contextlib.ExitStack()

    @property
    def id(self) -> str:
        return self.call.turn_id

    @property
    def stopping(self) -> bool:
        """Whether it has been stopped and its end is still to come."""
        return self.stopped is not None and not self.over.is_set()

    def stop(self, terminal: ev.Terminal = _CANCELLED) -> None:
        """Stops the work, once; the end that says so follows."""
        if self.stopped is None:
            self.stopped = terminal
            self.call.outcome.left = not isinstance(terminal, ev.TurnFailed)
            if self.answering is not None:
                self.answering.cancel()

    def leave(self) -> None:
        """Lets go of the run as it is, for the next start. Readers come to the end of what there is."""
        self.left = True
        if self.task is not None:
            self.task.cancel()
        self.log.publish(ended=True)


class Runs:
    """All runs of this process. `start` deals with those that an earlier process left, `close` lets go of all."""

    def __init__(
        self,
        store: Store,
        gateway: Gateway,
        chaining: Chaining,
        codec: ResponsesSurface,
        *,
        accounts: Accounts,
        clock: Clock,
        max_runs: int = MAX_RUNS,
    ) -> None:
        self._store = store
        self._gateway = gateway
        self._chaining = chaining
        self._codec = codec
        self._accounts = accounts
        self._clock = clock
        self._pages = LogPages(store)
        self._alive: dict[tuple[str, str], Run] = {}
        self._room = RunRoom(max_runs=max_runs)
        self._draining = False

    @property
    def answered(self) -> int:
        """How many are being answered."""
        return sum([run.begun and not run.left for run in self._alive.values()])

    async def start(self) -> None:
        for stored in await self._store.unfinished_runs():
            for deal_with in (self._take_up, partial(give_up, self._store, self._codec, self._clock)):
                try:
                    await deal_with(stored)
                except StoreError as error:  # which may pass until the next start
                    logger.error("run %s could not be taken up after a restart: %s", stored.id, error.message)
                except Exception as error:
                    logger.error("run %s could not be taken up after a restart", stored.id, exc_info=error)
                    continue
                break

    def drain(self) -> None:
        """The server leaves: what is queued stays so for the next start, what is being answered goes on."""
        self._draining = True
        for run in list(self._alive.values()):
            if not run.begun and run.stopped is None:
                run.leave()

    def let_go(self, tenant: str, run_id: str) -> bool:
        """Leaves a run that waits for a person who cannot be there any more, if it is answered again after the restart, and so
        asks again. The rest of the grace would change nothing for it."""
        run = self._alive.get((tenant, run_id))
        if run is None or run.stopped is not None or not self._gateway.restarts(run.backend):
            return False
        if not run.left:
            logger.warning("run %s waits for an answer and is left for the next start, which asks again", run.id)
            run.leave()
        return True

    def abort(self) -> None:
        """The time to finish is over: what is being answered ends as lost, or is left in progress to be answered again."""
        for run in list(self._alive.values()):
            if run.left or run.stopped is not None:
                continue
            if self._gateway.restarts(run.backend):
                run.leave()
            else:
                run.stop(ev.TurnFailed(_worker_lost(run.attempt)))

    async def close(self) -> None:
        """Ends what is left, durably where the store takes it in time."""
        self.drain()
        self.abort()
        tasks = [run.task for run in self._alive.values() if run.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_WAIT_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def submit(self, call: Call, chained: Chained, *, body: bytes, turn: contextlib.ExitStack) -> bytes:
        """Takes on a background response. Gives its first object, durable by then. `turn` is over when the run is.

        Raises RateLimited when as many are waiting or being answered as this process holds.
        """
        backend = await self._gateway.first_choice(call.request.model or "")
        outcome = Outcome()  # of its own: the request that brings a run ends before it
        outcome.model, outcome.stream = call.request.model, call.request.stream
        run = self._run(
            msgspec.structs.replace(call, outcome=outcome),
            chained,
            backend=backend,
            emitter=self._codec.emitter(call.request),
        )
        if self._draining:
            raise shutting_down()
        self._room.check(call.tenant, run.held_bytes)
        emitted = run.emitter.queued(_started(call))
        snapshot = response_in(emitted[-1][1])
        stored = StoredRun(
            id=run.id,
            status="queued",
            request=written(call, body, backend=backend),
            created_at=call.created_at,
            tenant=call.tenant,
        )
        events = _logged(emitted, self._clock, first=0)
        self._room.take(call.tenant, run.held_bytes)
        with contextlib.ExitStack() as not_taken:
            not_taken.callback(self._room.give_back, call.tenant, run.held_bytes)
            await self._store.create_run(
                stored,
                stored_response(snapshot, chained, background=True),
                events,
                history=chained.history,
                keyed=None if call.idempotency_key is None else keyed_answer(call.idempotency_key, call),
            )
            not_taken.pop_all()
        run.log.publish(Frames(run.id, events))
        run.turn = turn.pop_all()
        self._begin(run)
        return snapshot

    async def cancel(self, tenant: str, run_id: str, *, end: ev.Terminal = _CANCELLED) -> bool:
        """Ends a run, durably, and stops its work. False if it was not alive (any more).

        Raises StoreError when the store will not take the end; the work has stopped all the same.
        """
        run = self._alive.get((tenant, run_id))
        if run is None:
            return False
        run.stop(end)
        try:
            await asyncio.wait_for(run.over.wait(), CANCEL_WAIT_S)
        except TimeoutError:
            raise StoreError("the work has stopped, but its end could not be stored yet") from None
        return True

    def alive(self, tenant: str) -> list[Run]:
        """A tenant's runs that have not ended."""
        return [run for run in self._alive.values() if run.call.tenant == tenant]

    def find(self, tenant: str, run_id: str) -> Run | None:
        """The run, if it is alive."""
        return self._alive.get((tenant, run_id))

    def forget(self, tenant: str, run_id: str) -> None:
        """The run has been deleted."""
        self._pages.forget(tenant, run_id)

    async def has_events(self, tenant: str, run_id: str) -> bool:
        """Whether its log is there: it goes before the response does, where runs are kept for a shorter time."""
        if (tenant, run_id) in self._alive:
            return True
        return await self._pages.read(tenant, run_id, after=-1, growing=False) is not None

    def frames(self, tenant: str, run_id: str, *, after: int, frame: FrameOf | None = None) -> AsyncIterator[bytes]:
        """The run's events after that sequence number as frames, to the last: what is past, then as they come. `frame`: for
        readers of another kind than a response's."""
        run = self._alive.get((tenant, run_id))
        log = None if run is None else run.log
        return follow(self._pages, log, tenant, run_id, after=after, frame=frame or self._frame)

    # After a restart

    async def _take_up(self, stored: StoredRun) -> None:
        await (self._resume(stored) if stored.status == "queued" else self._lost(stored))

    async def _resume(self, stored: StoredRun) -> None:
        """A run that was queued when the server stopped."""
        refused: RequestError | None = None
        try:
            run = await self._again(stored)
        except RequestError as error:  # what it continues has changed meanwhile: it cannot be answered any more
            run, refused = await self._again(stored, alone=True), error
        with contextlib.ExitStack() as not_begun:
            not_begun.push(run.turn)  # others of its conversation wait for it
            _go_on(run, await replay(self._store, self._codec, stored, run.call.request, _started(run.call)))
            if refused is None:
                not_begun.pop_all()
                self._room.take(stored.tenant, run.held_bytes)
                self._begin(run)
            else:
                await self._end(run, ev.TurnFailed(refused.info()), insist=False)

    async def _lost(self, stored: StoredRun) -> None:
        """A run that was being answered when the server died: what it had said is kept, its open items are closed."""
        run = await self._again(stored, alone=True)
        said = await replay(self._store, self._codec, stored, run.call.request, _started(run.call))
        run.emitter = said.emitter
        lost = said.attempts - stored.stops
        if lost > MAX_RESTARTS or not self._gateway.restarts(run.backend):
            await self._end(run, ev.TurnFailed(_worker_lost(said.attempts)), insist=False)
            return
        try:
            fresh = await self._again(stored)
        except RequestError as error:
            await self._end(run, ev.TurnFailed(error.info()), insist=False)
            return
        first = said.emitter.sequence_number
        closing = said.emitter.cut()
        _go_on(fresh, said)
        emitted = [*closing, *fresh.emitter.queued(_started(fresh.call), again=True)]
        snapshot = stored_response(response_in(emitted[-1][1]), fresh.chained, background=True)
        events = _logged(emitted, self._clock, first=first)
        with contextlib.ExitStack() as not_begun:
            not_begun.push(fresh.turn)
            if await self._store.requeue_run(stored.tenant, stored.id, response=snapshot, events=events):
                not_begun.pop_all()
                logger.warning("run %s has lost its worker and is run again, attempt %d", stored.id, fresh.attempt)
                fresh.log = RunLog(first=fresh.emitter.sequence_number)
                self._room.take(stored.tenant, fresh.held_bytes)
                self._begin(fresh)

    async def _again(self, stored: StoredRun, *, alone: bool = False) -> Run:
        """The run as it was before it began to be answered; `alone`: without its history, for one that has to end."""
        again = await rebuilt(self._chaining, self._codec, stored, alone=alone)
        emitter = self._codec.emitter(again.call.request)
        emitter.queued(_started(again.call))
        run = self._run(again.call, again.chained, backend=again.backend, emitter=emitter, first=stored.next_sequence)
        run.turn = again.turn
        return run

    def _run(self, call: Call, chained: Chained, *, backend: str, emitter: ResponseEmitter, first: int = 0) -> Run:
        return Run(
            call=call,
            chained=chained,
            emitter=emitter,
            log=RunLog(first=first),
            backend=backend,
            started_s=self._clock.monotonic_s(),
        )

    # The work

    def _begin(self, run: Run) -> None:
        """The run is alive from now on, unless the server has been told to leave meanwhile: then it stays queued."""
        if self._draining:
            self._room.give_back(run.call.tenant, run.held_bytes)
            run.turn.close()
            run.leave()
            return
        key = (run.call.tenant, run.id)
        self._alive[key] = run
        run.task = asyncio.create_task(self._work(run), name=f"run {run.id}")
        run.task.add_done_callback(lambda _: self._over(key))

    def _over(self, key: tuple[str, str]) -> None:
        run = self._alive.pop(key)
        run.turn.close()
        self._room.give_back(run.call.tenant, run.held_bytes)

    async def _work(self, run: Run) -> None:
        """Drives a run to its end. Only a stopping server leaves one without."""
        first = run.emitter.sequence_number
        pump = Pump(self._store, run.log, self._clock, tenant=run.call.tenant, run_id=run.id, first=first)
        writing = asyncio.create_task(pump.write(), name=f"write {run.id}")
        run.answering = answering = asyncio.create_task(self._answer(run, pump), name=f"answer {run.id}")
        if run.stopped is not None:
            answering.cancel()
        try:
            await asyncio.wait({answering, writing}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():  # the run is gone, or the store has refused for long
                answering.cancel()
            await asyncio.wait({answering})
            pump.finish()
            await writing
            stopped = ev.TurnFailed(pump.failure.info()) if pump.failure else run.stopped or ev.TurnCancelled()
            await self._end(run, stopped if answering.cancelled() else answering.result(), before=pump.pending)
        finally:
            answering.cancel()
            writing.cancel()
            await asyncio.gather(answering, writing, return_exceptions=True)
            if run.answer is not None:
                await run.answer.aclose()
            if run.left and run.begun:
                await _note_stop(self._store, run)

    async def _answer(self, run: Run, pump: Pump) -> ev.Terminal:
        """Has the run answered once there is a slot. Gives the terminal event, which the end's transaction writes."""
        try:
            call = msgspec.structs.replace(run.call, admitted=partial(self._admitted, run, pump))
            run.answer = await self._gateway.answer(call)
            return await self._pump_out(run, run.answer, pump)
        except TrunklineError as error:
            return ev.TurnFailed(error.info())
        except Exception as error:
            logger.error("run %s failed", run.id, exc_info=error)
            run.emitter.sequence_number = pump.next_number  # no end could follow what was numbered and not written
            return ev.TurnFailed(InternalError(request_id=run.call.request_id).info())

    async def _admitted(self, run: Run, pump: Pump) -> None:
        """A backend has a slot for it: from queued to in progress, once."""
        if run.begun:
            return
        run.begun = True
        emitted = run.emitter.feed_events(_started(run.call))
        snapshot = stored_response(response_in(emitted[-1][1]), run.chained, background=True)
        await pump.start(snapshot, emitted)

    async def _pump_out(self, run: Run, answer: Answer, pump: Pump) -> ev.Terminal:
        emitter, size, shift = run.emitter, AnswerSize(), run.shift
        async for batch in answer.event_batches():
            size.add(batch)
            for event in batch:
                if isinstance(event, ev.TERMINALS):
                    return event
                if not isinstance(event, ev.TurnStarted):
                    pump.put(emitter.feed_events(shifted(event, shift) if shift else event))
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
        events = [*before, *_logged(emitter.feed_events(terminal), self._clock, first=first)]
        assert emitter.response is not None
        final = stored_response(emitter.response, run.chained, background=True)
        items = conversation_items(final, run.chained)
        cut = terminal == ev.TurnIncomplete("cancelled")  # a profile's word for it, which the response has
        write = partial(self._store.append_events, final=final, status="cancelled" if cut else None, items=items)
        ended = None
        while ended is None:
            try:
                ended = await patiently(lambda: write(call.tenant, run.id, events))
            except StoreError as error:
                if not insist:
                    raise
                logger.error("the end of run %s could not be stored yet: %s", run.id, error.message)
        run.turn.close()  # before anybody who reads the end can go on from it
        run.log.publish(Frames(run.id, events) if ended else None, ended=True)
        run.over.set()
        call.outcome.note(terminal)
        fields = logfields({"id": call.request_id, "response": run.id, "status": final.status if ended else "deleted"})
        self._accounts.add("run", fields, call.outcome, tenant=call.tenant, started_s=run.started_s)

    def _frame(self, run_id: str, event: LoggedEvent) -> bytes:
        """As a response's reader gets it. The number is the SSE id, so that a client that reconnects resumes by itself."""
        return b"id: %d\n%b" % (event.sequence_number, self._codec.frame((event.type, event.data)))


async def _note_stop(store: Store, run: Run) -> None:
    """Its work has let go, so it is not lost with this server."""
    try:
        await store.note_stop(run.call.tenant, run.id)
    except StoreError as error:
        logger.warning("run %s is left for the next start, and counts as lost: %s", run.id, error.message)


def _go_on(run: Run, said: Replayed) -> None:
    """The run as a further attempt after what its log says, if that says of any."""
    run.attempt = said.attempts + 1
    run.emitter.next_output = said.emitter.next_output
    run.emitter.sequence_number = said.emitter.sequence_number
    run.shift = said.emitter.sequence_number if said.attempts else 0


def _started(call: Call) -> ev.TurnStarted:
    return ev.TurnStarted(call.turn_id, call.request.model or "", call.created_at)


def _logged(emitted: Sequence[Emitted], clock: Clock, *, first: int) -> list[LoggedEvent]:
    now_s = clock.now_s()
    return [LoggedEvent(number, kind, data, now_s) for number, (kind, data) in enumerate(emitted, first)]


def _worker_lost(attempts: int) -> ErrorInfo:
    times = f", {attempts} times" if attempts > 1 else ""
    return ErrorInfo(
        message=f"the server was stopped while it worked on this response{times}",
        type="server_error",
        code="worker_lost",
    )


def _held_bytes(chained: Chained, body: bytes) -> int:
    """About what a waiting run keeps in memory: its body, and the history before it."""
    history = sum(len(turn.input) + len(turn.output) for turn in chained.history)
    if chained.conversation_id is not None:  # its items have been read and are not kept as they were
        history = len(msgspec.json.encode(chained.request.items))
    return len(body) + history
