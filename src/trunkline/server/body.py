"""Reading a request body, bounded."""

from collections.abc import Sequence

from starlette.types import Message, Receive, Scope

from trunkline.dialects import reading
from trunkline.dialects.reading import Object
from trunkline.model.errors import PayloadTooLarge, RequestError
from trunkline.server.exchange import header


async def read_body(scope: Scope, receive: Receive, *, limit_bytes: int) -> bytes:
    """The whole body. Raises PayloadTooLarge as soon as it is known to be too large, before it is read."""
    _check_announced(scope, limit_bytes)
    piece, more = _piece(await receive())
    if not more and len(piece) <= limit_bytes:
        return piece
    pieces, size = [piece], len(piece)
    while size <= limit_bytes:
        if not more:
            return b"".join(pieces)
        piece, more = _piece(await receive())
        pieces.append(piece)
        size += len(piece)
    raise _too_large(limit_bytes)


async def read_members(
    scope: Scope, receive: Receive, *, limit_bytes: int, known: Sequence[str]
) -> tuple[bytes, Object]:
    """The whole body and its members, for which nothing at all is as good as an empty object. Raises RequestError."""
    body = await read_body(scope, receive, limit_bytes=limit_bytes) or b"{}"
    source = reading.decode_body(body)
    reading.only(source, known)
    return body, source


async def read_large_body(scope: Scope, receive: Receive, *, limit_bytes: int) -> bytearray:
    """The same for bodies that are files: in memory once at any time, as it grows."""
    _check_announced(scope, limit_bytes)
    body = bytearray()
    more = True
    while more:
        piece, more = _piece(await receive())
        if len(body) + len(piece) > limit_bytes:
            raise _too_large(limit_bytes)
        body += piece
    return body


def _piece(message: Message) -> tuple[bytes, bool]:
    """What came, and whether more will."""
    if message["type"] == "http.disconnect":
        raise RequestError("the client left before its request was complete", code="client_disconnected")
    return message.get("body", b""), message.get("more_body", False)


def _check_announced(scope: Scope, limit_bytes: int) -> None:
    announced = header(scope, b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the request body is larger than the {limit_bytes} bytes this server accepts")
