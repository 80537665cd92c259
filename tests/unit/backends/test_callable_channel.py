"""The channel between an agent and the reader of its answer."""

import asyncio
import threading

import pytest

from trunkline.backends.callable.channel import LIMIT, Channel
from trunkline.backends.callable.doorbell import Doorbell
from trunkline.model.events import Event, TextDelta
from trunkline.testing.answers import PinnedClock


def channel_of(clock: PinnedClock) -> Channel:
    return Channel(clock=clock, doorbell=Doorbell(asyncio.get_running_loop()))


def word(number: int) -> list[Event]:
    return [TextDelta(0, str(number))]


async def test_a_thread_wakes_the_reader_once_however_much_it_puts(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    wakes: list[object] = []
    wake = loop.call_soon_threadsafe

    def counted(callback: object, *args: object) -> asyncio.Handle:
        wakes.append(callback)
        return wake(callback, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    channel = channel_of(PinnedClock())
    reading = asyncio.create_task(channel.take())
    await asyncio.sleep(0)  # the reader waits
    thread = threading.Thread(target=lambda: [channel.put_from_thread(word, number) for number in range(100)])
    thread.start()
    thread.join()  # the loop is busy elsewhere meanwhile
    assert len(wakes) == 1
    assert await reading == [TextDelta(0, str(number)) for number in range(100)]


async def test_a_thread_waits_when_the_channel_is_full_and_goes_on_after_a_read() -> None:
    channel = channel_of(PinnedClock())
    put = [0]

    def produce() -> None:
        for number in range(3 * LIMIT):
            assert channel.put_from_thread(word, number)
            put[0] = number + 1

    thread = threading.Thread(target=produce)
    thread.start()
    read: list[Event] = []
    while len(read) < 3 * LIMIT:
        batch = await channel.take()
        assert len(batch) <= LIMIT
        assert put[0] <= len(read) + 2 * LIMIT + 1
        read += batch
    thread.join()
    assert read == [TextDelta(0, str(number)) for number in range(3 * LIMIT)]


async def test_closing_lets_a_waiting_thread_go_and_tells_it() -> None:
    channel = channel_of(PinnedClock())
    assert channel.put_from_thread(lambda text: [TextDelta(0, text)] * LIMIT, "x")
    told: list[bool] = []
    begun = threading.Event()

    def produce() -> None:
        begun.set()
        told.append(channel.put_from_thread(word, 1))

    thread = threading.Thread(target=produce)
    thread.start()
    begun.wait()
    channel.close()
    thread.join()
    assert told == [False]


async def test_the_end_comes_after_what_was_put_and_only_once() -> None:
    channel = channel_of(PinnedClock())
    channel.put(word, 1)
    channel.end(ValueError("first"))
    channel.end(KeyError("second"))
    assert await channel.take() == word(1)
    with pytest.raises(ValueError, match="first"):
        await channel.take()


async def test_a_producer_on_the_loop_is_asked_to_wait_when_full_or_late() -> None:
    clock = PinnedClock()
    channel = channel_of(clock)
    assert not any(channel.put(word, number) for number in range(LIMIT - 1))
    assert channel.put(word, LIMIT)
    waiting = asyncio.create_task(channel.drained())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert len(await channel.take()) == LIMIT
    await waiting
    assert not channel.put(word, 0)
    clock.advance(1.0)
    assert channel.put(word, 1)
    channel.close()
    await channel.drained()
    assert not channel.put(word, 2)


def test_a_thread_that_outlives_the_loop_is_told_to_stop() -> None:
    async def make() -> Channel:
        return channel_of(PinnedClock())

    channel = asyncio.run(make())
    assert not channel.put_from_thread(word, 1)
