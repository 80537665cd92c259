"""/v1/chat/completions after the answer: completions that were asked to be stored, listed, retrieved, described, deleted."""

import msgspec
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from trunkline.dialects.openai_chat.stored import with_metadata
from trunkline.model.errors import NotFound
from trunkline.ports.stores import Store, StoredCompletion
from trunkline.server.body import read_members
from trunkline.server.exchange import exchange_of
from trunkline.server.json_response import send_json
from trunkline.server.listing import Entry, listing, one_more, paged
from trunkline.server.metadata import metadata_filter, required_metadata_of
from trunkline.server.methods import resource
from trunkline.server.query import page_of, query_of
from trunkline.server.runtime import Runtime


class _Message(msgspec.Struct):
    id: str


_MESSAGES = msgspec.json.Decoder(list[msgspec.Raw])
_MESSAGE = msgspec.json.Decoder(_Message)


class StoredCompletions:
    """What can be asked of stored completions. Each method is an ASGI application."""

    def __init__(self, runtime: Runtime, store: Store) -> None:
        self._runtime = runtime
        self._store = store

    async def list(self, scope: Scope, receive: Receive, send: Send) -> None:
        page, query = page_of(scope, order="asc"), query_of(scope)
        completions = await self._store.list_completions(
            exchange_of(scope).tenant, one_more(page), model=query.get("model"), metadata=metadata_filter(scope)
        )
        entries = [Entry(completion.id, completion.object) for completion in completions]
        await send_json(listing(entries, limit=page.limit), send)

    async def retrieve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json((await self._load(scope)).object, send)

    async def update(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit_bytes = self._runtime.settings.max_body_bytes
        _, source = await read_members(scope, receive, limit_bytes=limit_bytes, known=("metadata",))
        metadata = required_metadata_of(source)
        completion = await self._load(scope)
        described = with_metadata(completion.object, metadata)
        if not await self._store.update_completion(
            exchange_of(scope).tenant, completion.id, metadata=metadata, object=described
        ):
            raise _not_found(completion.id)
        await send_json(described, send)

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        completion_id = scope["path_params"]["id"]
        if not await self._store.delete_completion(exchange_of(scope).tenant, completion_id):
            raise _not_found(completion_id)
        gone = {"id": completion_id, "object": "chat.completion.deleted", "deleted": True}
        await send_json(msgspec.json.encode(gone), send)

    async def messages(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = page_of(scope, order="asc")
        completion = await self._load(scope)
        entries = [Entry(_MESSAGE.decode(one).id, bytes(one)) for one in _MESSAGES.decode(completion.messages)]
        await send_json(listing(paged(entries, page), limit=page.limit), send)

    async def _load(self, scope: Scope) -> StoredCompletion:
        completion_id = scope["path_params"]["id"]
        completion = await self._store.load_completion(exchange_of(scope).tenant, completion_id)
        if completion is None:
            raise _not_found(completion_id)
        return completion


def _not_found(completion_id: str) -> NotFound:
    return NotFound(f"Chat completion with id '{completion_id[:200]}' not found.", code="chat_completion_not_found")


def routes(stored: StoredCompletions) -> list[BaseRoute]:
    """Without the list, whose path is that of making one."""
    return [
        resource(
            "/v1/chat/completions/{id}",
            {"GET": stored.retrieve, "POST": stored.update, "DELETE": stored.delete},
        ),
        resource("/v1/chat/completions/{id}/messages", {"GET": stored.messages}),
    ]
