"""POST /v1/chat/completions.

With `store: true` the completion is kept with the messages it answered. It then has an id and a time of ours, so that it can be
found again, and is encoded here also where it could have been relayed: what is kept and what was said are then one object. Only a
whole answer is kept, not one whose client left before its end.
"""

import contextlib

import msgspec
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from trunkline.dialects.openai_chat import ChatSurface
from trunkline.dialects.openai_chat.encode_request import with_model
from trunkline.dialects.openai_chat.stored import stored_messages, with_metadata
from trunkline.engine.call import Call
from trunkline.engine.idempotency import Prepare, Work
from trunkline.model import events as ev
from trunkline.model.ids import new_id
from trunkline.model.request import Request
from trunkline.model.turn import Turn
from trunkline.ports.stores import Store, StoredCompletion
from trunkline.server.answering import Answerer, Record
from trunkline.server.body import read_body
from trunkline.server.cache_choice import cache_choice
from trunkline.server.chat_form import chat_of_form, is_form
from trunkline.server.exchange import exchange_of
from trunkline.server.keyed import answer_once, key_of
from trunkline.server.metadata import metadata_of
from trunkline.server.methods import resource
from trunkline.server.runtime import Runtime
from trunkline.server.session import announce, derived_id, session_of
from trunkline.telemetry.outcome import Outcome


class _Completion(msgspec.Struct):
    """The members of a completion that the store wants."""

    id: str
    created: int
    model: str


_COMPLETION = msgspec.json.Decoder(_Completion)


class ChatCompletions:
    """The resource; an ASGI application of its own."""

    def __init__(self, runtime: Runtime, codec: ChatSurface, store: Store) -> None:
        self._runtime = runtime
        self._codec = codec
        self._store = store
        self._answerer = Answerer(
            runtime.gateway,
            codec,
            keepalive_s=runtime.settings.keepalive_s,
            keeps_partial=False,
            early_status=runtime.profile.early_status,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime, exchange = self._runtime, exchange_of(scope)
        body = await read_body(scope, receive, limit_bytes=runtime.settings.max_body_bytes)
        if runtime.profile.chat_forms:
            content_type = exchange.received.get(b"content-type", b"").decode("latin-1")
            body = chat_of_form(body, content_type) if is_form(content_type) else body
        body, cache = cache_choice(scope, body, runtime.profile)
        request, forwarded = self._codec.decode_request(body), body
        if request.model is None:
            model = runtime.router.choose(None)
            request, forwarded = msgspec.structs.replace(request, model=model), with_model(body, model)
        session, request = session_of(scope, request, runtime)
        session_id = session.id or derived_id(request)
        announce(exchange, runtime.profile, session_id, session.memory_key)
        stored = request.store is True
        call = Call(
            request=request,
            body=forwarded,
            own_items=request.items,
            dialect=self._codec.name,
            turn_id=new_id("chatcmpl-", runtime.entropy),
            created_at=int(runtime.clock.now_s()),
            request_id=exchange.request_id,
            tenant=exchange.tenant,
            outcome=exchange.outcome,
            session_id=session_id,
            session_named=session.id is not None,
            memory_key=session.memory_key,
            own_ids=stored,
            cache=cache,
            shows_approvals=self._codec.shows_approvals(request),
        )
        record = self._recorder(exchange.tenant, request, body) if stored else None
        key = key_of(scope, runtime, body)
        if key is None:
            await self._answerer.respond(call, exchange, receive, send, record=record)
            return
        await answer_once(
            runtime,
            key,
            call,
            self._preparation(call, record),
            exchange=exchange,
            receive=receive,
            send=send,
            answerer=lambda _: self._answerer,
            announced=True,
        )

    def _preparation(self, call: Call, record: Record | None) -> Prepare:
        async def keep(turn: Turn, _ended_s: float) -> None:
            if record is not None and not isinstance(turn.terminal, ev.TurnFailed | ev.TurnCancelled):
                await record(self._codec.encode_turn(turn, call.request))

        async def prepare(outcome: Outcome) -> Work:
            return Work(msgspec.structs.replace(call, outcome=outcome, own_ids=True), keep, contextlib.ExitStack())

        return prepare

    def _recorder(self, tenant: str, request: Request, body: bytes) -> Record:
        metadata = metadata_of({"metadata": dict(request.metadata or {})})

        async def record(data: bytes) -> None:
            completion = _COMPLETION.decode(data)
            stored = StoredCompletion(
                id=completion.id,
                object=with_metadata(data, metadata),
                messages=stored_messages(body, completion_id=completion.id),
                model=completion.model,
                created_at=completion.created,
                metadata=metadata,
            )
            await self._store.save_completion(tenant, stored)

        return record


def routes(runtime: Runtime, codec: ChatSurface, store: Store, *, listed: ASGIApp) -> list[BaseRoute]:
    """`listed` answers GET of the same path: the list of what is stored."""
    completions = ChatCompletions(runtime, codec, store)
    return [
        resource("/v1/chat/completions", {"POST": completions, "GET": listed}),
        resource("/v1/sessions/{session_id}/chat/completions", {"POST": completions}),
    ]
