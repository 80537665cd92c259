"""Reading a request body, bounded."""

from starlette.types import Receive, Scope

from trunkline.model.errors import PayloadTooLarge, RequestError
from trunkline.server.exchange import header


async def read_body(scope: Scope, receive: Receive, *, limit_bytes: int) -> bytes:
    """The whole body. Raises PayloadTooLarge as soon as it is known to be too large, before it is read."""
    announced = header(scope, b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("the client left before its request was complete", code="client_disconnected")
        piece = bytes(message.get("body", b""))
        size += len(piece)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        if not message.get("more_body"):
            return b"".join([*pieces, piece]) if pieces else piece
        pieces.append(piece)


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the request body is larger than the {limit_bytes} bytes this server accepts")
