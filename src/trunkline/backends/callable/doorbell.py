"""Lets threads wake readers on the event loop, many of them at once where threads speak often.

To wake the loop costs more than the rest of a word: a write and a read of the kernel's, and a thread that stops for the
loop and then waits for the interpreter's lock. So whoever rings while somebody is coming is not heard alone. Where more
than one had rung by then, others will soon: for PAUSE_S nobody wakes the loop, which comes by itself, as network cards
moderate their interrupts. Who rings alone is heard at once, and never waits longer than the pause.
"""

import asyncio
import threading
from collections.abc import Callable

PAUSE_S = 0.001


class Doorbell:
    """Of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._mutex = threading.Lock()
        self._rung: list[Callable[[], None]] = []
        self._coming = False

    def ring(self, wake: Callable[[], None]) -> bool:
        """In any thread: has the loop call `wake`, which must not raise. False when the loop is gone."""
        try:
            with self._mutex:
                self._rung.append(wake)
                if self._coming:
                    return True
                self._coming = True
            self.loop.call_soon_threadsafe(self._come)
        except RuntimeError:  # the loop is closed: the process is stopping
            self._coming = False
            return False
        except BaseException:  # somebody has stopped this thread from outside; to come once too often harms nobody
            self._coming = False
            raise
        return True

    def _come(self) -> None:
        with self._mutex:
            rung, self._rung = self._rung, []
            self._coming = len(rung) > 1
        if self._coming:
            self.loop.call_later(PAUSE_S, self._come)
        for wake in rung:
            wake()
