"""The store port: what is kept between requests, by tenant.

Everything is asynchronous, because a store may be a server; everything takes the tenant first, because a foreign id must behave
exactly like an unknown one. JSON travels as bytes: what a client gets again is byte for byte what was stored.

    response      the object a client can GET, and the turn it stands for: input and output items, and the turn before it
    run           work that outlives its request: queued, in_progress, then one terminal status; with its event log
    conversation  an ordered list of items with a name of its own
    session       the same, named by whoever talks, growing turn by turn
    completion    a stored chat completion
    usage         what calls added up to (ports/usage.py)

A chain of turns is followed through `parent_id`. A turn stores its own items only; deleting a response that others continue
hides it and keeps its items for them. A response may also be deleted, or give way to newer ones, while a turn that
continues it is being answered: so who saves a turn hands over the history it worked with, and the store keeps it with
the turn where the parent is gone.

A caller that is cancelled while it waits for a write loses the news, not the write. What fails raises StoreError, and then
nothing was written.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from trunkline.model.errors import InvalidParameter
from trunkline.ports.usage import UsageStore

RunStatus = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]
Order = Literal["asc", "desc"]


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A response and its turn. `object`, `input` and `output` are JSON: the Response object and two lists of items.

    Attributes:
        parent_id: the response this one continues, for a chain. It is settled when a response is first stored.
        conversation_id: the conversation it belongs to, for one that has an id of its own.
        name: the plain conversation name that shall point to it from now on; a loaded response has the one it was saved with.
        session_id: the session it belongs to, for those that continue it. It is settled when a response is first stored.
        background: whether it was started in the background, so that it has an event log to resume from.
        created_at: unix seconds.
    """

    id: str
    object: bytes
    input: bytes
    output: bytes
    status: RunStatus
    model: str
    created_at: int
    parent_id: str | None = None
    conversation_id: str | None = None
    name: str | None = None
    session_id: str | None = None
    background: bool = False


class Segment(msgspec.Struct, frozen=True, gc=False):
    """The items of one turn of a chain, as JSON lists."""

    input: bytes
    output: bytes


class LoggedEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of a run as its surface writes it. `sequence_number` counts from 0 without gaps; `at` in unix seconds."""

    sequence_number: int
    type: str
    data: bytes
    at: float = 0.0


class StoredRun(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Work that outlives its request. It has the id of its response. What the store knows from elsewhere is ignored where it is
    passed in: the next number, the response's model and session, the time of the last event.

    Attributes:
        request: what is needed to run it again, opaque to the store; empty once the run has ended.
        next_sequence: the number that the next event must have.
        stops: how often a server has left while it was in progress, and said so.
        updated_at: unix seconds, as the events' own times.
    """

    id: str
    status: RunStatus
    request: bytes
    created_at: int
    tenant: str = "default"
    next_sequence: int = 0
    stops: int = 0
    model: str = ""
    session_id: str | None = None
    updated_at: float = 0.0


class StoredConversation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A conversation; `metadata` is a JSON object."""

    id: str
    created_at: int
    metadata: bytes = b"{}"


class StoredItem(msgspec.Struct, frozen=True, gc=False):
    """One item of a conversation; `data` is its JSON."""

    id: str
    data: bytes


class _WithId(msgspec.Struct):
    id: str


_ITEM_ID = msgspec.json.Decoder(_WithId)


def stored_item(data: bytes) -> StoredItem:
    """The item of this JSON, under its own id."""
    return StoredItem(_ITEM_ID.decode(data).id, data)


class StoredSession(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A session; `metadata` is a JSON object, times are unix seconds.

    Attributes:
        updated_at: when something was last added to it.
        parent_id: the session it was forked from.
        items: how many it has; the store counts, what is passed in is ignored.
    """

    id: str
    created_at: int
    updated_at: int
    title: str | None = None
    metadata: bytes = b"{}"
    parent_id: str | None = None
    items: int = 0


class StoredCompletion(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A chat completion and the messages it answered, as JSON."""

    id: str
    object: bytes
    messages: bytes
    model: str
    created_at: int
    metadata: bytes = b"{}"


class KeyedAnswer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was answered under an idempotency key.

    Attributes:
        fingerprint: what was asked, as a digest.
        answer_id: the completion's or the response's.
        data: the answer, opaque to the store; empty where it is a response in this store.
        created_at: when the key was first used, in unix seconds.
    """

    key: str
    fingerprint: bytes
    answer_id: str
    created_at: int
    data: bytes = b""


class Page(msgspec.Struct, frozen=True):
    """Which part of a list: at most `limit` entries after (not including) the entry `after`, in `order`.

    Whoever lists raises InvalidParameter for an `after` that is not in the list: it may have been deleted meanwhile, and
    an empty page would look like the end.
    """

    limit: int = 20
    order: Order = "desc"
    after: str | None = None


def no_such_entry(after: str) -> InvalidParameter:
    return InvalidParameter(
        f"Invalid 'after': no entry {after[:200]!r} in this list to continue after; start again without it.",
        param="after",
    )


class ResponseStore(Protocol):
    """Responses and their chains."""

    async def save_response(
        self,
        tenant: str,
        response: StoredResponse,
        *,
        history: Sequence[Segment] = (),
        items: Sequence[StoredItem] = (),
    ) -> None:
        """Stores or replaces; returns when it is durable. A `name` moves to this response in the same transaction.

        Args:
            history: what `history` gave for the parent when the turn began; kept only where the parent has gone since.
            items: are added to the conversation `conversation_id` in the same transaction, if it still exists.

        Raises:
            StoreError: also for a parent that is unknown, with no history to take its place.
        """
        ...

    async def load_response(self, tenant: str, response_id: str) -> StoredResponse | None: ...

    async def delete_response(self, tenant: str, response_id: str) -> bool:
        """Removes the object, its names, its run and the run's log. Its items stay while another turn continues it."""
        ...

    async def history(self, tenant: str, response_id: str) -> Sequence[Segment] | None:
        """The turns up to and including this response, first turn first, in one query. None for an unknown one."""
        ...

    async def named_response(self, tenant: str, name: str) -> str | None:
        """The response a plain conversation name points to."""
        ...


class RunStore(Protocol):
    """Runs and their event logs. Events are durable before anybody reads them."""

    async def create_run(
        self,
        run: StoredRun,
        response: StoredResponse,
        events: Sequence[LoggedEvent],
        *,
        history: Sequence[Segment] = (),
        keyed: KeyedAnswer | None = None,
    ) -> None:
        """The run, its response's first snapshot, its first events and the key it is found by again, in one transaction."""
        ...

    async def start_run(
        self, tenant: str, run_id: str, *, response: StoredResponse | None = None, events: Sequence[LoggedEvent] = ()
    ) -> bool:
        """queued → in_progress, with the snapshot and the events that say so. False, and nothing is written, when it
        was cancelled, deleted or started meanwhile."""
        ...

    async def requeue_run(
        self, tenant: str, run_id: str, *, response: StoredResponse, events: Sequence[LoggedEvent]
    ) -> bool:
        """in_progress → queued, for a run that has lost its worker and shall run again. False, and nothing is written, when
        it is not in progress."""
        ...

    async def note_stop(self, tenant: str, run_id: str) -> None:
        """The server leaves, and the run stays in progress for the next one; nothing, where it is not in progress."""
        ...

    async def append_events(
        self,
        tenant: str,
        run_id: str,
        events: Sequence[LoggedEvent],
        *,
        final: StoredResponse | None = None,
        status: RunStatus | None = None,
        items: Sequence[StoredItem] = (),
    ) -> bool:
        """Appends; with `final`, ends the run in the same transaction: with `status`, or with that response's.

        False, and nothing is written, when the run has ended or is gone: whoever writes has been fenced. `items` as in
        `save_response`. Raises StoreError for a sequence number that is not the next one.
        """
        ...

    async def read_events(self, tenant: str, run_id: str, *, after: int, limit: int) -> Sequence[LoggedEvent]:
        """At most `limit` events with a sequence number greater than `after`."""
        ...

    async def load_run(self, tenant: str, run_id: str) -> StoredRun | None:
        """None also for a run that ended longer ago than runs are kept: its events have gone, its response may be there."""
        ...

    async def list_runs(
        self,
        tenant: str,
        page: Page,
        *,
        statuses: Sequence[RunStatus] | None = None,
        session_id: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> Sequence[StoredRun]:
        """In the order they were made; only those with one of these statuses, of that session, with one of these ids."""
        ...

    async def unfinished_runs(self) -> Sequence[StoredRun]:
        """Every tenant's runs that are queued or in progress, oldest first: what a restart has to deal with."""
        ...


class ConversationStore(Protocol):
    """Conversations and their items, in the order they were added. An item whose id is there already stays as it is."""

    async def create_conversation(
        self, tenant: str, conversation: StoredConversation, items: Sequence[StoredItem]
    ) -> None: ...

    async def load_conversation(self, tenant: str, conversation_id: str) -> StoredConversation | None: ...

    async def update_conversation(self, tenant: str, conversation: StoredConversation) -> bool: ...

    async def delete_conversation(self, tenant: str, conversation_id: str) -> bool:
        """Removes it with its items. Responses made in it stay."""
        ...

    async def add_items(self, tenant: str, conversation_id: str, items: Sequence[StoredItem]) -> bool: ...

    async def list_items(self, tenant: str, conversation_id: str, page: Page) -> Sequence[StoredItem]: ...

    async def load_item(self, tenant: str, conversation_id: str, item_id: str) -> StoredItem | None: ...

    async def delete_item(self, tenant: str, conversation_id: str, item_id: str) -> bool: ...


class SessionStore(Protocol):
    """Sessions and their items, in the order they were added. An item whose id is there already stays as it is.

    A session that grows too long loses its oldest turns, whole ones: what one call of `extend` added goes together. Sessions
    beyond a tenant's limit, and those that have not grown for long, go as responses do.
    """

    async def create(self, tenant: str, session: StoredSession) -> None:
        """Raises Conflict for an id that is taken."""
        ...

    async def load(self, tenant: str, session_id: str) -> StoredSession | None: ...

    async def update(self, tenant: str, session_id: str, *, title: str | None, metadata: bytes) -> bool: ...

    async def delete(self, tenant: str, session_id: str) -> bool: ...

    async def list(self, tenant: str, page: Page) -> Sequence[StoredSession]:
        """In the order they were made."""
        ...

    async def items(self, tenant: str, session_id: str, page: Page) -> Sequence[StoredItem]: ...

    async def history(self, tenant: str, session_id: str) -> Sequence[StoredItem] | None:
        """All of it, first item first. None for an unknown session."""
        ...

    async def extend(
        self, tenant: str, session_id: str, items: Sequence[StoredItem], *, now_s: int, new: bool = False
    ) -> bool:
        """Adds the items as one turn. `new`: the session is made, should there be none. False: there is none, and nothing is
        written."""
        ...

    async def fork(self, tenant: str, session_id: str, fork: StoredSession, *, up_to: str | None = None) -> bool:
        """Makes a session of its own with the same items, up to and with that one. False for an unknown session; raises Conflict
        for an id that is taken, InvalidParameter for an item that is not there."""
        ...


class CompletionStore(Protocol):
    """Stored chat completions."""

    async def save_completion(self, tenant: str, completion: StoredCompletion) -> None: ...

    async def load_completion(self, tenant: str, completion_id: str) -> StoredCompletion | None: ...

    async def update_completion(self, tenant: str, completion_id: str, *, metadata: bytes, object: bytes) -> bool: ...  # noqa: A002 - the wire's word

    async def delete_completion(self, tenant: str, completion_id: str) -> bool: ...

    async def list_completions(
        self, tenant: str, page: Page, *, model: str | None = None, metadata: bytes | None = None
    ) -> Sequence[StoredCompletion]:
        """In the order they were stored; only those of that model, whose metadata has every pair of that object."""
        ...


class KeyedAnswerStore(Protocol):
    """Answers by idempotency key. What is deleted by its id is no longer found by its key either."""

    async def save(self, tenant: str, answer: KeyedAnswer) -> None:
        """Stores or replaces; returns when it is durable. A tenant's oldest give way."""
        ...

    async def load(self, tenant: str, key: str) -> KeyedAnswer | None: ...


class Store(ResponseStore, RunStore, ConversationStore, CompletionStore, UsageStore, Protocol):
    """All of it, behind one life: `start` before, `close` after."""

    @property
    def sessions(self) -> SessionStore: ...

    @property
    def keyed_answers(self) -> KeyedAnswerStore: ...

    @property
    def waiting(self) -> int:
        """Reads and writes that have been asked for and not begun."""
        ...

    async def start(self) -> None:
        """Opens, and upgrades what an older version wrote. Raises ConfigError or StoreError with what to do."""
        ...

    async def close(self) -> None:
        """Writes what is pending and closes. Safe to call twice and without `start`."""
        ...
