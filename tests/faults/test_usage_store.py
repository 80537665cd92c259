"""Usage through what happens to a server: a clean stop, `kill -9`, a store that takes nothing, clients that invent models."""

import asyncio
import contextlib
import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import Program
from tests.fakes.stores import HandClock, open_store
from tests.serving import serving
from trunkline.ports.usage import HOUR_S, Tally, UsageQuery
from trunkline.stores.sqlite.store import SqliteStore
from trunkline.telemetry import usage
from trunkline.telemetry.outcome import Outcome
from trunkline.telemetry.usage import UsageMeter

HOUR = 1_800_000_000
TOML = '[server]\naccess_log = false\n[store]\nurl = "sqlite:///usage.db"\n[backends.talk]\ntype = "scripted"\n'


def requests_in(program: Program) -> int:
    with contextlib.closing(program.connect()) as connection:
        connection.request("GET", "/v1/usage?step=1d")
        body: Any = json.loads(connection.getresponse().read())
    return sum(result["requests"] for bucket in body["data"] for result in bucket["results"])


def stored_requests(path: Path) -> int:
    """What is in the file now, whoever has it open."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        return int(file.execute("SELECT coalesce(sum(requests), 0) FROM usage WHERE span_s = 60").fetchone()[0])


def test_a_clean_stop_loses_no_call_and_a_kill_none_that_was_written(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(TOML)
    for number, expected in ((signal.SIGTERM, 0), (signal.SIGINT, 3)):
        with Program("--config", "t.toml", "--port", "0", cwd=tmp_path) as program:
            assert requests_in(program) == expected
            for _ in range(3):
                program.ask("hello", model="scripted")
            assert program.stop(number) == 0
    with Program("--config", "t.toml", "--port", "0", cwd=tmp_path) as program:
        program.ask("hello", model="scripted")
        while stored_requests(tmp_path / "usage.db") < 7:  # it is written by itself, asked or not
            pass
        program.send(signal.SIGKILL)
        program.process.wait()
    with Program("--config", "t.toml", "--port", "0", cwd=tmp_path) as program:
        assert requests_in(program) == 7


def an_outcome(model: str = "m") -> Outcome:
    outcome = Outcome()
    outcome.model, outcome.backend = model, "gpu"
    return outcome


def call(meter: UsageMeter, clock: HandClock, *, model: str = "m", tenant: str = "a") -> None:
    meter.add(an_outcome(model), tenant=tenant, started_s=0.0, ended_s=0.2, now_s=clock.now_s(), failed=None)


async def in_store(store: SqliteStore, *, step_s: int = 60) -> dict[int, int]:
    rows = await store.read_usage(None, UsageQuery(from_s=HOUR, to_s=HOUR + 400 * HOUR_S, step_s=step_s, limit=100_000))
    return {row.start_s: row.tally.requests for row in rows}


async def test_a_store_that_takes_nothing_gets_it_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock(HOUR)
    async with open_store(tmp_path / "u.db", clock=clock, busy_s=0.0) as store:
        meter = UsageMeter(store, clock=clock)
        with contextlib.closing(sqlite3.connect(tmp_path / "u.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for minute in range(3):
                clock.now = HOUR + minute * 60
                call(meter, clock)
                await meter.flush()
            assert await in_store(store) == {}
            other.execute("ROLLBACK")
        call(meter, clock)
        await meter.flush()
        assert await in_store(store) == {HOUR: 1, HOUR + 60: 1, HOUR + 120: 2}
        assert next(iter(meter.since_start().values())).requests == 4
        told = [record.getMessage() for record in caplog.records if record.name == "trunkline.usage"]
        assert len(told) == 1
        assert "it is kept and tried again: nothing was written: another program holds the store's file" in told[0]
        await meter.close()


async def test_what_waits_for_a_store_stays_small_and_whole(tmp_path: Path) -> None:
    clock = HandClock(HOUR)
    async with open_store(tmp_path / "u.db", clock=clock, busy_s=0.0) as store:
        meter = UsageMeter(store, clock=clock)
        with contextlib.closing(sqlite3.connect(tmp_path / "u.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for minute in range(usage.MAX_UNWRITTEN + 600):
                clock.now = HOUR + minute * 60
                call(meter, clock)
                meter.since_start()
            await meter.flush()
            assert len(meter._unwritten) <= usage.MAX_UNWRITTEN + 600 // 60 + 1
            other.execute("ROLLBACK")
        await meter.close()
        assert sum((await in_store(store)).values()) == usage.MAX_UNWRITTEN + 600
        assert set((await in_store(store, step_s=HOUR_S)).values()) == {60, 40}


async def test_who_invents_models_is_counted_and_costs_no_more() -> None:
    clock = HandClock(HOUR)
    async with open_store(None) as store:
        meter = UsageMeter(store, clock=clock)
        for number in range(usage.MAX_KEYS + 500):
            call(meter, clock, model=f"invented-{number}")
            call(meter, clock, model="\ud800" * 10_000)
        rows = meter.since_start()
        assert len(rows) == usage.MAX_KEYS + 1
        assert sum(tally.requests for tally in rows.values()) == 2 * (usage.MAX_KEYS + 500)
        assert rows["a", usage.OTHERS, "gpu", "gpu", "chat"].requests >= 500
        assert max(len(model) for _, model, *_ in rows) == usage.MODEL_CHARACTERS + 1
        await meter.flush()
        assert await in_store(store) == {HOUR: 2 * (usage.MAX_KEYS + 500)}
        await meter.close()


async def test_a_reader_that_leaves_takes_nothing_with_it() -> None:
    """Whoever asks for a series has what is new written first; it is written also when they have gone meanwhile."""
    clock = HandClock(HOUR)
    async with open_store(None) as store:
        meter = UsageMeter(store, clock=clock)
        call(meter, clock)
        asking = asyncio.create_task(meter.flush())
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await meter.close()
        assert await in_store(store) == {HOUR: 1}


async def test_calls_at_once_all_count() -> None:
    async with serving() as server:
        replies = await asyncio.gather(*[server.chat("one two") for _ in range(200)])
        assert {reply.status for reply in replies} == {200}
        asked = await asyncio.gather(*[server.get("/v1/usage?step=1d&group_by=model") for _ in range(20)])
        assert {
            sum(result["output_tokens"] for bucket in one.json()["data"] for result in bucket["results"])
            for one in asked
        } == {400}


def test_a_tally_adds_up_like_its_parts() -> None:
    parts = [Tally(requests=1, input_tokens=number, output_tokens=2 * number) for number in range(10)]
    for number, part in enumerate(parts):
        part.lasted(10.0 ** (number - 5))
        part.began(10.0 ** (number - 6))
    forwards, backwards = Tally(), Tally()
    for one, other in zip(parts, reversed(parts), strict=True):
        forwards.add(one)
        backwards.add(other)
    assert forwards.durations == backwards.durations
    assert sum(forwards.durations) == forwards.requests == sum(forwards.first_contents) == forwards.streams
    assert (forwards.input_tokens, forwards.output_tokens) == (45, 90)
