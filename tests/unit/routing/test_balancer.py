"""Slots and the queue before them: who is chosen, who waits, and that no slot is ever lost or given twice."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from trunkline.backends.scripted import ScriptedBackend
from trunkline.model.errors import (
    BackendError,
    BackendRateLimited,
    BackendRejected,
    BackendUnavailable,
    InternalError,
    RateLimited,
    UnsupportedParameter,
)
from trunkline.routing.balancer import Balancer, Candidate, Endpoint, Lease


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


CLOCK = Clock()


def endpoint(label: str = "b", *, capacity: int = 1, max_queue: int = 3, weight: float = 1.0) -> Endpoint:
    backend = ScriptedBackend.__new__(ScriptedBackend)  # never asked for anything
    return Endpoint(label, backend, clock=CLOCK, capacity=capacity, max_queue=max_queue, weight=weight)


def candidates(*endpoints: Endpoint, model: str = "m", loaded: bool | None = None) -> list[Candidate]:
    return [Candidate(one, model, loaded) for one in endpoints]


async def lease(balancer: Balancer, among: Sequence[Candidate], **more: object) -> Lease:
    return await balancer.lease(among, operation="chat", **more)  # type: ignore[arg-type]


async def waiting(balancer: Balancer, among: Sequence[Candidate], **more: object) -> asyncio.Task[Lease]:
    home = among[0].endpoint
    before = home.waiting
    task = asyncio.create_task(lease(balancer, among, **more))
    while home.waiting == before and not task.done():  # noqa: ASYNC110 - it has no event, and needs none
        await asyncio.sleep(0)
    return task


async def test_tenants_are_served_in_turn_whoever_asks_most() -> None:
    balancer, among = Balancer(), candidates(endpoint(max_queue=100))
    held = await lease(balancer, among, tenant="ann")
    waiters = {f"ann{number}": await waiting(balancer, among, tenant="ann") for number in range(4)}
    waiters |= {f"bob{number}": await waiting(balancer, among, tenant="bob") for number in range(2)}
    waiters["cid0"] = await waiting(balancer, among, tenant="cid")
    served = []
    while waiters:
        held.release()
        while not any(waiter.done() for waiter in waiters.values()):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        (name,) = [name for name, waiter in waiters.items() if waiter.done()]
        served.append(name)
        held = await waiters.pop(name)
    held.release()
    assert served == ["ann0", "bob0", "cid0", "ann1", "bob1", "ann2", "ann3"]


async def test_a_full_queue_is_shared_among_tenants() -> None:
    balancer, among = Balancer(), candidates(endpoint(max_queue=4))
    held = await lease(balancer, among, tenant="ann")
    anns = [await waiting(balancer, among, tenant="ann") for _ in range(4)]
    with pytest.raises(RateLimited):
        await lease(balancer, among, tenant="ann")
    bobs = [asyncio.create_task(lease(balancer, among, tenant="bob")) for _ in range(2)]
    for last in (3, 2):
        with pytest.raises(RateLimited):
            await anns[last]
    for tenant in ("ann", "bob"):
        with pytest.raises(RateLimited):
            await lease(balancer, among, tenant=tenant)
    for waiter in (anns[0], bobs[0], anns[1], bobs[1]):
        held.release()
        held = await waiter
    held.release()
    assert (among[0].endpoint.active, among[0].endpoint.waiting, among[0].endpoint.queued) == (0, 0, 0)


async def test_the_longest_waiter_is_first() -> None:
    balancer, among = Balancer(), candidates(endpoint())
    held = await lease(balancer, among)
    waiters = [await waiting(balancer, among) for _ in range(3)]
    for position in range(3):
        held.release()
        held = await waiters[position]
        assert [waiter.done() for waiter in waiters] == [number <= position for number in range(3)]
    held.release()
    assert (among[0].endpoint.active, among[0].endpoint.waiting) == (0, 0)


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    balancer, among = Balancer(), candidates(endpoint("busy one", max_queue=0))
    await lease(balancer, among)
    with pytest.raises(RateLimited, match="busy one") as refused:
        await lease(balancer, among)
    assert refused.value.retry_after_s
    assert among[0].endpoint.active == 1


async def test_nobody_overtakes_a_waiter() -> None:
    balancer, among = Balancer(), candidates(endpoint())
    held = await lease(balancer, among)
    first = await waiting(balancer, among)
    held.release()  # goes to the waiter, who has not run yet
    newcomer = await waiting(balancer, among)
    held = await first
    assert not newcomer.done()
    held.release()
    await newcomer
    assert among[0].endpoint.active == 1


async def test_a_slot_given_to_a_waiter_that_is_cancelled_in_the_same_moment_goes_on() -> None:
    balancer, among = Balancer(), candidates(endpoint())
    held = await lease(balancer, among)
    first, second = await waiting(balancer, among), await waiting(balancer, among)
    held.release()
    first.cancel()
    (await second).release()
    assert (among[0].endpoint.active, among[0].endpoint.waiting) == (0, 0)


async def test_background_runs_and_those_who_wait_get_slots_in_turn() -> None:
    balancer, among = Balancer(), candidates(endpoint(max_queue=2))
    held = await lease(balancer, among)
    runs = [await waiting(balancer, among, patient=True) for _ in range(5)]  # more than the queue holds
    calls = [await waiting(balancer, among) for _ in range(2)]
    order = []
    for _ in range(7):
        held.release()
        done = await asyncio.wait([*runs, *calls], return_when=asyncio.FIRST_COMPLETED)
        (task,) = done[0]
        order.append("run" if task in runs else "call")
        runs, calls = [one for one in runs if one is not task], [one for one in calls if one is not task]
        held = task.result()
    assert order == ["call", "run", "call", "run", "run", "run", "run"]


async def test_each_model_has_slots_of_its_own() -> None:
    balancer, one = Balancer(), endpoint()
    await lease(balancer, candidates(one, model="a"))
    await lease(balancer, candidates(one, model="b"))
    assert one.active == 2


async def test_the_endpoint_that_has_the_model_loaded_is_chosen_until_it_is_full() -> None:
    balancer, cold, warm = Balancer(), endpoint("cold"), endpoint("warm")
    among = [Candidate(cold, "m", False), Candidate(warm, "m", True)]
    chosen = [await lease(balancer, among) for _ in range(2)]
    assert [(one.endpoint.label, one.why) for one in chosen] == [("warm", "loaded"), ("cold", "free")]
    third = await waiting(balancer, among)
    chosen[1].release()  # whoever is free first, loaded or not
    assert (await third).endpoint is cold


async def test_the_least_busy_for_its_weight_is_chosen_and_ties_go_round() -> None:
    balancer, small, large = Balancer(), endpoint("small", capacity=99), endpoint("large", capacity=99, weight=3.0)
    among = candidates(small, large)
    held = [await lease(balancer, among) for _ in range(8)]
    assert [sum(one.endpoint is which for one in held) for which in (small, large)] == [2, 6]
    for one in held:
        one.release()
    assert await _one_by_one(balancer, among, times=8) == {"small": 2, "large": 6}


async def _one_by_one(balancer: Balancer, among: Sequence[Candidate], *, times: int) -> Counter[str]:
    """Calls one after another, never two at once, and who got them."""
    got: Counter[str] = Counter()
    for _ in range(times):
        held = await lease(balancer, among)
        got[held.endpoint.label] += 1
        held.release()
    return got


async def test_one_that_was_away_gets_its_share_again_and_not_what_it_missed() -> None:
    balancer, away, stayed = Balancer(), endpoint("away"), endpoint("stayed")
    assert await _one_by_one(balancer, candidates(stayed), times=100) == {"stayed": 100}
    got = await _one_by_one(balancer, candidates(away, stayed), times=10)
    assert got["stayed"] >= 4


async def test_what_stays_somewhere_comes_back_there_while_there_is_room() -> None:
    balancer, one, two = Balancer(), endpoint("one"), endpoint("two")
    among = candidates(one, two)
    balancer.remember("chat 7", two)
    held = await lease(balancer, among, affinity="chat 7")
    assert (held.endpoint, held.why) == (two, "sticky")
    assert (await lease(balancer, among, affinity="chat 7")).endpoint is one


async def test_a_failing_endpoint_gets_nothing_until_its_trial_and_one_call_makes_that() -> None:
    balancer, bad, good = Balancer(), endpoint("bad", capacity=9), endpoint("good", capacity=9)
    among = candidates(bad, good)
    first = await lease(balancer, among)
    assert first.endpoint is bad
    first.failed(BackendUnavailable("down"))
    first.release()
    assert {(await lease(balancer, among)).endpoint.label for _ in range(4)} == {"good"}
    CLOCK.at_s += 1.0
    trial = await lease(balancer, among)
    assert (trial.endpoint, trial.why) == (bad, "trial")
    assert (await lease(balancer, among)).endpoint is good  # one trial at a time
    trial.succeeded()
    trial.release()
    assert (await lease(balancer, among)).endpoint is bad


async def test_a_trial_that_fails_doubles_the_time_and_one_that_is_abandoned_frees_the_place() -> None:
    balancer, bad = Balancer(), endpoint("bad", capacity=9)
    other = endpoint("other", capacity=9)
    among = candidates(bad, other)
    held = await lease(balancer, among)
    held.failed(BackendUnavailable("down"))
    held.release()
    CLOCK.at_s += 1.0
    trial = await lease(balancer, among)
    trial.release()  # its client left
    trial = await lease(balancer, among)
    assert trial.why == "trial"
    trial.failed(BackendUnavailable("still down"))
    trial.release()
    CLOCK.at_s += 1.9
    assert (await lease(balancer, among)).endpoint is other
    CLOCK.at_s += 0.2
    assert (await lease(balancer, among)).endpoint is bad


async def test_other_operations_of_a_failing_endpoint_go_on() -> None:
    balancer, only = Balancer(), endpoint(capacity=9)
    held = await lease(balancer, candidates(only))
    held.failed(BackendUnavailable("overloaded"))
    with pytest.raises(BackendUnavailable, match="failed a moment ago") as refused:
        await lease(balancer, candidates(only))
    assert refused.value.retry_after_s == pytest.approx(1.0)
    await balancer.lease(candidates(only), operation="embeddings")
    await lease(balancer, candidates(only), insist=True)  # better than nobody


async def test_a_clients_mistake_is_held_against_nobody() -> None:
    balancer, only = Balancer(), endpoint(capacity=99)
    for _ in range(20):
        held = await lease(balancer, candidates(only))
        held.failed(BackendRejected("no such tool", status=404))
        held.release()
    assert only.breaker.states() == {}


async def test_whatever_happens_no_endpoint_gets_more_than_it_may_and_every_slot_comes_back() -> None:
    chance = random.Random(7)
    balancer = Balancer()
    endpoints = [endpoint(name, capacity=capacity, max_queue=50) for name, capacity in (("a", 1), ("b", 2), ("c", 3))]

    async def client() -> None:
        among = candidates(*chance.sample(endpoints, chance.randint(1, 3)), model=chance.choice("mn"))
        held = await lease(balancer, among, patient=chance.random() < 0.3)
        try:
            assert held.endpoint.in_flight(held.model) <= held.endpoint.capacity
            for _ in range(chance.randint(0, 4)):
                await asyncio.sleep(0)
        finally:
            held.release()

    async def round_of_clients() -> None:
        tasks = [asyncio.create_task(client()) for _ in range(60)]
        for task in chance.sample(tasks, 15):
            await asyncio.sleep(0)
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(one is None or isinstance(one, asyncio.CancelledError) for one in ended), ended

    for _ in range(30):
        await round_of_clients()
    assert [(one.active, one.queued, one.waiting) for one in endpoints] == [(0, 0, 0)] * 3


async def test_whoever_waits_is_not_sent_to_an_endpoint_that_has_failed_meanwhile() -> None:
    balancer, bad, good = Balancer(), endpoint("bad"), endpoint("good")
    among = candidates(bad, good)
    dying, living = await lease(balancer, among), await lease(balancer, among)
    waiter = await waiting(balancer, among, insist=True)
    dying.failed(BackendUnavailable("down"))
    dying.release()
    await asyncio.sleep(0)
    assert not waiter.done()
    living.release()
    assert (await waiter).endpoint is good


async def test_whoever_waits_gets_every_slot_of_an_endpoint_that_is_back() -> None:
    balancer, bad, good = Balancer(), endpoint("bad", capacity=3), endpoint("good", max_queue=9)
    among = candidates(bad, good)
    held = [await lease(balancer, among) for _ in range(4)]
    waiters = [await waiting(balancer, among) for _ in range(5)]
    for one in held:
        if one.endpoint is bad:
            one.failed(BackendUnavailable("down"))
            one.release()
    assert (bad.active, good.active, sum(waiter.done() for waiter in waiters)) == (0, 1, 0)
    CLOCK.at_s += 1.0
    newcomer = asyncio.create_task(lease(balancer, among))  # comes after those who wait
    trial = await waiters[0]
    assert (trial.endpoint, trial.why, bad.active) == (bad, "trial", 1)
    trial.succeeded()
    trial.release()
    await asyncio.sleep(0)
    assert [waiter.done() for waiter in waiters] == [True] * 4 + [False]
    assert not newcomer.done()


async def test_whoever_waits_for_an_endpoint_that_fails_is_told_if_there_is_a_next_step() -> None:
    balancer, among = Balancer(), candidates(endpoint())
    held = await lease(balancer, among)
    waiters = [await waiting(balancer, among) for _ in range(2)]
    held.failed(BackendUnavailable("down"))
    held.release()
    for waiter in waiters:
        with pytest.raises(BackendUnavailable, match="failed a moment ago"):
            await waiter
    assert (among[0].endpoint.active, among[0].endpoint.waiting) == (0, 0)


async def test_a_trial_that_fails_in_another_way_is_over_too() -> None:
    balancer, bad, good = Balancer(), endpoint("bad", capacity=9), endpoint("good", capacity=9)
    among = candidates(bad, good)
    held = await lease(balancer, among)
    held.failed(BackendRateLimited("slow down"))
    held.release()
    CLOCK.at_s += 1.0
    trial = await lease(balancer, among)
    trial.failed(BackendError("oops"))  # once is not enough to be distrusted for it
    trial.release()
    assert (await lease(balancer, among)).why == "trial"


async def test_failures_of_what_was_under_way_do_not_prolong_the_time_out() -> None:
    balancer, among = Balancer(), candidates(endpoint(capacity=50))
    for one in [await lease(balancer, among) for _ in range(50)]:
        one.failed(BackendUnavailable("gone"))
        one.release()
    assert among[0].endpoint.breaker.blocked_s("chat") == pytest.approx(1.0)


async def test_a_success_of_what_was_under_way_does_not_lift_a_limit_stated_since() -> None:
    balancer, among = Balancer(), candidates(endpoint(capacity=9))
    earlier, limited = await lease(balancer, among), await lease(balancer, among)
    limited.failed(BackendRateLimited("slow down", retry_after_s=60.0))
    earlier.succeeded()
    assert among[0].endpoint.breaker.blocked_s("chat") == pytest.approx(60.0)
    later = await lease(balancer, among, insist=True)
    later.succeeded()
    assert among[0].endpoint.breaker.blocked_s("chat") == 0.0


async def test_an_error_that_is_not_the_endpoints_says_nothing_of_it() -> None:
    balancer, among = Balancer(), candidates(endpoint(capacity=9))
    held = await lease(balancer, among)
    held.failed(BackendUnavailable("down"))
    held.release()
    CLOCK.at_s += 1.0
    for error in (InternalError(request_id="req_1"), UnsupportedParameter("no")):
        trial = await lease(balancer, among)
        assert trial.why == "trial"
        trial.failed(error)
        trial.release()
    assert list(among[0].endpoint.breaker.states()) == ["chat/unavailable"]


async def test_one_failure_counts_once_however_often_it_is_told() -> None:
    balancer, among = Balancer(), candidates(endpoint(capacity=9))
    for _ in range(2):
        held = await lease(balancer, among)
        for _ in range(3):
            held.failed(BackendError("oops"))
        held.release()
    assert among[0].endpoint.breaker.states() == {}
