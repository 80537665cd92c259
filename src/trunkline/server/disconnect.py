"""Noticing that the client has left while its answer is being made.

A task waits for the server's disconnect message and cancels the answering task, so that whatever it awaits, the backend above
all, stops at once. That cancellation ends where the watch does. The task is only made once an answer has taken
WATCH_AFTER_S: quick answers, the majority, do not pay for it. Whoever watches often shares one `timers` for it.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType

from starlette.types import Receive

from trunkline.ports.timers import Timers
from trunkline.telemetry.outcome import Outcome

WATCH_AFTER_S = 0.02


class DisconnectWatch:
    """Use as a context manager around the work, which is cut where the client leaves; `gone` tells afterwards.

    Args:
        outcome: notes that the client has left.
        graceful: the work goes on for the outcome's grace; `going_on` is called when that begins.
    """

    def __init__(
        self,
        receive: Receive,
        outcome: Outcome,
        *,
        graceful: bool = False,
        going_on: Callable[[], None] | None = None,
        timers: Timers | None = None,
    ) -> None:
        self.gone = False
        self._watcher: asyncio.Task[None] | None = None
        self._worker: asyncio.Task[object] | None = None
        self._receive = receive
        self._outcome = outcome
        self._graceful = graceful
        self._going_on = going_on
        self._timers = timers or Timers(WATCH_AFTER_S)

    def __enter__(self) -> "DisconnectWatch":
        self._worker = asyncio.current_task(self._timers.loop)
        self._timers.start(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.close()
        if not self.gone or not isinstance(error, asyncio.CancelledError):
            return False
        task = asyncio.current_task()
        if task is None or task.uncancel():  # somebody else wants the task to end
            return False
        self._outcome.error_code = "client_disconnected"
        return True

    def close(self) -> None:
        """Stops watching: a client that leaves from now on is no longer an interruption."""
        self._worker = None
        self._timers.stop(self)
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    def give_up(self) -> None:
        """The client is gone, or does not read any more, which is the same to us."""
        if self._worker is not None:
            self.gone = True
            self._worker.cancel()

    def due(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        grace_s = self._outcome.grace_s if self._graceful else 0.0
        if grace_s:  # nobody listens, but the work goes on for a while, or for good
            if self._going_on is not None:
                self._going_on()
            await asyncio.sleep(grace_s)
        self.give_up()
