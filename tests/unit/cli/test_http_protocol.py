"""One connection of the server, fed bytes by hand: what waits is bounded, what is slow ends, old clients are answered their way."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.serving import eventually
from trunkline.cli.http_protocol import HEAD_TIMEOUT_S, MAX_WAITING, PIECE_BYTES, BoundedHttp

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
KEEP_ALIVE_S = 5
READ_BYTES = 262_144
"""What the loops read at once, at most."""


class Wire(asyncio.Transport):
    """The server's side of a connection whose client reads when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False
        self.reads = True

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


class Talk:
    """A connection, and the application behind it, which answers when `may` is set."""

    def __init__(self, *, framed: bool = True) -> None:
        self.may = asyncio.Event()
        self.begun = 0
        self.answered = 0
        self.left = 0
        self.fed_bytes = 0
        self._framed = framed
        self.state = ServerState()
        config = uvicorn.Config(
            self._app,
            http=BoundedHttp,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        config.load()
        self.protocol = BoundedHttp(config, self.state, {})
        self.wire = Wire()
        self.protocol.connection_made(self.wire)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            more = message["more_body"]
        self.begun += 1
        waiting = asyncio.create_task(self.may.wait())
        leaving = asyncio.create_task(receive())
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            self.left += 1
            return
        leaving.cancel()
        headers = [(b"content-length", b"2")] if self._framed else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})
        self.answered += 1

    def feed(self, data: bytes) -> None:
        """As long as the connection is read, in reads as large as they get."""
        for start in range(0, len(data), READ_BYTES):
            if not self.wire.reads:
                return
            self.protocol.data_received(data[start : start + READ_BYTES])
            self.fed_bytes += min(READ_BYTES, len(data) - start)

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


async def test_requests_behind_a_slow_answer_do_not_heap_up() -> None:
    talk = Talk()
    for _ in range(50):
        talk.feed(GET * 20_000)
        await talk.settle()
    assert talk.begun == 1
    assert not talk.wire.reads
    assert len(talk.protocol.pipeline) <= MAX_WAITING + PIECE_BYTES // len(GET) + 1


async def test_a_client_that_reads_nothing_is_read_no_further() -> None:
    talk = Talk()
    talk.may.set()
    talk.protocol.pause_writing()
    for _ in range(50):
        talk.feed(GET * 20_000)
        await talk.settle()
    assert talk.answered == 0
    assert len(talk.protocol.pipeline) <= MAX_WAITING + PIECE_BYTES // len(GET) + 1


async def test_no_more_is_taken_than_is_answered() -> None:
    talk = Talk()
    talk.may.set()
    talk.feed(GET * 200)
    for _ in range(3000):
        await asyncio.sleep(0)
        talk.feed(GET * 20_000)
        assert talk.fed_bytes // len(GET) - talk.answered <= READ_BYTES // len(GET) + MAX_WAITING
    assert talk.answered > 200


@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
@pytest.mark.parametrize("count", [2, MAX_WAITING + 1, 5000])
async def test_every_request_is_answered_in_the_end(count: int, request_: bytes) -> None:
    talk = Talk()
    talk.may.set()
    talk.feed(request_ * count)
    await eventually(lambda: talk.answered == count)
    await talk.settle()
    assert b"".join(talk.wire.written).count(b"HTTP/1.1 200") == count
    assert talk.wire.reads
    assert not talk.wire.closed


async def test_a_body_that_looks_like_many_requests_is_one() -> None:
    talk = Talk()
    body = GET * 2000
    talk.feed(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    talk.may.set()
    await talk.settle()
    assert talk.begun == 1


async def test_a_client_that_leaves_while_others_of_its_requests_wait_is_noticed() -> None:
    talk = Talk()
    talk.feed(GET * 3)
    await talk.settle()
    assert talk.wire.reads  # otherwise nobody would hear that it left
    talk.protocol.connection_lost(None)
    await talk.settle()
    assert (talk.begun, talk.left) == (1, 1)


async def test_an_old_client_gets_a_body_without_chunks() -> None:
    talk = Talk(framed=False)
    talk.may.set()
    talk.feed(b"GET / HTTP/1.0\r\n\r\n")
    await talk.settle()
    head, _, body = b"".join(talk.wire.written).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == b"ok"
    assert talk.wire.closed


class Clock:
    """The loop's time and its timers, by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        self.due: list[tuple[float, Callable[[], None]]] = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: self.now_s)
        monkeypatch.setattr(loop, "call_later", self._later)

    def _later(self, delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        self.due.append((self.now_s + delay_s, call))
        return asyncio.TimerHandle(self.now_s + delay_s, lambda: None, (), asyncio.get_running_loop())

    def go_to(self, after_s: float) -> None:
        self.now_s = 1000.0 + after_s
        while due := [one for one in self.due if one[0] <= self.now_s]:
            self.due = [one for one in self.due if one not in due]
            for _, call in due:
                call()


@pytest.mark.parametrize("sent", [b"GET / HT", GET[:-2]])
async def test_a_head_that_does_not_come_to_its_end_is_refused(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    clock = Clock(monkeypatch)
    talk = Talk()
    clock.go_to(10)
    for byte in sent:  # a slow one is not a new one
        talk.feed(bytes([byte]))
    clock.go_to(HEAD_TIMEOUT_S)
    assert not talk.wire.closed
    clock.go_to(10 + HEAD_TIMEOUT_S)
    head, _, body = b"".join(talk.wire.written).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "invalid_http_request"
    assert talk.wire.closed


async def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    talk = Talk()
    clock.go_to(HEAD_TIMEOUT_S)
    assert (talk.wire.closed, talk.wire.written) == (True, [])


async def test_a_long_answer_is_not_cut_by_the_next_heads_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    talk = Talk()
    talk.feed(GET + GET[:5])
    await talk.settle()
    for minute in range(1, 10):
        clock.go_to(60 * minute)
    assert not talk.wire.closed
    talk.may.set()
    await talk.settle()
    assert talk.answered == 1
    talk.feed(GET[5:])
    await talk.settle()
    assert talk.answered == 2
    clock.go_to(600 + KEEP_ALIVE_S)
    assert talk.wire.closed
