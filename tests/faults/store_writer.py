"""A process that writes to a store until something stops it, and says on stdout what has been acknowledged.

python -m tests.faults.store_writer kill FILE           responses and runs, many at once, for ever
python -m tests.faults.store_writer full FILE           a file that may not grow, then one that may again
"""

import asyncio
import itertools
import os
import resource
import sys
from pathlib import Path

from tests.fakes.stores import a_response, a_run, some_events
from trunkline.model.errors import StoreError
from trunkline.ports.runtime import SystemClock
from trunkline.stores.sqlite.store import SqliteStore

AT_ONCE = 16


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # one write, so that a kill leaves whole lines


async def write_for_ever(path: Path) -> None:
    store = SqliteStore(path, clock=SystemClock())
    await store.start()
    say("open")
    numbers = itertools.count()

    async def responses() -> None:
        parent = None
        while True:
            name = f"resp_{os.getpid()}_{next(numbers)}"
            await store.save_response("a", a_response(name, parent=parent, size_bytes=2000))
            say(f"saved {name}")
            parent = name

    async def runs() -> None:
        while True:
            name = f"resp_{os.getpid()}_{next(numbers)}"
            await store.create_run(a_run(name), a_response(name, status="queued"), some_events(0, 1))
            say(f"logged {name} 1")
            for first in range(2, 20, 3):
                await store.append_events("a", name, some_events(first, first + 2))
                say(f"logged {name} {first + 2}")
            await store.append_events("a", name, some_events(20, 20), final=a_response(name))
            say(f"ended {name}")

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE // 2):
            group.create_task(responses())
            group.create_task(runs())


async def fill(path: Path) -> None:
    """Each line tells one fact, for the test to compare."""
    store = SqliteStore(path, clock=SystemClock())
    await store.start()
    await store.save_response("a", a_response("resp_before"))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    saved: list[str] = []
    refused: list[str] = []
    for start in range(0, 200, 20):
        names = [f"resp_{number}" for number in range(start, start + 20)]
        results = await asyncio.gather(
            *(store.save_response("a", a_response(name, size_bytes=5000)) for name in names), return_exceptions=True
        )
        for name, result in zip(names, results, strict=True):
            (refused if isinstance(result, StoreError) else saved).append(name)
    say(f"refused {len(refused) > 0} {len(saved) > 0}")
    found = [name for name in (*saved, *refused) if await store.load_response("a", name)]
    say(f"readable {found == saved}")
    say(f"before {await store.load_response('a', 'resp_before') is not None}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await asyncio.gather(*(store.save_response("a", a_response(name, size_bytes=5000)) for name in refused))
    say("recovered")
    await store.close()


if __name__ == "__main__":
    asyncio.run({"kill": write_for_ever, "full": fill}[sys.argv[1]](Path(sys.argv[2])))
