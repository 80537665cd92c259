"""The event log of runs as readers get it: frames, made once for all of them.

A log has several kinds of readers: what is an event of a response to one is an event of a run to another. Each kind brings its own
way to write an event (`FrameOf`), and what it has written is kept for all readers of that kind. Of a run that is alive the last
WINDOW_BYTES stay at hand (`RunLog`); who is further behind, or comes after the end, reads pages of the store (`LogPages`). A page
that can no longer grow is kept, up to a number of bytes, so that a thousand readers of one log cost one query for each page.
Events are published after the store has them: a reader never sees what a crash could take back.
"""

import asyncio
from array import array
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from trunkline.ports.stores import LoggedEvent, RunStore

WINDOW_BYTES = 196_608
PAGE_EVENTS = 512
MAX_KEPT_BYTES = 16_000_000
PAGE_COST_BYTES = 500
EVENT_COST_BYTES = 150
"""What an event at hand costs beside its data."""

FrameOf = Callable[[str, LoggedEvent], bytes]
"""An event of the run of that id, as one kind of reader gets it; empty where that kind is told nothing."""
_PageKey = tuple[str, str, int]


class Frames:
    """Consecutive events of a run, from sequence number `first` on."""

    __slots__ = ("_framed", "_run_id", "events", "first", "size_bytes")

    def __init__(self, run_id: str, events: Sequence[LoggedEvent]) -> None:
        self._run_id = run_id
        self._framed: dict[FrameOf, tuple[bytes, array[int]]] = {}
        self.events = events
        self.first = events[0].sequence_number
        self.size_bytes = sum([len(one.data) for one in events]) + EVENT_COST_BYTES * len(events)

    @property
    def last(self) -> int:
        return self.first + len(self.events) - 1

    def __len__(self) -> int:
        return len(self.events)

    def after(self, number: int, frame: FrameOf) -> bytes:
        """The frames of the events with a greater sequence number."""
        framed = self._framed.get(frame)
        if framed is None:
            framed = self._framed[frame] = self._frame(frame)
        data, ends = framed
        passed = number + 1 - self.first
        return data if passed <= 0 else data[ends[passed - 1] :]

    def _frame(self, frame: FrameOf) -> tuple[bytes, "array[int]"]:
        pieces = [frame(self._run_id, one) for one in self.events]
        ends = array("Q")
        end = 0
        for piece in pieces:
            end += len(piece)
            ends.append(end)
        return b"".join(pieces), ends


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

    @property
    def newest(self) -> Iterator[LoggedEvent]:
        """The events at hand, the last first."""
        return (event for frames in reversed(self._window) for event in reversed(frames.events))

    def publish(self, frames: Frames | None = None, *, ended: bool = False) -> None:
        """Shows committed events to every reader."""
        if frames is not None:
            self._window.append(frames)
            self._size_bytes += frames.size_bytes
            self._first = frames.last + 1
            while self._size_bytes > WINDOW_BYTES and len(self._window) > 1:
                self._size_bytes -= self._window.popleft().size_bytes
        self.ended = self.ended or ended
        self._more.set()
        self._more = asyncio.Event()

    async def more(self) -> None:
        """Returns once something has been published."""
        await self._more.wait()

    def after(self, number: int, frame: FrameOf) -> tuple[bytes, int]:
        """What is at hand after that sequence number, and the last number in it; that number, if there is nothing yet."""
        new: list[Frames] = []
        for frames in reversed(self._window):
            if frames.last <= number:
                break
            new.append(frames)
        if not new:
            return b"", number
        if len(new) == 1:
            return new[0].after(number, frame), new[0].last
        return b"".join([frames.after(number, frame) for frames in reversed(new)]), new[0].last


class LogPages:
    """Logs in the store, page by page. Pages begin at multiples of PAGE_EVENTS, wherever their readers do."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
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
                page = Frames(run_id, events)
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


async def follow(
    pages: LogPages, log: RunLog | None, tenant: str, run_id: str, *, after: int, frame: FrameOf
) -> AsyncIterator[bytes]:
    """The frames after that sequence number, to the last: from the store what is past, then as they come. `log` is the run's,
    if it is alive. A number that is yet to come is waited for."""
    while True:
        if log is None or after + 1 < log.first:
            page = await pages.read(tenant, run_id, after=after, growing=log is not None and not log.ended)
            if page is not None:
                data, after = page.after(after, frame), page.last
                if data:
                    yield data
            elif log is None or after + 1 < log.first:
                return  # at the end, or the run is gone
            continue
        before = after
        data, after = log.after(after, frame)
        if data:
            yield data
        elif after > before:
            continue  # there was more, but nothing for this kind of reader
        elif log.ended:
            return
        else:
            await log.more()


def _size_bytes(page: Frames) -> int:
    return 2 * page.size_bytes + PAGE_COST_BYTES  # as events, and about the same again as frames
