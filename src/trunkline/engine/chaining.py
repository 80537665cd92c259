"""What came before: the history that a request names, put before its own items.

A request continues a response (`previous_response_id`), takes part in a conversation with an id of its own (`conv_…`), or in one
that is only a name and points to its latest response (decision 27). Whatever the backend, it then gets the whole history as items,
and what is stored afterwards is this turn alone.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec

from trunkline.dialects.openai_responses.read_items import items_from_stored
from trunkline.dialects.openai_responses.write_items import check_calls, input_items
from trunkline.engine.conversation_turns import ConversationTurns
from trunkline.engine.truncation import older_turns
from trunkline.model.errors import NotFound, RequestError
from trunkline.model.items import Item, OpaqueItem
from trunkline.model.request import Request
from trunkline.ports.stores import Page, Segment, Store, StoredResponse

CONVERSATION_PREFIX = "conv_"
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_EVERYTHING = 1_000_000


class Chained(msgspec.Struct, frozen=True, kw_only=True):
    """A request with its history, and what is needed to store its turn.

    Attributes:
        request: history first, then its own items.
        input: its own items as they are stored.
        history: the turns of the chain before it, for a store whose parent goes away meanwhile.
        session_id: the session of what it continues, then its own.
    """

    request: Request
    input: tuple[bytes, ...]
    parent_id: str | None = None
    conversation_id: str | None = None
    name: str | None = None
    history: Sequence[Segment] = ()
    session_id: str | None = None


class _Before(msgspec.Struct, frozen=True, kw_only=True):
    """Where a turn continues, and the items of what it continues."""

    items: tuple[Item, ...] = ()
    history: Sequence[Segment] = ()
    parent_id: str | None = None
    conversation_id: str | None = None
    name: str | None = None
    session_id: str | None = None


class _Instructed(msgspec.Struct):
    """The member of a stored response that others may inherit."""

    instructions: str | None = None


_INSTRUCTED = msgspec.json.Decoder(_Instructed)


class _Local(msgspec.Struct, frozen=True):
    history: tuple[Segment, ...]
    lane: str | None


class HeldBytes:
    """What the connections of one tenant hold together."""

    def __init__(self, *, max_bytes: int = 512 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self.bytes = 0

    @property
    def too_many(self) -> bool:
        return self.bytes > self._max_bytes


class LocalHistories:
    """Turns that no store has and that live as long as a connection, oldest given up first; bounded by what they hold, alone and
    together with those of the tenant's other connections. Their owner calls `close`."""

    def __init__(
        self, *, max_turns: int = 256, max_bytes: int = 64 * 1024 * 1024, together: HeldBytes | None = None
    ) -> None:
        self._max_turns = max_turns
        self._max_bytes = max_bytes
        self._together = together or HeldBytes()
        self._kept: dict[str, _Local] = {}
        self._uses: dict[int, int] = {}  # a turn that several continue is there once: by its id, how many hold it
        self._bytes = 0

    def keep(self, response_id: str, history: Sequence[Segment], *, lane: str | None) -> None:
        """`history`: the turns up to and with this one."""
        kept = self._kept[response_id] = _Local(tuple(history), lane)
        for segment in kept.history:
            uses = self._uses[id(segment)] = self._uses.get(id(segment), 0) + 1
            if uses == 1:
                self._hold(len(segment.input) + len(segment.output))
        while self._kept and (
            len(self._kept) > self._max_turns or self._bytes > self._max_bytes or self._together.too_many
        ):
            self._give_up(next(iter(self._kept)))

    def find(self, response_id: str) -> tuple[Segment, ...] | None:
        kept = self._kept.get(response_id)
        return None if kept is None else kept.history

    def evict(self, response_id: str, *, lane: str | None) -> None:
        """A turn of this lane continued that response and failed. Another lane's failure takes nothing from its owner."""
        kept = self._kept.get(response_id)
        if kept is not None and kept.lane == lane:
            self._give_up(response_id)

    def close(self) -> None:
        for response_id in list(self._kept):
            self._give_up(response_id)

    def _give_up(self, response_id: str) -> None:
        for segment in self._kept.pop(response_id).history:
            self._uses[id(segment)] -= 1
            if not self._uses[id(segment)]:
                del self._uses[id(segment)]
                self._hold(-len(segment.input) - len(segment.output))

    def _hold(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        self._together.bytes += size_bytes


class Chaining:
    """Finds histories. `turns`: who stores what continues them takes turns.

    Args:
        inherits_instructions: a request without instructions has those of the response it continues (decision 30).
        max_messages: with `truncation: "auto"`, how much history there is at most, in whole turns (decision 40).
    """

    def __init__(self, store: Store, *, inherits_instructions: bool = False, max_messages: int | None = None) -> None:
        self._store = store
        self._inherits_instructions = inherits_instructions
        self._max_messages = max_messages
        self.turns = ConversationTurns()

    async def prepare(
        self,
        request: Request,
        *,
        tenant: str,
        response_id: str,
        local: LocalHistories | None = None,
        whole: bool = True,
    ) -> Chained:
        """The request as the backend shall see it. `whole`: there is no more of the conversation, as there is in a session.

        Raises RequestError for a history that is not there.
        """
        local = local or LocalHistories()
        before = await self._before(request, local, tenant=tenant)
        request = await self._resolve(request, before.items, local, tenant=tenant)
        if self._inherits_instructions and before.parent_id is not None:
            request = self._inheriting(request, await self._store.load_response(tenant, before.parent_id))
        own = _own(request.items, response_id=response_id)
        return _chained(request, own, self._shortened(request, before), whole=whole)

    async def again(self, request: Request, *, tenant: str, response_id: str, whole: bool = True) -> Chained:
        """The same for a request whose turn has begun to be stored: its parent and its own items are settled, wherever
        names and references point by now."""
        begun = await self._begun(tenant, response_id)
        if begun.conversation_id is not None:
            before = await self._in_conversation(tenant, begun.conversation_id)
        else:
            history = (await self._store.history(tenant, response_id) or ())[:-1]
            before = _Before(
                items=_items_of(history), history=history, parent_id=begun.parent_id, name=_name_in(request)
            )
        own = _members(begun.input)
        items = items_from_stored(own)
        request = msgspec.structs.replace(request, items=items, places=("input",) * len(items))
        request = self._inheriting(request, begun)
        return _chained(request, own, self._shortened(request, before), whole=whole)

    async def alone(self, request: Request, *, tenant: str, response_id: str) -> Chained:
        """The same without its history, for a turn that will not be answered any more."""
        begun = await self._begun(tenant, response_id)
        return Chained(
            request=request,
            input=_members(begun.input),
            parent_id=begun.parent_id,
            conversation_id=begun.conversation_id,
        )

    def _inheriting(self, request: Request, response: StoredResponse | None) -> Request:
        if not self._inherits_instructions or request.instructions is not None or response is None:
            return request
        return msgspec.structs.replace(request, instructions=_INSTRUCTED.decode(response.object).instructions)

    def _shortened(self, request: Request, before: _Before) -> _Before:
        """With the newest turns of the history only, where there is more of it than is wanted."""
        if self._max_messages is None or request.truncation != "auto":
            return before
        left = len(before.items)
        gone: set[int] = set()
        for turn in older_turns(before.items):
            if left <= self._max_messages:
                break
            gone.update(turn)
            left -= len(turn)
        items = tuple([item for position, item in enumerate(before.items) if position not in gone])
        return msgspec.structs.replace(before, items=items)

    async def _begun(self, tenant: str, response_id: str) -> StoredResponse:
        begun = await self._store.load_response(tenant, response_id)
        if begun is None:
            raise NotFound(f"Response with id '{response_id}' not found.", code="response_not_found")
        return begun

    async def _before(self, request: Request, local: LocalHistories, *, tenant: str) -> _Before:
        if request.previous_response_id is not None:
            kept = local.find(request.previous_response_id)
            session_id, history = (
                (None, kept) if kept is not None else await self._chain(tenant, request.previous_response_id)
            )
            return _Before(
                items=_items_of(history),
                history=history,
                parent_id=request.previous_response_id,
                session_id=session_id,
            )
        if request.conversation is None:
            return _Before()
        name = _name_in(request)
        if name is None:
            return await self._in_conversation(tenant, request.conversation)
        parent_id = await self._store.named_response(tenant, name)
        history = () if parent_id is None else await self._store.history(tenant, parent_id) or ()
        parent = None if parent_id is None else await self._store.load_response(tenant, parent_id)
        session_id = None if parent is None else parent.session_id
        return _Before(items=_items_of(history), history=history, parent_id=parent_id, name=name, session_id=session_id)

    async def _resolve(
        self, request: Request, history: Sequence[Item], local: LocalHistories, *, tenant: str
    ) -> Request:
        """References to earlier items are replaced by these; one to an item of the history says nothing new."""
        if not any(_is_reference(item) for item in request.items):
            return request
        known = {item.id for item in history}
        read: dict[str, dict[str | None, Item]] = {}
        kept = [
            (await self._referred(item.id or "", place, local, read, tenant=tenant), place)
            if _is_reference(item)
            else (item, place)
            for item, place in zip(request.items, request.places, strict=True)
            if not (_is_reference(item) and item.id in known)
        ]
        return msgspec.structs.replace(
            request, items=tuple([item for item, _ in kept]), places=tuple([place for _, place in kept])
        )

    async def _referred(
        self, item_id: str, place: str, local: LocalHistories, read: dict[str, dict[str | None, Item]], *, tenant: str
    ) -> Item:
        """The item, found through the response that its id names: ids of ours are derived from that. `read`: the items of
        responses that have been read already, by response and id."""
        response_id = "_".join(["resp", *item_id.split("_")[1:2]])
        if response_id not in read:
            history = local.find(response_id)
            found = history[-1] if history else await self._store.load_response(tenant, response_id)
            items = () if found is None else items_from_stored((*_members(found.input), *_members(found.output)))
            read[response_id] = {item.id: item for item in items}
        item = read[response_id].get(item_id)
        if item is None:
            raise RequestError(f"Item with id '{item_id[:200]}' not found.", code="item_not_found", param=place)
        return item

    async def _chain(self, tenant: str, response_id: str) -> tuple[str | None, Sequence[Segment]]:
        """The session of that response, and the turns up to and with it."""
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
        return parent.session_id, segments

    async def _in_conversation(self, tenant: str, conversation_id: str) -> _Before:
        if await self._store.load_conversation(tenant, conversation_id) is None:
            raise NotFound(
                f"Conversation with id '{conversation_id[:200]}' not found.",
                code="conversation_not_found",
                param="conversation",
            )
        items = await self._store.list_items(tenant, conversation_id, Page(limit=_EVERYTHING, order="asc"))
        return _Before(
            items=items_from_stored([item.data for item in items]),
            conversation_id=conversation_id,
            session_id=conversation_id,
        )


def _own(items: Sequence[Item], *, response_id: str) -> tuple[bytes, ...]:
    """A request's own items as they are stored. Raises RequestError for two of one id: a list could not be paged by it."""
    written = input_items(items, response_id=response_id)
    for item_id, count in Counter(str(item["id"]) for item in written).items():
        if count > 1:
            raise RequestError(
                f"Duplicate item found with id '{item_id[:200]}'. Remove duplicate items from your input and try again.",
                param="input",
            )
    return tuple([msgspec.json.encode(item) for item in written])


def _chained(request: Request, own: tuple[bytes, ...], before: _Before, *, whole: bool) -> Chained:
    """Raises RequestError where the whole of it has a call without its output, or the other way round."""
    items = (*before.items, *request.items)
    if whole:
        check_calls(items, settled=len(before.items))
    places = (*("previous_response_id",) * len(before.items), *request.places)
    return Chained(
        request=msgspec.structs.replace(request, items=items, places=places),
        input=own,
        parent_id=before.parent_id,
        conversation_id=before.conversation_id,
        name=before.name,
        history=before.history,
        session_id=before.session_id,
    )


def _name_in(request: Request) -> str | None:
    """The plain name of a conversation, which points to its latest response."""
    named = request.conversation is not None and not request.conversation.startswith(CONVERSATION_PREFIX)
    return request.conversation if named else None


def _is_reference(item: Item) -> bool:
    return isinstance(item, OpaqueItem) and item.wire_type == "item_reference"


def _members(data: bytes) -> tuple[bytes, ...]:
    return tuple([bytes(item) for item in _ITEMS.decode(data)])


def _items_of(history: Sequence[Segment]) -> tuple[Item, ...]:
    return items_from_stored(
        [item for segment in history for part in (segment.input, segment.output) for item in _members(part)]
    )
