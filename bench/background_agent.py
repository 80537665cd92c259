"""A Python agent that says words at a rate for a time, both from its input ("RATE SECONDS"), each with the time it was made at.

It keeps to its schedule: what is due while it was held up comes at once, as from a model that does not wait.
"""

import asyncio
import time
from collections.abc import AsyncIterator

from trunkline.agent import Turn


async def agent(turn: Turn) -> AsyncIterator[str]:
    rate, seconds = (float(word) for word in turn.input.split())
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        wait_s = began + number / rate - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        yield f" tok@{time.monotonic_ns() // 1000:016d}@"
