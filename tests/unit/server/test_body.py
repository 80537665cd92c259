"""Reading a body: bounded from the first piece on, whole whatever the pieces."""

import asyncio

import pytest
from starlette.types import Message, Scope

from trunkline.model.errors import PayloadTooLarge, RequestError
from trunkline.server.body import read_body
from trunkline.server.exchange import KEY, Exchange


def scope(length: int | None = None) -> Scope:
    received = {} if length is None else {b"content-length": str(length).encode()}
    return {"type": "http", KEY: Exchange(request_id="req_1", started_s=0.0, send=unsent, received=received)}


async def unsent(message: Message) -> None:
    raise AssertionError(message)


async def read(*pieces: bytes | None, limit: int = 10, length: int | None = None, last: bool = True) -> bytes:
    """None is the client leaving. Without `last` the client goes on, and a read that waits for more never ends."""
    messages = iter(pieces)
    left = len(pieces)

    async def receive() -> Message:
        nonlocal left
        if not left:
            await asyncio.Event().wait()
        left -= 1
        piece = next(messages)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": left > 0 or not last}

    return await read_body(scope(length), receive, limit_bytes=limit)


async def test_pieces_are_joined() -> None:
    assert await read(b"ab", b"", b"cd") == b"abcd"
    assert await read(b"") == b""
    assert await read(b"0123456789") == b"0123456789"


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 10, b"y"], [b"x" * 5, b"", b"y" * 6]])
async def test_too_much_is_refused_without_waiting_for_more(pieces: list[bytes]) -> None:
    with pytest.raises(PayloadTooLarge, match="10 bytes"):
        await read(*pieces, last=False)


async def test_an_announced_length_is_refused_before_anything_is_read() -> None:
    with pytest.raises(PayloadTooLarge):
        await read(length=11)


async def test_a_client_that_leaves_is_no_empty_body() -> None:
    with pytest.raises(RequestError):
        await read(None)
    with pytest.raises(RequestError):
        await read(b"ab", None)
