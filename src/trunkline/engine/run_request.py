"""What is kept of a run so that it can be answered after a restart, and the call made of that again."""

import contextlib
from functools import partial

import msgspec

from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.engine.call import Call
from trunkline.engine.chaining import Chained, Chaining
from trunkline.ports.stores import StoredRun
from trunkline.telemetry.outcome import Outcome

SESSION_MEMBER = "session_id"
"""Of a body; what it says is in RunRequest."""


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to run again: the client's body and what surrounds it. `backend` was the first choice."""

    body: bytes
    model: str
    request_id: str
    session_id: str | None = None
    session_named: bool = False
    memory_key: str | None = None
    backend: str = ""


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """A run's call as it was before it began to be answered. `turn`: its turn in its conversation."""

    call: Call
    chained: Chained
    backend: str
    turn: contextlib.ExitStack


def written(call: Call, body: bytes, *, backend: str) -> bytes:
    """The call, for the store."""
    request = RunRequest(
        body=body,
        model=call.request.model or "",
        request_id=call.request_id,
        session_id=call.session_id,
        session_named=call.session_named,
        memory_key=call.memory_key,
        backend=backend,
    )
    return msgspec.msgpack.encode(request)


async def rebuilt(chaining: Chaining, codec: ResponsesSurface, stored: StoredRun, *, alone: bool) -> Rebuilt:
    """The call again, in its conversation's turn. `alone`: without its history, for one that has to end.

    Raises RequestError for what cannot be answered any more, whatever a decoder raises for what cannot be read.
    """
    asked = _REQUEST.decode(stored.request)
    request = codec.decode_request(asked.body)
    extra = {name: value for name, value in request.extra.items() if name != SESSION_MEMBER}
    request = msgspec.structs.replace(request, model=asked.model, extra=extra)
    tenant, name = stored.tenant, None if alone else request.conversation
    with contextlib.ExitStack() if name is None else await chaining.turns.take(tenant, name, briefly=True) as turn:
        again = partial(chaining.again, whole=not asked.session_named)
        take_up = chaining.alone if alone else again
        chained = await take_up(request, tenant=tenant, response_id=stored.id)
        outcome = Outcome()
        outcome.model, outcome.stream = asked.model, request.stream
        call = Call(
            request=chained.request,
            body=asked.body,
            own_items=request.items,
            dialect=codec.name,
            turn_id=stored.id,
            created_at=stored.created_at,
            request_id=asked.request_id,
            tenant=tenant,
            outcome=outcome,
            session_id=asked.session_id,
            session_named=asked.session_named,
            memory_key=asked.memory_key,
            own_ids=True,
            patient=True,
        )
        return Rebuilt(call=call, chained=chained, backend=asked.backend, turn=turn.pop_all())


_REQUEST = msgspec.msgpack.Decoder(RunRequest)
