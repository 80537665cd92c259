"""What came before: the history that a request names, put before its own items.

A request continues a response (`previous_response_id`), takes part in a conversation with an id of its own (`conv_…`), or in one
that is only a name and points to its latest response (decision 27). Whatever the backend, it then gets the whole history as items,
and what is stored afterwards is this turn alone.
"""

from collections.abc import Sequence

import msgspec

from trunkline.dialects.openai_responses.read_items import items_from_stored
from trunkline.dialects.openai_responses.write_items import check_calls, input_items
from trunkline.model.errors import NotFound, RequestError
from trunkline.model.items import Item, OpaqueItem
from trunkline.model.request import Request
from trunkline.ports.stores import Page, Segment, Store

CONVERSATION_PREFIX = "conv_"
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_EVERYTHING = 1_000_000


class Chained(msgspec.Struct, frozen=True, kw_only=True):
    """A request with its history, and what is needed to store its turn.

    Attributes:
        request: history first, then its own items.
        input: its own items as they are stored.
        history: the turns of the chain before it, for a store whose parent goes away meanwhile.
    """

    request: Request
    input: tuple[bytes, ...]
    parent_id: str | None = None
    conversation_id: str | None = None
    name: str | None = None
    history: Sequence[Segment] = ()


class Chaining:
    """Finds histories."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def again(self, request: Request, *, tenant: str, response_id: str) -> Chained:
        """The same for a request whose turn has begun to be stored: its parent is settled, wherever names point by now."""
        own = tuple([msgspec.json.encode(item) for item in input_items(request.items, response_id=response_id)])
        begun = await self._store.load_response(tenant, response_id)
        if begun is not None and begun.conversation_id is not None:
            return await self._in_conversation(request, own, tenant=tenant, conversation_id=begun.conversation_id)
        history = (await self._store.history(tenant, response_id) or ())[:-1]
        named = request.conversation is not None and not request.conversation.startswith(CONVERSATION_PREFIX)
        return Chained(
            request=_with_history(request, _items_of(history)),
            input=own,
            parent_id=None if begun is None else begun.parent_id,
            name=request.conversation if named else None,
            history=history,
        )

    async def prepare(self, request: Request, *, tenant: str, response_id: str) -> Chained:
        """The request as the backend shall see it. Raises RequestError for a history that is not there."""
        own = tuple([msgspec.json.encode(item) for item in input_items(request.items, response_id=response_id)])
        if request.previous_response_id is not None:
            segments = await self._chain(tenant, request.previous_response_id)
            chained = Chained(request=request, input=own, parent_id=request.previous_response_id, history=segments)
        elif request.conversation is None:
            chained = Chained(request=request, input=own)
        elif request.conversation.startswith(CONVERSATION_PREFIX):
            return await self._in_conversation(request, own, tenant=tenant, conversation_id=request.conversation)
        else:
            parent_id = await self._store.named_response(tenant, request.conversation)
            segments = () if parent_id is None else await self._store.history(tenant, parent_id) or ()
            chained = Chained(
                request=request, input=own, parent_id=parent_id, name=request.conversation, history=segments
            )
        return msgspec.structs.replace(chained, request=_with_history(request, _items_of(chained.history)))

    async def _chain(self, tenant: str, response_id: str) -> Sequence[Segment]:
        parent = await self._store.load_response(tenant, response_id)
        segments = None if parent is None else await self._store.history(tenant, response_id)
        if parent is None or segments is None:
            raise RequestError(
                f"Previous response with id '{response_id[:200]}' not found.",
                code="previous_response_not_found",
                param="previous_response_id",
            )
        if parent.status in ("queued", "in_progress"):
            raise RequestError(
                f"Previous response '{response_id}' is still {parent.status}; wait for it or cancel it.",
                code="previous_response_not_ready",
                param="previous_response_id",
            )
        return segments

    async def _in_conversation(
        self, request: Request, own: tuple[bytes, ...], *, tenant: str, conversation_id: str
    ) -> Chained:
        if await self._store.load_conversation(tenant, conversation_id) is None:
            raise NotFound(
                f"Conversation with id '{conversation_id[:200]}' not found.",
                code="conversation_not_found",
                param="conversation",
            )
        items = await self._store.list_items(tenant, conversation_id, Page(limit=_EVERYTHING, order="asc"))
        history = items_from_stored([item.data for item in items])
        return Chained(request=_with_history(request, history), input=own, conversation_id=conversation_id)


def _items_of(history: Sequence[Segment]) -> tuple[Item, ...]:
    return items_from_stored(
        [item for segment in history for part in (segment.input, segment.output) for item in _ITEMS.decode(part)]
    )


def _with_history(request: Request, history: Sequence[Item]) -> Request:
    """The request with these items first. References to earlier items are replaced by them; calls must have their outputs."""
    by_id = {item.id: item for item in history if item.id is not None}
    own = tuple([_resolved(item, by_id) for item in request.items])
    items = (*history, *own)
    check_calls(items)
    return msgspec.structs.replace(
        request, items=items, places=(*("previous_response_id",) * len(history), *request.places)
    )


def _resolved(item: Item, by_id: dict[str, Item]) -> Item:
    if not isinstance(item, OpaqueItem) or item.wire_type != "item_reference" or item.id is None:
        return item
    found = by_id.get(item.id)
    if found is None:
        raise RequestError(f"Item with id '{item.id[:200]}' not found.", code="item_not_found", param="input")
    return found
