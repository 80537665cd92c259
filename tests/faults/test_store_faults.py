"""What the disk and other processes can do to a store: nothing acknowledged is lost, nothing lost is called done."""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

from tests.architecture.sources import ROOT
from tests.fakes.stores import a_response, a_run, open_store, some_events
from trunkline.model.errors import StoreError

SEED = int.from_bytes(os.urandom(4), "big")
KILLS = 20


async def ended(process: asyncio.subprocess.Process) -> None:
    """Makes sure of it. Not by `process.kill`, which may take the exit status away from the loop that waits for it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    await process.wait()


@contextlib.asynccontextmanager
async def writing(verb: str, path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "tests.faults.store_writer", verb, str(path)),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
    )
    try:
        yield process
    finally:
        await ended(process)


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    path = tmp_path / "trunkline.db"
    saved: set[str] = set()
    ended: set[str] = set()
    logged: dict[str, int] = defaultdict(int)
    for _ in range(KILLS):
        async with writing("kill", path) as process:
            assert process.stdout is not None
            left = chance.randint(1, 400)
            while line := await process.stdout.readline():
                verb, *words = line.decode().split()
                if verb == "saved":
                    saved.add(words[0])
                elif verb == "ended":
                    ended.add(words[0])
                elif verb == "logged":
                    logged[words[0]] = int(words[1])
                left -= 1
                if left == 0:
                    os.kill(process.pid, signal.SIGKILL)  # what it has said until it dies is still read
            await process.wait()
        assert process.returncode == -signal.SIGKILL
    async with open_store(path) as store:
        assert len(saved) > KILLS
        for name in saved:
            assert await store.load_response("a", name), name
            assert await store.history("a", name), name
        live = {run.id for run in await store.unfinished_runs()}
        for name, last in logged.items():
            events = await store.read_events("a", name, after=-1, limit=1000)
            assert [event.sequence_number for event in events] == list(range(len(events)))
            assert len(events) > last
            run, response = await store.load_run("a", name), await store.load_response("a", name)
            assert run is not None
            assert response is not None
            assert (name in live) == (len(events) < 21) == (run.status == "queued") == (response.status == "queued")
            if name in ended:
                assert run.status == "completed"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_full_disk_is_never_a_success_and_is_survived(tmp_path: Path) -> None:
    async with writing("full", tmp_path / "trunkline.db") as process:
        output, _ = await process.communicate()
    assert output.decode().splitlines() == ["refused True True", "readable True", "before True", "recovered"]
    assert process.returncode == 0


@contextlib.asynccontextmanager
async def held_by_another(path: Path, *, seconds: float) -> AsyncIterator[None]:
    """Another process with a write transaction on the file."""
    code = (
        "import sqlite3, sys, time\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "print('held', flush=True)\n"
        "time.sleep(float(sys.argv[2]))\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(path), str(seconds), stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        yield
    finally:
        await ended(process)


async def test_a_foreign_lock_of_three_seconds_is_waited_out(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    async with open_store(path) as store:
        await store.create_run(a_run("resp_1"), a_response("resp_1", status="queued"), some_events(0, 0))
        async with held_by_another(path, seconds=3):
            writes = asyncio.gather(
                *(store.save_response("a", a_response(f"resp_{number}")) for number in range(2, 30)),
                store.append_events("a", "resp_1", some_events(1, 1), final=a_response("resp_1")),
            )
            assert await store.read_events("a", "resp_1", after=-1, limit=9) == tuple(some_events(0, 0))
            assert not writes.done()
            await writes
        assert await store.load_response("a", "resp_29")


async def test_a_lock_that_stays_is_an_error_of_its_own_and_then_over(
    tmp_path: Path,
) -> None:
    path = tmp_path / "trunkline.db"
    async with open_store(path, busy_s=0.2) as store:
        await store.save_response("a", a_response("resp_1"))
        async with held_by_another(path, seconds=600):
            results = await asyncio.gather(
                *(store.save_response("a", a_response(f"resp_{number}")) for number in range(2, 30)),
                return_exceptions=True,
            )
            assert {(type(result), getattr(result, "code", None)) for result in results} == {
                (StoreError, "store_locked")
            }
            assert await store.load_response("a", "resp_1")
            assert await store.load_response("a", "resp_2") is None
        await store.save_response("a", a_response("resp_2"))
        assert await store.load_response("a", "resp_2")


async def test_a_file_that_is_locked_while_it_is_opened_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    async with open_store(path):
        pass
    async with held_by_another(path, seconds=1), open_store(path) as store:
        await store.save_response("a", a_response("resp_1"))
