"""Answers given before, given again: asked for by a model's configuration or by a request, before anything is routed.

    what was asked, canonical ──▶ kept?  ──▶ its events, as a new answer               hit: no backend, no slot
                                  │ no ──▶ something that means the same, where that is wanted (`cache_semantic`)
                                  │ no ──▶ being answered right now? ──▶ read along    hit
                                  └ no ──▶ ask, and keep what came to a good end       miss

A miss is translated, never relayed: what is kept must serve every surface, so it must be events, and the answer that filled the
cache then reads exactly like those that come from it. Nothing crosses tenants: the owner of the key is part of what is asked.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial

import msgspec

from trunkline.config.schema import CacheSettings, ModelSettings
from trunkline.engine.cache_entries import CacheEntries, CacheRow, Entry
from trunkline.engine.cache_flight import Flight, Kept, Source
from trunkline.engine.cache_key import key_of
from trunkline.engine.cache_semantic import Embedder, is_personal, question_of
from trunkline.engine.cache_turn import Recorder, Replay, read, texts_of
from trunkline.engine.call import Call
from trunkline.ports.runtime import Clock, Entropy
from trunkline.telemetry.metrics import Family, Sample, counter, gauge

ROUTE = "cache"
Ask = Callable[[Call], Awaitable[Source]]
FlightKey = tuple[bytes, str, bool, bool]
"""What is asked; and by which dialect, streamed or not, patiently or not: it is told in these words, at this pace."""


class _Meaning(msgspec.Struct, frozen=True):
    """Where an answer may be found by what was asked, whatever the words."""

    group: bytes
    vector: bytes


class AnswerCache:
    """One for the server. `embedder` is there where meanings are compared."""

    def __init__(
        self,
        settings: CacheSettings,
        models: Sequence[ModelSettings],
        *,
        clock: Clock,
        entropy: Entropy,
        embedder: Embedder | None = None,
    ) -> None:
        self.settings = settings
        self._models = frozenset(model.name for model in models if model.cache)
        self._entries = CacheEntries(ttl_s=settings.ttl_s, max_bytes=settings.max_bytes, clock=clock)
        self._flights: dict[FlightKey, Flight] = {}
        self._clock = clock
        self._entropy = entropy
        self._embedder = embedder

    def wanted(self, call: Call) -> bool:
        """Whether this call is to be answered from here, or to be kept."""
        return call.request.model in self._models if call.cache is None else call.cache

    async def answer(self, call: Call, ask: Ask) -> Source:
        """The answer kept, or being made, or asked for now. Raises what asking raises."""
        row = self._entries.row(call.tenant, call.request.model or "")
        key, meaning = key_of(call), None
        entry = self._entries.get(key)
        if entry is None and self._embedder is not None:
            meaning = await self._meaning(call, self._embedder)
            entry = None if meaning is None else await self._alike(meaning, self._embedder)
            row.similar += entry is not None
        if entry is not None:
            row.hit(entry.usage)
            return await self._kept(call, entry)
        place = (key, call.dialect, call.request.stream, call.patient)
        flight = self._flights.get(place)
        if flight is None:
            row.misses += 1
            call.outcome.cache = "miss"
            flight = self._flights[place] = Flight(call, ask, partial(self._ended, place, meaning))
            return await _opened(flight, replay=None)
        call.outcome.cache = "hit"
        source = await _opened(flight, replay=Replay(call, entropy=self._entropy))
        call.outcome.grace_s = flight.call.outcome.grace_s
        row.joined += 1
        row.hits += 1
        await self._given(call, ignored=flight.call.outcome.ignored)
        return source

    def forget(self, tenant: str, model: str | None = None) -> int:
        """Removes a tenant's answers, of one model or of all; what is being made is not kept. Gives how many were kept."""
        for place, flight in list(self._flights.items()):
            if flight.call.tenant == tenant and model in (None, flight.call.request.model):
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

    def _ended(self, place: FlightKey, meaning: _Meaning | None, flight: Flight, recorder: Recorder | None) -> None:
        """The end of a flight: nobody joins it any more, and what may be kept is."""
        if self._flights.get(place) is not flight:
            return  # forgotten meanwhile
        del self._flights[place]
        data = None if recorder is None else recorder.data()
        if recorder is None or data is None:
            return
        if meaning is not None and is_personal(texts_of(data)):
            meaning = None
        call = flight.call
        names = {wire: canonical for canonical, wire in call.request.asked.items()}
        entry = Entry(
            key=place[0],
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


async def _opened(flight: Flight, *, replay: Replay | None) -> Source:
    reader = flight.join(replay)
    opened = False
    try:
        await flight.opened()
        opened = True
    finally:
        if not opened:  # it failed, or the client has left
            await reader.aclose()
    return reader
