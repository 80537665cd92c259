"""Reading a request body, bounded."""

from starlette.types import Receive, Scope

from trunkline.model.errors import PayloadTooLarge, RequestError
from trunkline.server.exchange import header


async def read_body(scope: Scope, receive: Receive, *, limit_bytes: int) -> bytes:
    """The whole body. Raises PayloadTooLarge as soon as it is known to be too large, before it is read."""
    _check_announced(scope, limit_bytes)
    pieces: list[bytes] = []
    size = 0
    while True:
        piece, more = await _piece(receive)
        size += len(piece)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        if not more:
            return b"".join([*pieces, piece]) if pieces else piece
        pieces.append(piece)


async def read_large_body(scope: Scope, receive: Receive, *, limit_bytes: int) -> bytearray:
    """The same for bodies that are files: in memory once at any time, as it grows."""
    _check_announced(scope, limit_bytes)
    body = bytearray()
    more = True
    while more:
        piece, more = await _piece(receive)
        if len(body) + len(piece) > limit_bytes:
            raise _too_large(limit_bytes)
        body += piece
    return body


async def _piece(receive: Receive) -> tuple[bytes, bool]:
    """What came next, and whether more will."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise RequestError("the client left before its request was complete", code="client_disconnected")
    return bytes(message.get("body", b"")), bool(message.get("more_body"))


def _check_announced(scope: Scope, limit_bytes: int) -> None:
    announced = header(scope, b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the request body is larger than the {limit_bytes} bytes this server accepts")
