"""A deadline over one turn that costs one timer, not one per event.

The timer cancels the waiting task only while it waits for the backend; time the client takes to read is the client's. A turn
that is past its deadline while nobody waits fails at the next wait.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from trunkline.model.errors import BackendTimeout

T = TypeVar("T")


class Deadline:
    """`wait` awaits something of the backend's and raises BackendTimeout once the turn's time is over."""

    def __init__(self, timeout_s: float, *, what: str) -> None:
        self._timeout_s = timeout_s
        self._what = what
        self._waiting: asyncio.Task[object] | None = None
        self._passed = False
        self._handle = asyncio.get_running_loop().call_later(timeout_s, self._pass)

    async def wait(self, awaitable: Awaitable[T]) -> T:
        self._waiting = task = asyncio.current_task()
        try:
            if self._passed:
                raise asyncio.CancelledError
            return await awaitable
        except asyncio.CancelledError:
            if not self._passed:
                raise
            # The timer's cancellation is taken back; one that came from elsewhere as well is not ours to swallow.
            if task is not None and task.cancelling() and task.uncancel() > 0:
                raise
            raise BackendTimeout(f"{self._what} took longer than {self._timeout_s:g} s") from None
        finally:
            self._waiting = None

    async def next(self, iterator: AsyncIterator[T]) -> T | None:
        """The iterator's next value, None at its end."""
        try:
            return await self.wait(anext(iterator))
        except StopAsyncIteration:
            return None

    def _pass(self) -> None:
        self._passed = True
        if self._waiting is not None:
            self._waiting.cancel()

    def cancel(self) -> None:
        self._handle.cancel()
