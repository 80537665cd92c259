"""A lifespan's failure is the exception itself, and its task never outlives it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from trunkline.cli.lifespan import Lifespan, Message

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def test_start_and_stop_are_exchanged_in_order() -> None:
    log: list[str] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        for event in ("lifespan.startup", "lifespan.shutdown"):
            assert (await receive())["type"] == event
            log.append(event)
            await send({"type": f"{event}.complete"})

    lifespan = Lifespan(app)
    await lifespan.startup()
    assert log == ["lifespan.startup"]
    await lifespan.shutdown()
    await lifespan.shutdown()
    assert log == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_failed_start_raises_what_failed(announced: bool) -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        if announced:
            await send({"type": "lifespan.startup.failed", "message": "a traceback"})
        raise LookupError("no model")

    with pytest.raises(LookupError, match="no model"):
        await Lifespan(app).startup()


async def test_an_application_that_just_returns_is_an_error() -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()

    with pytest.raises(RuntimeError, match="ended without answering"):
        await Lifespan(app).startup()


async def test_a_cancelled_start_has_been_undone() -> None:
    begun, undone = asyncio.Event(), asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            undone.set()

    starting = asyncio.create_task(Lifespan(app).startup())
    await begun.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert undone.is_set()
