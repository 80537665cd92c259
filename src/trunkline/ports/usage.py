"""The store port for usage: calls added up, for each minute and each who and what they were.

What is kept are sums and histograms, never calls: their number depends on how many tenants, models and endpoints were active in a
minute, not on how much they did. A tally is a delta until it is in the store, where it is added to what is there, so a minute may
come in any number of parts. It is added to its hour at the same time: hours are kept much longer, and a question about whole hours
reads a sixtieth of the rows.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the histograms; one more bucket has no bound. They are the columns of a table: another number is a migration."""

ErrorClass = Literal["invalid_request", "rate_limited", "timeout", "unavailable", "server_error", "cancelled"]
ERROR_CLASSES: tuple[ErrorClass, ...] = (
    "invalid_request",
    "rate_limited",
    "timeout",
    "unavailable",
    "server_error",
    "cancelled",
)
Dimension = Literal["tenant", "model", "backend", "endpoint", "operation"]
DIMENSIONS: tuple[Dimension, ...] = ("tenant", "model", "backend", "endpoint", "operation")
UsageKey = tuple[str, str, str, str, str]
"""One value for each dimension."""
MINUTE_S = 60
HOUR_S = 3600


class Tally(msgspec.Struct, kw_only=True):
    """Calls added up. Times in seconds, summed over the calls that have them; histograms count each bucket by itself.

    Attributes:
        streams: streamed calls that brought content; `first_content_s` and `first_contents` are about these.
        errors: calls that failed, by their place in ERROR_CLASSES.
        durations, first_contents: how many took at most BUCKETS_S[i], and more than the bound before it.
    """

    requests: int = 0
    streams: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    duration_s: float = 0.0
    first_content_s: float = 0.0
    errors: list[int] = msgspec.field(default_factory=lambda: [0] * len(ERROR_CLASSES))
    durations: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    first_contents: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))

    def lasted(self, seconds: float) -> None:
        self.duration_s += seconds
        self.durations[bisect_left(BUCKETS_S, seconds)] += 1

    def began(self, seconds: float) -> None:
        self.streams += 1
        self.first_content_s += seconds
        self.first_contents[bisect_left(BUCKETS_S, seconds)] += 1

    def add(self, other: "Tally") -> None:
        self.requests += other.requests
        self.streams += other.streams
        self.input_tokens += other.input_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.duration_s += other.duration_s
        self.first_content_s += other.first_content_s
        for mine, theirs in (
            (self.errors, other.errors),
            (self.durations, other.durations),
            (self.first_contents, other.first_contents),
        ):
            mine[:] = map(int.__add__, mine, theirs)


class UsageRow(msgspec.Struct, frozen=True):
    """A tally and what it is of. `start_s` is the unix second a minute begins at, or whatever a query made of it.

    A query gives the dimensions it groups by, and None for the others.
    """

    start_s: int
    key: tuple[str | None, ...]
    tally: Tally


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What to add up: from `from_s` (included) to `to_s` (not), in steps of `step_s` that begin at `from_s`.

    Attributes:
        group_by: the dimensions to keep apart.
        only: for a dimension the values wanted; for one that is missing, all.
        limit: at most so many rows.
    """

    from_s: int
    to_s: int
    step_s: int
    group_by: frozenset[Dimension] = frozenset()
    only: dict[Dimension, tuple[str, ...]] = {}
    limit: int = 10_000


class UsageStore(Protocol):
    """Tallies by minute and by hour."""

    async def add_usage(self, rows: Sequence[tuple[int, UsageKey, Tally]]) -> None:
        """Adds each tally to what is there for its minute (a unix second), its hour and its key, all of them or none."""
        ...

    async def read_usage(self, tenant: str | None, query: UsageQuery) -> Sequence[UsageRow]:
        """The sums, in the order of time; of one tenant, or of all of them for None. From the hours where the query speaks
        of whole hours only, else from the minutes."""
        ...

    async def forget_usage(self, *, minutes_before_s: int, hours_before_s: int) -> None:
        """Removes minutes and hours that began before these unix seconds."""
        ...
