"""What a reader of a background response that has ended costs the server: the object, and the whole stream again.

    python -m bench.readers [--readers 1000] [--events 500] [--rounds 3] [--folder DIR]

A whole server (API key, access log, store on a disk) answers one run; then all readers ask at once, each on a connection of its
own, as often as there are rounds. All must get the same bytes. CPU time and memory are the server's; `grown_kb_per_reader` is what
its resident memory has grown by while all of them were connected and reading, for each of them. Prints JSON.
"""

import argparse
import asyncio
import hashlib
import sys
import time
from pathlib import Path

import msgspec

from bench import processes
from bench.background import getting, port_of, posting, reported, serving
from bench.native_tools import BenchError
from bench.servers import API_KEY


class ReaderFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One way of reading. `cpu_us_per_reader` is the server's for one answer, `seconds` from the first request to the last byte."""

    what: str
    readers: int
    bytes_each: int
    seconds: float
    readers_per_second: float
    cpu_us_per_reader: float
    grown_kb_per_reader: float


async def asked(port: int, request: bytes) -> bytes:
    """The body of one answer on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    try:
        writer.write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        answer = await reader.read(-1)
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise BenchError(f"answered {head[:100]!r}: {body[:200]!r}")
    return body


async def measured(port: int, pid: int, what: str, request: bytes, *, readers: int, rounds: int) -> ReaderFigures:
    pids = processes.descendants(pid)
    memory, cpu, began = processes.resident_bytes(pids), processes.cpu_time(pids), time.monotonic()
    digests = set()
    grown_bytes = size_bytes = 0
    for _ in range(rounds):
        asking = [asyncio.create_task(asked(port, request)) for _ in range(readers)]
        for one in asyncio.as_completed(asking):
            body = await one
            size_bytes = len(body)
            digests.add(hashlib.sha256(body).digest())
        grown_bytes = max(grown_bytes, processes.resident_bytes(pids) - memory)
    took_s, cpu_s = time.monotonic() - began, processes.cpu_time(pids).since(cpu).total_s
    if len(digests) != 1:
        raise BenchError(f"{what}: {len(digests)} different answers")
    return ReaderFigures(
        what=what,
        readers=readers,
        bytes_each=size_bytes,
        seconds=took_s / rounds,
        readers_per_second=readers * rounds / took_s,
        cpu_us_per_reader=cpu_s / (readers * rounds) * 1e6,
        grown_kb_per_reader=grown_bytes / readers / 1024,
    )


async def run(arguments: argparse.Namespace, folder: Path) -> list[ReaderFigures]:
    server = await serving(folder, "background.toml")
    try:
        port = await port_of(server)
        body: dict[str, object] = {"model": "mock", "input": f"100000 {arguments.events / 100000}", "background": True}
        streamed = await asked(port, posting({**body, "stream": True}))
        response_id = streamed.partition(b'"id":"')[2].partition(b'"')[0].decode()
        path = f"/v1/responses/{response_id}"
        plain = f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {API_KEY}\r\n\r\n".encode()
        found = []
        for what, request in (("object", plain), ("stream again", getting(response_id))):
            await asked(port, request)
            found.append(
                await measured(port, server.pid, what, request, readers=arguments.readers, rounds=arguments.rounds)
            )
        return found
    finally:
        if server.returncode is None:
            server.terminate()
        await server.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.readers", description="Measures readers of one response.")
    parser.add_argument("--readers", type=int, default=1000, help="how many read at once (1000)")
    parser.add_argument("--events", type=int, default=500, help="deltas of the response (500)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each reads (3)")
    return reported(parser, run)


if __name__ == "__main__":
    sys.exit(main())
