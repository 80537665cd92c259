"""How late the event loop is: once a second it is asked to wake us, and how much later it does is noted.

Everything the server does waits for this loop, so whatever holds it up (an agent that computes without awaiting, a processor that
others want) shows here first. A histogram, so that every reader can ask about a span of time of its own.

Who holds it is seen from a thread, because the loop itself is only late. The thread names a task that it finds at work twice in
a row while the loop does not wake up: one of many busy tasks is not found twice. Where the thread is late itself, there is too
little of the interpreter or the processor for everybody, and it names nobody.
"""

import asyncio
import logging
import threading
from bisect import bisect_left
from collections.abc import Iterable

from trunkline.telemetry.metrics import Family, histogram

EVERY_S = 1.0
LOOK_EVERY_S = 0.5
QUIET_S = 60.0
"""How long nobody is named after somebody was."""

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

_log = logging.getLogger("trunkline.loop")


class LoopLag:
    """Measures from `start` to `close`."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self._total_s = 0.0
        self._due: asyncio.TimerHandle | None = None
        self._closed = threading.Event()

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.call_later(EVERY_S, self._woken)
        self._closed = threading.Event()
        threading.Thread(target=self._watch, args=(loop, self._closed), name="loop-lag", daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def families(self) -> Iterable[Family]:
        yield Family(
            "trunkline_event_loop_lag_seconds",
            "histogram",
            "How late the event loop wakes up, once a second.",
            list(histogram({}, BUCKETS_S, self._counts, self._total_s)),
        )

    def _woken(self) -> None:
        assert self._due is not None
        loop = asyncio.get_running_loop()
        late_s = max(0.0, loop.time() - self._due.when())
        self._counts[bisect_left(BUCKETS_S, late_s)] += 1
        self._total_s += late_s
        self._due = loop.call_later(EVERY_S, self._woken)

    def _watch(self, loop: asyncio.AbstractEventLoop, closed: threading.Event) -> None:
        """In the thread."""
        held_by: tuple[int, str] | None = None
        looked_s = loop.time()
        quiet_until_s = looked_s
        while not closed.wait(LOOK_EVERY_S):
            now_s, due = loop.time(), self._due
            in_time = now_s - looked_s < 1.5 * LOOK_EVERY_S
            late_s = 0.0 if due is None else now_s - due.when()
            found = _at_work(loop) if in_time and late_s > LOOK_EVERY_S else None
            if found is not None and found == held_by and now_s >= quiet_until_s:
                _log.warning(
                    "event loop held: %s late_s=%.1f; everybody waits meanwhile: an agent that computes or waits without "
                    "await has to be a plain def, which runs in a thread",
                    found[1], late_s,
                )  # fmt: skip
                quiet_until_s = now_s + QUIET_S
            held_by, looked_s = found, now_s


def _at_work(loop: asyncio.AbstractEventLoop) -> tuple[int, str] | None:
    """The task in which the loop is, and its name. The thread does not keep the task."""
    task = asyncio.current_task(loop)
    return None if task is None else (id(task), task.get_name())
