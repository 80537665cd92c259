"""A whole JSON body as a response."""

from collections.abc import Sequence

import msgspec
from starlette.types import Send

from trunkline.server.exchange import Header

JSON_TYPE: Header = (b"content-type", b"application/json")


async def send_json(
    body: bytes,
    send: Send,
    *,
    status: int = 200,
    headers: Sequence[Header] = (),
    send_body: Send | None = None,
    spaced: bool = False,
) -> None:
    """`send_body`: the server's own `send`, where the body may go round the middleware. `spaced`: as `json_spacing` has it."""
    if spaced:
        body = msgspec.json.format(body, indent=0)
    head = [JSON_TYPE, (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await (send_body or send)({"type": "http.response.body", "body": body})
