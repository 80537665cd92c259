"""What a response would be given, without one being made: how many tokens it has, and the same made shorter.

Both take the body of a response, its history by name included, and store nothing.
"""

from collections.abc import Awaitable, Callable

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.dialects.openai_responses.compaction import write_compacted
from trunkline.engine.call import Call
from trunkline.engine.compaction import compact
from trunkline.engine.gateway import Gateway
from trunkline.model.errors import UnsupportedParameter
from trunkline.server.answering import outcome_headers
from trunkline.server.body import read_body
from trunkline.server.creation import Creation
from trunkline.server.disconnect import DisconnectWatch
from trunkline.server.exchange import exchange_of
from trunkline.server.json_response import send_json
from trunkline.server.runtime import ResponseState, Runtime


class ContextRequest:
    """A request about the context of a response; `answer` gives the body of its answer."""

    def __init__(
        self,
        runtime: Runtime,
        codec: ResponsesSurface,
        state: ResponseState,
        answer: Callable[[Gateway, Call], Awaitable[bytes]],
    ) -> None:
        self._runtime = runtime
        self._codec = codec
        self._creation = Creation(runtime, codec, state)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime, exchange = self._runtime, exchange_of(scope)
        body = await read_body(scope, receive, limit_bytes=runtime.settings.max_body_bytes)
        request = self._codec.decode_request(body)
        for name in ("stream", "background"):
            if getattr(request, name):
                raise UnsupportedParameter(f"'{name}' is for creating a response, and none is made here.", param=name)
        call, _ = await self._creation.prepare(request, exchange, body=body)
        exchange.outcome.model = call.request.model
        answer = None
        with DisconnectWatch(receive, exchange.outcome):
            answer = await self._answer(runtime.gateway, call)
        if answer is not None:  # otherwise the client has left
            await send_json(answer, send, headers=outcome_headers(exchange.outcome))


async def _count(gateway: Gateway, call: Call) -> bytes:
    count = await gateway.count_tokens(call)
    return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": count})


async def _compact(gateway: Gateway, call: Call) -> bytes:
    compacted = await compact(gateway, call)
    call.outcome.usage = compacted.usage
    return write_compacted(call.turn_id, call.created_at, output=compacted.output, usage=compacted.usage)


def routes(runtime: Runtime, codec: ResponsesSurface, state: ResponseState) -> list[BaseRoute]:
    return [
        Route("/v1/responses/input_tokens", ContextRequest(runtime, codec, state, _count), methods=["POST"]),
        Route("/v1/responses/compact", ContextRequest(runtime, codec, state, _compact), methods=["POST"]),
    ]
