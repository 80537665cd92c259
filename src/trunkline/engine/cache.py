"""Answers given before, given again: asked for by a model's configuration or by a request, before anything is routed.

    what was asked, canonical ──▶ kept?  ──▶ its events, as a new answer               hit: no backend, no slot
                                  │ no ──▶ something that means the same, where that is wanted (`cache_semantic`)
                                  │ no ──▶ being answered right now? ──▶ read along    hit
                                  └ no ──▶ ask, and keep what came to a good end       miss

A miss is translated, never relayed: what is kept must serve every surface, so it must be events, and the answer that filled the
cache then reads exactly like those that come from it. Nothing crosses tenants: the owner of the key is part of what is asked.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

import msgspec

from trunkline.config.schema import CacheSettings, ModelSettings
from trunkline.engine.cache_entries import CacheEntries, CacheRow, Entry
from trunkline.engine.cache_key import key_of
from trunkline.engine.cache_semantic import Embedder, is_personal, question_of
from trunkline.engine.cache_turn import Replay, kept_data, texts_of
from trunkline.engine.call import Call
from trunkline.engine.flight import Flight, Kept, Source
from trunkline.engine.turn_record import Recorder, read
from trunkline.ports.runtime import Clock, Entropy
from trunkline.telemetry.accounts import Accounts
from trunkline.telemetry.logs import logfields
from trunkline.telemetry.metrics import Family, Sample, counter, gauge
from trunkline.telemetry.outcome import Outcome

ROUTE = "cache"
Ask = Callable[[Call], Awaitable[Source]]
Check = Callable[[Call], Awaitable[object]]
FlightKey = tuple[bytes, str, bool, bool, bool]
"""What is asked; and by which dialect, streamed or not, patiently or not, shown questions or not: so it is told."""


class _Meaning(msgspec.Struct, frozen=True):
    """Where an answer may be found by what was asked, whatever the words."""

    group: bytes
    vector: bytes


class _UnderWay(msgspec.Struct, frozen=True):
    """An answer being made, and whose."""

    flight: Flight
    tenant: str
    model: str | None


class AnswerCache:
    """One for the server. `embedder` is there where meanings are compared."""

    def __init__(
        self,
        settings: CacheSettings,
        models: Sequence[ModelSettings],
        *,
        clock: Clock,
        entropy: Entropy,
        accounts: Accounts,
        embedder: Embedder | None = None,
    ) -> None:
        self.settings = settings
        self._models = frozenset(model.name for model in models if model.cache)
        self._entries = CacheEntries(ttl_s=settings.ttl_s, max_bytes=settings.max_bytes, clock=clock)
        self._flights: dict[FlightKey, _UnderWay] = {}
        self._clock = clock
        self._entropy = entropy
        self._accounts = accounts
        self._embedder = embedder

    def wanted(self, call: Call) -> bool:
        """Whether this call is to be answered from here, or to be kept."""
        return call.request.model in self._models if call.cache is None else call.cache

    async def answer(self, call: Call, ask: Ask, check: Check) -> Source:
        """The answer kept, or being made, or asked for now. Raises what asking raises; `check` says what of that is known before,
        as what is refused is refused whatever is kept."""
        row = self._entries.row(call.tenant, call.request.model or "")
        key, meaning = key_of(call), None
        entry = self._entries.get(key)
        if entry is None and self._embedder is not None:
            meaning = await self._meaning(call, self._embedder)
            entry = None if meaning is None else await self._alike(meaning, self._embedder)
        if entry is not None:
            await check(call)
            row.similar += meaning is not None
            row.hit(entry.usage)
            return await self._kept(call, entry)
        place = (key, call.dialect, call.request.stream, call.patient, call.shows_approvals)
        under_way = self._flights.get(place)
        if under_way is None:
            row.misses += 1
            call.outcome.cache = "miss"
            reader = self._begin(call, place, meaning, ask).join(call.outcome, first=True)
            await reader.opened()
            return reader
        call.outcome.cache = "hit"
        reader = under_way.flight.join(call.outcome, again=Replay(call, entropy=self._entropy).again)
        async with contextlib.AsyncExitStack() as not_given:
            not_given.push_async_callback(reader.aclose)
            await reader.opened()
            call.outcome.grace_s = under_way.flight.outcome.grace_s
            row.joined += 1
            row.hits += 1
            await self._given(call, ignored=under_way.flight.outcome.ignored)
            not_given.pop_all()
        return reader

    def _begin(self, call: Call, place: FlightKey, meaning: _Meaning | None, ask: Ask) -> Flight:
        """Has it asked now, and kept. The outcome is the flight's own: the client may leave before the others do."""
        outcome = Outcome()
        outcome.adopt(call.outcome)
        call = msgspec.structs.replace(call, outcome=outcome)
        started_s = self._clock.monotonic_s()

        async def ended(flight: Flight, recorder: Recorder | None) -> None:
            under_way = self._flights.get(place)
            if under_way is None or under_way.flight is not flight:
                return  # forgotten meanwhile
            del self._flights[place]
            if recorder is not None and outcome.warning is None:  # the next client may be shown what this one was not
                self._keep(call, place[0], meaning, recorder)

        def alone(outcome: Outcome) -> None:
            self._accounts.add(
                "answer", logfields({"id": call.request_id}), outcome, tenant=call.tenant, started_s=started_s
            )

        flight = Flight(lambda: ask(call), ended, outcome=outcome, alone=alone)
        self._flights[place] = _UnderWay(flight, call.tenant, call.request.model)
        return flight

    def forget(self, tenant: str, model: str | None = None) -> int:
        """Removes a tenant's answers, of one model or of all; what is being made is not kept. Gives how many were kept."""
        for place, under_way in list(self._flights.items()):
            if under_way.tenant == tenant and model in (None, under_way.model):
                del self._flights[place]
        return self._entries.forget(tenant, model)

    def rows(self, tenant: str | None) -> Iterator[CacheRow]:
        """What is held and counted for a tenant, by model; for None of all."""
        return self._entries.rows(tenant)

    def families(self) -> Iterable[Family]:
        """What it tells Prometheus."""
        rows = list(self._entries.rows(None))
        labelled = [({"tenant": row.tenant, "model": row.model}, row) for row in rows]
        yield counter(
            "trunkline_cache_requests_total",
            "Calls that asked the answer cache: found word by word, by their meaning, while being answered, or not.",
            [
                Sample(count, {**labels, "result": result})
                for labels, row in labelled
                for result, count in (
                    ("exact", row.hits - row.similar - row.joined),
                    ("similar", row.similar),
                    ("joined", row.joined),
                    ("miss", row.misses),
                )
            ],
        )
        yield gauge("trunkline_cache_entries", "Answers it holds.", [Sample(row.entries, of) for of, row in labelled])
        yield gauge("trunkline_cache_bytes", "Their memory.", [Sample(row.size_bytes, of) for of, row in labelled])

    def close(self) -> None:
        """Ends what it has beside answers; those under way belong to their readers."""
        if self._embedder is not None:
            self._embedder.close()

    async def _kept(self, call: Call, entry: Entry) -> Source:
        asked = call.request.asked
        await self._given(call, ignored=tuple([asked.get(name, name) for name in entry.ignored]))
        return Kept(Replay(call, entropy=self._entropy).again(read(entry.events)))

    async def _given(self, call: Call, *, ignored: tuple[str, ...]) -> None:
        """The call has its answer, and needs no slot for it."""
        outcome = call.outcome
        outcome.cache, outcome.route, outcome.ignored = "hit", ROUTE, ignored
        outcome.first_content_s = self._clock.monotonic_s()
        if call.admitted is not None:
            await call.admitted()

    def _keep(self, call: Call, key: bytes, meaning: _Meaning | None, recorder: Recorder) -> None:
        """Keeps an answer, if it may be."""
        data = kept_data(recorder)
        if data is None:
            return
        if meaning is not None and is_personal(texts_of(data)):
            meaning = None
        names = {wire: canonical for canonical, wire in call.request.asked.items()}
        entry = Entry(
            key=key,
            tenant=call.tenant,
            model=call.request.model or "",
            events=data,
            ignored=tuple([names.get(name, name) for name in call.outcome.ignored]),
            expires_s=self._entries.expiry_s(),
            usage=recorder.usage,
            group=None if meaning is None else meaning.group,
            vector=b"" if meaning is None else meaning.vector,
        )
        self._entries.put(entry)

    async def _meaning(self, call: Call, embedder: Embedder) -> _Meaning | None:
        question = question_of(call.request)
        vector = None if question is None else await embedder.embed(question.text)
        if question is None or vector is None:
            return None
        return _Meaning(key_of(call, question.around, *question.features), vector)

    async def _alike(self, meaning: _Meaning, embedder: Embedder) -> Entry | None:
        entries = self._entries.group(meaning.group)
        if not entries:
            return None
        position, likeness = await embedder.nearest(meaning.vector, [entry.vector for entry in entries])
        if likeness < self.settings.threshold:
            return None
        return self._entries.get(entries[position].key)  # unless it has gone meanwhile
