"""Work in lanes: one after another within a lane, side by side across lanes.

Everything is bounded: how many lanes there may be, how much works at once and how much waits. What waits is refused when the owner
stops, what works goes on for as long as it may.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from trunkline.model.errors import InvalidParameter, RateLimited

MAX_LANES = 32
MAX_AT_WORK = 16
MAX_WAITING = 64
RETRY_AFTER_S = 1.0


class Work(Protocol):
    """Something to be done. `grace_s`: how long it may go on when nobody waits for it any more."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def grace_s(self) -> float: ...


Job = TypeVar("Job", bound=Work)


class _Lane(Generic[Job]):
    def __init__(self) -> None:
        self.waiting: deque[Job] = deque()
        self.at_work: Job | None = None
        self.task: asyncio.Task[None] | None = None


class Lanes(Generic[Job]):
    """The lanes of one owner. `work` does one job and raises nothing but a cancellation; `rested` is called when none is left."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        work: Callable[[Job], Awaitable[None]],
        *,
        rested: Callable[[], None],
        max_waiting_bytes: int,
    ) -> None:
        self._tasks = tasks
        self._work = work
        self._rested = rested
        self._max_waiting_bytes = max_waiting_bytes
        self._lanes: dict[str | None, _Lane[Job]] = {}
        self._places = asyncio.Semaphore(MAX_AT_WORK)
        self._waiting = 0
        self._waiting_bytes = 0

    @property
    def idle(self) -> bool:
        return all(lane.task is None for lane in self._lanes.values())

    def put(self, job: Job, *, name: str | None) -> None:
        """Raises RequestError where it cannot even wait. The lane without a name is none of the MAX_LANES."""
        lane = self._lanes.get(name)
        if lane is None and name is not None and len(self._lanes.keys() - {None}) >= MAX_LANES:
            raise InvalidParameter(
                f"This connection has its {MAX_LANES} different stream ids already; use one of them or open another connection.",
                code="websocket_stream_limit_reached",
                param="stream_id",
            )
        if self._waiting >= MAX_WAITING or (
            self._waiting and self._waiting_bytes + job.size_bytes > self._max_waiting_bytes
        ):
            raise RateLimited(
                f"{self._waiting} requests with {self._waiting_bytes} bytes are waiting on this connection already; "
                "send more when some have been answered",
                retry_after_s=RETRY_AFTER_S,
            )
        if lane is None:
            lane = self._lanes[name] = _Lane()
        lane.waiting.append(job)
        self._waiting += 1
        self._waiting_bytes += job.size_bytes
        if lane.task is None:
            lane.task = self._tasks.create_task(self._run(lane), name=f"lane {name or ''}")

    def abandon(self) -> None:
        """Nobody waits any more: what waits is dropped, what is at work has its grace."""
        for lane in self._lanes.values():
            self._drop(lane)
            if lane.task is None:
                continue
            grace_s = 0.0 if lane.at_work is None else lane.at_work.grace_s
            if grace_s:
                _end_within(grace_s, lane.task)
            else:
                lane.task.cancel()

    async def _run(self, lane: _Lane[Job]) -> None:
        try:
            while lane.waiting:
                async with self._places:
                    if not lane.waiting:  # dropped while it waited for a place
                        break
                    lane.at_work = lane.waiting.popleft()
                    self._waiting -= 1
                    self._waiting_bytes -= lane.at_work.size_bytes
                    await self._work(lane.at_work)
        finally:
            lane.task = lane.at_work = None
        if self.idle:
            self._rested()

    def _drop(self, lane: _Lane[Job]) -> None:
        self._waiting -= len(lane.waiting)
        self._waiting_bytes -= sum([job.size_bytes for job in lane.waiting])
        lane.waiting.clear()


def _end_within(grace_s: float, task: asyncio.Task[None]) -> None:
    ending = asyncio.get_running_loop().call_later(grace_s, task.cancel)
    task.add_done_callback(lambda _: ending.cancel())
