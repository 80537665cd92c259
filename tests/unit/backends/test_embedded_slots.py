"""Slots are given in the order they were asked for, and what is cancelled takes none."""

import asyncio

from trunkline.backends.embedded.slots import SlotQueue


async def waiting(slots: SlotQueue, count: int, order: list[str], name: str) -> "asyncio.Task[None]":
    async def take() -> None:
        await slots.acquire(count)
        order.append(name)

    task = asyncio.create_task(take())
    await asyncio.sleep(0)
    return task


async def test_a_call_for_many_slots_is_not_overtaken_by_calls_for_one() -> None:
    slots, order = SlotQueue(4), list[str]()
    await slots.acquire(3)
    many = await waiting(slots, 4, order, "many")
    one = await waiting(slots, 1, order, "one")
    assert order == []
    slots.release(3)
    await many
    assert order == ["many"]
    slots.release(4)
    await one
    assert order == ["many", "one"]
    assert slots.free == 3


async def test_the_next_in_line_goes_on_when_the_head_leaves() -> None:
    slots, order = SlotQueue(2), list[str]()
    await slots.acquire(1)
    head = await waiting(slots, 2, order, "head")
    next_in_line = await waiting(slots, 1, order, "next")
    head.cancel()
    await next_in_line
    assert order == ["next"]
    assert head.cancelled()
    assert slots.free == 0


async def test_slots_granted_to_a_call_that_is_cancelled_at_that_moment_come_back() -> None:
    slots, order = SlotQueue(1), list[str]()
    await slots.acquire(1)
    task = await waiting(slots, 1, order, "late")
    slots.release(1)
    task.cancel()
    await asyncio.wait([task])
    assert order == []
    assert slots.free == 1


async def test_heads_cancelled_before_a_release_do_not_block_the_queue() -> None:
    slots, order = SlotQueue(1), list[str]()
    await slots.acquire(1)
    gone = await waiting(slots, 1, order, "gone")
    stays = await waiting(slots, 1, order, "stays")
    gone.cancel()
    slots.release(1)  # before the cancelled task has run
    await stays
    assert order == ["stays"]
    assert slots.free == 0
