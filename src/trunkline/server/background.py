"""A request taken on as background work, once for each idempotency key: the same for responses and for runs."""

import msgspec
from starlette.types import Receive

from trunkline.engine.call import Call, IdempotencyKey
from trunkline.model.errors import NotFound
from trunkline.model.request import Request
from trunkline.server.creation import Creation
from trunkline.server.disconnect import DisconnectWatch
from trunkline.server.exchange import Exchange
from trunkline.server.keyed import announce_how
from trunkline.server.runtime import ResponseState, Runtime
from trunkline.server.session import NO_SESSION, Session, announce


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants done in the background."""

    request: Request
    body: bytes
    session: Session = NO_SESSION
    cache: bool | None = None
    key: IdempotencyKey | None = None


class Taken(msgspec.Struct, frozen=True):
    """The run and its response, as that is now. `call` is that of work that has just begun; None where it is found again."""

    id: str
    response: bytes
    call: Call | None = None


class Background:
    """Takes work on."""

    def __init__(self, runtime: Runtime, creation: Creation, state: ResponseState) -> None:
        self._runtime = runtime
        self._creation = creation
        self._state = state

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
                snapshot = await self._state.runs.submit(call, chained, body=asked.body, turn=turn)
                made.append(Taken(call.turn_id, snapshot, call))
                return call.turn_id

        with DisconnectWatch(receive, exchange.outcome):
            if asked.key is None:
                await create()
                return made[0]
            run_id, how = await self._runtime.idempotency.once(exchange.tenant, asked.key, create)
            announce_how(exchange, how)
            return made[0] if how == "made" else await self._found_again(run_id, asked, exchange)
        return None

    async def _found_again(self, run_id: str, asked: Asked, exchange: Exchange) -> Taken:
        response = await self._state.store.load_response(exchange.tenant, run_id)
        if response is None:  # deleted meanwhile
            raise NotFound(f"Response with id '{run_id}' not found.", code="response_not_found")
        exchange.outcome.model = response.model
        exchange.outcome.ignored = await self._creation.unused(asked.request, response.model, exchange)
        if response.session_id is not None:
            announce(exchange, self._runtime.profile, response.session_id, asked.session.memory_key)
        return Taken(run_id, response.object)
