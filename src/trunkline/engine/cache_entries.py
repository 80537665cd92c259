"""What the answer cache holds: answers in memory, bounded in bytes and in time, and what has been counted of them.

The least recently used give way, whosoever they are. Nothing is written to the store: a stateless request that may be cached stays
one without a database on its way, and a restart costs each answer once more.
"""

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from trunkline.model.usage import Usage
from trunkline.ports.runtime import Clock
from trunkline.telemetry.usage import MODEL_CHARACTERS

ENTRY_BYTES = 600
"""About what an entry takes beside its answer: keys, places in three tables, the objects themselves."""

MAX_ROWS = 1000
OTHERS = "(others)"
"""Stands for every model beyond MAX_ROWS."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One answer.

    Attributes:
        events: as `cache_turn` writes them.
        ignored: what of the request nobody honoured, in canonical names where there are some.
        expires_s: of the monotonic clock.
        group, vector: among which others it may be found by its meaning, and that; absent where it may not be.
    """

    key: bytes
    tenant: str
    model: str
    events: bytes
    ignored: tuple[str, ...]
    expires_s: float
    usage: Usage | None = None
    group: bytes | None = None
    vector: bytes = b""

    @property
    def size_bytes(self) -> int:
        names = len(self.model) + sum([len(name) for name in self.ignored])  # a client may make them as long as a body
        return ENTRY_BYTES + len(self.events) + len(self.vector) + names


class CacheRow(msgspec.Struct, kw_only=True):
    """What the cache holds of one tenant and model, and what it has done since the server started.

    `hits` were answered without a backend, of these `similar` by their meaning alone and `joined` by an answer that was being
    made. The tokens are those of the answers that were there, which nobody had to compute again.
    """

    tenant: str
    model: str
    entries: int = 0
    size_bytes: int = 0
    hits: int = 0
    similar: int = 0
    joined: int = 0
    misses: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def hit(self, usage: Usage | None) -> None:
        self.hits += 1
        if usage is not None:
            self.input_tokens += usage.input_tokens
            self.output_tokens += usage.output_tokens


class CacheEntries:
    """The entries by key, the ones used last at the end."""

    def __init__(self, *, ttl_s: float, max_bytes: int, clock: Clock) -> None:
        self.ttl_s = ttl_s
        self.max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._groups: dict[bytes, dict[bytes, Entry]] = {}
        self._rows: dict[tuple[str, str], CacheRow] = {}
        self._size_bytes = 0

    def get(self, key: bytes) -> Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires_s <= self._clock.monotonic_s():
            self._remove(entry)
            return None
        self._entries.move_to_end(key)
        return entry

    def group(self, group: bytes) -> list[Entry]:
        """Those that may be found by their meaning, as far as they have not expired."""
        now_s = self._clock.monotonic_s()
        return [entry for entry in self._groups.get(group, {}).values() if entry.expires_s > now_s]

    def expiry_s(self) -> float:
        return self._clock.monotonic_s() + self.ttl_s

    def put(self, entry: Entry) -> None:
        """Keeps it, unless it alone is more than there is room for."""
        if entry.size_bytes > self.max_bytes:
            return
        before = self._entries.get(entry.key)
        if before is not None:
            self._remove(before)
        self._entries[entry.key] = entry
        if entry.group is not None:
            self._groups.setdefault(entry.group, {})[entry.key] = entry
        self._count(entry, 1)
        while self._size_bytes > self.max_bytes:
            self._remove(next(iter(self._entries.values())))

    def forget(self, tenant: str, model: str | None) -> int:
        """Removes what is kept for a tenant, of one model or of all. Gives how many there were."""
        gone = [one for one in self._entries.values() if one.tenant == tenant and model in (None, one.model)]
        for entry in gone:
            self._remove(entry)
        return len(gone)

    def row(self, tenant: str, model: str) -> CacheRow:
        key = (tenant, model if len(model) <= MODEL_CHARACTERS else f"{model[:MODEL_CHARACTERS]}…")
        if key not in self._rows and len(self._rows) >= MAX_ROWS:
            key = (tenant, OTHERS)
        if key not in self._rows:
            self._rows[key] = CacheRow(tenant=tenant, model=key[1])
        return self._rows[key]

    def rows(self, tenant: str | None) -> Iterator[CacheRow]:
        """The rows of one tenant, or all of them for None. What has expired is not among what they hold."""
        now_s = self._clock.monotonic_s()
        for entry in [entry for entry in self._entries.values() if entry.expires_s <= now_s]:
            self._remove(entry)
        return (row for row in self._rows.values() if tenant is None or row.tenant == tenant)

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry.key]
        if entry.group is not None:
            group = self._groups[entry.group]
            del group[entry.key]
            if not group:
                del self._groups[entry.group]
        self._count(entry, -1)

    def _count(self, entry: Entry, sign: int) -> None:
        row = self.row(entry.tenant, entry.model)
        row.entries += sign
        row.size_bytes += sign * entry.size_bytes
        self._size_bytes += sign * entry.size_bytes
