"""The ASGI lifespan of one application, driven so that its failure is the exception itself.

uvicorn drives it too, but keeps of a failed start only a logged traceback; a start that fails here ends in one
sentence, so the exception is needed.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]  # ASGI's own words for it
ASGIApp: TypeAlias = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class Lifespan:
    """Starts and stops an application once. Owns the task in which it does so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Raises what the application's start raised. Cancelled: the start is cancelled and has ended."""
        self._task = asyncio.create_task(self._run(), name="lifespan")
        try:
            await self._exchange("lifespan.startup")
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait({self._task})
            raise

    async def shutdown(self) -> None:
        """Raises what the application's stop raised. Nothing to do where it never started."""
        if self._task is not None and not self._task.done():
            await self._exchange("lifespan.shutdown")

    async def _run(self) -> None:
        scope: Message = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        await self._app(scope, self._to_app.get, self._from_app.put)

    async def _exchange(self, event: str) -> None:
        assert self._task is not None
        self._to_app.put_nowait({"type": event})
        answer = asyncio.create_task(self._from_app.get(), name=event)
        try:
            await asyncio.wait({self._task, answer}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and answer.result()["type"] == f"{event}.complete":
                return
            await self._task  # the failure itself, which follows the message that there is one
        finally:
            answer.cancel()
        raise RuntimeError(f"the application ended without answering {event}")
