"""POST /v1/responses, and what can be asked of a response afterwards: retrieve, resume, cancel, delete, list its input."""

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.engine.call import Call
from trunkline.engine.chaining import Chained, Chaining
from trunkline.engine.recording import conversation_items, stored_response
from trunkline.engine.runs import Runs
from trunkline.model.errors import InvalidParameter, ModelNotFound, NotFound, RequestError
from trunkline.model.ids import new_id
from trunkline.ports.stores import Store, StoredResponse
from trunkline.server.answering import Answerer, Record
from trunkline.server.body import read_body
from trunkline.server.exchange import exchange_of, header
from trunkline.server.json_response import send_json
from trunkline.server.listing import Entry, listing, paged
from trunkline.server.log_stream import stream_log
from trunkline.server.query import flag_of, integer_of, page_of, query_of
from trunkline.server.runtime import Runtime
from trunkline.server.session import session_id_of

_DIGITS = 18
"""Of a sequence number at most; a last event id that is longer is none of ours."""
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


class _WithId(msgspec.Struct):
    id: str


_ITEM_ID = msgspec.json.Decoder(_WithId)


class ResponseState(msgspec.Struct, frozen=True):
    """What keeps responses: the store, the histories in it, and the work that goes on in the background."""

    store: Store
    chaining: Chaining
    runs: Runs


class CreateResponse:
    """POST /v1/responses."""

    def __init__(self, runtime: Runtime, codec: ResponsesSurface, state: ResponseState) -> None:
        self._runtime = runtime
        self._codec = codec
        self._state = state
        self._answerer = Answerer(runtime.gateway, codec, keepalive_s=runtime.settings.keepalive_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime, exchange, state = self._runtime, exchange_of(scope), self._state
        body = await read_body(scope, receive, limit_bytes=runtime.settings.max_body_bytes)
        request = self._codec.decode_request(body)
        if request.model is None:
            request = msgspec.structs.replace(request, model=runtime.router.choose(None))
        stored = request.store is not False
        if request.background and not stored:
            raise InvalidParameter(
                "'background' needs 'store': the answer is retrieved from there.", param="background"
            )
        response_id = new_id("resp_", runtime.entropy)
        chained = await state.chaining.prepare(request, tenant=exchange.tenant, response_id=response_id)
        call = Call(
            request=chained.request,
            body=None,
            dialect=self._codec.name,
            turn_id=response_id,
            created_at=int(runtime.clock.now_s()),
            request_id=exchange.request_id,
            tenant=exchange.tenant,
            outcome=exchange.outcome,
            session_id=session_id_of(scope, runtime.profile),
            own_ids=True,
            patient=request.background,
        )
        try:
            await runtime.gateway.check(call)
        except ModelNotFound as error:  # decision 12: 400 here, 404 on chat
            raise RequestError(error.message, code=error.code, param="model") from None
        if not request.background:
            record = self._recorder(exchange.tenant, chained) if stored else None
            await self._answerer.respond(call, exchange, receive, send, record=record)
            return
        exchange.outcome.model = request.model
        snapshot = await state.runs.submit(call, chained, body=body)
        if request.stream:
            log = state.runs.events(exchange.tenant, response_id, after=-1)
            await stream_log(log, self._codec, exchange, receive, send, keepalive_s=runtime.settings.keepalive_s)
        else:
            await send_json(snapshot, send)

    def _recorder(self, tenant: str, chained: Chained) -> Record:
        async def record(data: bytes) -> None:
            response = stored_response(data, chained)
            items = conversation_items(response, chained)
            await self._state.store.save_response(tenant, response, history=chained.history, items=items)

        return record


class RetrieveResponse:
    """GET and DELETE /v1/responses/{id}."""

    def __init__(self, runtime: Runtime, codec: ResponsesSurface, state: ResponseState) -> None:
        self._runtime = runtime
        self._codec = codec
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant, response_id = exchange_of(scope).tenant, scope["path_params"]["id"]
        if scope["method"] == "DELETE":
            await self._state.runs.cancel(tenant, response_id)
            if not await self._state.store.delete_response(tenant, response_id):
                raise not_found(response_id)
            await send_json(msgspec.json.encode({"id": response_id, "object": "response", "deleted": True}), send)
            return
        response = await load(self._state.store, tenant, response_id)
        query = query_of(scope)
        if flag_of(query, "stream"):
            await self._resume(response, query, scope, receive, send)
        else:
            await send_json(response.object, send)

    async def _resume(
        self, response: StoredResponse, query: dict[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        if not response.background:
            raise InvalidParameter(
                f"Response '{response.id}' was not created in the background; only those can be streamed again.",
                param="stream",
            )
        after = integer_of(query, "starting_after", -1, low=-1)
        last = header(scope, b"last-event-id")
        if "starting_after" not in query and last is not None and last.isdigit() and len(last) <= _DIGITS:
            after = int(last)
        exchange = exchange_of(scope)
        log = self._state.runs.events(exchange.tenant, response.id, after=after)
        keepalive_s = self._runtime.settings.keepalive_s
        await stream_log(log, self._codec, exchange, receive, send, keepalive_s=keepalive_s)


class CancelResponse:
    """POST /v1/responses/{id}/cancel: idempotent; the unchanged object for one that has ended (decision 36)."""

    def __init__(self, state: ResponseState) -> None:
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant, response_id = exchange_of(scope).tenant, scope["path_params"]["id"]
        response = await load(self._state.store, tenant, response_id)
        if not response.background:
            raise RequestError(
                f"Response '{response_id}' was not created in the background; only those can be cancelled.",
                code="cannot_cancel",
            )
        if await self._state.runs.cancel(tenant, response_id):
            response = await load(self._state.store, tenant, response_id)
        await send_json(response.object, send)


class ListInputItems:
    """GET /v1/responses/{id}/input_items."""

    def __init__(self, state: ResponseState) -> None:
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await load(self._state.store, exchange_of(scope).tenant, scope["path_params"]["id"])
        page = page_of(scope)
        entries = [Entry(_ITEM_ID.decode(item).id, bytes(item)) for item in _ITEMS.decode(response.input)]
        await send_json(listing(paged(entries, page), limit=page.limit), send)


async def load(store: Store, tenant: str, response_id: str) -> StoredResponse:
    response = await store.load_response(tenant, response_id)
    if response is None:
        raise not_found(response_id)
    return response


def not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:200]}' not found.", code="response_not_found")


def routes(runtime: Runtime, codec: ResponsesSurface, state: ResponseState) -> list[BaseRoute]:
    return [
        Route("/v1/responses", CreateResponse(runtime, codec, state), methods=["POST"]),
        Route("/v1/responses/{id}", RetrieveResponse(runtime, codec, state), methods=["GET", "DELETE"]),
        Route("/v1/responses/{id}/cancel", CancelResponse(state), methods=["POST"]),
        Route("/v1/responses/{id}/input_items", ListInputItems(state), methods=["GET"]),
    ]
