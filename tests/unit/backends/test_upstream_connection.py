"""One connection of the upstream client, fed bytes by hand: any split of an answer reads the same, what is none is refused."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving import eventually
from trunkline.backends.upstream_connection import (
    HIGH_WATER_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    PIECE_BYTES,
    Connection,
    Lost,
    Malformed,
    Silent,
)

HEAD = b"POST /v1 HTTP/1.1\r\nHost: up\r\n\r\n"
FAR_S = 1e9


class Wire(asyncio.Transport):
    """What a connection writes to, and how it is told to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False
        self._reads = True

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        self._reads = True

    def is_reading(self) -> bool:
        return self._reads


class Talk:
    """A connection with both of its ends in the hands of a test."""

    def __init__(self, *, first_byte_timeout_s: float = 60, idle_timeout_s: float = 60) -> None:
        self.lost: list[Connection] = []
        self.wire = Wire()
        self.connection = Connection(
            first_byte_timeout_s=first_byte_timeout_s, idle_timeout_s=idle_timeout_s, on_lost=self.lost.append
        )
        self.connection.connection_made(self.wire)

    async def ask(self, *fed: bytes | None, body: Any = b"{}") -> None:
        """One exchange up to the head of its answer. None is the end of the connection."""
        asking = asyncio.create_task(self.connection.ask(HEAD, body, deadline_s=FAR_S))
        await asyncio.sleep(0)
        self.feed(*fed)
        await asking

    def feed(self, *fed: bytes | None) -> None:
        for data in fed:
            if data is not None:
                self.connection.data_received(data)
            elif not self.connection.eof_received():
                self.connection.connection_lost(None)

    async def rest(self) -> bytes:
        pieces = []
        while piece := await self.connection.receive():
            pieces.append(piece)
        return b"".join(pieces)


def head(*lines: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    return "\r\n".join([f"HTTP/{version} {status}", *lines, "", ""]).encode()


LENGTH = head("Content-Length: 5") + b"hello"
CHUNKED = head("Transfer-Encoding: chunked")
WHOLE: dict[str, tuple[bytes, int, bytes, bool]] = {
    "length": (LENGTH, 200, b"hello", True),
    "no body": (head("Content-Length: 0"), 200, b"", True),
    "204": (head(status="204 No Content"), 204, b"", True),
    "chunks": (CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", 200, b"hello", True),
    "chunk extension": (CHUNKED + b"5;a=b\r\nhello\r\n0\r\n\r\n", 200, b"hello", True),
    "padded chunk size": (CHUNKED + b"5  \r\nhello\r\n0\r\n\r\n", 200, b"hello", True),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nStatus: 500\r\n\r\n", 200, b"hello", True),
    "early hints": (head("Link: </a>", status="103 Early Hints") + LENGTH, 200, b"hello", True),
    "continue twice": (head(status="100 Continue") * 2 + LENGTH, 200, b"hello", True),
    "bare line feeds": (LENGTH.replace(b"\r\n", b"\n"), 200, b"hello", True),
    "an offer of an upgrade": (head("Upgrade: h2c", "Connection: Upgrade", "Content-Length: 1") + b"x", 200, b"x", True),
    "an empty header": (head("X-Empty:", "Content-Length: 1") + b"x", 200, b"x", True),
    "a refusal": (head("Content-Length: 2", status="429 Slow") + b"no", 429, b"no", True),
    "close": (head("Connection: close", "Content-Length: 5") + b"hello", 200, b"hello", False),
    "HTTP/1.0": (head("Content-Length: 5", version="1.0") + b"hello", 200, b"hello", False),
    "HTTP/1.0 that would stay": (
        head("Connection: keep-alive", "Content-Length: 5", version="1.0") + b"hello", 200, b"hello", False,
    ),
    "bytes after the end": (LENGTH + b"HT", 200, b"hello", False),
    "another answer after it": (LENGTH + LENGTH, 200, b"hello", False),
    "bytes after chunks": (CHUNKED + b"5\r\nhello\r\n0\r\n\r\nx", 200, b"hello", False),
}  # fmt: skip


def in_pieces(data: bytes, size: int | None) -> list[bytes]:
    size = size or len(data)
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, None])
@pytest.mark.parametrize(("answer", "status", "body", "stays"), WHOLE.values(), ids=WHOLE.keys())
async def test_an_answer_reads_the_same_in_any_split(
    answer: bytes, status: int, body: bytes, stays: bool, size: int | None
) -> None:
    talk = Talk()
    await talk.ask(*in_pieces(answer, size))
    connection = talk.connection
    assert (connection.status, await talk.rest(), connection.complete) == (status, body, True)
    assert connection.reusable is stays
    assert "x-sum" not in connection.headers


@given(st.sampled_from([*WHOLE]), st.lists(st.integers(1, 30), min_size=1))
def test_whatever_the_reads_bring(name: str, sizes: list[int]) -> None:
    answer, status, body, stays = WHOLE[name]

    async def read() -> None:
        talk, left = Talk(), answer
        pieces = []
        for size in sizes:
            pieces.append(left[:size])
            left = left[size:]
        await talk.ask(*[piece for piece in [*pieces, left] if piece])
        assert (talk.connection.status, await talk.rest(), talk.connection.reusable) == (status, body, stays)

    asyncio.run(read())


NO_HEAD: dict[str, bytes] = {
    "prose": b"not http at all\r\n\r\n",
    "another protocol": b"ICY 200 OK\r\n\r\n",
    "a folded header": head("A: b", " c", "Content-Length: 1") + b"x",
    "a header without a name": head(": b"),
    "a space in a name": head("Bad Name: b"),
    "a NUL": head("A: b\0c"),
    "two lengths": head("Content-Length: 1", "Content-Length: 2"),
    "a length that is none": head("Content-Length: -1"),
    "a length and chunks": head("Content-Length: 1", "Transfer-Encoding: chunked"),
    "another transfer coding": head("Transfer-Encoding: gzip"),
    "chunks below another coding": head("Transfer-Encoding: gzip, chunked"),
    "switching protocols": head("Upgrade: x", "Connection: Upgrade", status="101 Switching Protocols"),
    "no such status": head("Content-Length: 0", status="099 No"),
    "too many headers": head(*[f"X-{number}: 1" for number in range(MAX_HEADERS + 1)]),
    "too long a header": head("X: " + "x" * MAX_HEAD_BYTES),
    "a header without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 3 * MAX_HEAD_BYTES,
    "hints without end": head(status="103 Early Hints") * (3 * MAX_HEAD_BYTES // 30),
}


@pytest.mark.parametrize("size", [7, 1000, None])
@pytest.mark.parametrize("answer", NO_HEAD.values(), ids=NO_HEAD.keys())
async def test_what_is_no_head_is_refused(answer: bytes, size: int | None) -> None:
    talk = Talk()
    with pytest.raises(Malformed):
        await talk.ask(*in_pieces(answer, size))
    assert not talk.connection.reusable


BROKEN: dict[str, bytes] = {
    "no chunk size": CHUNKED + b"5\r\nhello\r\nzz\r\n",
    "a chunk longer than it says": CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    "a size that overflows": CHUNKED + b"5\r\nhello\r\nfffffffffffffffff\r\n",
    "a chunk extension without end": CHUNKED + b"5\r\nhello\r\n5;" + b"x" * 3 * MAX_HEAD_BYTES,
    "trailers without end": CHUNKED + b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * MAX_HEAD_BYTES,
}


@pytest.mark.parametrize("size", [7, 1000])
@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
async def test_what_came_before_broken_chunks_is_read_first(answer: bytes, size: int) -> None:
    talk = Talk()
    await talk.ask(*in_pieces(answer, size))
    said = await talk.connection.receive()
    assert said.startswith(b"hello")
    with pytest.raises(Malformed):
        await talk.connection.receive()
    assert not talk.connection.reusable


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"], ids=["length", "chunks"])
async def test_an_end_before_the_end_is_a_loss_wherever_it_comes(answer: bytes) -> None:
    for size in range(len(answer)):
        talk = Talk()
        if size < answer.index(b"\r\n\r\n") + 4:
            with pytest.raises(Lost):
                await talk.ask(answer[:size], None)
            continue
        await talk.ask(answer[:size], None)
        with pytest.raises(Lost):
            await talk.rest()
        assert not talk.connection.complete


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    talk = Talk()
    await talk.ask(head(), b"hel", b"lo", None)
    assert await talk.rest() == b"hello"
    assert talk.connection.complete
    assert not talk.connection.reusable
    assert talk.lost == [talk.connection]


async def test_a_body_without_a_length_that_is_reset_is_lost() -> None:
    talk = Talk()
    await talk.ask(head(), b"hel")
    talk.connection.connection_lost(ConnectionResetError(104, "reset"))
    assert await talk.connection.receive() == b"hel"
    with pytest.raises(Lost) as lost:
        await talk.connection.receive()
    assert lost.value.reason == "connection reset by peer"


async def test_what_arrived_together_is_handed_over_together() -> None:
    talk = Talk()
    await talk.ask(CHUNKED, b"1\r\na\r\n1\r\nb\r\n", b"1\r\nc\r\n")
    assert await talk.connection.receive() == b"abc"


async def test_a_body_that_is_wanted_whole_is_one_piece() -> None:
    talk = Talk()
    await talk.ask(head("Content-Length: 600000"))
    whole = asyncio.create_task(talk.connection.receive(10**9))
    await asyncio.sleep(0)
    for _ in range(6):
        talk.feed(b"x" * 100_000)
        await asyncio.sleep(0)
    assert talk.wire.is_reading(), "nobody reads it before its end, so it is not held back"
    assert await whole == b"x" * 600_000


async def test_a_slow_reader_holds_the_other_side_back() -> None:
    talk = Talk()
    await talk.ask(head("Content-Length: 10000000"), b"x" * (HIGH_WATER_BYTES - 1))
    assert talk.wire.is_reading()
    talk.feed(b"x")
    assert not talk.wire.is_reading()
    assert await talk.connection.receive() == b"x" * HIGH_WATER_BYTES
    assert talk.wire.is_reading()


async def test_what_is_held_back_goes_on_when_it_is_wanted_whole() -> None:
    talk = Talk()
    await talk.ask(head(f"Content-Length: {HIGH_WATER_BYTES + 1}"), b"x" * HIGH_WATER_BYTES)
    assert not talk.wire.is_reading()
    whole = asyncio.create_task(talk.connection.receive(10**9))
    await asyncio.sleep(0)
    assert talk.wire.is_reading()
    talk.feed(b"x")
    assert len(await whole) == HIGH_WATER_BYTES + 1


async def test_a_small_request_is_one_write() -> None:
    talk = Talk()
    await talk.ask(LENGTH, body=b"b" * 1000)
    assert talk.wire.written == [HEAD + b"b" * 1000]


async def test_a_large_request_waits_for_room_and_is_not_copied_whole() -> None:
    talk, body = Talk(), b"b" * (3 * PIECE_BYTES)
    talk.connection.pause_writing()
    asking = asyncio.create_task(talk.connection.ask(HEAD, [memoryview(body), b"end"], deadline_s=FAR_S))
    await asyncio.sleep(0)
    assert talk.wire.written == [HEAD, b"b" * PIECE_BYTES]
    talk.connection.resume_writing()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    talk.feed(LENGTH)
    await asking
    assert b"".join(talk.wire.written) == HEAD + body + b"end"
    assert await talk.rest() == b"hello"
    assert talk.connection.reusable


async def test_an_early_refusal_is_read_while_the_request_is_still_being_sent() -> None:
    talk = Talk()
    talk.connection.pause_writing()
    asking = asyncio.create_task(talk.connection.ask(HEAD, b"b" * 10 * PIECE_BYTES, deadline_s=FAR_S))
    await asyncio.sleep(0)
    talk.feed(head("Content-Length: 2", status="413 Too Large") + b"no")
    await asking
    assert (talk.connection.status, await talk.rest()) == (413, b"no")
    assert len(talk.wire.written) == 2
    assert not talk.connection.reusable, "the rest of the request would be read as the next one"


async def test_a_connection_carries_one_exchange_after_the_other() -> None:
    talk = Talk()
    for answer, status, body, stays in WHOLE.values():
        if stays:
            await talk.ask(answer)
            assert (talk.connection.status, await talk.rest(), talk.connection.reusable) == (status, body, True)


async def test_what_comes_unasked_closes_a_resting_connection() -> None:
    talk = Talk()
    await talk.ask(LENGTH)
    await talk.rest()
    talk.connection.rest(60)
    talk.feed(head("Content-Length: 0", status="408 Request Timeout"))
    assert talk.wire.aborted


@pytest.mark.parametrize("after", [[None], [b"x"]], ids=["closed", "more"])
async def test_a_connection_that_died_before_it_was_asked_again_is_stale(after: list[bytes | None]) -> None:
    talk = Talk()
    await talk.ask(LENGTH)
    await talk.rest()
    talk.feed(*after)
    with pytest.raises(Lost):
        await talk.ask()
    assert talk.connection.stale


async def test_lost_before_any_byte_is_stale_only_where_it_was_used_before() -> None:
    fresh = Talk()
    with pytest.raises(Lost):
        await fresh.ask(None)
    assert not fresh.connection.stale
    pooled = Talk()
    await pooled.ask(LENGTH)
    with pytest.raises(Lost):
        await pooled.ask(None)
    assert pooled.connection.stale


async def test_lost_after_the_first_byte_is_not_stale() -> None:
    talk = Talk()
    await talk.ask(LENGTH)
    with pytest.raises(Lost):
        await talk.ask(b"HTTP/1.1 2", None)
    assert not talk.connection.stale


async def settle() -> None:
    for _ in range(4):  # a timer that is due, what it calls, and who waits for that
        await asyncio.sleep(0)


@pytest.fixture
async def ticking() -> AsyncIterator[Callable[[float], None]]:
    """A loop whose clock goes as the test says."""
    loop = asyncio.get_running_loop()
    gone, real = [0.0], loop.time
    ours = cast(Any, loop)
    ours.time = lambda: real() + gone[0]

    def go(seconds: float) -> None:
        gone[0] += seconds

    yield go
    ours.time = real


async def test_each_wait_has_its_time(ticking: Callable[[float], None]) -> None:
    loop = asyncio.get_running_loop()
    talk = Talk(first_byte_timeout_s=100, idle_timeout_s=10)
    asking = asyncio.create_task(talk.connection.ask(HEAD, b"", deadline_s=loop.time() + 100))
    await asyncio.sleep(0)
    ticking(99)
    await asyncio.sleep(0)
    talk.feed(CHUNKED)
    await asking
    first = asyncio.create_task(talk.connection.receive())
    await asyncio.sleep(0)
    ticking(99)  # the first byte of the body has as long again
    await settle()
    talk.feed(b"1\r\na\r\n")
    assert await first == b"a"
    ticking(1000)  # nobody waits: the client is slow
    await settle()
    talk.feed(b"1\r\nb\r\n")
    assert await talk.connection.receive() == b"b"
    waiting = asyncio.create_task(talk.connection.receive())
    await asyncio.sleep(0)
    ticking(11)
    with pytest.raises(Silent):
        await waiting


@pytest.mark.parametrize(("after_s", "stale"), [(0.05, True), (2.0, False)], ids=["at once", "after some work"])
async def test_lost_long_after_it_was_asked_is_not_stale(
    ticking: Callable[[float], None], after_s: float, stale: bool
) -> None:
    talk = Talk()
    await talk.ask(LENGTH)
    await talk.rest()
    asking = asyncio.create_task(talk.connection.ask(HEAD, b"{}", deadline_s=FAR_S))
    await asyncio.sleep(0)
    ticking(after_s)
    talk.feed(None)
    with pytest.raises(Lost):
        await asking
    assert talk.connection.stale is stale


async def test_lost_while_the_request_is_still_being_sent_is_stale(ticking: Callable[[float], None]) -> None:
    talk = Talk()
    await talk.ask(LENGTH)
    await talk.rest()
    talk.connection.pause_writing()
    asking = asyncio.create_task(talk.connection.ask(HEAD, b"x" * 3 * PIECE_BYTES, deadline_s=FAR_S))
    await asyncio.sleep(0)
    ticking(2.0)
    talk.feed(None)
    with pytest.raises(Lost):
        await asking
    assert talk.connection.stale


async def test_a_body_that_is_wanted_whole_may_trickle(ticking: Callable[[float], None]) -> None:
    talk = Talk(first_byte_timeout_s=100, idle_timeout_s=10)
    await talk.ask(head("Content-Length: 5"), b"h")
    whole = asyncio.create_task(talk.connection.receive(100))
    for byte in b"ello":
        await settle()
        ticking(9)
        await asyncio.sleep(0)
        talk.feed(bytes([byte]))
    assert await whole == b"hello"


async def test_an_end_that_does_not_come_in_time_is_given_up(ticking: Callable[[float], None]) -> None:
    talk, over = Talk(), list[bool]()
    await talk.ask(CHUNKED + b"1\r\na\r\n")
    assert await talk.connection.receive() == b"a"
    talk.connection.end_alone(1, lambda: over.append(talk.connection.complete))
    talk.feed(b"1\r\nb\r\n")
    ticking(0.5)
    await asyncio.sleep(0)
    assert over == []
    ticking(1)
    await eventually(lambda: over == [False])
    talk.feed(b"0\r\n\r\n")
    assert over == [False]


async def test_a_connection_that_rests_too_long_closes(ticking: Callable[[float], None]) -> None:
    talk = Talk()
    await talk.ask(LENGTH)
    await talk.rest()
    talk.connection.rest(30)
    ticking(29)
    await settle()
    assert not talk.wire.aborted
    ticking(2)
    await settle()
    assert talk.wire.aborted
