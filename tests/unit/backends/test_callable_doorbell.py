"""The doorbell by which threads wake readers on the loop: how often the loop is woken, and that nobody who rings is missed."""

import asyncio
from collections.abc import Callable

import pytest

from trunkline.backends.callable.doorbell import PAUSE_S, Doorbell


class WatchedLoop(asyncio.SelectorEventLoop):
    """Runs nothing by itself: what it was asked to do is kept, and done when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.wakes: list[Callable[..., object]] = []
        self.pauses: list[Callable[..., object]] = []
        self.stops: list[BaseException] = []  # what is raised in the thread that asks

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object, **_: object) -> asyncio.Handle:
        if self.stops:
            raise self.stops.pop()
        self.wakes.append(callback)
        return asyncio.Handle(callback, args, self)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: object, **_: object
    ) -> asyncio.TimerHandle:
        assert delay == PAUSE_S
        self.pauses.append(callback)
        return asyncio.TimerHandle(delay, callback, args, self)


def heard(loop: WatchedLoop, bell: Doorbell, names: str) -> Callable[[list[Callable[..., object]]], str]:
    """Rings for each name. Gives what comes when the loop does what it was asked: the names that were called."""
    called: list[str] = []
    for name in names:
        assert bell.ring(lambda name=name: called.append(name))  # type: ignore[misc]

    def come(asked: list[Callable[..., object]]) -> str:
        asked.pop()()
        said = "".join(called)
        called.clear()
        return said

    return come


def test_who_rings_alone_is_heard_at_once_each_time() -> None:
    loop = WatchedLoop()
    bell = Doorbell(loop)
    for name in "abc":
        come = heard(loop, bell, name)
        assert len(loop.wakes) == 1
        assert come(loop.wakes) == name
    assert loop.pauses == []
    loop.close()


def test_the_loop_is_woken_once_for_all_who_ring_meanwhile() -> None:
    loop = WatchedLoop()
    come = heard(loop, Doorbell(loop), "abcde")
    assert len(loop.wakes) == 1
    assert come(loop.wakes) == "abcde"
    loop.close()


def test_where_several_rang_the_loop_comes_by_itself_after_a_pause_and_until_few_ring() -> None:
    loop = WatchedLoop()
    bell = Doorbell(loop)
    heard(loop, bell, "ab")(loop.wakes)
    assert heard(loop, bell, "cde")(loop.pauses) == "cde"
    assert heard(loop, bell, "f")(loop.pauses) == "f"
    assert (loop.wakes, loop.pauses) == ([], [])
    assert heard(loop, bell, "g")(loop.wakes) == "g"
    loop.close()


def test_a_pause_in_which_nobody_rings_is_the_last() -> None:
    loop = WatchedLoop()
    bell = Doorbell(loop)
    heard(loop, bell, "ab")(loop.wakes)
    assert heard(loop, bell, "")(loop.pauses) == ""
    assert (loop.wakes, loop.pauses) == ([], [])
    loop.close()


def test_who_rings_after_the_loops_end_is_told() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    bell = Doorbell(loop)
    assert not bell.ring(lambda: None)
    assert not bell.ring(lambda: None)


def test_a_thread_that_is_stopped_while_it_rings_silences_nobody() -> None:
    loop = WatchedLoop()
    bell = Doorbell(loop)
    loop.stops.append(SystemExit())
    with pytest.raises(SystemExit):
        bell.ring(lambda: None)
    assert heard(loop, bell, "a")(loop.wakes) == "a"
    loop.close()
