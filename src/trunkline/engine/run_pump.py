"""From a run's emitter to the store, and from there to its readers.

What has gathered while one transaction was written goes into the next, so a store that is slow gets fewer and larger ones. Nothing
is published that is not stored.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from trunkline.dialects.openai_responses.emitter import Emitted
from trunkline.engine.run_log import Frames, RunLog
from trunkline.model.errors import StoreError
from trunkline.ports.runtime import Clock
from trunkline.ports.stores import LoggedEvent, RunStore, StoredResponse

MAX_PENDING_BYTES = 1_000_000
RETRY_AFTER_S = (0.1, 0.5, 2.0, 5.0, 10.0)
logger = logging.getLogger("trunkline.runs")


class Pump:
    """Writes the events of one run.

    Attributes:
        pending: what is not stored yet, in order.
        next_number: of the event that is put next.
        failure: why the store takes nothing any more.
    """

    def __init__(self, store: RunStore, log: RunLog, clock: Clock, *, tenant: str, run_id: str, first: int) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._tenant = tenant
        self._run_id = run_id
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._finished = False
        self._snapshot: StoredResponse | None = None
        self._pending_bytes = 0
        self.pending: list[LoggedEvent] = []
        self.next_number = first
        self.failure: StoreError | None = None

    async def start(self, snapshot: StoredResponse, emitted: Sequence[Emitted]) -> None:
        """Says that the run has begun. Returns once that is stored: nothing may be asked of a backend before."""
        self._snapshot = snapshot
        self.put(emitted)
        await self._written.wait()

    def put(self, emitted: Sequence[Emitted]) -> None:
        now_s = self._clock.now_s()
        for kind, data in emitted:
            self.pending.append(LoggedEvent(self.next_number, kind, data, now_s))
            self.next_number += 1
            self._pending_bytes += len(data)
        self._wake.set()

    async def room(self) -> None:
        """Returns once there is room for more."""
        while self._pending_bytes >= MAX_PENDING_BYTES:
            self._written.clear()
            await self._written.wait()

    def finish(self) -> None:
        self._finished = True
        self._wake.set()

    async def write(self) -> None:
        """Writes until finished, until the run is gone or until the store has refused for long."""
        while not (self._finished and not self.pending):
            await self._wake.wait()
            self._wake.clear()
            events, size_bytes = self.pending[:], self._pending_bytes
            if not events:
                continue
            try:
                if not await patiently(partial(self._write, events)):
                    return
            except StoreError as error:
                self.failure = error
                return
            self._snapshot = None
            del self.pending[: len(events)]
            self._pending_bytes -= size_bytes
            self._log.publish(Frames(self._run_id, events))
            self._written.set()

    async def _write(self, events: Sequence[LoggedEvent]) -> bool:
        if self._snapshot is not None:
            return await self._store.start_run(self._tenant, self._run_id, response=self._snapshot, events=events)
        return await self._store.append_events(self._tenant, self._run_id, events)


async def patiently(write: Callable[[], Awaitable[bool]]) -> bool:
    """A full disk or a locked file passes: a run is worth waiting for. Raises StoreError when it does not."""
    for wait_s in RETRY_AFTER_S:
        try:
            return await write()
        except StoreError as error:
            logger.warning("a run's events could not be stored yet: %s", error.message)
            await asyncio.sleep(wait_s)
    return await write()
