"""Python agents at the pace of a model: "200 20" is 200 words, 20 ms apart, each with the time it was made at (native/load.c).

They keep to their schedule, as the mock upstream does: one that was held up does not wait as long for its next word.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

from trunkline.agent import Turn


def schedule(turn: Turn) -> Iterator[float]:
    """For each word the time until which to wait after it."""
    words, interval_ms = turn.input.split()
    began = time.monotonic()
    return (began + number * int(interval_ms) / 1000 for number in range(1, int(words) + 1))


async def agent(turn: Turn) -> AsyncIterator[str]:
    for until in schedule(turn):
        yield f" tok@{time.monotonic_ns() // 1000:016d}@"
        await asyncio.sleep(max(0.0, until - time.monotonic()))


def threaded(turn: Turn) -> Iterator[str]:
    """The same, synchronous: it has a thread to itself for as long as it speaks."""
    for until in schedule(turn):
        yield f" tok@{time.monotonic_ns() // 1000:016d}@"
        time.sleep(max(0.0, until - time.monotonic()))
