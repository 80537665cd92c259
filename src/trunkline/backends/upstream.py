"""The upstream HTTP client behind one small interface: post, get, and an answer that is read in pieces.

HTTP/1.1 on asyncio's transports and httptools' parser, and nothing that a relay does not need: no redirects, no cookies, no
sessions. The parts are `upstream_connection`, `upstream_pool` and `upstream_dial`; here they are put together, and here what goes
wrong becomes the errors that the layers above know. They are raised where they are made: one that a local of a frame holds holds
that frame, with the request's body in it, until the garbage collector finds the two.

Clients read the messages of errors, so these name the backend. Its address and the system's own words are for the log.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import SplitResult, quote, urlsplit

from trunkline.backends.upstream_coding import Undecodable, Unpacking
from trunkline.backends.upstream_connection import Body, Connection, Lost, Malformed, Silent
from trunkline.backends.upstream_dial import ConnectTimeout, Dialer, NotConnected, authority, basic
from trunkline.backends.upstream_pool import OnLost, Pool
from trunkline.model.errors import BackendError, BackendProtocolError, BackendTimeout, BackendUnavailable

logger = logging.getLogger("trunkline.http")

END_GRACE_S = 1.0
CAUSE_CHARACTERS = 200
_SAFE = "/%:@!$&'()*+,;=~-._"
"""What stays as it is in a path."""


class Misframed(BackendProtocolError):
    """What frames the body broke off its rules. What came before it did not."""


class _Asked:
    """One request, for the log: what a client is told does not say where it went."""

    __slots__ = ("_method", "_path", "_request_id", "_url", "name")

    def __init__(self, name: str, method: str, url: SplitResult, path: str, request_id: str | None) -> None:
        self.name = name
        self._method = method
        self._url = url
        self._path = path
        self._request_id = request_id

    def failed(self, error: BackendError, cause: Exception | None = None) -> BackendError:
        """The error, once the log has it. Nobody waits for a probe; there are many while a server is away."""
        level = logging.DEBUG if self._request_id is None else logging.WARNING
        said = "" if cause is None else f": {(str(cause) or type(cause).__name__)[:CAUSE_CHARACTERS]}"
        logger.log(level, "%s: %s, request %s%s", error.message, self._where, self._request_id, said)
        return error

    def stale(self) -> None:
        logger.info(
            "%s had closed a connection, asked on another: %s, request %s", self.name, self._where, self._request_id
        )

    @property
    def _where(self) -> str:
        return f"{self._method} {self._url.scheme}://{authority(self._url)}{self._url.path}{self._path}"


class Answer:
    """An upstream's response. Read it with `read` or `chunk`, then `close` it: unread answers cost their connection."""

    __slots__ = ("_asked", "_connection", "_headers", "_idle_timeout_s", "_pool", "_unpacked", "_unpacking", "status")

    def __init__(self, connection: Connection, pool: Pool, asked: _Asked) -> None:
        self.status = connection.status
        self._headers = connection.headers
        self._connection: Connection | None = connection  # until the end has been read; then it may be somebody else's
        self._pool = pool
        self._asked = asked
        self._unpacking: Unpacking | None = None
        self._unpacked: Iterator[bytes] = iter(())

    def header(self, name: str) -> str:
        """Empty where there is none."""
        return self._headers.get(name.lower(), b"").decode("latin-1")

    def headers(self, prefixes: tuple[str, ...]) -> dict[str, str]:
        """Those whose names begin so, in lower case."""
        return {name: value.decode("latin-1") for name, value in self._headers.items() if name.startswith(prefixes)}

    async def read(self, *, at_most_bytes: int) -> bytes:
        """The whole body. Raises BackendProtocolError for one that is larger: an upstream must not fill the memory."""
        body = await self.chunk(at_most_bytes + 1)
        if self._connection is not None or self._unpacking is not None:  # it is too large, broken off, or in pieces
            chunks, size = [body], len(body)
            while size <= at_most_bytes and (more := await self.chunk(at_most_bytes + 1 - size)):
                chunks.append(more)
                size += len(more)
            body = b"".join(chunks)
        if len(body) > at_most_bytes:
            raise BackendProtocolError(f"{self._asked.name} sent a body larger than {at_most_bytes} bytes")
        return body

    async def excerpt(self, *, at_most_bytes: int, within_s: float) -> bytes:
        """What comes of the body in this time, whatever becomes of the rest: of a refusal, whose status says enough."""
        pieces, size = [], 0
        with contextlib.suppress(BackendError, TimeoutError):
            async with asyncio.timeout(within_s):
                while size < at_most_bytes and (piece := await self.chunk()):
                    pieces.append(piece)
                    size += len(piece)
        return b"".join(pieces)[:at_most_bytes]

    async def chunk(self, at_least: int = 1) -> bytes:
        """What has arrived, once it is so many bytes or the end; empty only at the end.

        Raises BackendUnavailable when the connection breaks, Misframed when its framing does, BackendTimeout when it goes silent.
        """
        if "content-encoding" in self._headers:
            return await self._unpacked_chunk()
        return await self._receive(at_least)

    def end_within(self, seconds: float) -> None:
        """What follows the bytes that have been read is due so soon, or what follows them if they are not the last."""
        if self._connection is not None:
            self._connection.allowed_s = min(self._connection.allowed_s, seconds)

    def finish(self) -> None:
        """After the answer's own last event: the body's end is due at once, so that the connection can be reused. Nobody waits."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.end_alone(END_GRACE_S, lambda: self._pool.release(connection))

    def close(self) -> None:
        """Gives the connection back if the body has arrived to its end, drops it otherwise: that stops the upstream's work."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)

    async def _receive(self, at_least: int) -> bytes:
        connection = self._connection
        if connection is None:
            return b""
        try:
            data = await connection.receive(at_least)
        except Silent:
            raise self._asked.failed(BackendTimeout(self._silence(connection))) from None
        except Malformed as error:
            raise self._asked.failed(Misframed(f"{self._asked.name} sent a body that is not HTTP"), error) from None
        except Lost as error:
            raise self._asked.failed(BackendUnavailable(f"{self._asked.name} broke off its answer"), error) from None
        if connection.complete:
            self._connection = None
            self._pool.release(connection)
        return data

    def _silence(self, connection: Connection) -> str:
        if connection.begun:
            return f"{self._asked.name} sent nothing for {connection.allowed_s:g} s in the middle of its answer"
        return f"{self._asked.name} sent a head but no answer within {connection.allowed_s:g} s"

    async def _unpacked_chunk(self) -> bytes:
        try:
            if self._unpacking is None:
                self._unpacking = Unpacking(self.header("content-encoding"))
            while True:
                for plain in self._unpacked:
                    await asyncio.sleep(0)  # one read may hold many pieces: others have their turns in between
                    return plain
                data = await self._receive(1)
                if not data:
                    self._unpacking.close()
                    return b""
                self._unpacked = self._unpacking.feed(data)
        except Undecodable as error:
            raise self._asked.failed(
                BackendProtocolError(f"{self._asked.name} packed its answer in a way that cannot be read"), error
            ) from None


class Upstream:
    """One server's connection pool. `name` is what clients are told failed."""

    def __init__(
        self,
        base_url: str,
        *,
        name: str,
        headers: Mapping[str, str],
        connect_timeout_s: float,
        first_byte_timeout_s: float,
        idle_timeout_s: float,
        max_connections: int,
        trust_env: bool,
    ) -> None:
        self._url = urlsplit(base_url.rstrip("/"))
        self.name = name
        self._headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "trunkline", **headers}
        self._starts: dict[tuple[str, ...], str] = {}
        self._connect_timeout_s = connect_timeout_s
        self._first_byte_timeout_s = first_byte_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._max_connections = max_connections
        self._trust_env = trust_env
        self._dialer: Dialer
        self._pool: Pool | None = None

    async def start(self) -> None:
        self._dialer = Dialer(self._url, connect_timeout_s=self._connect_timeout_s, trust_env=self._trust_env)
        self._starts.clear()
        self._pool = Pool(self._dial, name=self.name, max_connections=self._max_connections)

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def post(self, path: str, body: Body, *, headers: Mapping[str, str]) -> Answer:
        return await self._request("POST", path, body, headers)

    async def get(self, path: str) -> Answer:
        return await self._request("GET", path, None, {})

    async def _request(self, method: str, path: str, body: Body | None, headers: Mapping[str, str]) -> Answer:
        """Raises BackendUnavailable when nobody answers, BackendTimeout when the head does not come in time."""
        pool = self._pool
        if pool is None:
            raise BackendUnavailable(f"the connection pool of {self.name} is closed")
        head = self._head(method, path, body, headers)
        asked = _Asked(self.name, method, self._url, path, headers.get("X-Request-Id"))
        try:
            return Answer(await self._exchange(pool, head, body, asked), pool, asked)
        except (Silent, TimeoutError):
            raise asked.failed(
                BackendTimeout(f"{self.name} did not begin to answer within {self._first_byte_timeout_s:g} s")
            ) from None
        except ConnectTimeout:
            raise asked.failed(
                BackendUnavailable(f"{self.name} did not accept a connection within {self._connect_timeout_s:g} s")
            ) from None
        except Malformed as error:
            raise asked.failed(BackendProtocolError(f"{self.name} answered with what is not HTTP"), error) from None
        except (NotConnected, Lost) as error:
            raise asked.failed(BackendUnavailable(f"{self.name} cannot be reached: {error.reason}"), error) from None

    async def _exchange(self, pool: Pool, head: bytes, body: Body | None, asked: _Asked) -> Connection:
        """A connection that has the head of an answer. Its slot is given back if there is none."""
        deadline_s = asyncio.get_running_loop().time() + self._first_byte_timeout_s
        connection = pool.idle()
        if connection is None:
            async with asyncio.timeout_at(deadline_s):
                connection = await pool.acquire()
        answered = False
        try:
            try:
                await connection.ask(head, body, deadline_s=deadline_s)
            except Lost:
                if not connection.stale:
                    raise
                # The server had closed it while nobody used it, or before it saw the request; llama.cpp's does it under load.
                # A fresh one is not tried again: what was sent on that, the server may be working on.
                asked.stale()
                connection.abort()
                async with asyncio.timeout_at(deadline_s):
                    fresh = await pool.connect()
                connection = fresh
                await connection.ask(head, body, deadline_s=deadline_s)
            answered = True
        finally:
            if not answered:
                pool.release(connection)
        return connection

    async def _dial(self, on_lost: OnLost) -> Connection:
        return await self._dialer.dial(
            lambda: Connection(
                first_byte_timeout_s=self._first_byte_timeout_s, idle_timeout_s=self._idle_timeout_s, on_lost=on_lost
            )
        )

    def _head(self, method: str, path: str, body: Body | None, headers: Mapping[str, str]) -> bytes:
        """Raises ValueError for a header that would be more than one line."""
        key = (method, path, *headers)
        start = self._starts.get(key)
        if start is None:
            start = self._starts[key] = self._start(method, path, headers)
        lines = [start, *[_line(name, value) for name, value in headers.items()]]
        if body is not None:
            size = len(body) if isinstance(body, bytes) else sum(map(len, body))
            lines.append(f"Content-Length: {size}\r\n")
        lines.append("\r\n")
        head = "".join(lines)
        try:
            return head.encode("latin-1")
        except UnicodeEncodeError:
            return head.encode()

    def _start(self, method: str, path: str, instead: Iterable[str]) -> str:
        """Of a request's head what is the same every time: all but the headers that the call has `instead`."""
        target = quote(_without_dots(self._url.path + path), safe=_SAFE)
        headers = {"Host": authority(self._url)}
        if (credentials := basic(self._url)) is not None:
            headers["Authorization"] = credentials
        if self._dialer.proxy_authorization is not None:
            headers["Proxy-Authorization"] = self._dialer.proxy_authorization
        headers.update(self._headers)
        for name in instead:
            headers.pop(name, None)
        lines = [_line(name, value) for name, value in headers.items()]
        return "".join([f"{method} {self._dialer.target}{target} HTTP/1.1\r\n", *lines])


def _line(name: str, value: str) -> str:
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError(f"header {name} has a line break or a NUL")
    return f"{name}: {value}\r\n"


def _without_dots(path: str) -> str:
    """RFC 3986, 5.2.4, for the `..` with which a dialect leaves its prefix."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept)
