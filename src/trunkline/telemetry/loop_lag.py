"""How late the event loop is: once a second it is asked to wake us, and how much later it does is noted.

Everything the server does waits for this loop, so whatever holds it up (an agent that computes without awaiting, a processor that
others want) shows here first. A histogram, so that every reader can ask about a span of time of its own.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Iterable

from trunkline.telemetry.metrics import Family, histogram

EVERY_S = 1.0
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class LoopLag:
    """Measures from `start` to `close`."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self._total_s = 0.0
        self._due: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._due = asyncio.get_running_loop().call_later(EVERY_S, self._woken)

    def close(self) -> None:
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
        late_s = max(0.0, asyncio.get_running_loop().time() - self._due.when())
        self._counts[bisect_left(BUCKETS_S, late_s)] += 1
        self._total_s += late_s
        self.start()
