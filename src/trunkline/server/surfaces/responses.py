"""POST /v1/responses: a turn answered at once, streamed or whole, or taken on as background work."""

from collections.abc import Callable

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.dialects.runs.create import Create, read_request, with_history
from trunkline.engine.call import Call, IdempotencyKey
from trunkline.engine.idempotency import Work
from trunkline.model.errors import InvalidParameter
from trunkline.model.turn import Turn
from trunkline.server.answering import Answerer, Record, outcome_headers
from trunkline.server.background import Asked, Background
from trunkline.server.body import read_body
from trunkline.server.cache_choice import cache_choice
from trunkline.server.creation import Creation
from trunkline.server.exchange import Exchange, exchange_of
from trunkline.server.json_response import send_json
from trunkline.server.keyed import answer_once, key_of
from trunkline.server.log_stream import stream_log
from trunkline.server.runtime import ResponseState, Runtime
from trunkline.server.session import session_of
from trunkline.telemetry.outcome import Outcome


class CreateResponse:
    """POST /v1/responses."""

    def __init__(self, runtime: Runtime, codec: ResponsesSurface, state: ResponseState) -> None:
        self._runtime = runtime
        self._codec = codec
        self._runs = state.runs
        self._creation = Creation(runtime, codec, state)
        self._background = Background(runtime, self._creation, state)
        self._answerer = self._answerer_for(codec)

    def _answerer_for(self, codec: ResponsesSurface) -> Answerer:
        runtime = self._runtime
        return Answerer(
            runtime.gateway,
            codec,
            keepalive_s=runtime.settings.keepalive_s,
            cut_is_incomplete=runtime.profile.cut_status == "incomplete",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime, exchange = self._runtime, exchange_of(scope)
        body = await read_body(scope, receive, limit_bytes=runtime.settings.max_body_bytes)
        body, cache = cache_choice(scope, body, runtime.profile)
        create = with_history(body) if runtime.profile.explicit_history else Create(body)
        request, body = read_request(create, self._codec), create.body
        if request.background and request.store is False:
            raise InvalidParameter(
                "'background' needs 'store': the answer is retrieved from there.", param="background"
            )
        session, request = session_of(scope, request, runtime)
        asked = Asked(
            request=request,
            body=body,
            session=session,
            cache=cache,
            key=key_of(scope, runtime, body),
        )
        if request.background:
            await self._in_background(asked, exchange, receive, send)
        elif asked.key is not None:
            await self._once(asked, asked.key, exchange, receive, send)
        else:
            await self._at_once(asked, exchange, receive, send)

    async def _at_once(self, asked: Asked, exchange: Exchange, receive: Receive, send: Send) -> None:
        turn = await self._creation.turn_or_leave(asked.request, exchange, receive)
        if turn is None:
            return
        with turn:
            call, record = await self._prepared(asked, exchange)
            if record is None:
                await self._answerer.respond(call, exchange, receive, send)
                return
            with self._creation.retrievable(call) as going_on:
                await self._answerer.respond(call, exchange, receive, send, record=record, going_on=going_on)

    async def _prepared(self, asked: Asked, exchange: Exchange) -> tuple[Call, Record | None]:
        call, chained = await self._creation.prepare(
            asked.request, exchange, body=asked.body, session=asked.session, cache=asked.cache
        )
        stored = asked.request.store is not False
        return call, self._creation.recorder(exchange.tenant, chained) if stored else None

    async def _once(self, asked: Asked, key: IdempotencyKey, exchange: Exchange, receive: Receive, send: Send) -> None:
        async def prepare(outcome: Outcome) -> Work:
            with await self._creation.turn(asked.request, exchange.tenant) as turn:
                call, record = await self._prepared(asked, exchange)

                async def keep(done: Turn, ended_s: float) -> None:
                    if record is not None:
                        await record(self._codec.at(lambda: ended_s).encode_turn(done, call.request))

                return Work(msgspec.structs.replace(call, outcome=outcome), keep, turn.pop_all())

        def answerer(now: Callable[[], float]) -> Answerer:
            return self._answerer_for(self._codec.at(now))

        await answer_once(
            self._runtime,
            key,
            self._creation.unprepared(asked.request, exchange, memory_key=asked.session.memory_key),
            prepare,
            exchange=exchange,
            receive=receive,
            send=send,
            answerer=answerer,
        )

    async def _in_background(self, asked: Asked, exchange: Exchange, receive: Receive, send: Send) -> None:
        taken = await self._background.take_on(asked, exchange, receive)
        if taken is None:
            return
        if asked.request.stream:
            frames = self._runs.frames(exchange.tenant, taken.id, after=-1)
            headers = outcome_headers(exchange.outcome)
            await stream_log(frames, self._runtime, exchange, receive, send, headers=headers)
        else:
            await send_json(taken.response, send, headers=outcome_headers(exchange.outcome))


def routes(runtime: Runtime, codec: ResponsesSurface, state: ResponseState) -> list[BaseRoute]:
    create = CreateResponse(runtime, codec, state)
    return [
        Route("/v1/responses", create, methods=["POST"]),
        Route("/v1/sessions/{session_id}/responses", create, methods=["POST"]),
    ]
