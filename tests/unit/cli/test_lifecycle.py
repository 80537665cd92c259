"""A start ends in one of three ways: up, undone by a signal, or with the exception that failed it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from trunkline.cli.lifecycle import Stop, started
from trunkline.cli.lifespan import Lifespan, Message

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def test_a_start_that_succeeds_is_up() -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    lifespan = Lifespan(app)
    assert await started(lifespan, Stop())
    await lifespan.shutdown()


async def test_a_signal_during_the_start_undoes_it() -> None:
    stop, undone = Stop(), asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        stop.now()
        try:
            await asyncio.Event().wait()
        finally:
            undone.set()

    assert not await started(Lifespan(app), stop)
    assert undone.is_set()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_failed_start_raises_and_leaves_no_task() -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        raise LookupError("no model")

    with pytest.raises(LookupError, match="no model"):
        await started(Lifespan(app), Stop())
    assert asyncio.all_tasks() == {asyncio.current_task()}
