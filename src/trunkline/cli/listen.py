"""The listening socket, made here and handed to the server: a taken port is one sentence, and the port is known.

It listens before the backends start: who connects while a model loads waits in the kernel's queue and is answered as
soon as anything can answer, and a taken port is noticed before the load rather than after it.
"""

import errno
import socket

from trunkline.model.errors import ConfigError

BACKLOG = 4096


def listen(host: str, *, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError where the address cannot be had."""
    family, address = _resolve(host, port=port)
    # With the protocol named, asyncio knows TCP when it sees it and sends small answers at once (no Nagle).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and host == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # every address, as people mean it
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(_why(error, host=host, port=port)) from None
    return listener


def _resolve(host: str, *, port: int) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    if host.lower() == "localhost":
        return socket.AF_INET, ("127.0.0.1", port)
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"cannot listen on {host!r}: no such address or host name", key="server.host") from None
    family, _, _, _, address = infos[0]
    if len(address) == 4:
        return family, (str(address[0]), int(address[1]), int(address[2]), int(address[3]))
    return family, (str(address[0]), int(address[1]))


def _why(error: OSError, *, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} on {host} is in use; stop what listens there or pass --port N (0 takes a free one)"
        case errno.EACCES:
            return f"port {port} on {host} may not be used by this user; pass --port N with N above 1023"
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine; listen on 127.0.0.1 or 0.0.0.0"
        case _:
            return f"cannot listen on {host}, port {port}: {error.strerror}"


def base_url(host: str, *, port: int) -> str:
    """The URL under which this machine reaches what listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"}.get(host.lower(), host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
