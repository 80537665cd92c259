"""One HTTP/1.1 connection to a model server, and the one exchange at a time that it carries.

httptools' parser in C reads; this class keeps what it read until somebody wants it. A reader is woken once for each read that
brought something it waits for, so pieces that arrived together are handed over together, and a body that is wanted whole wakes
nobody before its end. Nothing here retries or says what an error is to a client: it raises `Lost`, `Malformed` or `Silent`.

Each connection has one timer, which looks whether whoever waits has waited too long and is set again only when it fires or comes
too late. Time in which nobody waits, because the client is slow, does not count.
"""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable, Sequence
from typing import cast

import httptools

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256
HIGH_WATER_BYTES = 256 * 1024
"""What may wait here for a slow reader before the other side is made to wait."""
STALE_WITHIN_S = 0.1
"""A connection lost so soon after a request was closed before its server saw that; later, the server may have worked on it."""
PIECE_BYTES = 65_536
"""What is larger goes up in pieces, so that a connection never holds a copy of a large body."""

Body = bytes | Sequence[bytes | memoryview]
"""A request's body, or pieces that make it: large ones are sent from where they are."""


class Lost(Exception):
    """The connection ended before the answer did. `cause` is the system's reason; None where the other side just closed."""

    def __init__(self, cause: Exception | None) -> None:
        super().__init__("closed" if cause is None else str(cause) or type(cause).__name__)
        self.cause = cause

    @property
    def reason(self) -> str:
        """For clients."""
        if self.cause is None:
            return "it closed the connection without an answer"
        return why(self.cause)

    def again(self) -> "Lost":
        """The same, to be raised: the connection keeps its own, and one that was raised holds the frames it went through."""
        return Lost(self.cause)


def why(error: Exception) -> str:
    """The system's reason for having no connection, without the address that such errors quote."""
    match error:
        case ssl.SSLCertVerificationError():
            return "its certificate is not trusted"
        case ssl.SSLError():
            return "it does not speak TLS as expected"
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
        case _:
            return "the connection failed"


class Malformed(Exception):
    """What came is not HTTP, or more of it than anybody would mean."""

    def again(self) -> "Malformed":
        return Malformed(str(self))


class Silent(Exception):
    """Nothing came in the time allowed."""


class Connection(asyncio.Protocol):
    """`ask`, then `receive` until `complete`. Then it may carry the next exchange, if it is `reusable`.

    `on_lost` is called once, when the transport has ended.

    Attributes:
        status: of the answer, once `ask` has returned.
        headers: names in lower case; values that came several times are joined as RFC 9110, 5.3 has it.
        complete: whether the answer has arrived to its end.
        begun: whether some of its body has arrived.
        ended: whether the other side has closed, or the transport is gone.
        allowed_s: how long a wait for more of it may last: some servers send the head at once and think then.
    """

    __slots__ = (
        "allowed_s",
        "begun",
        "complete",
        "ended",
        "headers",
        "status",
        *("_deadline_s", "_first_byte_timeout_s", "_idle_timeout_s", "_timer", "_timer_s"),
        *("_loop", "_on_lost", "_parser", "_transport", "_waiter", "_wanted"),
        *("_exchanges", "_reading", "_resting", "_writable"),
        *("_asked_s", "_failure", "_over", "_head_done", "_heard", "_interim", "_keeps", "_more", "_sent"),
        *("_head_bytes", "_overhead_bytes", "_pieces", "_size"),
    )

    def __init__(
        self, *, first_byte_timeout_s: float, idle_timeout_s: float, on_lost: Callable[["Connection"], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._first_byte_timeout_s = first_byte_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._transport: asyncio.Transport
        parser = self._parser = httptools.HttpResponseParser(self)
        # RFC 9112, 2.2 lets a reader take a bare LF for a line's end; small servers send such heads. Some pad chunk sizes.
        parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
        self._waiter: asyncio.Future[bool] | None = None  # whether it came in time
        self._wanted = 0  # bytes of the body for which the waiter is woken; with 0 it waits for the head
        self._deadline_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self.ended = False
        self._writable = True
        self._reading = True
        self._resting = False
        self._exchanges = 0
        self._asked_s = 0.0
        self._forget()

    def _forget(self) -> None:
        """Nothing is known of the next answer."""
        self.status = 0
        self.headers: dict[str, bytes] = {}
        self.complete = False
        self.begun = False
        self._head_done = False
        self._interim = False  # what is being read is a 1xx
        self._heard = False
        self._sent = False
        self._keeps = False
        self._more = False  # bytes came after the end
        self._over: Callable[[], None] | None = None
        self._failure: Lost | Malformed | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._head_bytes = 0
        self._overhead_bytes = 0
        self.allowed_s = self._first_byte_timeout_s

    # What a caller does

    @property
    def reusable(self) -> bool:
        return self.complete and self._keeps and self._sent and not self._more and not self.ended

    @property
    def stale(self) -> bool:
        """Whether it was lost as a connection is that the server had closed while nobody used it: at once, without an answer."""
        if self._exchanges == 1 or self._heard:
            return False
        return not self._sent or self._loop.time() - self._asked_s <= STALE_WITHIN_S

    async def ask(self, head: bytes, body: Body | None, *, deadline_s: float) -> None:
        """Sends a request, and returns when the head of the answer is there, which may be before all of the body is sent.

        Raises Lost, Malformed or Silent. After that, or when it is cancelled, the connection is good for nothing but `abort`.
        """
        self._exchanges += 1
        if self._exchanges > 1:
            usable = self.reusable
            self._forget()
            self._resting = False
            if not usable:
                raise Lost(None)
        if body is None:
            self._transport.write(head)
            self._sent = True
        elif isinstance(body, bytes) and len(body) <= PIECE_BYTES:
            self._transport.write(head + body)
            self._sent = True
        else:
            self._transport.write(head)
            await self._send((body,) if isinstance(body, bytes) else body, deadline_s)
        if self._exchanges > 1:
            self._asked_s = self._loop.time()
        while not self._head_done:
            if self._failure is not None:
                raise self._failure.again()
            await self._wait(0, deadline_s)

    async def receive(self, at_least: int = 1) -> bytes:
        """What has arrived of the body, once it is so many bytes or the end; empty only at the end.

        What arrived before a failure is handed over first. Raises Lost, Malformed or Silent.
        """
        while self._size < at_least and not self.complete:
            if self._failure is not None:
                if self._size:
                    break
                raise self._failure.again()
            self._read_on()
            await self._wait(at_least, self._loop.time() + self.allowed_s)
        pieces = self._pieces
        if not pieces:
            return b""
        self._pieces, self._size = [], 0
        self._read_on()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def rest(self, timeout_s: float) -> None:
        """Nobody uses it; after this time it closes."""
        self._resting = True
        self._set_deadline(self._loop.time() + timeout_s)

    def end_alone(self, within_s: float, over: Callable[[], None]) -> None:
        """Nobody reads any more. `over` is called once, when the answer has come to its end, or will not in this time."""
        if self.complete or self._failure is not None:
            over()
            return
        self._over = over
        self._wanted = 0
        self._read_on()
        self._set_deadline(self._loop.time() + within_s)

    def abort(self) -> None:
        self._transport.abort()

    async def _send(self, pieces: Sequence[bytes | memoryview], deadline_s: float) -> None:
        """Stops early when the answer has begun: it is an error, and whoever sent it may not read the rest."""
        for piece in pieces:
            view = memoryview(piece)
            for start in range(0, len(view), PIECE_BYTES):
                self._transport.write(view[start : start + PIECE_BYTES])
                stuck = not self._writable or self._transport.is_closing()
                while stuck and not self._head_done and self._failure is None:
                    await self._wait(0, deadline_s)
                    stuck = not self._writable
                if self._head_done or self._failure is not None:
                    return
        self._sent = True

    def _read_on(self) -> None:
        if not self._reading:
            self._reading = True
            if not self.ended:
                self._transport.resume_reading()

    async def _wait(self, wanted: int, deadline_s: float) -> None:
        self._wanted = wanted
        self._set_deadline(deadline_s)
        waiter = self._waiter = self._loop.create_future()
        try:
            in_time = await waiter
        finally:
            self._waiter = None
        if not in_time:
            raise Silent

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)
        elif self._over is not None and (self.complete or self._failure is not None):
            self._end_alone()

    def _end_alone(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            over()

    def _set_deadline(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        if self._timer is None:
            self._timer, self._timer_s = self._loop.call_at(deadline_s, self._look), deadline_s
        elif deadline_s < self._timer_s:
            self._timer.cancel()
            self._timer, self._timer_s = self._loop.call_at(deadline_s, self._look), deadline_s

    def _look(self) -> None:
        self._timer = None
        waiter = self._waiter
        if not self._resting and self._over is None and (waiter is None or waiter.done()):
            return  # whoever waits next sets it again
        if self._deadline_s - self._loop.time() > 0.001:
            self._set_deadline(self._deadline_s)
        elif self._resting:
            self.abort()
        elif self._over is not None:
            self._end_alone()
        elif waiter is not None:
            waiter.set_result(False)

    # What the transport does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses

    def data_received(self, data: bytes) -> None:
        if self._takes_nothing():
            self._more = True
            if self._resting:
                self.abort()
            return
        self._heard = True
        size = self._size
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.complete:
                self._more = True
            else:
                self._failure = Malformed(str(error))
        if self._size > size:
            self.begun = True
            self._overhead_bytes = 0
            self.allowed_s = self._idle_timeout_s
            if self._over is None:
                self._deadline_s = self._loop.time() + self._idle_timeout_s
            if self._size >= HIGH_WATER_BYTES and self._size >= self._wanted and self._reading and not self.complete:
                self._reading = False
                self._transport.pause_reading()
        elif not self.complete:  # heads, chunk sizes and trailers must not take memory without end either
            self._overhead_bytes += len(data)
            if self._overhead_bytes > 2 * MAX_HEAD_BYTES:
                self._failure = Malformed(f"more than {2 * MAX_HEAD_BYTES} bytes came without any of a body")
        if self.complete or self._failure is not None or (self._head_done and self._size >= self._wanted):
            self._wake()

    def _read_rest(self) -> None:
        """What has arrived and nobody has read: a server that refuses a large body may close before that is sent.

        Writing fails then, and the loops give a connection up at the first failure, with the refusal in the system's buffer.
        """
        sock = self._transport.get_extra_info("socket")
        if sock is None or self._transport.get_extra_info("ssl_object") is not None:  # TLS reads its own way
            return
        with contextlib.suppress(OSError):
            while not self._takes_nothing() and (data := os.read(sock.fileno(), PIECE_BYTES)):
                self.data_received(data)

    def _takes_nothing(self) -> bool:
        return self._resting or self.complete or self._failure is not None

    def eof_received(self) -> bool:
        self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self._takes_nothing():
            self._read_rest()
        self._end(exc)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        del self._parser  # it holds this connection
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._wake()

    def _end(self, cause: Exception | None) -> None:
        if self.ended:
            return
        self.ended = True
        if not self.complete and self._failure is None:
            unframed = self._head_done and not self.headers.keys() & {"content-length", "transfer-encoding"}
            if unframed and cause is None:  # its end is the connection's
                self.complete = True
            else:
                self._failure = Lost(cause)
        self._wake()

    # What the parser does

    def on_message_begin(self) -> None:
        if self.complete:
            self._more = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:  # a trailer, or of a second answer that nobody asked for
            return
        self._head_bytes += len(name) + len(value) + 4
        key = name.decode("latin-1").lower()
        self.headers[key] = value if key not in self.headers else self.headers[key] + b", " + value
        if (self._head_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS) and self._failure is None:
            self._failure = Malformed(f"a head of more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        if self.complete or self._failure is not None:
            return
        status = self._parser.get_status_code()
        coding = self.headers.get("transfer-encoding")
        if status == 101:
            self._failure = Malformed("101 Switching Protocols, which was not asked for")
        elif 100 <= status < 200:
            self._interim = True
            self.headers = {}
        elif status < 100:
            self._failure = Malformed(f"status {status}")
        elif coding is not None and coding.lower() != b"chunked":
            self._failure = Malformed(f"transfer coding {coding.decode('latin-1')!r}")
        else:
            self.status, self._head_done = status, True

    def on_body(self, data: bytes) -> None:
        if self._head_done and not self.complete:
            self._pieces.append(data)
            self._size += len(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif self._head_done and not self.complete:
            self.complete = True
            self._keeps = self._parser.should_keep_alive() and self._parser.get_http_version() == "1.1"
