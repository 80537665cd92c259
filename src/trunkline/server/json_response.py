"""A whole JSON body as a response."""

from collections.abc import Sequence

from starlette.types import Send

from trunkline.server.exchange import Header

JSON_TYPE: Header = (b"content-type", b"application/json")


async def send_json(body: bytes, send: Send, *, status: int = 200, headers: Sequence[Header] = ()) -> None:
    head = [JSON_TYPE, (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
