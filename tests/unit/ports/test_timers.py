"""Waits of one length: each is over once and in its order, and who stops it hears nothing."""

import asyncio

from trunkline.ports.timers import Timers


class Wait:
    def __init__(self, name: str, over: list[str]) -> None:
        self.name = name
        self.ended = asyncio.Event()
        self._over = over

    def due(self) -> None:
        self._over.append(self.name)
        self.ended.set()


async def test_waits_end_in_the_order_in_which_they_began() -> None:
    over: list[str] = []
    timers = Timers(0.002)
    waits = [Wait(name, over) for name in "abc"]
    for wait in waits:
        timers.start(wait)
    for wait in waits:
        await wait.ended.wait()
    assert over == ["a", "b", "c"]


async def test_one_that_is_stopped_ends_never_and_holds_up_nobody() -> None:
    over: list[str] = []
    timers = Timers(0.002)
    first, second, third = (Wait(name, over) for name in "abc")
    for wait in (first, second, third):
        timers.start(wait)
    timers.stop(first)
    timers.stop(third)
    timers.stop(third)
    await second.ended.wait()
    late = Wait("d", over)
    timers.start(late)
    await late.ended.wait()
    assert over == ["b", "d"]


async def test_one_that_is_started_again_begins_again() -> None:
    over: list[str] = []
    timers = Timers(0.002)
    first, second = Wait("a", over), Wait("b", over)
    timers.start(first)
    timers.start(second)
    timers.start(first)
    await first.ended.wait()
    assert over == ["b", "a"]


async def test_a_wait_may_end_others_and_begin_new_ones() -> None:
    over: list[str] = []
    timers = Timers(0.002)
    later, stopped = Wait("later", over), Wait("stopped", over)

    class Busy(Wait):
        def due(self) -> None:
            timers.stop(stopped)
            timers.start(later)
            super().due()

    timers.start(Busy("busy", over))
    timers.start(stopped)
    await later.ended.wait()
    assert over == ["busy", "later"]


async def test_one_that_fails_takes_no_other_with_it() -> None:
    over: list[str] = []
    timers = Timers(0.002)
    reported = asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: reported.set())

    class Broken(Wait):
        def due(self) -> None:
            raise ValueError(self.name)

    after = Wait("after", over)
    timers.start(Broken("broken", over))
    timers.start(after)
    await after.ended.wait()
    assert reported.is_set()
