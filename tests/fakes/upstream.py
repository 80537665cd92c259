"""A model server that does what it is told, byte for byte, over real sockets.

Each POST takes the next plan: a list of steps that write bytes, wait for the test, reset, close or hold the connection. Lists of
models are answered by themselves. What arrived is kept in `requests`.
"""

import asyncio
import contextlib
import json
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

import msgspec


class Do(Enum):
    RESET = "reset"  # the connection, at once
    CLOSE = "close"  # the connection, after what was written
    HOLD = "hold"  # say nothing more until the other side leaves; then `left` is set


Step = bytes | Do | asyncio.Event
Plan = Sequence[Step]


class Received(msgspec.Struct, frozen=True):
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    def json(self) -> Any:
        return json.loads(self.body)


def answer(
    body: bytes, *, status: str = "200 OK", kind: str = "application/json", headers: Mapping[str, str] = {}
) -> bytes:
    """A whole response."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def json_answer(value: object, *, status: str = "200 OK", headers: Mapping[str, str] = {}) -> bytes:
    return answer(json.dumps(value).encode(), status=status, headers=headers)


def stream_head(headers: Mapping[str, str] = {}) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{lines}Transfer-Encoding: chunked\r\n\r\n".encode()


STREAM = stream_head()
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def pieces(data: bytes, size: int) -> list[Step]:
    """The bytes in chunks of this size, each of which leaves on its own."""
    return [chunk(data[start : start + size]) for start in range(0, len(data), size)]


def streamed(data: bytes, *, size: int | None = None) -> list[Step]:
    """A whole stream."""
    return [STREAM, *pieces(data, size or max(1, len(data))), END]


def frame(value: object) -> bytes:
    return (
        b"data: " + (value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()) + b"\n\n"
    )


def text_frame(text: str | None = None, *, finish: str | None = None, **extra: object) -> bytes:
    delta = {} if text is None else {"content": text}
    return frame(
        {
            "id": "chatcmpl-up",
            "object": "chat.completion.chunk",
            "created": 1741570283,
            "model": "up-model",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
            **extra,
        }
    )


def usage_frame() -> bytes:
    return frame(
        {
            "id": "chatcmpl-up",
            "object": "chat.completion.chunk",
            "created": 1741570283,
            "model": "up-model",
            "choices": [],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        }
    )


DONE = b"data: [DONE]\n\n"
HELLO = text_frame("Hel") + text_frame("lo") + text_frame(finish="stop") + usage_frame() + DONE
COMPLETION = {
    "id": "chatcmpl-up",
    "object": "chat.completion",
    "created": 1741570283,
    "model": "up-model",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "logprobs": None, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
MODELS = {"object": "list", "data": [{"id": "up-model", "object": "model", "created": 5, "owned_by": "lab"}]}


class FakeUpstream:
    """Listens on a free port. `plan` says what the next POST gets."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self.left = asyncio.Event()
        self.models: Plan = [json_answer(MODELS)]
        self.url = ""
        self._plans: deque[Plan] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def plan(self, *plans: Plan) -> None:
        self._plans.extend(plans)

    def forget(self) -> None:
        """The plans that are left."""
        self._plans.clear()

    @property
    def planned(self) -> int:
        """How many plans are left."""
        return len(self._plans)

    def next_plan(self, request: Received) -> Plan:
        return self._plans.popleft()

    @property
    def posts(self) -> list[Received]:
        return [request for request in self.requests if request.method == "POST"]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                request = await _read_request(reader, connection)
                self.requests.append(request)
                plan = self.next_plan(request) if request.method == "POST" else self.models
                if not await self._follow(plan, reader, writer):
                    break
        writer.transport.abort()
        self._tasks.discard(task)

    async def _follow(self, plan: Plan, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection is still good."""
        for step in plan:
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                    await asyncio.sleep(0)
                case asyncio.Event():
                    await step.wait()
                case Do.RESET:
                    raw: socket.socket = writer.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return False
                case Do.CLOSE:
                    writer.close()
                    await writer.wait_closed()
                    return False
                case Do.HOLD:
                    with contextlib.suppress(ConnectionError):
                        assert await reader.read(1) == b""
                    self.left.set()
                    return False
        return True

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body, connection)


Fake = TypeVar("Fake", bound=FakeUpstream)


@contextlib.asynccontextmanager
async def fake_upstream() -> AsyncIterator[FakeUpstream]:
    async with listening(FakeUpstream()) as upstream:
        yield upstream


@contextlib.asynccontextmanager
async def listening(upstream: Fake) -> AsyncIterator[Fake]:
    server = await asyncio.start_server(upstream._serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()
        await upstream.close()
        await server.wait_closed()
