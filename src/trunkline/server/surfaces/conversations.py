"""/v1/conversations: an ordered list of items with a name of its own, which responses read and extend.

What the items say is not checked against each other here: a call may be added now and its output later. It is checked when a
response is made from them.
"""

from collections.abc import Sequence

import msgspec
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from trunkline.model.errors import NotFound
from trunkline.model.ids import new_id
from trunkline.ports.stores import Store, StoredConversation, StoredItem
from trunkline.server.body import read_members
from trunkline.server.exchange import exchange_of
from trunkline.server.json_response import send_json
from trunkline.server.listing import listing, one_more
from trunkline.server.metadata import metadata_of, required_metadata_of
from trunkline.server.methods import resource
from trunkline.server.query import page_of
from trunkline.server.runtime import Runtime
from trunkline.server.stored_items import required_items, stored_items

MAX_ITEMS = 20


class Conversations:
    """POST /v1/conversations; GET, POST and DELETE /v1/conversations/{id}. Each method is an ASGI application."""

    def __init__(self, runtime: Runtime, store: Store) -> None:
        self._runtime = runtime
        self._store = store

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, source = await read_members(
            scope, receive, limit_bytes=self._runtime.settings.max_body_bytes, known=("items", "metadata")
        )
        items: Sequence[StoredItem] = ()
        if source.get("items") is not None:
            items = stored_items(source["items"], body, self._runtime, member="items", at_most=MAX_ITEMS)
        conversation = StoredConversation(
            id=new_id("conv_", self._runtime.entropy),
            created_at=int(self._runtime.clock.now_s()),
            metadata=metadata_of(source),
        )
        await self._store.create_conversation(exchange_of(scope).tenant, conversation, items)
        await send_json(_written(conversation), send)

    async def retrieve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(_written(await _conversation(self._store, scope)), send)

    async def update(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, source = await read_members(
            scope, receive, limit_bytes=self._runtime.settings.max_body_bytes, known=("metadata",)
        )
        conversation = msgspec.structs.replace(
            await _conversation(self._store, scope), metadata=required_metadata_of(source)
        )
        if not await self._store.update_conversation(exchange_of(scope).tenant, conversation):
            raise _not_found(conversation.id)
        await send_json(_written(conversation), send)

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        conversation_id = scope["path_params"]["id"]
        if not await self._store.delete_conversation(exchange_of(scope).tenant, conversation_id):
            raise _not_found(conversation_id)
        gone = {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
        await send_json(msgspec.json.encode(gone), send)


class ConversationItems:
    """POST and GET /v1/conversations/{id}/items; GET and DELETE of one of them. `include` asks for nothing: all is shown."""

    def __init__(self, runtime: Runtime, store: Store) -> None:
        self._runtime = runtime
        self._store = store

    async def add(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant, conversation_id = exchange_of(scope).tenant, scope["path_params"]["id"]
        body, source = await read_members(
            scope, receive, limit_bytes=self._runtime.settings.max_body_bytes, known=("items",)
        )
        items = required_items(source.get("items"), body, self._runtime, member="items", at_most=MAX_ITEMS)
        if not await self._store.add_items(tenant, conversation_id, items):
            raise _not_found(conversation_id)
        # An item whose id was there already stayed as it was: what is shown is what is stored.
        stored = [await self._store.load_item(tenant, conversation_id, item.id) or item for item in items]
        await send_json(listing(stored, limit=MAX_ITEMS), send)

    async def list(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = page_of(scope)
        conversation = await _conversation(self._store, scope)
        items = await self._store.list_items(exchange_of(scope).tenant, conversation.id, one_more(page))
        await send_json(listing(items, limit=page.limit), send)

    async def retrieve(self, scope: Scope, receive: Receive, send: Send) -> None:
        conversation, item_id = await _conversation(self._store, scope), scope["path_params"]["item_id"]
        item = await self._store.load_item(exchange_of(scope).tenant, conversation.id, item_id)
        if item is None:
            raise _item_not_found(item_id, conversation.id)
        await send_json(item.data, send)

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        conversation, item_id = await _conversation(self._store, scope), scope["path_params"]["item_id"]
        if not await self._store.delete_item(exchange_of(scope).tenant, conversation.id, item_id):
            raise _item_not_found(item_id, conversation.id)
        await send_json(_written(conversation), send)


async def _conversation(store: Store, scope: Scope) -> StoredConversation:
    conversation_id = scope["path_params"]["id"]
    conversation = await store.load_conversation(exchange_of(scope).tenant, conversation_id)
    if conversation is None:
        raise _not_found(conversation_id)
    return conversation


def _written(conversation: StoredConversation) -> bytes:
    return msgspec.json.encode(
        {
            "id": conversation.id,
            "object": "conversation",
            "created_at": conversation.created_at,
            "metadata": msgspec.Raw(conversation.metadata),
        }
    )


def _not_found(conversation_id: str) -> NotFound:
    return NotFound(f"Conversation with id '{conversation_id[:200]}' not found.", code="conversation_not_found")


def _item_not_found(item_id: str, conversation_id: str) -> NotFound:
    return NotFound(
        f"Item with id '{item_id[:200]}' not found in conversation '{conversation_id}'.", code="item_not_found"
    )


def routes(runtime: Runtime, store: Store) -> list[BaseRoute]:
    conversations, items = Conversations(runtime, store), ConversationItems(runtime, store)
    return [
        resource("/v1/conversations", {"POST": conversations.create}),
        resource(
            "/v1/conversations/{id}",
            {"GET": conversations.retrieve, "POST": conversations.update, "DELETE": conversations.delete},
        ),
        resource("/v1/conversations/{id}/items", {"GET": items.list, "POST": items.add}),
        resource("/v1/conversations/{id}/items/{item_id}", {"GET": items.retrieve, "DELETE": items.delete}),
    ]
