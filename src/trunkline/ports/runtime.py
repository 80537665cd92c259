"""Time and randomness as ports, so that everything above them is deterministic under test."""

import os
import time
from typing import Protocol

from trunkline.model.ids import Entropy


class Clock(Protocol):
    """Two clocks: `now_s` is unix time in seconds, `monotonic_s` only measures durations."""

    def now_s(self) -> float: ...

    def monotonic_s(self) -> float: ...


class SystemClock:
    """The machine's clocks."""

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()


class SystemEntropy:
    """The operating system's randomness."""

    def hex(self, size_bytes: int) -> str:
        return os.urandom(size_bytes).hex()


__all__ = ["Clock", "Entropy", "SystemClock", "SystemEntropy"]
