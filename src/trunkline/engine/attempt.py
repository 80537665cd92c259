"""One backend trying to answer one call: opened, guarded, held until something can be said, released in the end.

The guard is where backends are not trusted: their events walk the grammar, their time is limited, what they raise that is not
typed is a bug and says nothing to the client. The slot is given back once, after the work behind it has stopped.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType

import msgspec

from trunkline.engine.call import Call
from trunkline.engine.deadline import Deadline
from trunkline.engine.lighten import lightened
from trunkline.engine.stops import cut_at_stops
from trunkline.engine.truncation import CONTEXT_LENGTH_EXCEEDED, Truncation, truncation_for
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, BackendProtocolError, InternalError, TrunklineError, TurnFailure
from trunkline.model.grammar import Grammar
from trunkline.model.request import Request
from trunkline.ports.backend import Context, EventBatch, RelayAnswer, RelayBatch, TokenCounter, WholeRelay, stop
from trunkline.routing.balancer import Lease
from trunkline.telemetry.outcome import NOTED

CLOSE_TIMEOUT_S = 5.0
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
logger = logging.getLogger("trunkline.engine")


class Attempt:
    """Owns the slot it was given; `aclose` is the only way out. `source` opens what is no turn, and is relayed. `lightens`: what
    the model refuses may go; `left_out` names it."""

    def __init__(
        self,
        call: Call,
        lease: Lease,
        context: Context,
        *,
        source: Callable[[], Awaitable[RelayAnswer]] | None = None,
        lightens: bool = False,
    ) -> None:
        self.left_out: tuple[str, ...] = ()
        self.headers: Mapping[str, str] = _NO_HEADERS
        self._relay: AsyncIterator[RelayBatch] | None = None
        self._events: AsyncIterator[EventBatch] | None = None
        self._exhausted = False
        self._closed = False
        self._call = call
        self._source = source
        self._lease = lease
        self._endpoint = lease.endpoint
        self._context = context
        self._deadline = Deadline(lease.endpoint.deadlines, backend=lease.endpoint.label)
        self._held_relay: list[RelayBatch] = []
        self._held_events: list[EventBatch] = []
        self._request = call.request  # what the backend gets: the call's, or a shorter one
        self._lightens = lightens
        self._truncation = truncation_for(call.request, lightens=lightens)

    @property
    def relayed(self) -> bool:
        return self._relay is not None

    async def begin(self, *, may_relay: bool) -> None:
        """Opens the backend and reads until the first content or the end. Raises, with the slot released, if it fails before."""
        deadline = self._deadline
        try:
            if self._call.admitted is not None:
                await self._call.admitted()
            deadline.check()
            if self._truncation is not None:
                await self._fit(self._truncation)
            while not await self._start(may_relay=may_relay):
                pass
            deadline.waiting = False
        except TrunklineError as error:
            self._lease.failed(error)  # before the slot goes to the next, who should not walk into the same
            await self.aclose()
            raise
        except asyncio.CancelledError:  # too late, or the client left, or the server stops
            if not deadline.caught():
                await self.aclose()
                raise
            self._lease.failed(deadline.error())
            await self.aclose()
            raise deadline.error() from None
        except Exception as error:
            await self.aclose()
            raise self._bug(error) from error

    async def _fit(self, truncation: Truncation) -> None:
        """Leaves out what a backend that counts would find too long."""
        backend = self._endpoint.backend
        context_tokens = backend.capabilities.context_tokens
        if context_tokens is None or not isinstance(backend, TokenCounter):
            return
        counter, context = backend, self._context  # names that the closure can trust
        self._request = await truncation.fit(
            lambda request: counter.count_tokens(request, context), context_tokens=context_tokens
        )
        if truncation.dropped:
            self._log_dropped(truncation)

    async def _start(self, *, may_relay: bool) -> bool:
        """Opens the backend and holds what it says first. False: the request was refused, and now is shorter or lighter."""
        try:
            opening = self._opening(may_relay=may_relay)
            opened = self._endpoint.backend.open(self._request, self._context) if opening is None else await opening
            if isinstance(opened, RelayAnswer):
                self._relay, self.headers = opened.batches, opened.headers
                self._call.outcome.relayed = True
                await self._hold_relay(opened.batches)
            else:
                self._events = self._guarded(opened)
                await self._hold_events(self._events)
        except (BackendError, TurnFailure) as error:
            lighter = self._shorter(error) if error.code == CONTEXT_LENGTH_EXCEEDED else self._lighter(error)
            if lighter is None:
                raise
            await self._stop_source()
            self._relay = self._events = None
            self._held_relay, self._held_events = [], []
            self._request = lighter
            return False
        return True

    def _shorter(self, error: TrunklineError) -> Request | None:
        """The request without half of the older turns it still had. Where none can go, the error gets the client's own name."""
        shorter = None if self._truncation is None else self._truncation.halve()
        if self._truncation is not None and shorter is not None:
            self._log_dropped(self._truncation)
        elif self._request.places:
            error.param = self._request.places[-1].partition("[")[0]
        return shorter

    def _lighter(self, error: TrunklineError) -> Request | None:
        lighter = lightened(self._request, error) if self._lightens else None
        if lighter is None:
            return None
        request, name = lighter
        self.left_out = (*self.left_out, name)
        if self._truncation is not None:
            self._truncation = Truncation(request)
        self._context = msgspec.structs.replace(self._context, body=None)  # the client's own bytes still hold it
        return request

    def _log_dropped(self, truncation: Truncation) -> None:
        logger.info(
            "context too long for backend %s: left out the oldest %d of %d turns, request %s",
            self._endpoint.label,
            truncation.dropped,
            truncation.turns,
            self._context.request_id,
        )

    def _opening(self, *, may_relay: bool) -> Awaitable[RelayAnswer | AsyncIterator[EventBatch]] | None:
        """What opens an answer that may be relayed; None where it cannot be."""
        if self._source is not None:
            return self._source()
        relay = self._endpoint.relay
        if may_relay and relay is not None and relay.relay_dialect == self._call.dialect:
            return relay.relay(self._request, self._context)
        return None

    def _guarded(self, events: AsyncIterator[EventBatch]) -> AsyncIterator[EventBatch]:
        guarded, request = self._guard(events), self._request
        if request.stop and not self._endpoint.backend.capabilities.applies_stop:
            return cut_at_stops(guarded, request.stop, choices=request.n)
        return guarded

    async def _hold_relay(self, batches: AsyncIterator[RelayBatch]) -> None:
        if isinstance(batches, WholeRelay):
            _raise_failure(batches.batch.events)
            self._note(batches.batch.events)
            self._exhausted = True  # of what may fail; what is left has only to be handed on
            self._first_content()
            return
        async for batch in batches:
            if not batch.content:
                _raise_failure(batch.events)
            self._note(batch.events)
            self._held_relay.append(batch)
            if batch.content or any(isinstance(event, ev.TERMINALS) for event in batch.events):
                self._first_content()
                return
        raise BackendProtocolError(f"backend {self._endpoint.label!r} ended its answer without a word")

    async def _hold_events(self, batches: AsyncIterator[EventBatch]) -> None:
        async for batch in batches:
            content = any(isinstance(event, ev.CONTENT) for event in batch)
            if not content:
                _raise_failure(batch)
            self._note(batch)
            self._held_events.append(batch)
            if content or any(isinstance(event, ev.TERMINALS) for event in batch):
                self._first_content()
                return
        raise BackendProtocolError(f"backend {self._endpoint.label!r} ended its answer without a terminal event")

    def relay_batches(self) -> AsyncIterator[RelayBatch]:
        """Bytes for the client. A failure is a last batch with TurnFailed and no bytes."""
        assert self._relay is not None
        return self._relay if self._exhausted else self._guarded_relay(self._relay)

    async def _guarded_relay(self, relay: AsyncIterator[RelayBatch]) -> AsyncIterator[RelayBatch]:
        deadline = self._deadline
        held, self._held_relay = self._held_relay, []
        for batch in held:
            yield batch
        try:
            deadline.check()
            async for batch in relay:
                deadline.waiting = False
                if batch.events:
                    self._note(batch.events)
                yield batch
                deadline.check()
            self._exhausted = True
        except asyncio.CancelledError:
            if not deadline.caught():
                raise
            yield RelayBatch(b"", (self._failed(deadline.error()),))
        except TrunklineError as error:
            yield RelayBatch(b"", (self._failed(error),))
        except Exception as error:  # noqa: BLE001 - a backend's bug must end the stream honestly, not the server
            yield RelayBatch(b"", (self._failed(self._bug(error)),))

    async def event_batches(self) -> AsyncIterator[EventBatch]:
        """Events up to the one terminal event."""
        assert self._events is not None
        deadline = self._deadline
        held, self._held_events = self._held_events, []
        for batch in held:
            yield batch
        try:
            deadline.check()
            async for batch in self._events:
                deadline.waiting = False
                self._note(batch)
                yield batch
                deadline.check()
            self._exhausted = True
        except asyncio.CancelledError:
            if not deadline.caught():
                raise
            yield (self._failed(deadline.error()),)
        except TrunklineError as error:
            yield (self._failed(error),)
        except Exception as error:  # noqa: BLE001 - a backend's bug must end the stream honestly, not the server
            yield (self._failed(self._bug(error)),)

    async def aclose(self) -> None:
        """Stops the backend's work and gives the slot back."""
        if self._closed:
            return
        self._closed = True
        self._deadline.cancel()
        try:
            if not self._exhausted:
                await self._stop_source()
        except TimeoutError:
            logger.error("backend %s did not stop within %g s of being told to", self._endpoint.label, CLOSE_TIMEOUT_S)
        except Exception as error:
            logger.error("backend %s failed while it was stopped", self._endpoint.label, exc_info=error)
        finally:
            self._lease.release()

    async def _stop_source(self) -> None:
        source = self._relay or self._events
        if source is not None:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await stop(source)

    async def _guard(self, batches: AsyncIterator[EventBatch]) -> AsyncIterator[EventBatch]:
        grammar = Grammar()
        check = grammar.feed
        try:
            async for batch in batches:
                for event in batch:
                    check(event)
                if self._call.own_ids and batch and isinstance(batch[0], ev.TurnStarted):
                    yield self._renamed(batch)
                elif batch:
                    yield batch
                if grammar.ended:
                    return
        finally:
            await stop(batches)
        raise BackendProtocolError(f"backend {self._endpoint.label!r} ended its answer without a terminal event")

    def _renamed(self, batch: EventBatch) -> EventBatch:
        """A first batch under the call's own identity."""
        started = batch[0]
        assert isinstance(started, ev.TurnStarted)
        return [ev.TurnStarted(self._call.turn_id, started.model, self._call.created_at), *batch[1:]]

    def _note(self, batch: EventBatch) -> None:
        outcome = self._call.outcome
        for event in batch:
            if type(event) in NOTED:
                outcome.note(event)
                if type(event) is ev.TurnFailed:
                    self._lease.failed(TurnFailure(event.error))

    def _first_content(self) -> None:
        self._lease.succeeded()
        self._call.outcome.first_content_s = self._context.clock.monotonic_s()

    def _failed(self, error: TrunklineError) -> ev.TurnFailed:
        failed = ev.TurnFailed(error.info())
        self._lease.failed(error)
        self._call.outcome.note(failed)
        return failed

    def _bug(self, error: Exception) -> InternalError:
        logger.error("backend %s raised, request %s", self._endpoint.label, self._context.request_id, exc_info=error)
        return InternalError(request_id=self._context.request_id)


def _raise_failure(batch: EventBatch) -> None:
    for event in batch:
        if isinstance(event, ev.TurnFailed):
            raise TurnFailure(event.error)
