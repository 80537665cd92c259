"""/v1/sessions: what is kept under the names that clients give their conversations.

A session is made by the first turn that names it, or here. Its messages are items, as those of a conversation: calls and their
outputs are among them. Adding to a session waits for its turn as an answer does; deleting does not, and a turn that is under way
then leaves nothing behind.
"""

import contextlib
from collections.abc import Sequence

import msgspec
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from trunkline.dialects import reading
from trunkline.dialects.reading import Object
from trunkline.model.errors import InvalidParameter, NotFound
from trunkline.model.ids import new_id
from trunkline.ports.stores import SessionStore, StoredSession
from trunkline.server.body import read_members
from trunkline.server.disconnect import DisconnectWatch
from trunkline.server.exchange import exchange_of
from trunkline.server.json_response import send_json
from trunkline.server.listing import Entry, listing, one_more
from trunkline.server.metadata import metadata_of
from trunkline.server.methods import resource
from trunkline.server.query import page_of
from trunkline.server.runtime import Runtime
from trunkline.server.session import checked_id
from trunkline.server.stored_items import required_items

MAX_TITLE = 512
MAX_MESSAGES = 1000
_MADE_WITH = ("id", "title", "metadata")


class SessionResources:
    """Each method is an ASGI application."""

    def __init__(self, runtime: Runtime, store: SessionStore) -> None:
        self._runtime = runtime
        self._store = store
        self._spaced = runtime.profile.json_spacing

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, source = await self._read(scope, receive, known=_MADE_WITH)
        session = self._made(source)
        await self._store.create(exchange_of(scope).tenant, session)
        await send_json(_written(session), send, spaced=self._spaced)

    async def list(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = page_of(scope)
        sessions = await self._store.list(exchange_of(scope).tenant, one_more(page))
        await send_json(
            listing([Entry(one.id, _written(one)) for one in sessions], limit=page.limit), send, spaced=self._spaced
        )

    async def retrieve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(_written(await self._load(scope)), send, spaced=self._spaced)

    async def update(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is not named stays; null takes it away."""
        _, source = await self._read(scope, receive, known=("title", "metadata"))
        if "title" not in source and "metadata" not in source:
            raise InvalidParameter(
                "Nothing to change: give 'title', 'metadata' or both.", code="missing_required_parameter"
            )
        session = await self._load(scope)
        title = _title_in(source) if "title" in source else session.title
        metadata = metadata_of(source) if "metadata" in source else session.metadata
        if not await self._store.update(exchange_of(scope).tenant, session.id, title=title, metadata=metadata):
            raise _not_found(session.id)
        await send_json(
            _written(msgspec.structs.replace(session, title=title, metadata=metadata)), send, spaced=self._spaced
        )

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        session_id = scope["path_params"]["id"]
        if not await self._runtime.sessions.delete(exchange_of(scope).tenant, session_id):
            raise _not_found(session_id)
        await send_json(
            msgspec.json.encode({"id": session_id, "object": "session.deleted", "deleted": True}),
            send,
            spaced=self._spaced,
        )

    async def fork(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, source = await self._read(scope, receive, known=(*_MADE_WITH, "up_to"))
        tenant, parent = exchange_of(scope).tenant, await self._load(scope)
        fork = msgspec.structs.replace(self._made(source), parent_id=parent.id)
        if "title" not in source:
            fork = msgspec.structs.replace(fork, title=parent.title)
        if "metadata" not in source:
            fork = msgspec.structs.replace(fork, metadata=parent.metadata)
        up_to = _text_in(source, "up_to")
        if not await self._store.fork(tenant, parent.id, fork, up_to=up_to):
            raise _not_found(parent.id)
        await send_json(_written(await self._store.load(tenant, fork.id) or fork), send, spaced=self._spaced)

    async def messages(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = page_of(scope, order="asc")
        session = await self._load(scope)
        items = await self._store.items(exchange_of(scope).tenant, session.id, one_more(page))
        await send_json(listing(items, limit=page.limit), send, spaced=self._spaced)

    async def add_messages(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, source = await self._read(scope, receive, known=("messages",))
        tenant, session = exchange_of(scope).tenant, await self._load(scope)
        items = required_items(source.get("messages"), body, self._runtime, member="messages", at_most=MAX_MESSAGES)
        turn: contextlib.ExitStack | None = None
        with DisconnectWatch(receive, exchange_of(scope).outcome):
            turn = await self._runtime.sessions.turn(tenant, session.id)
        if turn is None:
            return
        with turn:
            if not await self._runtime.sessions.extend(tenant, session.id, items, member="messages"):
                raise _not_found(session.id)
        await send_json(listing(items, limit=len(items)), send, spaced=self._spaced)

    async def _read(self, scope: Scope, receive: Receive, *, known: Sequence[str]) -> tuple[bytes, Object]:
        return await read_members(scope, receive, limit_bytes=self._runtime.settings.max_body_bytes, known=known)

    async def _load(self, scope: Scope) -> StoredSession:
        session_id = scope["path_params"]["id"]
        session = await self._store.load(exchange_of(scope).tenant, session_id)
        if session is None:
            raise _not_found(session_id)
        return session

    def _made(self, source: Object) -> StoredSession:
        given = _text_in(source, "id")
        now_s = int(self._runtime.clock.now_s())
        return StoredSession(
            id=new_id("sess_", self._runtime.entropy) if given is None else checked_id(given, param="id"),
            created_at=now_s,
            updated_at=now_s,
            title=_title_in(source),
            metadata=metadata_of(source),
        )


def _text_in(source: Object, name: str) -> str | None:
    value = source.get(name)
    return None if value is None else reading.text(value, name)


def _title_in(source: Object) -> str | None:
    title = _text_in(source, "title")
    if title is not None and len(title) > MAX_TITLE:
        raise InvalidParameter(
            f"Invalid 'title': string too long. Expected at most {MAX_TITLE} characters, but got {len(title)}.",
            code="string_above_max_length",
            param="title",
        )
    return title


def _written(session: StoredSession) -> bytes:
    return msgspec.json.encode(
        {
            "id": session.id,
            "object": "session",
            "title": session.title,
            "created_at": session.created_at,
            "updated_at": session.updated_at,
            "message_count": session.items,
            "parent_id": session.parent_id,
            "metadata": msgspec.Raw(session.metadata),
        }
    )


def _not_found(session_id: str) -> NotFound:
    return NotFound(f"Session with id '{session_id[:200]}' not found.", code="session_not_found")


def routes(runtime: Runtime, store: SessionStore) -> list[BaseRoute]:
    sessions = SessionResources(runtime, store)
    one = {"GET": sessions.retrieve, "POST": sessions.update, "PATCH": sessions.update, "DELETE": sessions.delete}
    return [
        resource("/v1/sessions", {"GET": sessions.list, "POST": sessions.create}),
        resource("/v1/sessions/{id}", one),
        resource("/v1/sessions/{id}/messages", {"GET": sessions.messages, "POST": sessions.add_messages}),
        resource("/v1/sessions/{id}/fork", {"POST": sessions.fork}),
    ]
