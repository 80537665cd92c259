"""A Python agent at the pace of a model: 200 words, 20 ms apart, each with the time it was made at (native/load.c)."""

import asyncio
import time
from collections.abc import AsyncIterator

from trunkline.agent import Turn

EVENTS = 200
INTERVAL_S = 0.02


async def agent(turn: Turn) -> AsyncIterator[str]:
    for _ in range(EVENTS):
        yield f" tok@{time.monotonic_ns() // 1000:016d}@"
        await asyncio.sleep(INTERVAL_S)
