"""Python agents at the pace of a model: "200 20" is 200 words, 20 ms apart, each with the time it was made at (native/load.c)."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

from trunkline.agent import Turn


def pace(turn: Turn) -> tuple[int, float]:
    """How many words, and the seconds between two."""
    words, interval_ms = turn.input.split()
    return int(words), int(interval_ms) / 1000


async def agent(turn: Turn) -> AsyncIterator[str]:
    words, interval_s = pace(turn)
    for _ in range(words):
        yield f" tok@{time.monotonic_ns() // 1000:016d}@"
        await asyncio.sleep(interval_s)


def threaded(turn: Turn) -> Iterator[str]:
    """The same, synchronous: it has a thread to itself for as long as it speaks."""
    words, interval_s = pace(turn)
    for _ in range(words):
        yield f" tok@{time.monotonic_ns() // 1000:016d}@"
        time.sleep(interval_s)
