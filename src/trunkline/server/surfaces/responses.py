"""POST /v1/responses: a turn answered at once, streamed or whole, or taken on as background work."""

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.model.errors import InvalidParameter
from trunkline.server.answering import Answerer
from trunkline.server.body import read_body
from trunkline.server.cache_header import cache_choice_of
from trunkline.server.creation import Creation
from trunkline.server.exchange import exchange_of
from trunkline.server.json_response import send_json
from trunkline.server.log_stream import stream_log
from trunkline.server.own_member import without_own_member
from trunkline.server.runtime import ResponseState, Runtime
from trunkline.server.session import session_of


class CreateResponse:
    """POST /v1/responses."""

    def __init__(self, runtime: Runtime, codec: ResponsesSurface, state: ResponseState) -> None:
        self._runtime = runtime
        self._codec = codec
        self._runs = state.runs
        self._creation = Creation(runtime, codec, state)
        self._answerer = Answerer(runtime.gateway, codec, keepalive_s=runtime.settings.keepalive_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime, exchange = self._runtime, exchange_of(scope)
        body = await read_body(scope, receive, limit_bytes=runtime.settings.max_body_bytes)
        body, cached = without_own_member(body, runtime.profile.cache_member)
        request = self._codec.decode_request(body)
        stored = request.store is not False
        if request.background and not stored:
            raise InvalidParameter(
                "'background' needs 'store': the answer is retrieved from there.", param="background"
            )
        session, request = session_of(scope, request, runtime)
        asked = cache_choice_of(scope)
        cache = cached if asked is None else asked
        turn = await self._creation.turn_or_leave(request, exchange, receive)
        if turn is None:
            return
        with turn:
            call, chained = await self._creation.prepare(request, exchange, body=body, session=session, cache=cache)
            if not request.background:
                record = self._creation.recorder(exchange.tenant, chained) if stored else None
                await self._answerer.respond(call, exchange, receive, send, record=record)
                return
            exchange.outcome.model = call.request.model
            snapshot = await self._runs.submit(call, chained, body=body, turn=turn)
        if request.stream:
            frames = self._runs.frames(exchange.tenant, call.turn_id, after=-1)
            await stream_log(frames, runtime, exchange, receive, send)
        else:
            await send_json(snapshot, send)


def routes(runtime: Runtime, codec: ResponsesSurface, state: ResponseState) -> list[BaseRoute]:
    create = CreateResponse(runtime, codec, state)
    return [
        Route("/v1/responses", create, methods=["POST"]),
        Route("/v1/sessions/{session_id}/responses", create, methods=["POST"]),
    ]
