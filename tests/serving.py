"""A whole server inside the test's own loop: the real application on a real socket, and plain clients to talk to it.

Everything is as `trunkline serve` does it (configuration, assembly, lifespan, uvicorn, drain), except that no process is
started, so a test can also look at what a backend is doing (`active`, `opened`) instead of waiting for it by the clock.
"""

import asyncio
import contextlib
import io
import json
import re
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from trunkline.assembly import assemble
from trunkline.cli.lifecycle import Stop, serve_until_stopped
from trunkline.cli.lifespan import Lifespan
from trunkline.cli.listen import listen
from trunkline.config.load import build_config
from trunkline.ports.runtime import Clock
from trunkline.server.app import Application

MODEL = "scripted"
ECHO = '[backends.talk]\ntype = "scripted"\n'


class Reply(msgspec.Struct, frozen=True):
    """One HTTP response, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, after checking that it is a whole OpenAI envelope."""
        assert self.headers["content-type"] == "application/json", self
        envelope = self.json()
        assert envelope.keys() == {"error"}, envelope
        error: dict[str, Any] = envelope["error"]
        assert error.keys() == {"message", "type", "param", "code"}, error
        assert isinstance(error["message"], str), error
        assert error["message"], error
        assert error["code"] is None or isinstance(error["code"], str), error
        return error

    @property
    def frames(self) -> "list[Any]":
        return read_frames(self.body)

    @property
    def text(self) -> str:
        return text_of(self.frames)


def read_frames(body: bytes) -> list[Any]:
    """The `data:` payloads of a stream as JSON, with `[DONE]` as that string. Comments are left out."""
    assert not body or body.endswith(b"\n\n"), body[-200:]
    frames: list[Any] = []
    for frame in body.split(b"\n\n")[:-1]:
        for line in frame.split(b"\n"):
            if line.startswith(b"data: "):
                payload = line[6:]
                frames.append("[DONE]" if payload == b"[DONE]" else json.loads(payload))
            else:
                assert line.startswith(b":"), line
    return frames


def text_of(frames: Sequence[Any], *, choice: int = 0) -> str:
    return "".join(
        one["delta"].get("content") or ""
        for frame in frames
        if isinstance(frame, dict)
        for one in frame.get("choices", ())
        if one["index"] == choice
    )


def finish_of(frames: Sequence[Any], *, choice: int = 0) -> list[str]:
    return [
        one["finish_reason"]
        for frame in frames
        if isinstance(frame, dict)
        for one in frame.get("choices", ())
        if one["index"] == choice and one["finish_reason"] is not None
    ]


def user(text: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": text}]


class Serving:
    """A server that is up."""

    def __init__(
        self, application: Application, address: tuple[str, int], session: aiohttp.ClientSession, log: io.StringIO
    ) -> None:
        self.application = application
        self._log = log
        self.host, self.port = address
        self.url = f"http://{self.host}:{self.port}"
        self._session = session

    def backend(self, position: int = 0) -> Any:
        """A backend's object, for what it says about itself."""
        return self.application._backends[position]

    @property
    def access_lines(self) -> list[str]:
        """The access log so far."""
        log = self.application._access_log
        assert log is not None
        log.flush()
        return self._log.getvalue().splitlines()

    async def request(
        self, method: str, path: str, body: bytes | None = None, *, headers: Mapping[str, str] | None = None
    ) -> Reply:
        sent = {"content-type": "application/json", **(headers or {})} if body is not None else headers
        data = None if body is None else io.BytesIO(body)  # aiohttp warns of large bodies that are not a file
        url = URL(self.url + path, encoded=True)
        async with self._session.request(method, url, data=data, headers=sent, allow_redirects=False) as answer:
            return Reply(answer.status, {k.lower(): v for k, v in answer.headers.items()}, await answer.read())

    async def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Reply:
        return await self.request("GET", path, headers=headers)

    async def chat(self, text: str = "hello there", *, headers: Mapping[str, str] | None = None, **body: Any) -> Reply:
        """A chat completion. `model` and `messages` may be given; the rest are parameters."""
        whole = {"model": MODEL, "messages": user(text), **body}
        return await self.request("POST", "/v1/chat/completions", json.dumps(whole).encode(), headers=headers)

    async def post_raw(self, body: bytes) -> Reply:
        return await self.request("POST", "/v1/chat/completions", body)

    @contextlib.asynccontextmanager
    async def connect(self, *, receive_bytes: int | None = None) -> AsyncIterator["Wire"]:
        """A bare connection. With `receive_bytes` its buffers are as small as can be."""
        reader, writer = await asyncio.open_connection(
            self.host, self.port, **({} if receive_bytes is None else {"limit": receive_bytes})
        )
        try:
            yield Wire(reader, writer)
        finally:
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def stream(self, text: str = "hello there", **body: Any) -> AsyncIterator["Wire"]:
        """A streamed chat completion on a bare connection, its request sent and nothing read."""
        async with self.connect() as wire:
            await wire.send_chat({"model": MODEL, "messages": user(text), "stream": True, **body})
            yield wire


class Wire:
    """A bare connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def send_chat(self, body: Mapping[str, object]) -> None:
        data = json.dumps(body).encode()
        await self.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + b"Content-Length: %d\r\n\r\n" % len(data)
            + data
        )

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next response."""
        block = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = block.rstrip("\r\n").split("\r\n")
        headers = [line.split(": ", 1) for line in lines]
        return int(first.split(" ")[1]), {name.lower(): value for name, value in headers}

    async def reply(self) -> Reply:
        """The next response, whole."""
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            pieces = []
            while piece := await self.chunk():
                pieces.append(piece)
            return Reply(status, headers, b"".join(pieces))
        return Reply(status, headers, await self.reader.readexactly(int(headers["content-length"])))

    async def chunk(self) -> bytes:
        """One piece of a chunked body; empty at its end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def until(self, text: bytes) -> bytes:
        """The body's pieces up to and with the one that completes this text."""
        seen = b""
        while text not in seen:
            piece = await self.chunk()
            assert piece, f"the stream ended without {text!r}: {seen!r}"
            seen += piece
        return seen


async def eventually(condition: Callable[[], bool]) -> None:
    """Lets the loop run until something is so. What never becomes so hangs, and the suite's deadline says where."""
    while not condition():  # noqa: ASYNC110 - what is waited for belongs to the server, which has no event for tests
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def serving(
    toml: str = ECHO,
    *,
    base_dir: Path = Path(),
    scripts: Mapping[str, str] | None = None,
    grace_s: float = 5.0,
    clock: Clock | None = None,
) -> AsyncIterator[Serving]:
    """Serves what this configuration says. `scripts` are files to put beside it."""
    for name, text in (scripts or {}).items():
        (base_dir / name).write_text(text)
    document = tomllib.loads(toml)
    document.setdefault("store", {"url": "memory:"})  # a file belongs to one server at a time
    config = build_config(document, environ={})
    log = io.StringIO()
    with contextlib.redirect_stderr(log):  # where the access log goes is decided here
        application = assemble(config, base_dir=base_dir, clock=clock)
    async with _served(application, log, grace_s=grace_s) as served:
        yield served


@contextlib.asynccontextmanager
async def _served(application: Application, log: io.StringIO, *, grace_s: float) -> AsyncIterator[Serving]:
    lifespan, stop, up = Lifespan(application), Stop(), asyncio.Event()

    async def announce() -> None:
        up.set()

    with contextlib.closing(listen("127.0.0.1", port=0)) as listener:
        host, port = listener.getsockname()[:2]
        await lifespan.startup()
        serving_until = serve_until_stopped(application, listener, stop, grace_s=grace_s, announce=announce)
        running = asyncio.create_task(serving_until, name="serve")
        try:
            await up.wait()
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
                yield Serving(application, (host, port), session, log)
        finally:
            stop.now()
            await running
            await lifespan.shutdown()


REQUEST_ID = re.compile(r"req_[0-9a-f]{8,}")
