"""What is asked under one idempotency key is answered once (decision 23).

    key ──▶ being answered? ──▶ read along                       the same answer, with the same id
            │ no ──▶ answered before? ──▶ its events again       the same, also after a restart
            └ no ──▶ answer it ──▶ kept in the store, before anybody reads its end

A key is there for clients that lose their connection and ask again. So the work belongs to no client: it goes on when all have
left, as long as the backend may take (`timeout_s`), and whoever asks again finds it. What is kept is what came to an end of its
own. A failure is told to everybody who waits for it and then forgotten, so that the next try is one. So is what a dying process had
begun.

What is asked in the background is answered by the run it makes. Key and run are stored in one transaction, and whoever asks again
gets that run, whatever has become of it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Literal

import msgspec

from trunkline.engine.call import Call, IdempotencyKey
from trunkline.engine.flight import Flight, Kept, Source
from trunkline.engine.turn_record import Recorder, read
from trunkline.engine.turns import Turns
from trunkline.model import events as ev
from trunkline.model.errors import Conflict, StoreError
from trunkline.model.turn import Turn, fold
from trunkline.ports.runtime import Clock
from trunkline.ports.stores import KeyedAnswer, Store
from trunkline.telemetry.accounts import Accounts
from trunkline.telemetry.logs import logfields
from trunkline.telemetry.outcome import Outcome

Place = tuple[str, str]
"""A tenant and its key."""
How = Literal["made", "joined", "replayed"]
Ask = Callable[[Call], Awaitable[Source]]
Create = Callable[[], Coroutine[None, None, str]]
"""Creates a response and gives its id."""
logger = logging.getLogger("trunkline.engine")


class Work(msgspec.Struct, frozen=True):
    """A call that is ready to be answered.

    Attributes:
        keep: keeps what has ended, at that time; raises StoreError, and then it has failed.
        turn: closed when all is kept.
        ask: gives the answer where that is not the gateway alone.
    """

    call: Call
    keep: Callable[[Turn, float], Awaitable[None]] | None
    turn: contextlib.ExitStack
    ask: Ask | None = None


Prepare = Callable[[Outcome], Awaitable[Work]]
"""Makes the call, noted in that outcome. Runs in no client's task."""


class Given(msgspec.Struct, frozen=True):
    """The answer, as one who asked for it gets it.

    Attributes:
        call: whose answer it is.
        ended_s: when it ended, in unix seconds; meanwhile, the time.
        open: gives its events. Raises what kept it from being answered. Has to be called, once.
    """

    call: Call
    how: How
    ended_s: Callable[[], float]
    open: Callable[[], Awaitable[Source]]


class _Answering:
    """An answer under way. `work` is what is answered, once that is ready; `ended_s` is set when it has ended."""

    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.flight: Flight
        self.work: Work | None = None
        self.ended_s: float | None = None


class _Creating:
    """Something being created, that will have an id."""

    def __init__(self, fingerprint: bytes, task: asyncio.Task[str]) -> None:
        self.fingerprint = fingerprint
        self.task = task


class _KeptAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer as it is kept: its events as JSON, and what surrounds them. `model` and `instructions` as the answer shows them."""

    events: bytes
    model: str
    ended_s: float
    instructions: str | None = None
    session_id: str | None = None
    route: str | None = None
    ignored: tuple[str, ...] = ()


_KEPT = msgspec.msgpack.Decoder(_KeptAnswer)


class Idempotency:
    """All answers under keys, of this process and of the store. `replaces`: another request takes a key over, it is not refused."""

    def __init__(self, store: Store, ask: Ask, *, accounts: Accounts, clock: Clock, replaces: bool) -> None:
        self._store = store
        self._ask = ask
        self._accounts = accounts
        self._clock = clock
        self._replaces = replaces
        self._under_way: dict[Place, _Answering | _Creating] = {}
        self._looking = Turns()

    @property
    def busy(self) -> bool:
        """Whether anything is under way, whoever waits for it."""
        return bool(self._under_way)

    def abort(self) -> None:
        """The time to finish is over."""
        for one in list(self._under_way.values()):
            if isinstance(one, _Answering):
                one.flight.stop()

    async def close(self) -> None:
        self.abort()
        tasks = [one.flight.task if isinstance(one, _Answering) else one.task for one in self._under_way.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def answer(self, call: Call, key: IdempotencyKey, prepare: Prepare) -> Given:
        """The answer to what was asked under this key; `call` is the one that asks now.

        Raises Conflict for a key that stands for another request, StoreError, and what `prepare` raises.
        """
        place = (call.tenant, key.key)
        how: How = "made"
        with await self._look(place):
            one = self._found(place, key)
            if one is None:
                kept = await self._kept(call.tenant, key)
                if kept is not None:
                    return _replayed(call, kept)
                one = self._begin(call, place, key, prepare)
                reader = one.flight.join(call.outcome, first=True)
            else:
                assert isinstance(one, _Answering), "what is asked in the background is asked by another body"
                reader, how = one.flight.join(call.outcome), "joined"
        answering, ready = one, False
        try:
            await answering.flight.until(lambda: answering.work is not None)
            ready = True
        finally:
            if not ready:  # it failed, or the client has left
                await reader.aclose()

        async def opened() -> Source:
            await reader.opened()
            noted = answering.flight.outcome
            call.outcome.route, call.outcome.ignored = noted.route, noted.ignored
            call.outcome.warning = noted.warning
            return reader

        assert answering.work is not None
        clock = self._clock
        return Given(
            answering.work.call,
            how,
            lambda: answering.ended_s or clock.now_s(),
            opened,
        )

    async def once(self, tenant: str, key: IdempotencyKey, create: Create) -> tuple[str, How]:
        """The id of the response that was created under this key. `create` stores the key with it, and runs in no client's task.

        Raises Conflict for a key that stands for another request, StoreError, and what `create` raises.
        """
        place = (tenant, key.key)
        how: How = "joined"
        with await self._look(place):
            one = self._found(place, key)
            if one is None:
                kept = await self._kept(tenant, key)
                if kept is not None and await self._store.load_response(tenant, kept.answer_id) is not None:
                    return kept.answer_id, "replayed"
                one, how = self._create(place, key, create), "made"
            assert isinstance(one, _Creating), "what is asked in the background is asked by another body"
        try:
            return await asyncio.shield(one.task), how
        finally:
            del one  # its task holds its error, whose traceback holds this frame

    async def _look(self, place: Place) -> contextlib.ExitStack:
        """One at a time looks whether there is something. What ends meanwhile is stored before it is gone from here."""
        return await self._looking.take(place, wait_s=None, refusal=_reused(place[1]))

    def _found(self, place: Place, key: IdempotencyKey) -> _Answering | _Creating | None:
        one = self._under_way.get(place)
        if one is None or one.fingerprint == key.fingerprint:
            return one
        if not self._replaces:
            raise _reused(key.key)
        return None

    async def _kept(self, tenant: str, key: IdempotencyKey) -> KeyedAnswer | None:
        kept = await self._store.keyed_answers.load(tenant, key.key)
        if kept is None or kept.fingerprint == key.fingerprint:
            return kept
        if not self._replaces:
            raise _reused(key.key)
        return None

    def _create(self, place: Place, key: IdempotencyKey, create: Create) -> _Creating:
        one = _Creating(key.fingerprint, asyncio.create_task(create(), name="create once"))

        def over(task: asyncio.Task[str]) -> None:
            self._forget(place, one)
            if not task.cancelled():
                task.exception()  # who waited has heard it

        one.task.add_done_callback(over)
        self._under_way[place] = one
        return one

    def _begin(self, call: Call, place: Place, key: IdempotencyKey, prepare: Prepare) -> _Answering:
        one, outcome, started_s = _Answering(key.fingerprint), Outcome(), self._clock.monotonic_s()
        outcome.model, outcome.stream = call.request.model, call.request.stream

        async def ask() -> Source:
            one.work = await prepare(outcome)
            outcome.model = one.work.call.request.model
            one.flight.tell()
            return await (one.work.ask or self._ask)(one.work.call)

        async def ended(_: Flight, recorder: Recorder | None) -> None:
            try:
                if recorder is not None and one.work is not None:
                    await self._keep(place, key, one, one.work, recorder)
            finally:
                self._forget(place, one)
                if one.work is not None:
                    one.work.turn.close()

        def alone(outcome: Outcome) -> None:
            named = {"id": call.request_id}
            self._accounts.add("answer", logfields(named), outcome, tenant=call.tenant, started_s=started_s)

        one.flight = Flight(ask, ended, outcome=outcome, alone=alone, lasts=True)
        self._under_way[place] = one
        return one

    async def _keep(self, place: Place, key: IdempotencyKey, one: _Answering, work: Work, recorder: Recorder) -> None:
        """Raises StoreError where the turn itself could not be kept. The answer is given where only its key could not."""
        one.ended_s = ended_s = self._clock.now_s()
        events, call = recorder.events(), work.call
        failed = isinstance(events[-1], ev.TurnFailed | ev.TurnCancelled)
        if work.keep is not None and (call.request.stream or not failed):
            await work.keep(fold(events), ended_s)
        if failed or self._under_way.get(place) is not one:
            return
        outcome = one.flight.outcome
        kept = _KeptAnswer(
            events=msgspec.json.encode(events),
            model=call.request.model or "",
            ended_s=ended_s,
            instructions=call.request.instructions,
            session_id=call.session_id,
            route=outcome.route,
            ignored=outcome.ignored,
        )
        answer = keyed_answer(key, call, data=msgspec.msgpack.encode(kept))
        try:
            await self._store.keyed_answers.save(call.tenant, answer)
        except StoreError as error:
            logger.warning("request %s: its answer is not kept under its key: %s", call.request_id, error.message)

    def _forget(self, place: Place, one: _Answering | _Creating) -> None:
        if self._under_way.get(place) is one:
            del self._under_way[place]


def keyed_answer(key: IdempotencyKey, call: Call, *, data: bytes = b"") -> KeyedAnswer:
    """The call's answer under its key, for the store; without data, where the response itself is stored."""
    return KeyedAnswer(
        key=key.key, fingerprint=key.fingerprint, answer_id=call.turn_id, created_at=call.created_at, data=data
    )


def _replayed(call: Call, answer: KeyedAnswer) -> Given:
    kept = _KEPT.decode(answer.data)
    request = msgspec.structs.replace(call.request, model=kept.model, instructions=kept.instructions)
    again = msgspec.structs.replace(
        call, request=request, turn_id=answer.answer_id, created_at=answer.created_at, session_id=kept.session_id
    )

    async def opened() -> Source:
        call.outcome.route, call.outcome.ignored = kept.route, kept.ignored
        return Kept(read(kept.events))

    return Given(again, "replayed", lambda: kept.ended_s, opened)


def _reused(key: str) -> Conflict:
    return Conflict(
        f"Idempotency-Key '{key[:50]}' was used for another request. Use a new key for each request, and the same only to "
        "send the same request again.",
        code="idempotency_key_reused",
    )
