"""What can be asked of a response after it was created: retrieve, resume, cancel, delete, list its input."""

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline.dialects.runs import response_id_of
from trunkline.model import events as ev
from trunkline.model.errors import InvalidParameter, NotFound, RequestError
from trunkline.ports.stores import Store, StoredResponse, stored_item
from trunkline.server.exchange import exchange_of, header
from trunkline.server.json_response import send_json
from trunkline.server.listing import listing, paged
from trunkline.server.log_stream import last_event_id, stream_log
from trunkline.server.methods import resource
from trunkline.server.query import flag_of, integer_of, page_of, query_of
from trunkline.server.runtime import ResponseState, Runtime

_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


class OneResponse:
    """GET and DELETE /v1/responses/{id}. Each method is an ASGI application."""

    def __init__(self, runtime: Runtime, state: ResponseState) -> None:
        self._runtime = runtime
        self._state = state

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant, response_id = exchange_of(scope).tenant, response_id_of(scope["path_params"]["id"])
        await self._state.runs.cancel(tenant, response_id)
        if not await self._state.store.delete_response(tenant, response_id):
            raise _not_found(response_id)
        self._state.runs.forget(tenant, response_id)
        await send_json(msgspec.json.encode({"id": response_id, "object": "response", "deleted": True}), send)

    async def retrieve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As it stands now; with `stream=true` its events, from any point."""
        tenant, response_id = exchange_of(scope).tenant, response_id_of(scope["path_params"]["id"])
        query, last_id = query_of(scope), header(scope, b"last-event-id")
        streamed = flag_of(query, "stream")
        response = await self._state.store.load_response(tenant, response_id)
        unattended = self._state.unattended.get((tenant, response_id))
        if response is None and unattended is not None and not streamed:
            await send_json(unattended, send)
            return
        if response is None:
            raise _not_found(response_id)
        after = _resume_after(response, query, last_id, streamed=streamed)
        if streamed:
            if not await self._state.runs.has_events(tenant, response_id):
                raise NotFound(
                    f"The events of response '{response_id}' are not kept any more; retrieve it without 'stream'.",
                    code="events_not_found",
                )
            frames = self._state.runs.frames(tenant, response_id, after=after)
            await stream_log(frames, self._runtime, exchange_of(scope), receive, send)
        else:
            await send_json(response.object, send)


def _resume_after(response: StoredResponse, query: dict[str, str], last_id: bytes | None, *, streamed: bool) -> int:
    """The sequence number after which to stream, -1 for all; `starting_after` counts before `Last-Event-ID`. Raises
    InvalidParameter for what cannot be streamed again."""
    named = "starting_after" if "starting_after" in query else "Last-Event-ID" if last_id else None
    if (streamed or named) and not response.background:
        raise InvalidParameter(
            f"Response '{response.id}' was not created in the background; only those can be streamed again. "
            "Retrieve it without 'stream', 'starting_after' and 'Last-Event-ID'.",
            param=named or "stream",
        )
    if named and not streamed:
        raise InvalidParameter(f"'{named}' needs 'stream=true': it says where a stream goes on.", param=named)
    if named == "Last-Event-ID" and last_id:
        return last_event_id(last_id)
    return integer_of(query, "starting_after", -1, low=-1)


class CancelResponse:
    """POST /v1/responses/{id}/cancel: idempotent; the unchanged object for one that has ended (decision 36)."""

    def __init__(self, runtime: Runtime, state: ResponseState) -> None:
        self._state = state
        cut = runtime.profile.cut_status == "incomplete"
        self._end: ev.Terminal = ev.TurnIncomplete("cancelled") if cut else ev.TurnCancelled()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant, response_id = exchange_of(scope).tenant, response_id_of(scope["path_params"]["id"])
        response = await _load(self._state.store, tenant, response_id)
        if not response.background:
            raise RequestError(
                f"Response '{response_id}' was not created in the background; only those can be cancelled.",
                code="cannot_cancel",
            )
        if await self._state.runs.cancel(tenant, response_id, end=self._end):
            response = await _load(self._state.store, tenant, response_id)
        await send_json(response.object, send)


class ListInputItems:
    """GET /v1/responses/{id}/input_items."""

    def __init__(self, state: ResponseState) -> None:
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await _load(self._state.store, exchange_of(scope).tenant, response_id_of(scope["path_params"]["id"]))
        page = page_of(scope)
        items = [stored_item(bytes(item)) for item in _ITEMS.decode(response.input)]
        await send_json(listing(paged(items, page), limit=page.limit), send)


async def _load(store: Store, tenant: str, response_id: str) -> StoredResponse:
    response = await store.load_response(tenant, response_id)
    if response is None:
        raise _not_found(response_id)
    return response


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:200]}' not found.", code="response_not_found")


def routes(runtime: Runtime, state: ResponseState) -> list[BaseRoute]:
    one = OneResponse(runtime, state)
    return [
        resource("/v1/responses/{id}", {"GET": one.retrieve, "DELETE": one.delete}),
        Route("/v1/responses/{id}/cancel", CancelResponse(runtime, state), methods=["POST"]),
        Route("/v1/responses/{id}/input_items", ListInputItems(state), methods=["GET"]),
    ]
