"""A deadline over one turn that costs one timer, not one per event.

The timer cancels the task only while it waits for the backend; time the client takes to read is the client's. The one who
waits sets `waiting` around the wait, checks `passed` after a pause, and asks `caught` when a cancellation arrives. That is
more to write than `asyncio.timeout`, and costs two attribute writes per event instead of a timer and a coroutine.
"""

import asyncio

from trunkline.model.errors import BackendTimeout


class Deadline:
    """The time one turn may take. Made in the task that will wait."""

    __slots__ = ("_handle", "_task", "_timeout_s", "_what", "passed", "waiting")

    def __init__(self, timeout_s: float, *, what: str) -> None:
        self._timeout_s = timeout_s
        self._what = what
        self._task = asyncio.current_task()
        self.waiting = False
        self.passed = False
        self._handle = asyncio.get_running_loop().call_later(timeout_s, self._pass)

    def check(self) -> None:
        """Raises BackendTimeout when the time is over; else the wait begins."""
        if self.passed:
            raise self.error()
        self.waiting = True

    def caught(self) -> bool:
        """Whether the cancellation just caught was the timer's and nobody else's; takes it back if so."""
        self.waiting = False
        return self.passed and self._task is not None and self._task.uncancel() == 0

    def error(self) -> BackendTimeout:
        return BackendTimeout(f"{self._what} took longer than {self._timeout_s:g} s")

    def cancel(self) -> None:
        self._handle.cancel()

    def _pass(self) -> None:
        self.passed = True
        if self.waiting and self._task is not None:
            self._task.cancel()
