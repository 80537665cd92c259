"""What the store costs: writes, reads, the event log and long chains, each as a rate and CPU time for one of them.

    python -m bench.store [--folder DIR] [--seconds N] [--json]

In one process, as the server uses it. CPU time is the whole process's, threads included, over the measured window; it
includes the load, a few tasks that await one call after the other. `fsyncs` is how long the disk takes for one, which
bounds what a single writer could do: group commit is what lies between that and the figure for many.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec

from trunkline.ports.runtime import SystemClock
from trunkline.ports.stores import LoggedEvent, StoredResponse, StoredRun
from trunkline.stores.sqlite.store import SqliteStore

ROW_BYTES = 10_000
AT_ONCE = 64
READERS = 1000
LOG_RATE = 5000
LOG_RUNS = 50
"""Runs that share the rate: each appends what has come together in 10 ms."""


class StoreRow(msgspec.Struct, frozen=True):
    """One line of the table: `late_p99_ms` is how long an event takes from its producer to a reader."""

    what: str
    per_second: float
    cpu_us: float
    late_p99_ms: float | None = None


def response(name: str, *, parent: str | None = None, size_bytes: int = ROW_BYTES) -> StoredResponse:
    """A finished response of that many bytes in all."""
    third = b'"' + os.urandom(size_bytes // 6).hex().encode() + b'"'
    return StoredResponse(
        id=name,
        object=third,
        input=b"[" + third + b"]",
        output=b"[" + third + b"]",
        status="completed",
        model="bench",
        created_at=int(time.time()),
        parent_id=parent,
    )


async def at_once(call: Callable[[int], Awaitable[object]], *, tasks: int, seconds: float) -> tuple[float, float]:
    """Calls per second and CPU seconds per call, of that many tasks that each call again when answered."""
    done = 0
    until = time.monotonic() + seconds

    async def again(task: int) -> None:
        nonlocal done
        while time.monotonic() < until:
            await call(task)
            done += 1

    began, cpu = time.monotonic(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for task in range(tasks):
            group.create_task(again(task))
    return done / (time.monotonic() - began), (time.process_time() - cpu) / done


async def puts(store: SqliteStore, *, tasks: int, seconds: float, label: str) -> StoreRow:
    template = response("")
    numbers = iter(range(sys.maxsize))

    async def put(_: int) -> None:
        await store.save_response("bench", msgspec.structs.replace(template, id=f"resp_{label}_{next(numbers):040}"))

    rate, cpu_s = await at_once(put, tasks=tasks, seconds=seconds)
    return StoreRow(f"put, {ROW_BYTES // 1000} KB, {tasks} in flight", rate, cpu_s * 1e6)


async def gets(store: SqliteStore, *, seconds: float) -> StoreRow:
    """Of responses that are not in memory."""
    names = [f"resp_{number}" for number in range(1000)]
    await asyncio.gather(*(store.save_response("gets", response(name)) for name in names))
    turn = iter(range(sys.maxsize))

    async def get(_: int) -> None:
        name = names[next(turn) % len(names)]
        store._finished.drop(("gets", name))  # noqa: SLF001 - as if many others had been read since
        await store.load_response("gets", name)

    rate, cpu_s = await at_once(get, tasks=AT_ONCE, seconds=seconds)
    return StoreRow(f"get from the file, {ROW_BYTES // 1000} KB, {AT_ONCE} in flight", rate, cpu_s * 1e6)


async def shared(store: SqliteStore) -> StoreRow:
    await store.save_response("bench", response("resp_shared"))
    began, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(store.load_response("bench", "resp_shared") for _ in range(READERS)))
    took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
    return StoreRow(f"get of one response, {READERS:,} readers at once", READERS / took_s, cpu_s / READERS * 1e6)


async def event_log(store: SqliteStore, *, seconds: float) -> StoreRow:
    """Many runs append at a steady rate; each append is followed by the read of a reader that was waiting for it."""
    period_s = 0.01
    late_ms: list[float] = []
    written = 0
    data = os.urandom(80).hex().encode()

    async def one(run: int) -> None:
        nonlocal written
        name = f"resp_log_{run}"
        queued = msgspec.structs.replace(response(name, size_bytes=1000), status="queued")
        await store.create_run(
            StoredRun(id=name, status="queued", request=b"{}", created_at=0, tenant="log"), queued, []
        )
        began = time.monotonic() + period_s * run / LOG_RUNS
        sent, due = 0, began
        while due < began + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            produced = time.monotonic()
            due = max(due + period_s, produced)
            until = int((produced - began) * LOG_RATE / LOG_RUNS)  # what a producer that is never held up has made
            if until > sent:
                events = [LoggedEvent(n, "response.output_text.delta", data) for n in range(sent, until)]
                await store.append_events("log", name, events)
                found = await store.read_events("log", name, after=sent - 1, limit=1000)
                late_ms.append((time.monotonic() - produced) * 1000)
                written += len(found)
                sent = until

    cpu, start = time.process_time(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for run in range(LOG_RUNS):
            group.create_task(one(run))
    took_s, cpu_s = time.monotonic() - start, time.process_time() - cpu
    late_p99_ms = sorted(late_ms)[int(len(late_ms) * 0.99)]
    return StoreRow(f"event logged and read, {LOG_RUNS} runs", written / took_s, cpu_s / written * 1e6, late_p99_ms)


async def chain(store: SqliteStore, *, turns: int) -> StoreRow:
    """The last turns of a chain: history read, turn written, one after the other."""
    parent: str | None = None
    for number in range(turns):
        name = f"resp_{turns}_{number}"
        saving = store.save_response("chain", response(name, parent=parent, size_bytes=1000))
        await saving
        parent = name
    began, cpu = time.monotonic(), time.process_time()
    for number in range(turns, turns + 20):
        assert parent is not None
        await store.history("chain", parent)
        name = f"resp_{turns}_{number}"
        await store.save_response("chain", response(name, parent=parent, size_bytes=1000))
        parent = name
    took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
    return StoreRow(f"turn {turns:,} of a chain, 1 KB each", 20 / took_s, cpu_s / 20 * 1e6)


def fsyncs(folder: Path) -> StoreRow:
    """The disk alone: append 4 KB, sync."""
    count, page = 200, os.urandom(4096)
    path = folder / "probe"
    with path.open("wb", buffering=0) as file:
        began, cpu = time.monotonic(), time.process_time()
        for _ in range(count):
            file.write(page)
            os.fsync(file.fileno())
        took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
    path.unlink()
    return StoreRow("fsync of 4 KB, alone", count / took_s, cpu_s / count * 1e6)


async def measure(folder: Path, *, seconds: float) -> list[StoreRow]:
    store = SqliteStore(folder / "bench.db", clock=SystemClock(), max_responses=10_000)
    await store.start()
    try:
        return [
            fsyncs(folder),
            await puts(store, tasks=AT_ONCE, seconds=seconds, label="many"),
            await puts(store, tasks=1, seconds=min(seconds, 2.0), label="one"),
            await gets(store, seconds=min(seconds, 2.0)),
            await shared(store),
            await event_log(store, seconds=seconds),
            await chain(store, turns=10),
            await chain(store, turns=1000),
        ]
    finally:
        await store.close()


def table(rows: list[StoreRow]) -> Iterator[str]:
    yield "| store | per second | CPU µs each | producer to reader p99, ms |"
    yield "| --- | ---: | ---: | ---: |"
    for row in rows:
        late = "" if row.late_p99_ms is None else f"{row.late_p99_ms:.1f}"
        yield f"| {row.what} | {row.per_second:,.0f} | {row.cpu_us:,.1f} | {late} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.store", description="Measures what the store costs.")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where the file is made (absent: the folder for temporary files; one in memory measures no disk)",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each is measured (5)")
    parser.add_argument("--json", action="store_true", help="prints JSON")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder)))
        rows = asyncio.run(measure(folder, seconds=arguments.seconds))
    print(msgspec.json.encode(rows).decode() if arguments.json else "\n".join(table(rows)))


if __name__ == "__main__":
    main()
