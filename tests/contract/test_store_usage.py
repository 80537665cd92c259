"""What a store promises about usage: sums by minute and by hour, of one tenant or of all, added to and never replaced."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.fakes.stores import open_store
from trunkline.ports.usage import BUCKETS_S, Dimension, Tally, UsageKey, UsageQuery, UsageRow
from trunkline.stores.sqlite.store import SqliteStore

HOUR = 1_800_000_000
"""A whole hour."""
ALICE: UsageKey = ("alice", "fast", "gpu", "gpu@a:1", "chat")
BOB: UsageKey = ("bob", "slow", "gpu", "gpu@b:1", "embeddings")


@pytest.fixture(params=["file", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with open_store(tmp_path / "trunkline.db" if request.param == "file" else None) as opened:
        yield opened


def a_tally(requests: int = 1, *, tokens: int = 10, seconds: float = 0.2, failed: int | None = None) -> Tally:
    tally = Tally(requests=requests, input_tokens=tokens, output_tokens=2 * tokens, cached_tokens=1, reasoning_tokens=3)
    for _ in range(requests):
        tally.lasted(seconds)
        tally.began(seconds / 2)
    if failed is not None:
        tally.errors[failed] += 1
    return tally


async def read(
    store: SqliteStore,
    tenant: str | None = None,
    *group_by: Dimension,
    step_s: int = 60,
    from_s: int = HOUR,
    to_s: int = HOUR + 7200,
    only: dict[Dimension, tuple[str, ...]] | None = None,
    limit: int = 100,
) -> Sequence[UsageRow]:
    query = UsageQuery(
        from_s=from_s, to_s=to_s, step_s=step_s, group_by=frozenset(group_by), only=only or {}, limit=limit
    )
    return await store.read_usage(tenant, query)


async def test_parts_of_a_minute_add_up_to_it(store: SqliteStore) -> None:
    await store.add_usage([(HOUR, ALICE, a_tally(2, failed=1)), (HOUR + 60, ALICE, a_tally())])
    await store.add_usage([(HOUR, ALICE, a_tally(3, seconds=1000.0))])
    whole = a_tally(2, failed=1)
    whole.add(a_tally(3, seconds=1000.0))
    assert [(row.start_s, row.tally) for row in await read(store)] == [(HOUR, whole), (HOUR + 60, a_tally())]
    assert whole.durations == [0, 0, 0, 0, 2] + [0] * (len(BUCKETS_S) - 5) + [3]


async def test_a_whole_hour_is_the_sum_of_its_minutes(store: SqliteStore) -> None:
    for minute in range(0, 7200, 60):
        await store.add_usage([(HOUR + minute, ALICE, a_tally())])
    minutes, hours = await read(store, limit=1000), await read(store, step_s=3600)
    assert (len(minutes), [row.start_s for row in hours]) == (120, [HOUR, HOUR + 3600])
    for hour in hours:
        total = Tally()
        for row in minutes:
            if row.start_s // 3600 == hour.start_s // 3600:
                total.add(row.tally)
        assert hour.tally.durations == total.durations == [0, 0, 0, 0, 60] + [0] * 10
        assert (hour.tally.requests, hour.tally.input_tokens) == (60, 600)


async def test_steps_begin_where_the_question_begins_and_nothing_outside_counts(store: SqliteStore) -> None:
    await store.add_usage([(HOUR + minute * 60, ALICE, a_tally(tokens=minute)) for minute in range(10)])
    rows = await read(store, from_s=HOUR + 120, to_s=HOUR + 420, step_s=180)
    assert [(row.start_s, row.tally.input_tokens) for row in rows] == [(HOUR + 120, 2 + 3 + 4), (HOUR + 300, 5 + 6)]


async def test_what_is_grouped_is_kept_apart_and_the_rest_is_not_named(store: SqliteStore) -> None:
    await store.add_usage([(HOUR, ALICE, a_tally()), (HOUR, BOB, a_tally(4))])
    await store.add_usage([(HOUR, ("bob", "fast", "gpu", "gpu@a:1", "chat"), a_tally(2))])
    assert [(row.key, row.tally.requests) for row in await read(store, None, "model")] == [
        ((None, "fast", None, None, None), 3),
        ((None, "slow", None, None, None), 4),
    ]
    assert [row.key for row in await read(store, None, "tenant", "model", "backend", "endpoint", "operation")] == [
        ALICE,
        ("bob", "fast", "gpu", "gpu@a:1", "chat"),
        BOB,
    ]


async def test_a_tenant_sees_its_own_whatever_it_asks(store: SqliteStore) -> None:
    await store.add_usage([(HOUR, ALICE, a_tally()), (HOUR, BOB, a_tally(4))])
    assert [row.tally.requests for row in await read(store, "alice")] == [1]
    assert await read(store, "alice", only={"tenant": ("bob",)}) == []
    assert await read(store, "nobody") == []
    assert await read(store, "") == []


async def test_filters_keep_the_values_named(store: SqliteStore) -> None:
    await store.add_usage([(HOUR, ALICE, a_tally()), (HOUR, BOB, a_tally(4))])
    for dimension, value in zip(("tenant", "model", "endpoint", "operation"), (0, 1, 3, 4), strict=True):
        rows = await read(store, only={dimension: (BOB[value], "neither")})  # type: ignore[dict-item]
        assert [row.tally.requests for row in rows] == [4], dimension
    assert [row.tally.requests for row in await read(store, only={"backend": ("gpu",), "model": ("fast",)})] == [1]
    assert await read(store, only={"backend": ("gpu' OR 1=1 --",)}) == []


async def test_minutes_go_before_hours(store: SqliteStore) -> None:
    await store.add_usage([(HOUR, ALICE, a_tally()), (HOUR + 3600, ALICE, a_tally()), (HOUR, BOB, a_tally())])
    await store.forget_usage(minutes_before_s=HOUR + 3600, hours_before_s=HOUR)
    assert [row.start_s for row in await read(store)] == [HOUR + 3600]
    assert [row.tally.requests for row in await read(store, step_s=3600)] == [2, 1]
    await store.forget_usage(minutes_before_s=HOUR + 3600, hours_before_s=HOUR + 3600)
    assert [row.tally.requests for row in await read(store, step_s=3600)] == [1]


async def test_an_answer_is_bounded(store: SqliteStore) -> None:
    await store.add_usage([(HOUR + minute * 60, ALICE, a_tally()) for minute in range(20)])
    assert len(await read(store, limit=7)) == 7


async def test_any_text_is_a_name(store: SqliteStore) -> None:
    key: UsageKey = ("te'nant", 'mo"del\n%', "b/ä", "日本", "chat")
    await store.add_usage([(HOUR, key, a_tally())])
    (row,) = await read(store, key[0], "tenant", "model", "backend", "endpoint", "operation", only={"model": (key[1],)})
    assert row.key == key


async def test_usage_is_there_after_a_restart(tmp_path: Path) -> None:
    async with open_store(tmp_path / "trunkline.db") as store:
        await store.add_usage([(HOUR, ALICE, a_tally(seconds=0.3))])
    async with open_store(tmp_path / "trunkline.db") as store:
        assert [row.tally for row in await read(store)] == [a_tally(seconds=0.3)]
