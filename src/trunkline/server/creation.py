"""From a client's request for a response to a call with its history: the same over HTTP and over a WebSocket."""

import contextlib
from collections.abc import Callable, Iterator

import msgspec
from starlette.types import Receive

from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.dialects.openai_responses.write_items import check_calls
from trunkline.engine.call import Call
from trunkline.engine.chaining import Chained, LocalHistories
from trunkline.engine.recording import conversation_items, response_in, stored_response
from trunkline.model import events as ev
from trunkline.model.errors import ModelNotFound, NotFound, RequestError, TrunklineError
from trunkline.model.ids import new_id
from trunkline.model.request import Request
from trunkline.server.answering import Record
from trunkline.server.disconnect import DisconnectWatch
from trunkline.server.exchange import Exchange
from trunkline.server.runtime import ResponseState, Runtime
from trunkline.server.session import NO_SESSION, Session, announce, derived_id


class Creation:
    """Prepares responses, and keeps them."""

    def __init__(self, runtime: Runtime, codec: ResponsesSurface, state: ResponseState) -> None:
        self._runtime = runtime
        self._codec = codec
        self._state = state

    async def turn(self, request: Request, tenant: str) -> contextlib.ExitStack:
        """From before it is prepared until it is kept: others of its conversation wait meanwhile. Raises RateLimited."""
        if request.conversation is None or request.store is False:
            return contextlib.ExitStack()
        return await self._state.chaining.turns.take(tenant, request.conversation, briefly=request.background)

    async def turn_or_leave(
        self, request: Request, exchange: Exchange, receive: Receive
    ) -> contextlib.ExitStack | None:
        """The same for an HTTP request; None for a client that has left while it waited."""
        if request.conversation is None:
            return contextlib.ExitStack()
        with DisconnectWatch(receive, exchange.outcome):
            return await self.turn(request, exchange.tenant)
        return None

    async def prepare(
        self,
        request: Request,
        exchange: Exchange,
        *,
        body: bytes,
        session: Session = NO_SESSION,
        cache: bool | None = None,
        local: LocalHistories | None = None,
    ) -> tuple[Call, Chained]:
        """The call, checked as far as can be before it is answered. Its session is in the answer's headers from then on.

        Args:
            session: what the client said of it.
            local: histories that are in no store.

        Raises:
            RequestError
        """
        runtime = self._runtime
        if request.model is None:
            request = msgspec.structs.replace(request, model=runtime.router.choose(None))
        response_id = new_id("resp_", runtime.entropy)
        missing = NotFound if runtime.profile.unknown_reference_status == 404 else RequestError
        try:
            chained = await self._state.chaining.prepare(
                request, tenant=exchange.tenant, response_id=response_id, local=local, whole=session.id is None
            )
        except RequestError as error:  # decision 28
            if error.code != "previous_response_not_found":
                raise
            raise missing(error.message, code=error.code, param=error.param) from None
        session_id = session.id or chained.session_id or derived_id(chained.request)
        chained = msgspec.structs.replace(chained, session_id=session_id)
        announce(exchange, runtime.profile, session_id, session.memory_key)
        call = Call(
            request=chained.request,
            body=body,
            own_items=request.items,
            dialect=self._codec.name,
            turn_id=response_id,
            created_at=int(runtime.clock.now_s()),
            request_id=exchange.request_id,
            tenant=exchange.tenant,
            outcome=exchange.outcome,
            session_id=session_id,
            session_named=session.id is not None,
            memory_key=session.memory_key,
            own_ids=True,
            patient=request.background,
            cache=cache,
            shows_approvals=self._codec.shows_approvals(chained.request),
        )
        try:
            await self._check(call)
        except ModelNotFound as error:  # decision 12: 404 on chat
            raise missing(error.message, code=error.code, param="model") from None
        return call, chained

    async def _check(self, call: Call) -> None:
        model, gateway = call.request.model or "", self._runtime.gateway
        if call.patient:  # answered later, when nobody is there to be refused
            call.outcome.ignored = await gateway.check(call)
        else:
            await self._runtime.router.resolve(model)
        if call.session_named and not await gateway.keeps_sessions(model):
            check_calls(call.request.items)  # otherwise that is done once the session's history is there

    async def unused(self, request: Request, model: str, exchange: Exchange) -> tuple[str, ...]:
        """What of a request that was taken on before is ignored."""
        call = self.unprepared(msgspec.structs.replace(request, model=model), exchange)
        with contextlib.suppress(TrunklineError):  # it would be refused by now
            return await self._runtime.gateway.check(call)
        return ()

    def unprepared(self, request: Request, exchange: Exchange, *, memory_key: str | None = None) -> Call:
        """A call for what another call answers, or has answered: without an id and a time of its own, and without its history."""
        return Call(
            request=request,
            body=None,
            dialect=self._codec.name,
            turn_id="",
            created_at=0,
            request_id=exchange.request_id,
            tenant=exchange.tenant,
            outcome=exchange.outcome,
            memory_key=memory_key,
        )

    @contextlib.contextmanager
    def retrievable(self, call: Call) -> Iterator[Callable[[], None]]:
        """Around the answering of what is stored at its end. From when what this gives is called, it is found as it stands."""
        key = (call.tenant, call.turn_id)

        def going_on() -> None:
            started = ev.TurnStarted(call.turn_id, call.request.model or "", call.created_at)
            begun = self._codec.emitter(call.request).feed_events(started)
            self._state.unattended[key] = response_in(begun[-1][1])

        try:
            yield going_on
        finally:
            self._state.unattended.pop(key, None)

    def recorder(self, tenant: str, chained: Chained) -> Record:
        """Keeps the final object of that response."""

        async def record(data: bytes) -> None:
            response = stored_response(data, chained)
            items = conversation_items(response, chained)
            await self._state.store.save_response(tenant, response, history=chained.history, items=items)

        return record
