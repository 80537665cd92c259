"""/api/sessions: sessions as the clients of hermes-agent's API server know them, and talking in one.

They are those of /v1/sessions, with another face: what one makes, lists or says here is there, too. What these clients keep with a
session and the store has no column for is in its metadata: `model`, `system_prompt`, `end_reason`, `ended_at`. A turn here goes the
way of every call that names its session; here alone the session has to be there already, its `system_prompt` is
said first, and it is kept whatever answers.
"""

import asyncio
import contextlib
import re
from collections.abc import Mapping

import msgspec
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from trunkline.dialects import reading
from trunkline.dialects.codec import SurfaceCodec
from trunkline.dialects.openai_responses.read_items import items_from_stored
from trunkline.dialects.reading import Object
from trunkline.dialects.session_chat import SessionChatSurface, messages_of, stored_message
from trunkline.engine.call import Call
from trunkline.engine.gateway import Answer
from trunkline.engine.idempotency import Work
from trunkline.model.errors import InvalidParameter, NotFound
from trunkline.model.ids import new_id
from trunkline.model.items import Item, Message, text_of
from trunkline.ports.stores import Page, SessionStore, StoredSession
from trunkline.server.answering import Answerer
from trunkline.server.body import read_body
from trunkline.server.exchange import exchange_of
from trunkline.server.json_response import send_json
from trunkline.server.keyed import answer_once, key_of
from trunkline.server.methods import resource
from trunkline.server.query import integer_of, query_of
from trunkline.server.runtime import Runtime
from trunkline.server.session import announce, checked_id, session_of
from trunkline.telemetry.outcome import Outcome

PATH = "/api/sessions"
SOURCE = "api_server"
MAX_LISTED = 200
MAX_TITLE = 100
MAX_SYSTEM_PROMPT = 65_536
PREVIEW_CHARACTERS = 60
SLICE = 500
_ALL = Page(limit=1_000_000)
_CHANGEABLE = ("title", "end_reason")
_NUMBERED = re.compile(r"(.*) #(\d{1,9})", re.DOTALL)
_METADATA = msgspec.json.Decoder(dict[str, str])


class HermesSessions:
    """Each method is an ASGI application."""

    def __init__(self, runtime: Runtime, store: SessionStore) -> None:
        self._runtime = runtime
        self._store = store
        self._name = f"{runtime.profile.own_name}.session"

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        source = await self._read(scope, receive)
        metadata = {"model": _text_in(source, "model") or "", "system_prompt": _system_prompt_in(source) or ""}
        session = self._made(source, title=_title_in(source), metadata=metadata)
        await self._store.create(exchange_of(scope).tenant, session)
        await self._send_one(session, send, status=201)

    async def list(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Those that something was said in last come first."""
        query, tenant = query_of(scope), exchange_of(scope).tenant
        limit = min(integer_of(query, "limit", 50, low=0), MAX_LISTED)
        offset = integer_of(query, "offset", 0, low=0)
        found = await self._store.list(tenant, _ALL) if query.get("source") in (None, SOURCE) else ()
        found = sorted(found, key=lambda session: session.updated_at, reverse=True)
        data = [
            {**self._members(one), "last_active": float(one.updated_at), "preview": await self._preview(tenant, one)}
            for one in found[offset : offset + limit]
        ]
        body = {
            "object": "list",
            "data": data,
            "limit": limit,
            "offset": offset,
            "has_more": len(found) > offset + limit,
        }
        await send_json(msgspec.json.encode(body), send, spaced=self._runtime.profile.json_spacing)

    async def retrieve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._send_one(await _load(self._store, scope), send)

    async def update(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is not named stays. A session that is ended can still be talked in, and ends once."""
        source = await self._read(scope, receive)
        unknown = sorted(set(source) - set(_CHANGEABLE))
        if unknown:
            names = reading.shorten(", ".join(unknown))
            raise InvalidParameter(
                f"Unsupported session fields: {names}; what can be changed is 'title' and 'end_reason'.",
                code="unsupported_session_field",
                param=unknown[0][:100],
            )
        session = await _load(self._store, scope)
        if "title" in source:
            session = msgspec.structs.replace(session, title=_title_in(source))
        reason = _text_in(source, "end_reason")
        if reason:
            session = self._ended(session, reason)
        await self._save(exchange_of(scope).tenant, session)
        await self._send_one(session, send)

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        session_id = scope["path_params"]["session_id"]
        if not await self._runtime.sessions.delete(exchange_of(scope).tenant, session_id):
            raise _not_found(session_id)
        body = {"object": f"{self._name}.deleted", "id": session_id, "deleted": True}
        await send_json(msgspec.json.encode(body), send, spaced=self._runtime.profile.json_spacing)

    async def messages(self, scope: Scope, receive: Receive, send: Send) -> None:
        session_id = scope["path_params"]["session_id"]
        stored = await self._store.history(exchange_of(scope).tenant, session_id)
        if stored is None:
            raise _not_found(session_id)
        items: list[Item] = []
        for start in range(0, len(stored), SLICE):
            await asyncio.sleep(0)  # others get their turn while a long history is read
            items += items_from_stored([item.data for item in stored[start : start + SLICE]])
        data = [stored_message(session_id, one) for one in messages_of(items)]
        await send_json(
            msgspec.json.encode({"object": "list", "session_id": session_id, "data": data}),
            send,
            spaced=self._runtime.profile.json_spacing,
        )

    async def fork(self, scope: Scope, receive: Receive, send: Send) -> None:
        source = await self._read(scope, receive)
        tenant, parent = exchange_of(scope).tenant, await _load(self._store, scope)
        title = _title_in(source) if source.get("title") is not None else _next_title(parent.title)
        metadata = {
            name: value for name, value in _metadata_of(parent).items() if name not in ("end_reason", "ended_at")
        }
        fork = msgspec.structs.replace(self._made(source, title=title, metadata=metadata), parent_id=parent.id)
        if not await self._store.fork(tenant, parent.id, fork):
            raise _not_found(parent.id)
        await self._save(tenant, self._ended(parent, "branched"))
        await self._send_one(await self._store.load(tenant, fork.id) or fork, send, status=201)

    def _made(self, source: Object, *, title: str | None, metadata: Mapping[str, str]) -> StoredSession:
        now_s = int(self._runtime.clock.now_s())
        given = _text_in(source, "id") or _text_in(source, "session_id")
        session_id = f"api_{now_s}_{self._runtime.entropy.hex(4)}"
        if given is not None:
            try:
                session_id = checked_id(given.strip(), param="id")
            except InvalidParameter as error:
                raise InvalidParameter(error.message, code="invalid_session_id", param="id") from None
        return StoredSession(
            id=session_id,
            created_at=now_s,
            updated_at=now_s,
            title=title,
            metadata=msgspec.json.encode({name: value for name, value in metadata.items() if value}),
        )

    def _ended(self, session: StoredSession, reason: str) -> StoredSession:
        metadata = _metadata_of(session)
        if "end_reason" in metadata:
            return session
        ended = {**metadata, "end_reason": reason[:512], "ended_at": str(int(self._runtime.clock.now_s()))}
        return msgspec.structs.replace(session, metadata=msgspec.json.encode(ended))

    async def _save(self, tenant: str, session: StoredSession) -> None:
        if not await self._store.update(tenant, session.id, title=session.title, metadata=session.metadata):
            raise _not_found(session.id)

    async def _preview(self, tenant: str, session: StoredSession) -> str:
        """How it begins."""
        first = await self._store.items(tenant, session.id, Page(limit=1, order="asc")) if session.items else ()
        said = [one.content for one in items_from_stored([item.data for item in first]) if isinstance(one, Message)]
        text = text_of(said[0]) if said else ""
        text = " ".join(text.split())
        return text if len(text) <= PREVIEW_CHARACTERS else f"{text[:PREVIEW_CHARACTERS]}..."

    async def _read(self, scope: Scope, receive: Receive) -> Object:
        """The body, for which nothing at all is as good as an empty object."""
        body = await read_body(scope, receive, limit_bytes=self._runtime.settings.max_body_bytes)
        return reading.decode_body(body or b"{}")

    def _members(self, session: StoredSession) -> dict[str, object]:
        """With every member that clients look for; null is what nobody counts here."""
        metadata = _metadata_of(session)
        ended_at = metadata.get("ended_at", "")
        return {
            "id": session.id,
            "source": SOURCE,
            "user_id": None,
            "model": self._runtime.router.choose(metadata.get("model")),
            "title": session.title,
            "started_at": float(session.created_at),
            "ended_at": float(ended_at) if ended_at.isdecimal() else None,
            "end_reason": metadata.get("end_reason"),
            "message_count": session.items,
            **_UNCOUNTED,
            "parent_session_id": session.parent_id,
            "has_system_prompt": "system_prompt" in metadata,
            "has_model_config": False,
        }

    async def _send_one(self, session: StoredSession, send: Send, *, status: int = 200) -> None:
        body = {"object": self._name, "session": self._members(session)}
        await send_json(msgspec.json.encode(body), send, status=status, spaced=self._runtime.profile.json_spacing)


class HermesChat:
    """POST /api/sessions/{session_id}/chat, or /chat/stream (`stream`)."""

    def __init__(self, runtime: Runtime, store: SessionStore, chat: SurfaceCodec, *, stream: bool) -> None:
        self._runtime = runtime
        self._store = store
        self._chat = chat
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime, exchange = self._runtime, exchange_of(scope)
        body = await read_body(scope, receive, limit_bytes=runtime.settings.max_body_bytes)
        kept = await _load(self._store, scope)
        metadata = _metadata_of(kept)
        codec = SessionChatSurface(
            self._chat,
            runtime.profile,
            session_id=kept.id,
            system=metadata.get("system_prompt"),
            stream=self._stream,
            now=runtime.clock.now_s,
        )
        request = codec.decode_request(body)
        if request.model is None:
            request = msgspec.structs.replace(request, model=runtime.router.choose(metadata.get("model")))
        session, request = session_of(scope, request, runtime)
        announce(exchange, runtime.profile, kept.id, session.memory_key)
        call = Call(
            request=request,
            body=None,
            own_items=request.items,
            dialect=codec.name,
            turn_id=new_id("resp_", runtime.entropy),
            created_at=int(runtime.clock.now_s()),
            request_id=exchange.request_id,
            tenant=exchange.tenant,
            outcome=exchange.outcome,
            session_id=kept.id,
            session_named=True,
            memory_key=session.memory_key,
            own_ids=True,
        )
        answerer = Answerer(runtime.gateway, codec, keepalive_s=runtime.settings.keepalive_s)
        key = key_of(scope, runtime, body)
        if key is None:
            await answerer.respond(call, exchange, receive, send, ask=self._ask)
            return

        async def prepare(outcome: Outcome) -> Work:
            return Work(msgspec.structs.replace(call, outcome=outcome), None, contextlib.ExitStack(), ask=self._ask)

        await answer_once(
            runtime,
            key,
            call,
            prepare,
            exchange=exchange,
            receive=receive,
            send=send,
            answerer=lambda _: answerer,
            announced=True,
        )

    async def _ask(self, call: Call) -> Answer:
        """With its history also where the backend's settings keep no sessions: one message is all that came."""
        gateway = self._runtime.gateway
        if await gateway.keeps_sessions(call.request.model or ""):
            return await gateway.answer(call)
        await gateway.check(call)
        return Answer(await self._runtime.sessions.answer(call, gateway.answer))


async def _load(store: SessionStore, scope: Scope) -> StoredSession:
    session_id = scope["path_params"]["session_id"]
    session = await store.load(exchange_of(scope).tenant, session_id)
    if session is None:
        raise _not_found(session_id)
    return session


def _metadata_of(session: StoredSession) -> dict[str, str]:
    return _METADATA.decode(session.metadata)


_UNCOUNTED: Mapping[str, None] = dict.fromkeys(
    (
        "tool_call_count",
        "input_tokens",
        "output_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
        "estimated_cost_usd",
        "actual_cost_usd",
        "api_call_count",
    )
)


def _text_in(source: Object, name: str) -> str | None:
    value = source.get(name)
    return None if value is None else reading.text(value, name)


def _system_prompt_in(source: Object) -> str | None:
    prompt = source.get("system_prompt")
    if prompt is None or (isinstance(prompt, str) and len(prompt) <= MAX_SYSTEM_PROMPT):
        return prompt
    raise InvalidParameter(
        f"Invalid 'system_prompt': expected a string of at most {MAX_SYSTEM_PROMPT} characters.",
        code="invalid_system_prompt",
        param="system_prompt",
    )


def _title_in(source: Object) -> str | None:
    """On one line; an empty one is none."""
    title = " ".join((_text_in(source, "title") or "").split())
    if len(title) > MAX_TITLE:
        raise InvalidParameter(
            f"Invalid 'title': expected at most {MAX_TITLE} characters, but got {len(title)}.",
            code="invalid_title",
            param="title",
        )
    return title or None


def _next_title(title: str | None) -> str:
    """`Plans` → `Plans #2` → `Plans #3`."""
    if title is None:
        return "fork"
    numbered = _NUMBERED.fullmatch(title)
    base, number = (numbered[1], int(numbered[2])) if numbered else (title, 1)
    end = f" #{number + 1}"
    return base[: MAX_TITLE - len(end)] + end


def _not_found(session_id: str) -> NotFound:
    return NotFound(f"Session not found: {session_id[:200]}", code="session_not_found")


def routes(runtime: Runtime, store: SessionStore, chat: SurfaceCodec) -> list[BaseRoute]:
    """Where the profile has them."""
    if PATH not in runtime.profile.surfaces:
        return []
    sessions, one = HermesSessions(runtime, store), f"{PATH}/{{session_id}}"
    talk, talk_streamed = (HermesChat(runtime, store, chat, stream=stream) for stream in (False, True))
    return [
        resource(PATH, {"GET": sessions.list, "POST": sessions.create}),
        resource(one, {"GET": sessions.retrieve, "PATCH": sessions.update, "DELETE": sessions.delete}),
        resource(f"{one}/messages", {"GET": sessions.messages}),
        resource(f"{one}/fork", {"POST": sessions.fork}),
        resource(f"{one}/chat", {"POST": talk}),
        resource(f"{one}/chat/stream", {"POST": talk_streamed}),
    ]
