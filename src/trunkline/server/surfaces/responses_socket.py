"""GET /v1/responses with an upgrade: responses over a WebSocket.

    response.create ──▶ its lane ──▶ prepared as over HTTP ──▶ the emitter's events, a text frame each
                                            └── an error before any content: one `error` event, and the connection stays

A turn that is not stored lives on its connection, and with it. Nothing is said twice: events go out as they are made, and a client
that does not read holds up its own lanes. When the client leaves, what is under way stops as it does over HTTP. When the server
leaves or the connection has lived its time, nothing new is taken, what is under way ends, and the connection closes with 1001.
"""

import asyncio
import logging
from collections.abc import Sequence

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send

from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.dialects.openai_responses.emitter import Emitted, ResponseEmitter
from trunkline.dialects.openai_responses.surface import failed_end
from trunkline.dialects.openai_responses.websocket import (
    CREATE,
    STEERING_NOT_SUPPORTED,
    Create,
    in_lane,
    read_create,
    read_members,
    read_stream_id,
    read_type,
    write_error_event,
    write_steer_failed,
)
from trunkline.engine.answer_size import AnswerSize
from trunkline.engine.chaining import Chained, HeldBytes, LocalHistories
from trunkline.engine.gateway import Answer
from trunkline.engine.recording import stored_response
from trunkline.model import events as ev
from trunkline.model.errors import InternalError, PayloadTooLarge, RequestError, TrunklineError, shutting_down
from trunkline.model.request import Request
from trunkline.ports.stores import Segment
from trunkline.server.accounting import account
from trunkline.server.cache_choice import cache_choice, choice_in_header
from trunkline.server.creation import Creation
from trunkline.server.exchange import Exchange, exchange_of
from trunkline.server.lanes import Lanes
from trunkline.server.runtime import ResponseState, Runtime
from trunkline.server.session import NO_SESSION, announce, session_of

LIMIT_S = 3600.0
GOING_AWAY = 1001
REASON_CHARACTERS = 100
_NOTHING = Request(model=None, items=())
"""Asked with the upgrade itself, which names a session for all that follows."""
_LEFT = ev.TurnIncomplete("client_disconnected")
logger = logging.getLogger("trunkline.server")


class ResponsesSocket:
    """Accepts connections. `limit_s`: how long one of them lives."""

    def __init__(
        self, runtime: Runtime, codec: ResponsesSurface, state: ResponseState, *, limit_s: float = LIMIT_S
    ) -> None:
        self.runtime = runtime
        self.codec = codec
        self.creation = Creation(runtime, codec, state)
        self.limit_s = limit_s
        self._held: dict[str, HeldBytes] = {}  # by tenant: what its connections keep together

    def histories(self, tenant: str) -> LocalHistories:
        """For one more connection."""
        return LocalHistories(together=self._held.setdefault(tenant, HeldBytes()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        choice_in_header(scope)  # a wrong one is refused here, where that is still a status
        session, _ = session_of(scope, _NOTHING, self.runtime)
        if session.id is not None:
            announce(exchange, self.runtime.profile, session.id, session.memory_key)
        if self.runtime.state.draining:
            raise shutting_down()
        await receive()  # websocket.connect
        try:
            await send({"type": "websocket.accept"})
        except OSError:
            exchange.outcome.error_code = "client_disconnected"
            return
        await Connection(self, scope, exchange, receive).serve()


class Connection:
    """One client's connection: reads what it asks, keeps its turns in their lanes, ends in order."""

    def __init__(self, surface: ResponsesSocket, scope: Scope, exchange: Exchange, receive: Receive) -> None:
        self._surface = surface
        self._runtime = surface.runtime
        self._exchange = exchange
        self._receive = receive
        self._send = exchange.send_body
        self._tasks = asyncio.TaskGroup()
        self._lanes = Lanes[Turn](
            self._tasks,
            self._answer,
            rested=self._close_if_idle,
            max_waiting_bytes=self._runtime.settings.max_body_bytes,
        )
        self._asked = 0
        self._ending: TrunklineError | None = None  # why nothing new is taken
        self._closing: asyncio.Task[None] | None = None
        self.scope = scope
        self.local = surface.histories(exchange.tenant)
        self.gone = False  # nobody reads any more

    async def serve(self) -> None:
        """Until the client leaves, or is left."""
        state = self._runtime.state
        state.connections.add(self)
        limit = asyncio.get_running_loop().call_later(self._surface.limit_s, self.expire)
        try:
            async with self._tasks:
                while (message := await self._receive())["type"] != "websocket.disconnect":
                    await self._take(message)
                self.gone = True
                self._lanes.abandon()
        except asyncio.CancelledError:
            await self._close(GOING_AWAY, "the server is shutting down")
            raise
        finally:
            limit.cancel()
            state.connections.discard(self)
            self.local.close()

    def drain(self) -> None:
        """The server leaves."""
        self._end(shutting_down())

    def expire(self) -> None:
        """The connection has lived its time."""
        minutes = f"{self._surface.limit_s / 60:g}"
        self._end(
            RequestError(
                f"Responses websocket connection limit reached ({minutes} minutes). "
                "Create a new websocket connection to continue.",
                code="websocket_connection_limit_reached",
            )
        )

    async def say(self, events: Sequence[Emitted], stream_id: str | None) -> None:
        for _, data in events:
            await self.say_one(in_lane(data, stream_id))

    async def say_one(self, data: bytes) -> None:
        """One frame; nothing where nobody reads it. Waits while the client does not keep up."""
        if self.gone:
            return
        try:
            await self._send({"type": "websocket.send", "text": data.decode()})
        except OSError:  # the connection is lost, and `receive` is about to say so
            self.gone = True

    def _asking(self) -> Exchange:
        """For what a client asks: an id of its own, derived from the connection's."""
        self._asked += 1
        asked = Exchange(
            request_id=f"{self._exchange.request_id}.{self._asked}",
            started_s=self._runtime.clock.monotonic_s(),
            send=self._send,
        )
        asked.tenant = self._exchange.tenant
        return asked

    def account(self, exchange: Exchange) -> None:
        account(self._runtime.accounts, exchange, method="WS", path="/v1/responses")

    async def refuse(self, error: TrunklineError, exchange: Exchange, stream_id: str | None) -> None:
        exchange.status = error.status
        exchange.outcome.error_code = error.code or error.type
        await self.say_one(write_error_event(error.info(), stream_id=stream_id))

    async def _take(self, message: Message) -> None:
        """One frame of the client. Whatever is wrong with it, the connection stays."""
        exchange, stream_id = self._asking(), None
        try:
            members = read_members(_data_of(message, limit_bytes=self._runtime.settings.max_body_bytes))
            stream_id = read_stream_id(members)
            if read_type(members) == CREATE:
                if self._ending is not None:
                    raise self._ending
                turn = Turn(self._surface, self, read_create(members), exchange, stream_id=stream_id)
                self._lanes.put(turn, name=stream_id)
                return
            await self.say_one(write_steer_failed(members, stream_id=stream_id))
            exchange.status, exchange.outcome.error_code = 400, STEERING_NOT_SUPPORTED
        except TrunklineError as error:
            await self.refuse(error, exchange, stream_id)
        self.account(exchange)

    async def _answer(self, turn: "Turn") -> None:
        await turn.run(instead=self._ending)

    def _end(self, why: TrunklineError) -> None:
        if self._ending is None:
            self._ending = why
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._ending is None or not self._lanes.idle:
            return
        if self._closing is None and not (self.gone or self._runtime.state.aborting):
            self._closing = self._tasks.create_task(self._say_why_and_close(self._ending), name="close")

    async def _say_why_and_close(self, why: TrunklineError) -> None:
        if isinstance(why, RequestError):
            await self.say_one(write_error_event(why.info(), stream_id=None))
        await self._close(GOING_AWAY, why.message)

    async def _close(self, code: int, reason: str) -> None:
        """`receive` says that the connection is closed when it is."""
        if self.gone:
            return
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": reason[:REASON_CHARACTERS]})
        except OSError:
            self.gone = True


class Turn:
    """One `response.create`, from its body to its last event."""

    def __init__(
        self,
        surface: ResponsesSocket,
        connection: Connection,
        create: Create,
        exchange: Exchange,
        *,
        stream_id: str | None,
    ) -> None:
        self._surface = surface
        self._connection = connection
        self._create = create
        self._cache: bool | None = None
        self._session = NO_SESSION
        self._exchange = exchange
        self._stream_id = stream_id
        self._previous_id: str | None = None
        self._chained: Chained | None = None
        self._emitter: ResponseEmitter | None = None
        self._answer: Answer | None = None
        self._stored = True
        self.size_bytes = len(create.body)

    @property
    def grace_s(self) -> float:
        return self._exchange.outcome.grace_s

    @property
    def _under_way(self) -> bool:
        """Whether there is an answer, and its end has not come."""
        return self._answer is not None and self._emitter is not None and self._emitter.response is None

    async def run(self, *, instead: TrunklineError | None) -> None:
        """Raises nothing but a cancellation. `instead`: why it is not answered any more."""
        try:
            if instead is not None:
                raise instead
            await self._run()
        except TrunklineError as error:
            await self._fail(error)
        except asyncio.CancelledError:
            await self._cut()
            raise
        except Exception as error:
            logger.error("answering failed, request %s", self._exchange.request_id, exc_info=error)
            await self._fail(InternalError(request_id=self._exchange.request_id))
        finally:
            self._connection.account(self._exchange)

    async def _run(self) -> None:
        surface, exchange = self._surface, self._exchange
        body, self._cache = cache_choice(self._connection.scope, self._create.body, surface.runtime.profile)
        create = self._create = Create(body, generate=self._create.generate)
        request = surface.codec.decode_request(create.body, needs_input=create.generate)
        self._session, request = session_of(self._connection.scope, request, surface.runtime)
        self._previous_id, self._stored = request.previous_response_id, request.store is not False
        exchange.outcome.stream = True
        with await surface.creation.turn(request, exchange.tenant):
            await self._respond(request)

    async def _respond(self, request: Request) -> None:
        surface, connection, exchange, create = self._surface, self._connection, self._exchange, self._create
        call, self._chained = await surface.creation.prepare(
            request,
            exchange,
            body=create.body,
            session=self._session,
            cache=self._cache,
            local=connection.local,
        )
        exchange.outcome.model = call.request.model
        self._emitter = surface.codec.emitter(call.request)
        if not create.generate:
            started = ev.TurnStarted(call.turn_id, call.request.model or "", call.created_at)
            await self._say((started, ev.TurnCompleted()))
            return
        size = AnswerSize()
        self._answer = answer = await surface.runtime.gateway.answer(call)
        try:
            async for batch in answer.event_batches():
                size.add(batch)
                await self._say(batch)
        finally:
            call.outcome.left = connection.gone
            await answer.aclose()

    async def _say(self, batch: Sequence[ev.Event]) -> None:
        """What these events make; the last ones once the whole is kept."""
        assert self._emitter is not None
        feed = self._emitter.feed_events
        emitted = feed(batch[0]) if len(batch) == 1 else [one for event in batch for one in feed(event)]
        if self._emitter.response is not None:
            if isinstance(batch[-1], ev.TurnFailed):
                self._evict()
            error = await self._keep(self._emitter.response)
            if error is not None:
                self._exchange.outcome.note(ev.TurnFailed(error.info()))
                emitted = [*emitted[:-1], failed_end(self._emitter, error.info())]
        self._exchange.status = 200
        await self._connection.say(emitted, self._stream_id)

    async def _keep(self, data: bytes) -> TrunklineError | None:
        """Keeps the final object where it can be continued. Gives the error of a store that does not take it."""
        assert self._chained is not None
        if self._stored:
            try:
                await self._surface.creation.recorder(self._exchange.tenant, self._chained)(data)
            except TrunklineError as error:
                return error
            return None
        ended = stored_response(data, self._chained)
        if ended.status in ("completed", "incomplete"):
            history = (*self._chained.history, Segment(ended.input, ended.output))
            self._connection.local.keep(ended.id, history, lane=self._stream_id)
        return None

    async def _fail(self, error: TrunklineError) -> None:
        """The event `error` before there is anything of the answer, `response.failed` after that."""
        self._evict()
        if not self._under_way:
            await self._connection.refuse(error, self._exchange, self._stream_id)
            return
        failed = ev.TurnFailed(error.info())
        self._exchange.outcome.note(failed)
        await self._say((failed,))

    async def _cut(self) -> None:
        """The client has left: what it would have got so far is kept. Or the server leaves, and says so."""
        if not self._connection.gone:
            await self._fail(shutting_down())
            return
        self._exchange.outcome.error_code = "client_disconnected"
        if not (self._stored and self._under_way):
            return
        assert self._emitter is not None
        self._emitter.feed_events(_LEFT)
        assert self._emitter.response is not None
        error = await self._keep(self._emitter.response)
        if error is not None:
            logger.error("request %s could not be kept: %s", self._exchange.request_id, error.message)

    def _evict(self) -> None:
        if self._previous_id is not None:
            self._connection.local.evict(self._previous_id, lane=self._stream_id)


def _data_of(message: Message, *, limit_bytes: int) -> bytes:
    """The JSON of a frame. Raises RequestError."""
    text = message.get("text")
    if text is None:
        size = len(message.get("bytes") or b"")
        raise RequestError(
            f"Expected a text frame with a JSON object, but got a binary frame of {size} bytes.", code="invalid_frame"
        )
    data: bytes = text.encode()
    if len(data) > limit_bytes:
        raise PayloadTooLarge(f"the frame is larger than the {limit_bytes} bytes this server accepts")
    return data


def routes(runtime: Runtime, codec: ResponsesSurface, state: ResponseState) -> list[BaseRoute]:
    sockets = ResponsesSocket(runtime, codec, state)
    return [
        WebSocketRoute("/v1/responses", sockets),
        WebSocketRoute("/v1/sessions/{session_id}/responses", sockets),
    ]
