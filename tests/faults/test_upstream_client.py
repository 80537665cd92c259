"""The upstream client over real sockets, on both event loops: pool, retry, deadlines, addresses, proxies, content codings."""

import asyncio
import base64
import contextlib
import gzip
import shutil
import socket
import ssl
import struct
import subprocess
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.upstream import END, STREAM, Do, FakeUpstream, answer, chunk, stream_head
from tests.serving import eventually
from trunkline.backends.upstream import Answer, Upstream
from trunkline.backends.upstream_connection import Connection
from trunkline.backends.upstream_dial import first_connected
from trunkline.model.errors import BackendError, BackendProtocolError, BackendTimeout, BackendUnavailable, ConfigError

HELLO = answer(b"hello")
PLENTY = 100_000_000


@contextlib.asynccontextmanager
async def client(url: str, **settings: Any) -> AsyncIterator[Upstream]:
    given: dict[str, Any] = {
        "name": "backend 'up'",
        "headers": {},
        "connect_timeout_s": 60,
        "first_byte_timeout_s": 60,
        "idle_timeout_s": 60,
        "max_connections": 10,
        "trust_env": False,
    }
    made = Upstream(url, **{**given, **settings})
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def said(up: Upstream, body: Any = b"{}") -> bytes:
    got = await up.post("/x", body, headers={})
    try:
        return await got.read(at_most_bytes=PLENTY)
    finally:
        got.close()


# The pool


@pytest.mark.parametrize("step", [Do.RESET, Do.CLOSE], ids=["reset", "closed"])
async def test_a_fresh_connection_that_is_lost_is_not_tried_again(upstream: FakeUpstream, step: Do) -> None:
    """The server may be at work on what it was sent; a second copy would be work done twice, and paid for."""
    upstream.plan([step], [HELLO])
    async with client(upstream.url) as up:
        with pytest.raises(BackendUnavailable):
            await said(up)
        assert len(upstream.posts) == 1


@pytest.mark.parametrize("step", [Do.RESET, Do.CLOSE], ids=["reset", "closed"])
async def test_a_pooled_connection_that_is_lost_is_replaced_once(upstream: FakeUpstream, step: Do) -> None:
    upstream.plan([HELLO], [step], [HELLO], [step], [step], [HELLO])
    async with client(upstream.url) as up:
        assert [await said(up), await said(up)] == [b"hello", b"hello"]
        assert len(upstream.posts) == 3
        with pytest.raises(BackendUnavailable):
            await said(up)
        assert len(upstream.posts) == 5, "the fresh one that took its place is not replaced"


async def test_a_pooled_connection_lost_within_the_head_is_not_tried_again(upstream: FakeUpstream) -> None:
    upstream.plan([HELLO], [b"HTTP/1.1 2", Do.CLOSE], [HELLO])
    async with client(upstream.url) as up:
        await said(up)
        with pytest.raises(BackendUnavailable, match="closed the connection without an answer"):
            await said(up)
        assert len(upstream.posts) == 2


@pytest.mark.parametrize(
    "spoilt",
    [
        answer(b"x", headers={"Connection": "close"}),
        HELLO.replace(b"HTTP/1.1", b"HTTP/1.0"),
        HELLO + b"more",
        HELLO + HELLO,
    ],
    ids=["close", "HTTP/1.0", "bytes after the end", "a second answer"],
)
async def test_what_must_not_be_used_again_is_not(upstream: FakeUpstream, spoilt: bytes) -> None:
    upstream.plan([spoilt], [HELLO])
    async with client(upstream.url) as up:
        await said(up)
        assert await said(up) == b"hello"
        assert [request.connection for request in upstream.posts] == [1, 2]


async def test_an_answer_that_nobody_read_to_its_end_costs_its_connection(upstream: FakeUpstream) -> None:
    upstream.plan([STREAM, chunk(b"a"), Do.HOLD], [HELLO])
    async with client(upstream.url) as up:
        got = await up.post("/x", b"", headers={})
        assert await got.chunk() == b"a"
        got.close()
        await upstream.left.wait()
        assert await said(up) == b"hello"
        assert upstream.connections == 2


async def test_whoever_is_cancelled_stops_the_work_and_frees_the_slot(upstream: FakeUpstream) -> None:
    upstream.plan([Do.HOLD], [HELLO])
    async with client(upstream.url, max_connections=1) as up:
        asking = asyncio.create_task(said(up))
        await eventually(lambda: len(upstream.posts) == 1)
        asking.cancel()
        await upstream.left.wait()
        assert await said(up) == b"hello"


async def test_the_connection_used_last_is_taken_first(upstream: FakeUpstream) -> None:
    upstream.plan(*[[HELLO]] * 6)
    async with client(upstream.url) as up:
        one, two, three = [await up.post("/x", b"", headers={}) for _ in range(3)]
        for got in (one, three, two):
            await got.read(at_most_bytes=PLENTY)
        for _ in range(3):
            await said(up)
        assert [request.connection for request in upstream.posts] == [1, 2, 3, 2, 2, 2]


async def test_no_more_connections_than_allowed_and_first_come_first_served(upstream: FakeUpstream) -> None:
    upstream.plan(*[[HELLO]] * 8)
    done: list[int] = []
    async with client(upstream.url, max_connections=2) as up:
        held = [await up.post("/x", b"", headers={}) for _ in range(2)]

        async def ask(number: int) -> None:
            got = await up.post("/x", b"", headers={})
            done.append(number)
            await got.read(at_most_bytes=PLENTY)

        asking = [asyncio.create_task(ask(number)) for number in range(6)]
        for _ in range(3):
            await asyncio.sleep(0)
        asking[1].cancel()
        for got in held:
            got.close()  # whole, though nobody has read it
        await asyncio.gather(*asking, return_exceptions=True)
        assert done == [0, 2, 3, 4, 5]
        assert upstream.connections == 2


async def test_a_lost_connection_gives_its_place_to_who_waits(upstream: FakeUpstream) -> None:
    upstream.plan([Do.HOLD], [HELLO])
    async with client(upstream.url, max_connections=1) as up:
        held = asyncio.create_task(said(up))
        await eventually(lambda: len(upstream.posts) == 1)
        waiting = asyncio.create_task(said(up))
        held.cancel()
        assert await waiting == b"hello"


async def test_a_closed_client_says_so(upstream: FakeUpstream) -> None:
    upstream.plan([STREAM, chunk(b"a"), Do.HOLD])
    async with client(upstream.url, max_connections=1) as up:
        got = await up.post("/x", b"", headers={})
        waiting = asyncio.create_task(said(up))
        await asyncio.sleep(0)
        await up.close()
        with pytest.raises(BackendUnavailable, match="pool of backend 'up' is closed"):
            await waiting
        assert await got.chunk() == b"a"
        with pytest.raises(BackendUnavailable, match="broke off"):
            await got.chunk()
        got.close()
        with pytest.raises(BackendUnavailable, match="is closed"):
            await said(up)


async def test_an_end_that_comes_later_keeps_the_connection_and_no_reader(upstream: FakeUpstream) -> None:
    gate = asyncio.Event()
    upstream.plan([STREAM, chunk(b"all"), gate, END], [HELLO])
    async with client(upstream.url, max_connections=1) as up:
        got = await up.post("/x", b"", headers={})
        assert await got.chunk() == b"all"
        got.finish()
        asking = asyncio.create_task(said(up))
        await asyncio.sleep(0)
        gate.set()
        assert await asking == b"hello"
        assert upstream.connections == 1


@pytest.mark.parametrize("end", [[Do.CLOSE], [Do.RESET], [b"zz\r\n"]], ids=["closed", "reset", "broken"])
async def test_an_end_that_never_comes_gives_its_place_back(upstream: FakeUpstream, end: list[bytes | Do]) -> None:
    gate = asyncio.Event()
    upstream.plan([STREAM, chunk(b"all"), gate, *end], [HELLO])
    async with client(upstream.url, max_connections=1) as up:
        got = await up.post("/x", b"", headers={})
        assert await got.chunk() == b"all"
        got.finish()
        gate.set()
        assert await said(up) == b"hello"
        assert upstream.connections == 2


# Deadlines


async def test_the_head_has_its_time(upstream: FakeUpstream) -> None:
    upstream.plan([Do.HOLD])
    async with client(upstream.url, first_byte_timeout_s=0.05) as up:
        with pytest.raises(BackendTimeout, match=r"did not begin to answer within 0\.05 s"):
            await said(up)
        await upstream.left.wait()


async def test_who_waits_for_a_connection_waits_no_longer(upstream: FakeUpstream) -> None:
    upstream.plan([STREAM, chunk(b"a"), Do.HOLD])
    async with client(upstream.url, first_byte_timeout_s=0.05, max_connections=1) as up:
        got = await up.post("/x", b"", headers={})
        with pytest.raises(BackendTimeout, match="did not begin"):
            await said(up)
        got.close()


async def test_the_body_has_its_time(upstream: FakeUpstream) -> None:
    upstream.plan([STREAM, Do.HOLD], [STREAM, chunk(b"a"), Do.HOLD], [STREAM, chunk(b"a"), Do.HOLD])
    async with client(upstream.url, first_byte_timeout_s=0.1, idle_timeout_s=0.05) as up:
        with pytest.raises(BackendTimeout, match=r"sent a head but no answer within 0\.1 s"):
            await said(up)
        for _ in range(2):
            with pytest.raises(BackendTimeout, match=r"nothing for 0\.05 s in the middle"):
                await said(up)


@contextlib.contextmanager
def black_hole() -> Any:
    """An address that takes no connection and refuses none: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield listener.getsockname()


async def test_connecting_has_its_time() -> None:
    with black_hole() as (host, port):
        async with client(f"http://{host}:{port}", connect_timeout_s=0.05) as up:
            with pytest.raises(BackendUnavailable, match=r"did not accept a connection within 0\.05 s"):
                await said(up)


async def test_every_address_is_tried_and_the_slow_one_not_waited_for(upstream: FakeUpstream) -> None:
    port = int(upstream.url.rpartition(":")[2].partition("/")[0])
    good = (socket.AF_INET, ("127.0.0.1", port))
    refused = (socket.AF_INET, ("127.0.0.1", 1))
    with black_hole() as (host, silent):
        for addresses in ([refused, good], [(socket.AF_INET, (host, silent)), refused, good]):
            connected = await first_connected(addresses)
            assert connected.getpeername()[1] == port
            connected.close()
    with pytest.raises(ConnectionRefusedError):
        await first_connected([refused, refused])


async def test_a_name_with_several_addresses(upstream: FakeUpstream) -> None:
    """`localhost` is ::1 as well on many machines; the fake listens at 127.0.0.1 alone."""
    upstream.plan([HELLO])
    async with client(upstream.url.replace("127.0.0.1", "localhost")) as up:
        assert await said(up) == b"hello"


@pytest.mark.parametrize("host", ["b..example", "x" * 70 + ".example", "b..ü", "ü" * 70 + ".example"])
async def test_a_name_that_is_none_is_told(host: str) -> None:
    async with client(f"http://{host}/v1") as up:
        with pytest.raises(BackendUnavailable, match="its host name does not resolve"):
            await said(up)


# Requests


async def test_a_request_as_it_goes_out(upstream: FakeUpstream) -> None:
    upstream.plan([HELLO])
    url = upstream.url.replace("http://", "http://us%40er:pass@")
    async with client(url, headers={"Content-Type": "application/json"}) as up:
        got = await up.post("/../tok enize/é", b"{}", headers={"X-Request-Id": "r1", "Content-Type": "text/x"})
        await got.read(at_most_bytes=PLENTY)
    [request] = upstream.posts
    assert request.path == "/tok%20enize/%C3%A9"
    assert request.headers == {
        "host": upstream.url.removeprefix("http://").removesuffix("/v1"),
        "authorization": "Basic " + base64.b64encode(b"us@er:pass").decode(),
        "accept": "*/*",
        "accept-encoding": "identity",
        "user-agent": "trunkline",
        "x-request-id": "r1",
        "content-type": "text/x",
        "content-length": "2",
    }


async def test_a_key_goes_before_credentials_in_the_address(upstream: FakeUpstream) -> None:
    upstream.plan([HELLO])
    async with client(upstream.url.replace("http://", "http://a:b@"), headers={"Authorization": "Bearer k"}) as up:
        await said(up)
    assert upstream.posts[0].headers["authorization"] == "Bearer k"


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b"])
async def test_a_header_that_none_can_carry_is_refused(upstream: FakeUpstream, value: str) -> None:
    async with client(upstream.url) as up:
        with pytest.raises(ValueError, match="line break"):
            await up.post("/x", b"", headers={"X-Request-Id": value})
    assert upstream.posts == []


async def test_a_large_body_in_pieces_arrives_as_it_was(upstream: FakeUpstream) -> None:
    upstream.plan([HELLO], [HELLO])
    body = bytes(range(256)) * 20_000
    async with client(upstream.url) as up:
        assert await said(up, [memoryview(body), b"end"]) == b"hello"
        assert await said(up, body) == b"hello"
    assert [request.body for request in upstream.posts] == [body + b"end", body]
    assert upstream.connections == 1


async def test_an_early_refusal_of_a_large_body_is_read() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"too large", status="413 Too Large", headers={"Connection": "close"}))
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        writer.close()

    async with listening(refuse) as address, client(f"http://{address}") as up:
        got = await up.post("/x", b"b" * 30_000_000, headers={})
        assert (got.status, await got.read(at_most_bytes=PLENTY)) == (413, b"too large")


@pytest.mark.parametrize("body", [b"b" * 100, b"b" * 30_000_000], ids=["small", "large"])
async def test_a_refusal_that_came_before_the_connection_was_reset_is_read(body: bytes) -> None:
    """Here it is there before anything is written, so that writing finds the reset first, every time."""
    refusal = answer(b"too large", status="413 Too Large")
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        lost: list[Connection] = []
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(first_byte_timeout_s=60, idle_timeout_s=60, on_lost=lost.append), *listener.getsockname()
        )
        server, _ = listener.accept()
        server.sendall(refusal)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()
        await connection.ask(b"POST /x HTTP/1.1\r\n\r\n", body, deadline_s=loop.time() + 60)
        assert (connection.status, await connection.receive()) == (413, b"too large")
        await eventually(lambda: lost == [connection])


# Bodies


@contextlib.asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], **how: Any
) -> AsyncIterator[str]:
    async def kept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        await serve(reader, writer)

    serving: set[asyncio.Task[Any]] = set()
    server = await asyncio.start_server(kept, "127.0.0.1", 0, **how)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*serving)  # their clients have left
        await server.wait_closed()


TEXT = b"hello " * 1000
RAW = zlib.compressobj(wbits=-15)
PACKED = {
    "gzip": ("gzip", gzip.compress(TEXT)),
    "gzip of two members": ("GZIP", gzip.compress(TEXT[:700]) + gzip.compress(TEXT[700:])),
    "deflate": ("deflate", zlib.compress(TEXT)),
    "deflate without its header": ("deflate", RAW.compress(TEXT) + RAW.flush()),
    "identity": ("identity", TEXT),
}


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize(("coding", "packed"), PACKED.values(), ids=PACKED.keys())
async def test_a_packed_body_is_unpacked(upstream: FakeUpstream, coding: str, packed: bytes, size: int) -> None:
    size = max(size, len(packed) // 100)
    pieces = [chunk(packed[start : start + size]) for start in range(0, len(packed), size)]
    upstream.plan([stream_head({"Content-Encoding": coding}), *pieces, END], [HELLO])
    async with client(upstream.url) as up:
        assert await said(up) == TEXT
        await said(up)
        assert upstream.connections == 1


@pytest.mark.parametrize(
    ("coding", "packed"),
    [("br", b"x"), ("gzip", b"not gzip"), ("gzip", PACKED["gzip"][1][:-4]), ("deflate", PACKED["deflate"][1][:-4])],
    ids=["unknown", "not what it says", "gzip cut", "deflate cut"],
)
async def test_a_body_that_cannot_be_unpacked_is_told(upstream: FakeUpstream, coding: str, packed: bytes) -> None:
    upstream.plan([answer(packed, headers={"Content-Encoding": coding})])
    async with client(upstream.url) as up:
        with pytest.raises(BackendProtocolError, match="packed its answer"):
            await said(up)


async def test_a_body_that_unpacks_without_end_is_bounded(upstream: FakeUpstream) -> None:
    bomb = gzip.compress(bytes(50_000_000), compresslevel=1)
    upstream.plan([answer(bomb, headers={"Content-Encoding": "gzip"})])
    async with client(upstream.url) as up:
        got = await up.post("/x", b"", headers={})
        with pytest.raises(BackendProtocolError, match="larger than 1000 bytes"):
            await got.read(at_most_bytes=1000)
        got.close()


async def test_few_bytes_that_stand_for_very_many_are_refused(upstream: FakeUpstream) -> None:
    bomb = gzip.compress(bytes(50_000_000), compresslevel=9)
    upstream.plan([answer(bomb, headers={"Content-Encoding": "gzip"})])
    size = 0

    async def read() -> None:
        nonlocal size
        while piece := await got.chunk():
            size += len(piece)
            assert len(piece) <= 65_536

    async with client(upstream.url) as up:
        got = await up.post("/x", b"", headers={})
        with pytest.raises(BackendProtocolError, match="packed its answer"):
            await read()
        got.close()
    assert size <= 200 * len(bomb)


async def test_an_excerpt_takes_no_longer_than_it_may(upstream: FakeUpstream) -> None:
    upstream.plan([STREAM, chunk(b"one"), asyncio.Event()], [STREAM, chunk(b"x" * 100), chunk(b"y" * 100), Do.HOLD])
    async with client(upstream.url) as up:
        got = await up.post("/x", b"", headers={})
        assert await got.excerpt(at_most_bytes=100, within_s=0.05) == b"one"
        got.close()
        got = await up.post("/x", b"", headers={})
        assert await got.excerpt(at_most_bytes=150, within_s=60) == b"x" * 100 + b"y" * 50
        got.close()


async def test_others_have_their_turns_while_a_packed_body_is_unpacked(upstream: FakeUpstream) -> None:
    text = bytes(1_000_000)
    upstream.plan([answer(gzip.compress(text), headers={"Content-Encoding": "gzip"})])
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with client(upstream.url) as up:
        got = await up.post("/x", b"", headers={})
        others = asyncio.create_task(other())
        assert await got.read(at_most_bytes=PLENTY) == text
        others.cancel()
    assert turns >= len(text) // 65_536


@pytest.mark.parametrize("size", [1000, 1001], ids=["as large", "larger"])
async def test_a_body_is_as_large_as_it_may_be(upstream: FakeUpstream, size: int) -> None:
    upstream.plan([STREAM, chunk(b"x" * 600), chunk(b"x" * (size - 600)), END])
    async with client(upstream.url) as up:
        got: Answer = await up.post("/x", b"", headers={})
        if size == 1000:
            assert await got.read(at_most_bytes=1000) == b"x" * 1000
        else:
            with pytest.raises(BackendProtocolError, match="larger than 1000 bytes"):
                await got.read(at_most_bytes=1000)
        got.close()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", Do.CLOSE], BackendUnavailable),
        ([STREAM, b"zz\r\n"], BackendProtocolError),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"], BackendProtocolError),
        ([b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n"], BackendProtocolError),
        ([b"HTTP/1.1 200 OK\r\nA: " + b"x" * 300_000], BackendProtocolError),
    ],
    ids=["length", "chunks", "length and chunks", "folded header", "head without end"],
)
async def test_broken_framing_has_its_error(
    upstream: FakeUpstream, wrong: Sequence[bytes | Do], error: type[BackendError]
) -> None:
    upstream.plan(wrong)
    async with client(upstream.url) as up:
        with pytest.raises(error):
            await said(up)


# Proxies


class Proxy:
    """Notes what it is asked, and joins those who want a tunnel with where they want it."""

    def __init__(self, reply: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> None:
        self.heads: list[str] = []
        self._reply = reply

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        if not head.startswith("CONNECT"):
            writer.write(HELLO)
            with contextlib.suppress(ConnectionError):
                await reader.read(-1)
        elif self._reply.startswith(b"HTTP/1.1 2"):
            host, _, port = head.split(" ")[1].rpartition(":")
            up_reader, up_writer = await asyncio.open_connection(host, int(port))
            writer.write(self._reply)
            await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
            up_writer.close()
        else:
            writer.write(self._reply)
        writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()


async def test_plain_requests_go_to_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy()
    async with listening(proxy.serve) as address:
        monkeypatch.setenv("http_proxy", f"http://us%20er:pw@{address}")
        async with client("http://nobody.invalid:81/v1", trust_env=True) as up:
            assert await said(up) == b"hello"
    [head] = proxy.heads
    assert head.startswith("POST http://nobody.invalid:81/v1/x HTTP/1.1\r\nHost: nobody.invalid:81\r\n")
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'us er:pw').decode()}\r\n" in head


@pytest.mark.parametrize("exempt", ["::1", "[::1]", "[::1]:{port}"])
async def test_an_ipv6_address_is_exempt_however_it_is_written(monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HELLO)
        writer.close()

    try:
        server = await asyncio.start_server(hello, "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", exempt.format(port=port))
        async with client(f"http://[::1]:{port}/v1", trust_env=True) as up:
            assert await said(up, None) == b"hello"


@pytest.mark.parametrize(
    "named", ["http://us:pw@127.0.0.1:port", "http://[::1", "127.0.0.1:99999", "http://127.0.0.1:0"]
)
async def test_a_proxy_that_is_no_address_is_a_mistake_in_the_configuration(
    monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("http_proxy", named)
    with pytest.raises(ConfigError, match="http_proxy") as raised:
        async with client("http://nobody.invalid/v1", trust_env=True):
            pass
    assert "pw" not in raised.value.message


@pytest.mark.parametrize("why", ["not wanted", "exempt"])
async def test_the_proxy_is_left_out(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1" if why == "exempt" else "")
    upstream.plan([HELLO])
    async with client(upstream.url, trust_env=why != "not wanted") as up:
        assert await said(up) == b"hello"


async def test_a_proxy_of_another_kind_is_not_passed_by(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "socks5://me:secret@127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ConfigError, match="http_proxy is a socks5:// proxy") as refused:
        async with client(upstream.url, trust_env=True):
            pass
    assert "secret" not in str(refused.value)


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's side of TLS for 127.0.0.1, which this process trusts."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    asked = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    more = "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    subprocess.run([openssl, *asked.split(), *more.split()], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def secret(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            writer.write(answer(chosen.encode()))
    writer.close()


async def test_tls_is_spoken_and_the_connection_kept(certificate: ssl.SSLContext) -> None:
    async with listening(secret, ssl=certificate) as address, client(f"https://{address}") as up:
        assert [await said(up), await said(up)] == [b"http/1.1"] * 2


async def test_a_tunnel_through_the_proxy_of_the_environment(
    certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy()
    async with listening(secret, ssl=certificate) as address, listening(proxy.serve) as between:
        monkeypatch.setenv("https_proxy", f"http://a:b@{between}")
        async with client(f"https://{address}", trust_env=True) as up:
            assert [await said(up), await said(up)] == [b"http/1.1"] * 2
    credentials = base64.b64encode(b"a:b").decode()
    assert proxy.heads == [
        f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"
    ]


@pytest.mark.parametrize("reply", [b"HTTP/1.1 407 Credentials\r\n\r\n", b"nonsense\r\n\r\n", b""])
async def test_a_tunnel_that_is_refused_is_told(monkeypatch: pytest.MonkeyPatch, reply: bytes) -> None:
    async with listening(Proxy(reply).serve) as between:
        monkeypatch.setenv("https_proxy", f"http://{between}")
        async with client("https://nobody.invalid", trust_env=True) as up:
            with pytest.raises(BackendUnavailable, match="its proxy opened no tunnel"):
                await said(up)
