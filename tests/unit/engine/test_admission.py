"""Slots and the queue before them: first in, first out, and no slot is ever lost."""

import asyncio
import random

import pytest

from trunkline.engine.admission import Admission
from trunkline.model.errors import RateLimited


async def waiting(admission: Admission) -> asyncio.Task[None]:
    before = admission.queued
    task = asyncio.create_task(admission.acquire())
    while admission.queued == before and not task.done():  # noqa: ASYNC110 - it has no event, and needs none
        await asyncio.sleep(0)
    return task


async def test_the_longest_waiter_is_first() -> None:
    admission = Admission("b", max_concurrency=1, max_queue=3)
    await admission.acquire()
    waiters = [await waiting(admission) for _ in range(3)]
    for position in range(3):
        admission.release()
        await waiters[position]
        assert [waiter.done() for waiter in waiters] == [number <= position for number in range(3)]
    admission.release()
    assert (admission.active, admission.queued) == (0, 0)


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    admission = Admission("busy one", max_concurrency=1, max_queue=0)
    await admission.acquire()
    with pytest.raises(RateLimited, match="busy one") as refused:
        await admission.acquire()
    assert refused.value.retry_after_s
    assert admission.active == 1


async def test_nobody_overtakes_a_waiter() -> None:
    admission = Admission("b", max_concurrency=1, max_queue=1)
    await admission.acquire()
    first = await waiting(admission)
    admission.release()  # goes to the waiter, who has not run yet
    newcomer = await waiting(admission)
    await first
    assert not newcomer.done()
    admission.release()
    await newcomer
    assert admission.active == 1


async def test_a_slot_given_to_a_waiter_that_is_cancelled_in_the_same_moment_goes_on() -> None:
    admission = Admission("b", max_concurrency=1, max_queue=2)
    await admission.acquire()
    first, second = await waiting(admission), await waiting(admission)
    admission.release()
    first.cancel()
    await second
    assert (admission.active, admission.queued) == (1, 0)


async def test_whatever_order_they_come_leave_and_give_up_in_every_slot_comes_back() -> None:
    chance = random.Random(7)
    admission = Admission("b", max_concurrency=3, max_queue=50)

    async def turn() -> None:
        try:
            await admission.acquire()
        except RateLimited:
            return
        try:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            assert admission.active <= 3
        finally:
            admission.release()

    tasks = [asyncio.create_task(turn()) for _ in range(200)]
    while not all(task.done() for task in tasks):
        task = chance.choice(tasks)
        if chance.random() < 0.3:
            task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (admission.active, admission.queued) == (0, 0)
