"""Time and randomness as ports, so that everything above them is deterministic under test."""

import os
import time
from typing import Protocol

from trunkline.model.ids import ID_BYTES, Entropy

AHEAD = 64


class Clock(Protocol):
    """Two clocks: `now_s` is unix time in seconds, `monotonic_s` only measures durations."""

    def now_s(self) -> float: ...

    def monotonic_s(self) -> float: ...


class SystemClock:
    """The machine's clocks, read without a call between: each request asks them half a dozen times."""

    now_s = staticmethod(time.time)
    monotonic_s = staticmethod(time.monotonic)


class SystemEntropy:
    """The operating system's randomness, fetched ahead for ids: one system call for many of them.

    `list.pop` is atomic, so threads that make ids at the same time never get the same one.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []

    def hex(self, size_bytes: int) -> str:
        if size_bytes != ID_BYTES:
            return os.urandom(size_bytes).hex()
        try:
            return self._ids.pop()
        except IndexError:
            fetched = os.urandom(ID_BYTES * AHEAD).hex()
            self._ids.extend(
                fetched[start : start + 2 * ID_BYTES] for start in range(2 * ID_BYTES, len(fetched), 2 * ID_BYTES)
            )
            return fetched[: 2 * ID_BYTES]


__all__ = ["Clock", "Entropy", "SystemClock", "SystemEntropy"]
