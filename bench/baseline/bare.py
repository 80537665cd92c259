"""The stack with nothing on it: the least that Python on uvicorn, Starlette and aiohttp can cost for the same bytes.

    python -m bench.baseline.bare relay http://127.0.0.1:PORT     passes request and answer through
    python -m bench.baseline.bare scripted | scripted_paced       repeats the prompt, a word at once or every 20 ms
    python -m bench.baseline.bare agent | agent_threads           as many words as it is asked for, at that pace

No auth, no log, no accounting, no check of anything. It makes the same events as trunkline does, each written alone.
"""

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio.to_thread
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from yarl import URL

PATH = "/v1/chat/completions"
INTERVAL_S = 0.02
THREADS = 256
HEAD = {"id": "chatcmpl-9f2c1a7e5b3d4c6f8a0b1c2d3e4f5a6b", "created": 1790000000, "model": "mock"}


class Relay:
    """Passes requests to one upstream and its bytes back, as they come."""

    def __init__(self, upstream: str) -> None:
        self._url = URL(upstream + PATH, encoded=True)
        self._session: aiohttp.ClientSession

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        ) as self._session:
            yield

    async def answer(self, request: Request) -> Response:
        headers = {"content-type": "application/json"}
        answer = await self._session.post(self._url, data=await request.body(), headers=headers)
        content_type = answer.headers["content-type"]
        if content_type.startswith("text/event-stream"):
            return StreamingResponse(self._pass_on(answer), answer.status, media_type=content_type)
        async with answer:
            return Response(await answer.read(), answer.status, media_type=content_type)

    async def _pass_on(self, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        async with answer:
            async for piece in answer.content.iter_any():
                yield piece


class Answerer:
    """Makes the events itself."""

    def __init__(self, kind: str) -> None:
        self._agent = kind in ("agent", "agent_threads")
        self._threads = kind == "agent_threads"
        self._interval_s = 0.0 if kind == "scripted" else INTERVAL_S

    async def answer(self, request: Request) -> Response:
        body: dict[str, Any] = msgspec.json.decode(await request.body())
        asked = body["messages"][-1]["content"].split(" ")
        words, interval_s = (stamps(int(asked[0])), int(asked[1]) / 1000) if self._agent else (asked, self._interval_s)
        if body.get("stream"):
            events = threaded_events_of(words, interval_s) if self._threads else events_of(words, interval_s)
            return StreamingResponse(events, media_type="text/event-stream")
        message = {"role": "assistant", "content": " ".join(words), "refusal": None}
        choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
        return Response(encoded(choices, kind="chat.completion"), media_type="application/json")


async def events_of(words: Iterable[str], interval_s: float) -> AsyncIterator[bytes]:
    yield chunk({"role": "assistant", "content": ""})
    began = time.monotonic()
    for number, word in enumerate(words, 1):
        yield chunk({"content": word})
        if interval_s:
            await asyncio.sleep(max(0.0, began + number * interval_s - time.monotonic()))
    yield chunk({}, finish_reason="stop") + b"data: [DONE]\n\n"


def threaded_events_of(words: Iterable[str], interval_s: float) -> Iterator[bytes]:
    """Starlette has a thread of its pool make each of them."""
    yield chunk({"role": "assistant", "content": ""})
    began = time.monotonic()
    for number, word in enumerate(words, 1):
        yield chunk({"content": word})
        time.sleep(max(0.0, began + number * interval_s - time.monotonic()))
    yield chunk({}, finish_reason="stop") + b"data: [DONE]\n\n"


@asynccontextmanager
async def many_threads(app: Starlette) -> AsyncIterator[None]:
    """As many as there are streams: the pool has 40 otherwise."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield


def stamps(words: int) -> Iterator[str]:
    for _ in range(words):
        yield f" tok@{time.monotonic_ns() // 1000:016d}@"


def encoded(choices: list[dict[str, Any]], *, kind: str) -> bytes:
    return msgspec.json.encode(HEAD | {"object": kind, "choices": choices})


def chunk(delta: dict[str, str], *, finish_reason: str | None = None) -> bytes:
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]
    return b"data: %b\n\n" % encoded(choices, kind="chat.completion.chunk")


def main() -> None:
    kind, *rest = sys.argv[1:]
    relay = Relay(rest[0]) if kind == "relay" else None
    answer = relay.answer if relay else Answerer(kind).answer
    app = Starlette(
        routes=[Route(PATH, answer, methods=["POST"])],
        lifespan=relay.lifespan if relay else many_threads,
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(f"serving on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", ws="none", access_log=False, log_level="error", backlog=4096
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
