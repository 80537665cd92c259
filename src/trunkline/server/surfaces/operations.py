"""POST /v1/embeddings, /v1/completions, /v1/rerank, /v1/moderations, /v1/audio/…, /v1/images/…: what is asked beside turns.

A request goes to whoever offers its model as it came, and the answer comes back as it is, whatever its media type. Before its head
is out a failure is a status, like everywhere. After it, a stream of events ends with an error object, and a body of any other kind
is cut off: its client must not take a half for the whole.
"""

import asyncio
from collections.abc import Mapping, Sequence

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline.dialects.codec import EVENT_STREAM, Framing
from trunkline.engine.call import Call
from trunkline.engine.operations import OperationGateway, Performed, check, whole_of
from trunkline.model import events as ev
from trunkline.model.errors import BackendProtocolError, TrunklineError, shutting_down
from trunkline.ports.operations import Operation, OperationRequest
from trunkline.server.answering import outcome_headers
from trunkline.server.body import read_large_body
from trunkline.server.disconnect import DisconnectWatch
from trunkline.server.errors import ErrorEncoder
from trunkline.server.exchange import Exchange, Header, exchange_of, header
from trunkline.server.json_response import send_json
from trunkline.server.operation_body import FORM, JSON, operation_call, read_operation
from trunkline.server.runtime import Runtime
from trunkline.server.streaming import ClientStream
from trunkline.wire.sse import encode_event

_TAKES_JSON = frozenset({JSON})
_TAKES_FORM = frozenset({FORM})
_TAKES: Mapping[Operation, frozenset[str]] = {
    "embeddings": _TAKES_JSON,
    "completions": _TAKES_JSON,
    "rerank": _TAKES_JSON,
    "moderations": _TAKES_JSON,
    "audio/transcriptions": _TAKES_FORM,
    "audio/translations": _TAKES_FORM,
    "audio/speech": _TAKES_JSON,
    "images/generations": _TAKES_JSON,
    "images/edits": _TAKES_FORM | _TAKES_JSON,
    "images/variations": _TAKES_FORM,
}


class Perform:
    """The resource of one operation; an ASGI application of its own."""

    def __init__(
        self, runtime: Runtime, gateway: OperationGateway, errors: ErrorEncoder, *, operation: Operation
    ) -> None:
        self._runtime = runtime
        self._gateway = gateway
        self._errors = errors
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime, exchange = self._runtime, exchange_of(scope)
        body = read_operation(
            await read_large_body(scope, receive, limit_bytes=runtime.settings.max_body_bytes),
            (header(scope, b"content-type") or b"").decode("latin-1"),
            takes=_TAKES[self._operation],
        )
        model = runtime.router.choose(body.model)
        exchange.outcome.model, exchange.outcome.stream = model, body.stream
        call = operation_call(scope, runtime, self._operation, model=model, stream=body.stream)
        request = OperationRequest(
            operation=self._operation,
            model=model,
            content_type=body.content_type,
            before=body.before,
            after=body.after,
        )
        with DisconnectWatch(receive, call.outcome, graceful=True) as watch:
            await self._respond(call, request, exchange, watch, send)

    async def _respond(
        self, call: Call, request: OperationRequest, exchange: Exchange, watch: DisconnectWatch, send: Send
    ) -> None:
        stream: ClientStream | None = None
        answer: Performed | None = None
        events = True

        def begin(framing: Framing) -> ClientStream:
            return ClientStream(
                send,
                send_body=exchange.send_body,
                framing=framing,
                keepalive_s=self._runtime.settings.keepalive_s,
                head=lambda: outcome_headers(call.outcome, answer),
                on_stall=watch.give_up,
            )

        if request.operation == "completions" and call.request.stream:
            stream = begin(EVENT_STREAM)  # its head does not wait for a model that thinks for a minute
        try:
            answer = await self._gateway.perform(call, request)
            if answer.media_type in (JSON, None) and not (stream and stream.begun):
                body = await whole_of(answer)
                watch.close()
                await (send_json if answer.media_type else _send_nothing)(
                    body, send, headers=outcome_headers(call.outcome, answer)
                )
                return
            if stream is None or not stream.begun:
                if stream is not None:
                    stream.close()
                events = answer.media_type == EVENT_STREAM.media_type
                stream = begin(EVENT_STREAM if events else Framing(answer.media_type or "", b""))
            elif answer.media_type != EVENT_STREAM.media_type:
                raise BackendProtocolError(f"the upstream was asked for a stream and sent {answer.media_type!r}")
            await _pass_on(answer, stream)
            watch.close()
        except TrunklineError as error:
            if stream is None or not stream.begun:
                raise
            call.outcome.note(ev.TurnFailed(error.info()))
            if events:
                await self._fail(error, stream)
        except asyncio.CancelledError:
            if events and not watch.gone and stream is not None and stream.begun:  # the server is stopping
                await self._fail(shutting_down(), stream)
            raise
        finally:
            if stream is not None:
                stream.close()
            if answer is not None:
                await answer.aclose()

    async def _fail(self, error: TrunklineError, stream: ClientStream) -> None:
        """After the head. A body that has no events stays without its end instead, and the connection is cut."""
        await stream.end(encode_event(self._errors.encode_error(error.info())))


async def _send_nothing(body: bytes, send: Send, *, headers: Sequence[Header]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _pass_on(answer: Performed, stream: ClientStream) -> None:
    async for batch in answer.batches():
        if batch.data:
            await stream.write(batch.data)
        check(batch)
    await stream.end(b"")


def routes(runtime: Runtime, gateway: OperationGateway, errors: ErrorEncoder) -> list[BaseRoute]:
    resources = {operation: Perform(runtime, gateway, errors, operation=operation) for operation in _TAKES}
    paths = {f"/v1/{operation}": resource for operation, resource in resources.items()}
    paths["/rerank"] = resources["rerank"]  # where Jina's and Cohere's clients look for it, given a server's root
    return [Route(path, resource, methods=["POST"]) for path, resource in paths.items()]
