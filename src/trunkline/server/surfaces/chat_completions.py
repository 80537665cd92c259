"""POST /v1/chat/completions."""

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline.dialects.codec import SurfaceCodec
from trunkline.engine.call import Call
from trunkline.model.ids import new_id
from trunkline.server.answering import Answerer
from trunkline.server.body import read_body
from trunkline.server.exchange import exchange_of
from trunkline.server.runtime import Runtime
from trunkline.server.session import session_id_of


class ChatCompletions:
    """The resource; an ASGI application of its own."""

    def __init__(self, runtime: Runtime, codec: SurfaceCodec) -> None:
        self._runtime = runtime
        self._codec = codec
        self._answerer = Answerer(runtime.gateway, codec, keepalive_s=runtime.settings.keepalive_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime, exchange = self._runtime, exchange_of(scope)
        body = await read_body(scope, receive, limit_bytes=runtime.settings.max_body_bytes)
        request = self._codec.decode_request(body)
        if request.model is None:
            request = msgspec.structs.replace(request, model=runtime.router.choose(None))
        call = Call(
            request=request,
            body=body,
            dialect=self._codec.name,
            turn_id=new_id("chatcmpl-", runtime.entropy),
            created_at=int(runtime.clock.now_s()),
            request_id=exchange.request_id,
            tenant=exchange.tenant,
            outcome=exchange.outcome,
            session_id=session_id_of(scope, runtime.profile),
        )
        await self._answerer.respond(call, exchange, receive, send)


def routes(runtime: Runtime, codec: SurfaceCodec) -> list[BaseRoute]:
    return [Route("/v1/chat/completions", ChatCompletions(runtime, codec), methods=["POST"])]
