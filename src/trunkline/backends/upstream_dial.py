"""How a connection to a model server comes about: its name resolved, each of its addresses tried, a proxy, TLS.

The socket is connected before a transport is made of it. Addresses are tried as RFC 8305 has it: the next one when the one before
has failed or has not answered within a quarter of a second, families in turn; the event loops do that differently or not at all.
A tunnel is asked for on the bare socket as well: the other side of one says nothing before it is spoken to, so no byte is lost.

Proxies are those of the environment, and only where the settings want it; what the variables mean is the standard library's.
"""

import asyncio
import base64
import socket
import ssl
import urllib.request
from collections.abc import Callable, Sequence
from urllib.parse import SplitResult, unquote, urlsplit

from trunkline.backends.upstream_connection import Connection, why
from trunkline.model.errors import ConfigError

NEXT_ADDRESS_S = 0.25
RESOLVED_FOR_S = 10.0
SHUTDOWN_S = 1.0
MAX_PROXY_HEAD_BYTES = 16 * 1024
PORTS = {"http": 80, "https": 443}

SocketAddress = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
Address = tuple[socket.AddressFamily, SocketAddress]


class NotConnected(Exception):
    """There is no connection. `reason` is for clients: it names no address. `cause` is for the log."""

    def __init__(self, reason: str, cause: Exception | None = None) -> None:
        super().__init__(reason if cause is None else str(cause) or type(cause).__name__)
        self.reason = reason


class ConnectTimeout(Exception):
    """It took longer than `connect_timeout_s`."""


class Dialer:
    """Makes connections to one origin.

    Attributes:
        target: what stands before the path in a request line: nothing, or the whole origin where a proxy passes requests on.
        proxy_authorization: for that proxy; None where it wants none or there is none.
    """

    def __init__(self, url: SplitResult, *, connect_timeout_s: float, trust_env: bool) -> None:
        self._host, self._port = _host(url), url.port or PORTS[url.scheme]
        self._tls = _tls() if url.scheme == "https" else None
        self._connect_timeout_s = connect_timeout_s
        self._resolved: Sequence[Address] = ()
        self._resolved_s = 0.0
        self._tunnel = b""
        self._server = (self._host, self._port)  # whom the socket goes to
        self._name = self._host  # whose certificate is wanted
        self.target = ""
        self.proxy_authorization: str | None = None
        proxy = _proxy(url) if trust_env else None
        if proxy is not None:
            self._use(proxy, url)

    def _use(self, proxy: SplitResult, url: SplitResult) -> None:
        authorization = basic(proxy)
        self._server = (_host(proxy), proxy.port or PORTS[proxy.scheme])
        if self._tls is None:
            self.target = f"http://{authority(url)}"
            self.proxy_authorization = authorization
            if proxy.scheme == "https":
                self._tls, self._name = _tls(), _host(proxy)
            return
        where = f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"
        more = "" if authorization is None else f"Proxy-Authorization: {authorization}\r\n"
        self._tunnel = f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n{more}\r\n".encode("latin-1")

    async def dial(self, make: Callable[[], Connection]) -> Connection:
        """Raises NotConnected or ConnectTimeout."""
        time = asyncio.timeout(self._connect_timeout_s)
        try:
            async with time:
                return await self._connected(make)
        except TimeoutError as error:
            if time.expired():
                raise ConnectTimeout from None
            raise NotConnected("connection timed out", error) from None

    async def _connected(self, make: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            addresses = await self._addresses(loop)
        except (socket.gaierror, UnicodeError) as error:
            raise NotConnected("its host name does not resolve", error) from None
        sock = None
        try:
            sock = await first_connected(addresses)
            if self._tunnel:
                await _open_tunnel(loop, sock, self._tunnel)
            own, sock = sock, None  # from here on it is the transport's to close
            if self._tls is None:
                _, connection = await loop.create_connection(make, sock=own)
            else:
                _, connection = await loop.create_connection(
                    make, sock=own, ssl=self._tls, server_hostname=self._name, ssl_shutdown_timeout=SHUTDOWN_S
                )
        except TimeoutError:
            raise
        except OSError as error:  # TLS's are among them
            self._resolved = ()  # it may have moved
            raise NotConnected(why(error), error) from None
        finally:
            if sock is not None:
                sock.close()
        return connection

    async def _addresses(self, loop: asyncio.AbstractEventLoop) -> Sequence[Address]:
        if not self._resolved or loop.time() - self._resolved_s > RESOLVED_FOR_S:
            host, port = self._server
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._resolved, self._resolved_s = (
                _in_turn([(family, where) for family, _, _, _, where in found]),
                loop.time(),
            )
        return self._resolved


async def first_connected(addresses: Sequence[Address]) -> socket.socket:
    """A socket connected to whichever answers first. Raises the OSError of the last one that refused."""
    if len(addresses) == 1:
        return await _connect(*addresses[0])
    left, trials, winner = list(addresses), set[asyncio.Task[socket.socket]](), None
    refused: tuple[object, ...] = ("there is no address",)  # not the error: whose traceback would hold it
    try:
        while winner is None and (left or trials):
            if left:
                trials.add(asyncio.create_task(_connect(*left.pop(0)), name="connecting"))
            done, _ = await asyncio.wait(
                trials, timeout=NEXT_ADDRESS_S if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            for trial in done:
                error = trial.exception()
                if error is None:
                    winner = trial
                    break
                if not isinstance(error, OSError):
                    raise error
                trials.discard(trial)
                refused = error.args
    finally:
        if winner is not None:
            trials.discard(winner)
        for trial in trials:
            trial.cancel()
        for other in await asyncio.gather(*trials, return_exceptions=True):
            if isinstance(other, socket.socket):
                other.close()
    if winner is None:
        raise OSError(*refused)
    return winner.result()


async def _connect(family: socket.AddressFamily, where: SocketAddress) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    connected = False
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
        connected = True
    finally:
        if not connected:
            sock.close()
    return sock


def _in_turn(addresses: Sequence[Address]) -> Sequence[Address]:
    """Each family in turn, the first one first: where one of them leads nowhere, little time is lost."""
    families: dict[int, list[Address]] = {}
    for address in dict.fromkeys(addresses):
        families.setdefault(address[0], []).append(address)
    longest = max(map(len, families.values()), default=0)
    return [some[position] for position in range(longest) for some in families.values() if position < len(some)]


async def _open_tunnel(loop: asyncio.AbstractEventLoop, sock: socket.socket, request: bytes) -> None:
    await loop.sock_sendall(sock, request)
    head = b""
    while b"\r\n\r\n" not in head:
        data = await loop.sock_recv(sock, 4096)
        head += data
        if not data or len(head) > MAX_PROXY_HEAD_BYTES:
            raise NotConnected("its proxy opened no tunnel")
    version, _, rest = head.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest.startswith(b"2"):
        raise NotConnected(f"its proxy opened no tunnel, but answered {rest[:3].decode('latin-1')!r}")


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()  # whom it trusts is OpenSSL's to say: SSL_CERT_FILE, SSL_CERT_DIR
    context.set_alpn_protocols(["http/1.1"])
    return context


def _proxy(url: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for this server.

    Raises ConfigError for one of another kind: who asks for a proxy does not want to be taken past it.
    """
    named = urllib.request.getproxies().get(url.scheme)
    if not named or urllib.request.proxy_bypass(authority(url)) or urllib.request.proxy_bypass(_host(url)):
        return None
    try:
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        usable = proxy.port != 0 and bool(proxy.hostname)
    except ValueError:  # whose words may quote a password
        raise ConfigError(
            f"the environment's {url.scheme}_proxy is no address like http://HOST:PORT; change it, name the server in no_proxy, or "
            "set trust_env = false"
        ) from None
    if usable and (proxy.scheme == "http" or (proxy.scheme == "https" and url.scheme == "http")):
        return proxy
    kind = f"is a {proxy.scheme}:// proxy" if usable else "names no host"
    raise ConfigError(
        f"the environment's {url.scheme}_proxy {kind}, and {authority(url)} is only reached through an http:// one; change it, "
        "name the server in no_proxy, or set trust_env = false"
    )


def _host(url: SplitResult) -> str:
    """As it is looked up: without brackets, names in the letters that DNS has."""
    host = (url.hostname or "").rstrip(".")
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:  # no name; whoever looks it up says so
        return host


def authority(url: SplitResult) -> str:
    """As the Host header has it."""
    host = _host(url)
    host = f"[{host}]" if ":" in host else host
    return host if url.port in (None, PORTS[url.scheme]) else f"{host}:{url.port}"


def basic(url: SplitResult) -> str | None:
    """The credentials of a URL as an Authorization header has them."""
    if url.username is None:
        return None
    pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
