"""The upstream HTTP client behind one small interface: post, get, and an answer that is read in pieces.

aiohttp does the protocol. Nothing above this module knows it, so the transport can be replaced without touching the layers
above. Deadlines that would cost a timer per read (aiohttp's `sock_read`) are kept by one lazily re-armed timer per answer.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping

import aiohttp
from yarl import URL

from trunkline.model.errors import BackendProtocolError, BackendTimeout, BackendUnavailable

END_GRACE_S = 1.0
REASON_CHARACTERS = 200
MAX_BODY_BYTES = 256 * 1024 * 1024


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


class Answer:
    """An upstream's response. Read it with `read` or `chunks`, then `close` it: unread answers cost their connection."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        watch: _Watch,
        *,
        where: str,
        first_byte_timeout_s: float,
        idle_timeout_s: float,
    ) -> None:
        self._response = response
        self._watch = watch
        self._where = where
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
                raise BackendProtocolError(f"{self._where} sent a body larger than {at_most_bytes} bytes")
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
            raise BackendTimeout(
                f"{self._where} sent nothing for {self._idle_timeout_s:g} s in the middle of its answer"
                if begun
                else f"{self._where} sent a head but no answer within {self._first_byte_timeout_s:g} s"
            ) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise BackendUnavailable(f"{self._where} broke off its answer: {_reason(error)}") from None
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
    """One server's connection pool."""

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str],
        connect_timeout_s: float,
        first_byte_timeout_s: float,
        idle_timeout_s: float,
        max_connections: int,
        trust_env: bool,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.where = _shown(self.base_url)  # for messages that clients read
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

    async def post(self, path: str, body: bytes, *, headers: Mapping[str, str]) -> Answer:
        return await self._request("POST", path, body, headers)

    async def get(self, path: str) -> Answer:
        return await self._request("GET", path, None, {})

    async def _request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """Raises BackendUnavailable when nobody answers, BackendTimeout when the head does not come in time."""
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self.base_url + path)
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
            raise BackendTimeout(
                f"{self.where} did not begin to answer within {self._first_byte_timeout_s:g} s"
            ) from None
        except aiohttp.ConnectionTimeoutError:
            watch.close()
            raise BackendUnavailable(
                f"{self.where} did not accept a connection within {self._connect_timeout_s:g} s"
            ) from None
        except aiohttp.ClientResponseError:
            watch.close()
            raise BackendProtocolError(f"{self.where} answered with what is not HTTP") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            watch.close()
            raise BackendUnavailable(f"cannot reach {self.where}: {_reason(error)}") from None
        watch.then(self._first_byte_timeout_s)
        return Answer(
            response,
            watch,
            where=self.where,
            first_byte_timeout_s=self._first_byte_timeout_s,
            idle_timeout_s=self._idle_timeout_s,
        )

    async def _send(
        self, method: str, url: URL, body: bytes | None, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise BackendUnavailable(f"the connection pool of {self.where} is closed")
        return await self._session.request(method, url, data=body, headers=headers, allow_redirects=False)


def _shown(url: str) -> str:
    """A URL as others may see it: without the user, the password and the query."""
    return str(URL(url).with_user(None).with_query(None))


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.os_error.strerror or str(error.os_error) or "connection failed"
    else:
        reason = str(error) or type(error).__name__
    return reason[:REASON_CHARACTERS]
