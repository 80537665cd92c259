"""Requests with an `Idempotency-Key`: which request it is, and its answer, made once, given to everybody who sends it.

What makes two requests the same is all that decides the answer: the path, the body, the session and the memory that headers name.
How the answer is sent does not: `stream` and `stream_options` are left out, so a client whose stream broke may ask for the whole.
"""

from collections.abc import Callable
from hashlib import sha256

import msgspec
from starlette.types import Receive, Scope, Send

from trunkline.engine.call import Call, IdempotencyKey
from trunkline.engine.gateway import Answer
from trunkline.engine.idempotency import Given, How, Idempotency, Prepare
from trunkline.model.errors import InvalidParameter
from trunkline.server.answering import Answerer
from trunkline.server.disconnect import DisconnectWatch
from trunkline.server.exchange import Exchange, exchange_of, sole_header
from trunkline.server.runtime import Runtime
from trunkline.server.session import announce

NAME = "idempotency-key"
HOW = b"x-trunkline-idempotent"
MAX_CHARACTERS = 255
_PLAIN = frozenset(range(0x20, 0x7F))
_SENDING = frozenset({"stream", "stream_options"})
AnswererAt = Callable[[Callable[[], float]], Answerer]
"""Who writes the answer down, at that time."""


def key_of(scope: Scope, runtime: Runtime, body: bytes) -> IdempotencyKey | None:
    """The key and what it stands for; None where there is none. `body` is a JSON object. Raises InvalidParameter."""
    received = exchange_of(scope).received
    given = sole_header(scope, NAME.title())
    if given is None:
        return None
    if not 1 <= len(given) <= MAX_CHARACTERS or not _PLAIN.issuperset(given):
        raise InvalidParameter(
            f"Invalid 'Idempotency-Key': expected 1 to {MAX_CHARACTERS} printable ASCII characters.",
            param="Idempotency-Key",
        )
    profile = runtime.profile
    headers = [received.get(name.encode()) for name in (profile.session_header, profile.memory_key_header)]
    asked = {name: value for name, value in msgspec.json.decode(body).items() if name not in _SENDING}
    digest = sha256(msgspec.msgpack.encode((scope["path"], headers)))
    digest.update(msgspec.json.encode(asked, order="sorted"))
    return IdempotencyKey(given.decode(), digest.digest())


def announce_how(exchange: Exchange, how: How) -> None:
    """Has the answer say that it was made for an earlier request."""
    if how != "made":
        exchange.headers.append((HOW, how.encode()))


async def answer_once(
    runtime: Runtime,
    key: IdempotencyKey,
    call: Call,
    prepare: Prepare,
    *,
    exchange: Exchange,
    receive: Receive,
    send: Send,
    answerer: AnswererAt,
    announced: bool = False,
) -> None:
    """Sends the answer to what was asked under this key.

    Args:
        call: has the request as this client sent it.
        prepare: makes the call that is answered, if this one is the first.
        answerer: who writes the answer.
        announced: whether its head says of which session it is; otherwise `prepare` sees to that for the first.
    """
    given = await _given(runtime.idempotency, key, call, prepare, exchange, receive)
    if given is None:
        return
    announce_how(exchange, given.how)
    if not announced and given.how != "made" and given.call.session_id is not None:
        announce(exchange, runtime.profile, given.call.session_id, call.memory_key)
    shown = msgspec.structs.replace(
        given.call,
        # As it was answered, but sent as this client wants it.
        request=msgspec.structs.replace(
            call.request, model=given.call.request.model, instructions=given.call.request.instructions
        ),
        outcome=call.outcome,
        request_id=call.request_id,
    )

    async def opened(_: Call) -> Answer:
        return Answer(await given.open())

    await answerer(given.ended_s).respond(shown, exchange, receive, send, ask=opened)


async def _given(
    idempotency: Idempotency, key: IdempotencyKey, call: Call, prepare: Prepare, exchange: Exchange, receive: Receive
) -> Given | None:
    """None for a client that has left meanwhile."""
    with DisconnectWatch(receive, exchange.outcome):
        return await idempotency.answer(call, key, prepare)
    return None
