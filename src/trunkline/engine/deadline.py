"""A deadline over one turn that costs a place in a queue, not a timer for each event.

It cancels the task only while that waits for the backend; time the client takes to read is the client's. The one who
waits sets `waiting` around the wait, checks `passed` after a pause, and asks `caught` when a cancellation arrives. That is
more to write than `asyncio.timeout`, and costs two attribute writes per event instead of a timer and a coroutine.
"""

import asyncio

from trunkline.model.errors import BackendTimeout
from trunkline.ports.timers import Timers


class Deadline:
    """The time one turn may take. Made in the task that will wait. `backend` is what did not end in time."""

    __slots__ = ("_backend", "_task", "_timers", "passed", "waiting")

    def __init__(self, timers: Timers, *, backend: str) -> None:
        self._timers = timers
        self._backend = backend
        self._task = asyncio.current_task(timers.loop)
        self.waiting = False
        self.passed = False
        timers.start(self)

    def check(self) -> None:
        """Raises BackendTimeout when the time is over; else the wait begins."""
        if self.passed:
            raise self.error()
        self.waiting = True

    def caught(self) -> bool:
        """Whether the cancellation just caught was the deadline's and nobody else's; takes it back if so."""
        self.waiting = False
        return self.passed and self._task is not None and self._task.uncancel() == 0

    def error(self) -> BackendTimeout:
        return BackendTimeout(f"backend {self._backend!r} took longer than {self._timers.after_s:g} s")

    def cancel(self) -> None:
        self._timers.stop(self)

    def due(self) -> None:
        self.passed = True
        if self.waiting and self._task is not None:
            self._task.cancel()
