"""A TCP proxy that fails on purpose, after exactly so many bytes of an answer.

It stands between a server and its upstream and knows nothing of HTTP: bytes go up as they come, and come down until the fault of
this connection is due. Each connection takes the next fault; without one it passes everything. What has passed has been
written before the fault happens, so a cut after N bytes delivers N bytes, except a reset: what the kernel still holds of them is
lost with it, as in a real one.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from typing import Literal

import msgspec

Kind = Literal["reset", "close", "half_close", "stall", "garble", "refuse"]
_PIECE_BYTES = 65_536


class Fault(msgspec.Struct, frozen=True):
    """What happens to a connection once `after_bytes` of the answer have passed.

    `reset` is a TCP RST, `close` an orderly end both ways, `half_close` one of the answer's direction only, `stall` silence while
    the connection stays open. `garble` turns every later byte into another and lets it pass. `refuse` resets before anything.
    """

    kind: Kind
    after_bytes: int = 0


class FaultProxy:
    """Listens on a free port.

    Attributes:
        passed_bytes: what it has passed down, over all connections.
        stalled: how many connections have gone silent and are still held.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._faults: deque[Fault] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ("", 0)
        self.connections = 0
        self.passed_bytes = 0
        self.stalled = 0

    def fail(self, *faults: Fault) -> None:
        self._faults.extend(faults)

    def forget(self) -> None:
        """The faults that are left."""
        self._faults.clear()

    def url(self, path: str = "/v1") -> str:
        return f"http://{self.address[0]}:{self.address[1]}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        fault = self._faults.popleft() if self._faults else None
        try:
            if fault is not None and fault.kind == "refuse":
                _reset(writer)
                return
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await self._join(reader, writer, fault)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault | None) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        sending = asyncio.create_task(_pump(reader, up_writer), name="fault proxy, up")
        try:
            if fault is None:
                await self._pass(up_reader, writer, limit=None)
            else:
                await self._pass(up_reader, writer, limit=fault.after_bytes)
                await self._fail(fault, up_reader, writer, sending)
        finally:
            sending.cancel()
            up_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, limit: int | None) -> None:
        while limit is None or limit > 0:
            data = await reader.read(_PIECE_BYTES if limit is None else min(limit, _PIECE_BYTES))
            if not data:
                return
            limit = None if limit is None else limit - len(data)
            writer.write(data)
            await writer.drain()
            self.passed_bytes += len(data)

    async def _fail(
        self,
        fault: Fault,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        sending: asyncio.Task[None],
    ) -> None:
        match fault.kind:
            case "reset":
                _reset(writer)
            case "half_close":
                writer.write_eof()
                await sending  # until the other side ends it
            case "stall":
                self.stalled += 1
                await sending
                self.stalled -= 1
            case "garble":
                while data := await reader.read(_PIECE_BYTES):
                    writer.write(bytes([byte ^ 0x55 for byte in data]))
                    await writer.drain()
            case _:
                writer.close()
                await writer.wait_closed()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_PIECE_BYTES):
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def fault_proxy(url: str) -> AsyncIterator[FaultProxy]:
    """A proxy in front of an upstream's URL."""
    host, _, port = url.removeprefix("http://").partition("/")[0].rpartition(":")
    proxy = FaultProxy(host, int(port))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.address = server.sockets[0].getsockname()[:2]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
