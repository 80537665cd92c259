"""What a session that nobody uses costs in memory, with the store in a file and with the store in memory.

    python -m bench.sessions [--sessions 5000] [--folder DIR]

A whole server (API key, access log) answers one turn of an agent in each session: a message, 20 words, both kept. Other sessions, a
fifth as many, come first, so that what the server needs once is there. The figure is how much its resident memory has grown by when
it rests again, for each session, all of which must still be there; `cpu_us_per_turn` is what such a turn costs. Prints JSON.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench import processes
from bench.background import port_of, reported, serving
from bench.native_tools import BenchError
from bench.readers import asked
from bench.servers import API_KEY

CONNECTIONS = 16
STORES = {"store in a file": "agent.toml", "store in memory": "sessions.toml"}
BODY = json.dumps({"model": "mock", "messages": [{"role": "user", "content": "20 0"}]}).encode()


class SessionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the sessions of one server have cost."""

    what: str
    sessions: int
    grown_kb_per_session: float
    cpu_us_per_turn: float


def turn_in(session_id: str) -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {API_KEY}\r\nX-Session-Id: {session_id}\r\n"
    return head.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


def reading(session_id: str) -> bytes:
    path = f"/v1/sessions/{session_id}"
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {API_KEY}\r\n\r\n".encode()


async def ask(port: int, names: Iterator[str]) -> None:
    """One turn in each of these sessions, one after the other, on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for name in names:
            writer.write(turn_in(name))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0))
            if not head.startswith(b"http/1.1 200") or f"x-session-id: {name}\r\n".encode() not in head:
                raise BenchError(f"session {name} was answered {head[:200]!r}: {body[:200]!r}")
    finally:
        writer.close()


async def turns(port: int, names: Iterator[str]) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(ask(port, names))


async def measured(folder: Path, what: str, *, sessions: int) -> SessionFigures:
    server = await serving(folder, STORES[what])
    try:
        port = await port_of(server)
        await turns(port, (f"before-{number}" for number in range(sessions // 5)))
        await asyncio.to_thread(processes.settle, server.pid)
        pids = processes.descendants(server.pid)
        memory, cpu = processes.resident_bytes(pids), processes.cpu_time(pids)
        await turns(port, (f"idle-{number}" for number in range(sessions)))
        spent = processes.cpu_time(pids).since(cpu)
        await asyncio.to_thread(processes.settle, server.pid)
        grown = processes.resident_bytes(pids) - memory
        for number in (0, sessions - 1):
            await asked(port, reading(f"idle-{number}"))
    finally:
        if server.returncode is None:
            server.terminate()
        await server.wait()
    return SessionFigures(
        what=what,
        sessions=sessions,
        grown_kb_per_session=grown / sessions / 1024,
        cpu_us_per_turn=spent.total_s / sessions * 1e6,
    )


async def run(arguments: argparse.Namespace, folder: Path) -> list[SessionFigures]:
    return [await measured(folder, what, sessions=arguments.sessions) for what in STORES]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sessions", description="Measures sessions that rest.")
    parser.add_argument("--sessions", type=int, default=5000, help="how many (5000)")
    return reported(parser, run)


if __name__ == "__main__":
    sys.exit(main())
