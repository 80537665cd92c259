"""Many waits of one length for the price of one timer.

A busy server starts a wait with each request, a deadline say, and nearly all of them are stopped before they are over. A timer of
the event loop for each costs more than the rest of such a wait. Waits of equal length are over in the order in which they began:
so they stand in a queue, and only its first has a timer.
"""

import asyncio
from typing import Protocol

SLACK_S = 0.001
"""Event loops tell the time in milliseconds, and may wake up one too early."""


class Timed(Protocol):
    """Who waits."""

    def due(self) -> None:
        """The wait is over."""
        ...


class Timers:
    """Waits of `after_s` seconds, on one event loop."""

    __slots__ = ("_armed", "_due_s", "_loop", "after_s")

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        self._due_s: dict[Timed, float] = {}  # in the order in which they are over
        self._armed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop, asked for once: up to Python 3.11 that is a system call each time."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def start(self, timed: Timed) -> None:
        """Calls `due` later, once. Who waits already begins again."""
        loop = self._loop or self.loop
        self._due_s.pop(timed, None)
        self._due_s[timed] = loop.time() + self.after_s
        if not self._armed:
            self._armed = True
            loop.call_later(self.after_s, self._look, loop)

    def stop(self, timed: Timed) -> None:
        self._due_s.pop(timed, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends the waits that are over, and sets the timer for the next one."""
        self._armed = False
        now_s = loop.time() + SLACK_S
        try:
            while self._due_s:
                timed, due_s = next(iter(self._due_s.items()))
                if due_s > now_s:
                    break
                del self._due_s[timed]
                timed.due()
        finally:
            if self._due_s and not self._armed:
                self._armed = True
                loop.call_at(next(iter(self._due_s.values())), self._look, loop)
