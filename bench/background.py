"""How long an event of a background response takes from its producer to a reader, and what it costs the server.

    python -m bench.background [--rate 5000] [--runs 50] [--readers 1] [--seconds 8] [--folder DIR]

A whole server (API key, access log, store on a disk) works on the runs: an asynchronous Python agent says words on a schedule, each
with the time it was made at. The readers are HTTP clients in a process of their own, one connection for each. An event is on the
disk before it is sent, so the figure has a sync in it. Prints JSON; `p99_ms` is over every event that any reader got after the
first second.
"""

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import time
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from bench import processes
from bench.native_tools import BenchError
from bench.servers import API_KEY, BENCH, ROOT, START_S, default_launcher

STAMP = re.compile(rb"tok@(\d{16})@")
WARM_S = 1.0


class BackgroundFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement. Milliseconds are from the agent's `yield` to the reader's `read`; CPU time is the whole server's."""

    runs: int
    readers_per_run: int
    events_per_second: float
    reads_per_second: float
    p50_ms: float
    p99_ms: float
    most_ms: float
    cpu_us_per_event: float
    cores: float


class Reader:
    """One reader of one run: what it got, and how late."""

    def __init__(self) -> None:
        self.late_us = array("q")
        self.events = 0
        self.ended = False
        self.response_id = ""

    async def follow(
        self, port: int, request: bytes, *, warm_until_us: int, named: "asyncio.Event | None" = None
    ) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        rest = b""
        while data := await reader.read(262_144):
            now_us = time.monotonic_ns() // 1000
            data = rest + data
            cut = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
            whole, rest = data[:cut], data[cut:]
            if not self.response_id and (found := re.search(rb'"id":"(resp_\w+)"', whole)):
                self.response_id = found[1].decode()
                if named is not None:
                    named.set()
            for frame in whole.split(b"\n\n"):
                if b"output_text.delta\n" in frame and (stamp := STAMP.search(frame)):
                    made_us = int(stamp[1])
                    self.events += 1
                    if made_us >= warm_until_us:
                        self.late_us.append(now_us - made_us)
            if b"[DONE]" in whole:
                self.ended = b"response.completed" in whole
                break
        writer.close()


def posting(body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {API_KEY}\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data


def getting(response_id: str) -> bytes:
    path = f"/v1/responses/{response_id}?stream=true"
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {API_KEY}\r\n\r\n".encode()


async def one_run(port: int, *, rate: float, seconds: float, readers: int, warm_until_us: int) -> list[Reader]:
    """Starts a run, follows it with that many readers."""
    body: dict[str, object] = {"model": "mock", "input": f"{rate} {seconds}", "stream": True, "background": True}
    all_of_them = [Reader() for _ in range(readers)]
    named = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        first = all_of_them[0]
        group.create_task(first.follow(port, posting(body), warm_until_us=warm_until_us, named=named))
        await named.wait()
        for other in all_of_them[1:]:
            group.create_task(other.follow(port, getting(first.response_id), warm_until_us=warm_until_us))
    return all_of_them


async def measure(port: int, pid: int, *, rate: float, runs: int, readers: int, seconds: float) -> BackgroundFigures:
    pids = processes.descendants(pid)
    cpu, began = processes.cpu_time(pids), time.monotonic()
    warm_until_us = time.monotonic_ns() // 1000 + int(WARM_S * 1e6)
    followed = await asyncio.gather(
        *(
            one_run(port, rate=rate / runs, seconds=seconds, readers=readers, warm_until_us=warm_until_us)
            for _ in range(runs)
        )
    )
    took_s, cpu_s = time.monotonic() - began, processes.cpu_time(pids).since(cpu).total_s
    all_of_them = [reader for one in followed for reader in one]
    expected = int(rate / runs * seconds)
    if any(not reader.ended or reader.events != expected for reader in all_of_them):
        raise BenchError(f"events were lost: {sorted({reader.events for reader in all_of_them})} of {expected}")
    late = sorted(one for reader in all_of_them for one in reader.late_us)
    made = expected * runs
    return BackgroundFigures(
        runs=runs,
        readers_per_run=readers,
        events_per_second=made / took_s,
        reads_per_second=made * readers / took_s,
        p50_ms=late[len(late) // 2] / 1000,
        p99_ms=late[int(len(late) * 0.99)] / 1000,
        most_ms=late[-1] / 1000,
        cpu_us_per_event=cpu_s / made * 1e6,
        cores=cpu_s / took_s,
    )


async def serving(folder: Path, config: str) -> "asyncio.subprocess.Process":
    """A server of that configuration, which says its port on its first line."""
    with (folder / "stderr.txt").open("w") as errors:
        return await asyncio.create_subprocess_exec(
            *default_launcher(),
            *("serve", "--config", str(BENCH / config)),
            cwd=ROOT,
            env={**os.environ, "BENCH_WORK": str(folder)},
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )


async def port_of(server: "asyncio.subprocess.Process") -> int:
    assert server.stdout is not None
    async with asyncio.timeout(START_S):
        while line := await server.stdout.readline():
            if found := re.search(rb"serving on http://[^:/]+:(\d+)", line):
                return int(found[1])
    raise BenchError("the server did not say where it listens")


async def run(arguments: argparse.Namespace, folder: Path) -> BackgroundFigures:
    server = await serving(folder, "background.toml")
    try:
        port = await port_of(server)
        return await measure(
            port,
            server.pid,
            rate=arguments.rate,
            runs=arguments.runs,
            readers=arguments.readers,
            seconds=arguments.seconds,
        )
    finally:
        if server.returncode is None:
            server.terminate()
        await server.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.background", description="Measures background responses.")
    parser.add_argument("--rate", type=float, default=5000.0, help="events per second of all runs together (5000)")
    parser.add_argument("--runs", type=int, default=50, help="runs that share the rate (50)")
    parser.add_argument("--readers", type=int, default=1, help="readers of each run (1)")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each run speaks (8)")
    return reported(parser, run)


def reported(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace, Path], Awaitable[object]]) -> int:
    """Runs a measurement of a server whose store lies in a folder of its own, and prints its figures as JSON."""
    parser.add_argument("--folder", type=Path, help="where the store's file is made (absent: bench/results)")
    arguments = parser.parse_args()
    parent = arguments.folder or BENCH / "results"
    parent.mkdir(exist_ok=True)
    processes.raise_open_files()

    async def measure(folder: Path) -> object:
        return await run(arguments, folder)

    with tempfile.TemporaryDirectory(dir=parent) as folder:
        try:
            figures = asyncio.run(measure(Path(folder)))
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    print(msgspec.json.encode(figures).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
