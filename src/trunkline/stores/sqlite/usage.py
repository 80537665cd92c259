"""Usage in the database: a tally is one row, its histograms are columns of it, so that SQL can add them up."""

from collections.abc import Sequence

import msgspec

from trunkline.ports.usage import (
    BUCKETS_S,
    DIMENSIONS,
    ERROR_CLASSES,
    HOUR_S,
    MINUTE_S,
    Tally,
    UsageKey,
    UsageQuery,
    UsageRow,
)
from trunkline.stores.sqlite import statements as sql
from trunkline.stores.sqlite.worker import Session

_BUCKETS = len(BUCKETS_S) + 1
_ERRORS_FROM = 8
_DURATIONS_FROM = _ERRORS_FROM + len(ERROR_CLASSES)
_FIRST_FROM = _DURATIONS_FROM + _BUCKETS


def add(session: Session, rows: Sequence[tuple[int, UsageKey, Tally]]) -> None:
    session.executemany(
        sql.ADD_USAGE,
        [
            (tenant, span_s, start_s - start_s % span_s, *rest, *_columns(tally))
            for start_s, (tenant, *rest), tally in rows
            for span_s in (MINUTE_S, HOUR_S)
        ],
    )


def read(session: Session, tenant: str | None, query: UsageQuery) -> Sequence[UsageRow]:
    hourly = all(time_s % HOUR_S == 0 for time_s in (query.from_s, query.to_s, query.step_s))
    only = [query.only.get(dimension) for dimension in DIMENSIONS]
    rows = session.execute(
        sql.READ_USAGE,
        (
            tenant,
            query.from_s,
            query.to_s,
            query.step_s,
            *[dimension in query.group_by for dimension in DIMENSIONS],
            *[None if values is None else msgspec.json.encode(values).decode() for values in only],
            query.limit,
            HOUR_S if hourly else MINUTE_S,
        ),
    )
    keyed = 1 + len(DIMENSIONS)
    return [UsageRow(row[0], row[1:keyed], _tally(row[keyed:])) for row in rows]


def forget(session: Session, *, minutes_before_s: int, hours_before_s: int) -> None:
    session.execute(sql.DELETE_USAGE, (MINUTE_S, minutes_before_s))
    session.execute(sql.DELETE_USAGE, (HOUR_S, hours_before_s))


def _columns(tally: Tally) -> tuple[float, ...]:
    """In the order of `statements._SUMMED`."""
    return (
        tally.requests,
        tally.streams,
        tally.input_tokens,
        tally.cached_tokens,
        tally.output_tokens,
        tally.reasoning_tokens,
        tally.duration_s,
        tally.first_content_s,
        *tally.errors,
        *tally.durations,
        *tally.first_contents,
    )


def _tally(columns: Sequence[float]) -> Tally:
    counts = [int(column) for column in columns[:6]]
    return Tally(
        requests=counts[0],
        streams=counts[1],
        input_tokens=counts[2],
        cached_tokens=counts[3],
        output_tokens=counts[4],
        reasoning_tokens=counts[5],
        duration_s=columns[6],
        first_content_s=columns[7],
        errors=[int(count) for count in columns[_ERRORS_FROM:_DURATIONS_FROM]],
        durations=[int(count) for count in columns[_DURATIONS_FROM:_FIRST_FROM]],
        first_contents=[int(count) for count in columns[_FIRST_FROM:]],
    )
