"""The event log of runs as readers get it: frames, made once for all of them.

What has been committed is framed when it is published, and every reader writes the same bytes. Of a run that is alive the last
WINDOW_BYTES stay at hand (`RunLog`); who is further behind, or comes after the end, reads pages of the store (`LogPages`). A page
that can no longer grow is kept, up to a number of bytes, so that a thousand readers of one log cost one query for each page.
Events are published after the store has them: a reader never sees what a crash could take back.
"""

import asyncio
from array import array
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence

from trunkline.ports.stores import LoggedEvent, RunStore

WINDOW_BYTES = 262_144
PAGE_EVENTS = 512
MAX_KEPT_BYTES = 16_000_000
PAGE_COST_BYTES = 500

FrameOf = Callable[[tuple[str, bytes]], bytes]
_PageKey = tuple[str, str, int]


class Frames:
    """Consecutive events, from sequence number `first` on, as the bytes that readers get."""

    __slots__ = ("_ends", "data", "first")

    def __init__(self, events: Sequence[LoggedEvent], frame: FrameOf) -> None:
        """Every event carries its number as the SSE id, so that a client that reconnects resumes by itself."""
        pieces = [b"id: %d\n%b" % (one.sequence_number, frame((one.type, one.data))) for one in events]
        self.first = events[0].sequence_number
        self.data = b"".join(pieces)
        self._ends = array("Q")
        end = 0
        for piece in pieces:
            end += len(piece)
            self._ends.append(end)

    @property
    def last(self) -> int:
        return self.first + len(self._ends) - 1

    def __len__(self) -> int:
        return len(self._ends)

    def after(self, number: int) -> bytes:
        """The frames of the events with a greater sequence number."""
        passed = number + 1 - self.first
        return self.data if passed <= 0 else self.data[self._ends[passed - 1] :]


class RunLog:
    """The log of one run while it is alive: its last events, and the news of more."""

    def __init__(self, *, first: int = 0) -> None:
        self._window: deque[Frames] = deque()
        self._size_bytes = 0
        self._first = first
        self._more = asyncio.Event()
        self.ended = False

    @property
    def first(self) -> int:
        """The earliest sequence number at hand."""
        return self._window[0].first if self._window else self._first

    def publish(self, frames: Frames | None = None, *, ended: bool = False) -> None:
        """Shows committed events to every reader."""
        if frames is not None:
            self._window.append(frames)
            self._size_bytes += len(frames.data)
            self._first = frames.last + 1
            while self._size_bytes > WINDOW_BYTES and len(self._window) > 1:
                self._size_bytes -= len(self._window.popleft().data)
        self.ended = self.ended or ended
        self._more.set()
        self._more = asyncio.Event()

    async def more(self) -> None:
        """Returns once something has been published."""
        await self._more.wait()

    def after(self, number: int) -> tuple[bytes, int]:
        """What is at hand after that sequence number, and the last number in it; nothing, if there is nothing yet."""
        new: list[Frames] = []
        for frames in reversed(self._window):
            if frames.last <= number:
                break
            new.append(frames)
        if not new:
            return b"", number
        if len(new) == 1:
            return new[0].after(number), new[0].last
        return b"".join([frames.after(number) for frames in reversed(new)]), new[0].last


class LogPages:
    """Logs in the store, page by page. Pages begin at multiples of PAGE_EVENTS, wherever their readers do."""

    def __init__(self, store: RunStore, frame: FrameOf) -> None:
        self._store = store
        self._frame = frame
        self._kept: OrderedDict[_PageKey, Frames] = OrderedDict()
        self._size_bytes = 0

    async def read(self, tenant: str, run_id: str, *, after: int, growing: bool) -> Frames | None:
        """The page that has what follows that sequence number; None, if nothing does. `growing`: the run is alive."""
        number = (after + 1) // PAGE_EVENTS
        key = (tenant, run_id, number)
        page = self._kept.get(key)
        if page is None:
            events = await self._store.read_events(tenant, run_id, after=number * PAGE_EVENTS - 1, limit=PAGE_EVENTS)
            if not events:
                return None
            page = self._kept.get(key)  # of all who waited for this read, the first has framed it
            if page is None:
                page = Frames(events, self._frame)
                if not growing or len(page) == PAGE_EVENTS:
                    self._keep(key, page)
        else:
            self._kept.move_to_end(key)
        return page if page.last > after else None

    def forget(self, tenant: str, run_id: str) -> None:
        """The run is gone; nobody asks for it again, so this only makes room."""
        for key in [key for key in self._kept if key[:2] == (tenant, run_id)]:
            self._size_bytes -= _size_bytes(self._kept.pop(key))

    def _keep(self, key: _PageKey, page: Frames) -> None:
        size_bytes = _size_bytes(page)
        if size_bytes > MAX_KEPT_BYTES // 8:
            return
        self._kept[key] = page
        self._size_bytes += size_bytes
        while self._size_bytes > MAX_KEPT_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._size_bytes -= _size_bytes(dropped)


async def follow(pages: LogPages, log: RunLog | None, tenant: str, run_id: str, *, after: int) -> AsyncIterator[bytes]:
    """The frames after that sequence number, to the last: from the store what is past, then as they come. `log` is the run's,
    if it is alive. A number that is yet to come is waited for."""
    while True:
        if log is None or after + 1 < log.first:
            page = await pages.read(tenant, run_id, after=after, growing=log is not None and not log.ended)
            if page is not None:
                yield page.after(after)
                after = page.last
            elif log is None or after + 1 < log.first:
                return  # at the end, or the run is gone
            continue
        data, after = log.after(after)
        if data:
            yield data
        elif log.ended:
            return
        else:
            await log.more()


def _size_bytes(page: Frames) -> int:
    return len(page.data) + 8 * len(page) + PAGE_COST_BYTES
