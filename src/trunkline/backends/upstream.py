"""The upstream HTTP client behind one small interface: post, get, and an answer that is read in pieces.

aiohttp does the protocol. Nothing above this module knows it, so the transport can be replaced without touching the layers
above. Deadlines that would cost a timer per read (aiohttp's `sock_read`) are kept by one lazily re-armed timer per answer.

Clients read the messages of errors, so these name the backend. Its address and aiohttp's own words are for the log.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

import aiohttp
from yarl import URL

from trunkline.model.errors import BackendError, BackendProtocolError, BackendTimeout, BackendUnavailable

logger = logging.getLogger("trunkline.http")

END_GRACE_S = 1.0
CAUSE_CHARACTERS = 200
MAX_BODY_BYTES = 256 * 1024 * 1024
PIECE_BYTES = 65_536
LARGE_BYTES = 1024 * 1024
"""What is larger goes up in pieces; written at once it would hold up everybody else, as aiohttp warns."""

Body = bytes | Sequence[bytes | memoryview]
"""A request's body, or pieces that make it: large ones are sent from where they are."""


class _Watch:
    """Cancels the reading task when a wait has lasted too long. One timer per answer, re-armed only when it fires.

    It serves the wait for the head first and every read after it. Time in which nobody reads, because the client is slow,
    does not count: a wait begins with `wait` and ends with `got`.
    """

    __slots__ = ("_fired", "_handle", "_loop", "_since_s", "_task", "_timeout_s", "_waiting")

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._fired = False
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._waiting = True
        self._since_s = self._loop.time()
        self._handle = self._loop.call_later(timeout_s, self._check)

    def wait(self) -> None:
        self._waiting = True
        self._since_s = self._loop.time()

    def got(self) -> None:
        self._waiting = False

    def then(self, timeout_s: float) -> None:
        """From now on waits may last this long."""
        self._waiting = False
        if timeout_s < self._timeout_s:  # a check that is due later would come too late
            self._handle.cancel()
            self._handle = self._loop.call_later(timeout_s, self._check)
        self._timeout_s = timeout_s

    def caught(self) -> bool:
        """Whether the cancellation just caught was this watch's and nobody else's; takes it back if so."""
        return self._fired and self._task is not None and self._task.uncancel() == 0

    def close(self) -> None:
        self._handle.cancel()

    def _check(self) -> None:
        left_s = self._timeout_s
        if self._waiting:
            left_s -= self._loop.time() - self._since_s
        if left_s > 0.001:
            self._handle = self._loop.call_later(left_s, self._check)
        elif self._task is not None:
            self._fired = True
            self._task.cancel()


class _Asked:
    """One request, for the log: what a client is told does not say where it went."""

    __slots__ = ("_method", "_request_id", "_url", "name")

    def __init__(self, name: str, method: str, url: URL, request_id: str | None) -> None:
        self.name = name
        self._method = method
        self._url = url
        self._request_id = request_id

    def failed(self, error: BackendError, cause: Exception | None = None) -> BackendError:
        """The error, once the log has it. Nobody waits for a probe; there are many while a server is away."""
        level = logging.DEBUG if self._request_id is None else logging.WARNING
        said = "" if cause is None else f": {(str(cause) or type(cause).__name__)[:CAUSE_CHARACTERS]}"
        url = self._url.with_user(None).with_query(None)
        logger.log(level, "%s: %s %s, request %s%s", error.message, self._method, url, self._request_id, said)
        return error


class Answer:
    """An upstream's response. Read it with `read` or `chunks`, then `close` it: unread answers cost their connection."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        watch: _Watch,
        *,
        asked: _Asked,
        first_byte_timeout_s: float,
        idle_timeout_s: float,
    ) -> None:
        self._response = response
        self._watch = watch
        self._asked = asked
        self._first_byte_timeout_s = first_byte_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self.status = response.status

    def header(self, name: str) -> str:
        return self._response.headers.get(name, "")

    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def read(self, *, at_most_bytes: int = MAX_BODY_BYTES) -> bytes:
        """The whole body. Raises BackendProtocolError for one that is larger: an upstream must not fill the memory."""
        chunks, size = [], 0
        async for chunk in self.chunks():
            chunks.append(chunk)
            size += len(chunk)
            if size > at_most_bytes:
                raise BackendProtocolError(f"{self._asked.name} sent a body larger than {at_most_bytes} bytes")
        return b"".join(chunks)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """What each read brought. Raises BackendUnavailable when the connection breaks, BackendTimeout when it goes silent."""
        content, watch, begun = self._response.content, self._watch, False
        try:
            while True:
                watch.wait()
                chunk = await content.readany()
                watch.got()
                if not chunk:
                    return
                if not begun:  # some servers send the head at once and think then
                    begun = True
                    watch.then(self._idle_timeout_s)
                yield chunk
        except asyncio.CancelledError:
            if not watch.caught():
                raise
            silent = (
                f"{self._asked.name} sent nothing for {self._idle_timeout_s:g} s in the middle of its answer"
                if begun
                else f"{self._asked.name} sent a head but no answer within {self._first_byte_timeout_s:g} s"
            )
            raise self._asked.failed(BackendTimeout(silent)) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            if arrived := content._read_nowait(-1):  # noqa: SLF001 - aiohttp's public ways lose what came before the break
                yield arrived
            broken = BackendUnavailable(f"{self._asked.name} broke off its answer")
            raise self._asked.failed(broken, error) from None
        finally:
            watch.close()

    async def finish(self) -> None:
        """After the answer's own last event: reads the body's end, which is due at once, so that the connection is reused."""
        if not self._response.content.at_eof():
            try:
                async with asyncio.timeout(END_GRACE_S):
                    while await self._response.content.readany():
                        pass
            except (TimeoutError, aiohttp.ClientError, ConnectionError):
                pass  # the answer is whole; only the connection is lost, and closing it is what comes next
        self.close()

    def close(self) -> None:
        """Gives the connection back if the body was read to its end, drops it otherwise: that stops the upstream's work."""
        self._watch.close()
        self._response.close()


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
        self.base_url = base_url.rstrip("/")
        self.name = name
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "trunkline", **headers}
        self._urls: dict[str, URL] = {}
        self._connect_timeout_s = connect_timeout_s
        self._first_byte_timeout_s = first_byte_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._max_connections = max_connections
        self._trust_env = trust_env
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_connections, keepalive_timeout=30.0),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._trust_env,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, path: str, body: Body, *, headers: Mapping[str, str]) -> Answer:
        return await self._request("POST", path, body, headers)

    async def get(self, path: str) -> Answer:
        return await self._request("GET", path, None, {})

    async def _request(self, method: str, path: str, body: Body | None, headers: Mapping[str, str]) -> Answer:
        """Raises BackendUnavailable when nobody answers, BackendTimeout when the head does not come in time."""
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self.base_url + path)
        asked = _Asked(self.name, method, url, headers.get("X-Request-Id"))
        watch = _Watch(self._first_byte_timeout_s)
        try:
            try:
                response = await self._send(method, url, body, headers)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if isinstance(error, aiohttp.ClientConnectorError):  # there never was a connection
                    raise
                # A pooled connection that the server had closed in the meantime looks like this; llama.cpp's server does it
                # under load. No byte of an answer has come, so one more try on a fresh connection is safe.
                response = await self._send(method, url, body, headers)
        except asyncio.CancelledError:
            watch.close()
            if not watch.caught():
                raise
            silent = BackendTimeout(f"{self.name} did not begin to answer within {self._first_byte_timeout_s:g} s")
            raise asked.failed(silent) from None
        except aiohttp.ConnectionTimeoutError:
            watch.close()
            away = BackendUnavailable(f"{self.name} did not accept a connection within {self._connect_timeout_s:g} s")
            raise asked.failed(away) from None
        except aiohttp.ClientResponseError as error:
            watch.close()
            raise asked.failed(BackendProtocolError(f"{self.name} answered with what is not HTTP"), error) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            watch.close()
            away = BackendUnavailable(f"{self.name} cannot be reached: {_reason(error)}")
            raise asked.failed(away, error) from None
        watch.then(self._first_byte_timeout_s)
        return Answer(
            response,
            watch,
            asked=asked,
            first_byte_timeout_s=self._first_byte_timeout_s,
            idle_timeout_s=self._idle_timeout_s,
        )

    async def _send(
        self, method: str, url: URL, body: Body | None, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise BackendUnavailable(f"the connection pool of {self.name} is closed")
        if isinstance(body, bytes) and len(body) > LARGE_BYTES:
            body = (body,)
        if body is None or isinstance(body, bytes):
            data = (
                None if body is None else aiohttp.BytesPayload(body)
            )  # aiohttp would look for what it is in a list of kinds
            return await self._session.request(method, url, data=data, headers=headers, allow_redirects=False)
        headers = {**headers, "Content-Length": str(sum(map(len, body)))}  # known, so not sent in chunks
        return await self._session.request(method, url, data=_sent(body), headers=headers, allow_redirects=False)


async def _sent(pieces: Sequence[bytes | memoryview]) -> AsyncIterator[memoryview]:
    """The pieces in stretches that a connection takes one after the other, so that it never holds a copy of a large one."""
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), PIECE_BYTES):
            yield view[start : start + PIECE_BYTES]


def _reason(error: Exception) -> str:
    """Why there is no connection, without the address that such errors quote."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return "its certificate is not trusted"
        case aiohttp.ClientSSLError():
            return "it does not speak TLS as expected"
        case aiohttp.ClientConnectorDNSError():
            return "its host name does not resolve"
        case aiohttp.ClientConnectorError(os_error=OSError(errno=int(number))) | OSError(errno=int(number)):
            return os.strerror(number).lower()
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
        case _:
            return "the connection failed"
