"""A whole JSON body as a response."""

from collections.abc import Sequence

from starlette.types import Send

from trunkline.server.exchange import Header

JSON_TYPE: Header = (b"content-type", b"application/json")


async def send_json(
    body: bytes, send: Send, *, status: int = 200, headers: Sequence[Header] = (), send_body: Send | None = None
) -> None:
    """`send_body`: the server's own `send`, where the body may go round the middleware."""
    head = [JSON_TYPE, (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await (send_body or send)({"type": "http.response.body", "body": body})
