"""A request taken on as background work, once for each idempotency key: the same for responses and for runs."""

import asyncio

import msgspec
from starlette.types import Receive

from trunkline.engine.call import Call, IdempotencyKey
from trunkline.engine.runs import Runs
from trunkline.model.request import Request
from trunkline.server.creation import Creation
from trunkline.server.disconnect import DisconnectWatch
from trunkline.server.exchange import Exchange
from trunkline.server.keyed import announce_how
from trunkline.server.runtime import Runtime
from trunkline.server.session import NO_SESSION, Session


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants done in the background."""

    request: Request
    body: bytes
    session: Session = NO_SESSION
    cache: bool | None = None
    key: IdempotencyKey | None = None


class Taken(msgspec.Struct, frozen=True):
    """The run. `call` and `snapshot`, its first object, are those of work that has just begun; None where it is found again."""

    id: str
    call: Call | None = None
    snapshot: bytes | None = None


class Background:
    """Takes work on."""

    def __init__(self, runtime: Runtime, creation: Creation, runs: Runs) -> None:
        self._runtime = runtime
        self._creation = creation
        self._runs = runs

    async def take_on(self, asked: Asked, exchange: Exchange, receive: Receive) -> Taken | None:
        """None for a client that has left before it was taken on; with a key it is, all the same. Raises TrunklineError."""
        made: list[Taken] = []

        async def create() -> str:
            with await self._creation.turn(asked.request, exchange.tenant) as turn:
                call, chained = await self._creation.prepare(
                    asked.request, exchange, body=asked.body, session=asked.session, cache=asked.cache
                )
                exchange.outcome.model = call.request.model
                call = msgspec.structs.replace(call, idempotency_key=asked.key)
                snapshot = await self._runs.submit(call, chained, body=asked.body, turn=turn)
                made.append(Taken(call.turn_id, call, snapshot))
                return call.turn_id

        async with DisconnectWatch(receive) as watch:
            try:
                if asked.key is None:
                    await create()
                    return made[0]
                run_id, how = await self._runtime.idempotency.once(exchange.tenant, asked.key, create)
            except asyncio.CancelledError:
                if not watch.caught():
                    raise
                exchange.outcome.error_code = "client_disconnected"
                return None
        announce_how(exchange, how)
        return made[0] if how == "made" else Taken(run_id)
