"""Which endpoint gets a call, and when: slots for each endpoint and model, one bounded queue before them.

    trusted (breaker) → has room → had the conversation before → has the model loaded → least in flight for its weight

A call that finds no room waits, the tenants in turn (`fair_queue`), and takes the first slot that any of its endpoints frees; not
one of an endpoint that has failed meanwhile, while it could go elsewhere. A full queue is an honest 429 with Retry-After.
Choosing and taking are one step without a wait between them, so no endpoint ever gets more than it may have. Background runs wait
in a queue of their own, whose length is bounded where they are accepted; where both wait, slots go to them in turn, so a batch of a
thousand runs neither fills the queue of those who wait for an answer nor starves behind them.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Sequence

import msgspec

from trunkline.model.errors import BackendError, BackendUnavailable, RateLimited, TrunklineError, TurnFailure
from trunkline.ports.backend import Backend, Relay
from trunkline.ports.operations import Operations
from trunkline.ports.runtime import Clock
from trunkline.ports.timers import Timers
from trunkline.routing.breaker import Breaker, failure_class
from trunkline.routing.fair_queue import FairQueue

ONLY = "only one"
"""Why an endpoint was chosen where there was no choice."""
RETRY_AFTER_S = 1.0
REMEMBERED = 10_000


class Endpoint:
    """One place that answers: a backend, or one of the servers behind it, with its slots.

    Attributes:
        label: `backend`, or `backend@host:port` where the backend has several.
        capacity: turns it works on at once, for each model.
        weight: its share among equals.
        timeout_s: seconds one turn may take.
        deadlines: of the turns it works on.
        grace_s: seconds a turn may go on without its client.
        retries: how often a call that failed before any content is sent to it again.
        restarts: whether a background run of its that was lost is run again.
        sessions: whether sessions that clients name are kept for it.
    """

    def __init__(
        self,
        label: str,
        backend: Backend,
        *,
        clock: Clock,
        backend_name: str | None = None,
        capacity: int = 64,
        max_queue: int = 256,
        weight: float = 1.0,
        timeout_s: float = 600.0,
        grace_s: float = 0.0,
        retries: int = 0,
        restarts: bool = False,
        sessions: bool = False,
    ) -> None:
        self.label = label
        self.backend = backend
        self.backend_name = backend_name or label
        # What a backend does beside answering is asked once: isinstance with a protocol costs as much as reading a request.
        self.relay = backend if isinstance(backend, Relay) else None
        self.performer = backend if isinstance(backend, Operations) else None
        self.capacity = capacity
        self.max_queue = max_queue
        self.weight = weight
        self.timeout_s = timeout_s
        self.deadlines = Timers(timeout_s)
        self.grace_s = grace_s
        self.retries = retries
        self.restarts = restarts
        self.sessions = sessions
        self.breaker = Breaker(clock)
        self.active = 0
        self.queued = 0  # calls that wait, with this as their first choice; background runs not counted
        self.waiting = 0  # the same with them
        self.turn = 0.0  # how much of its share it has had, in calls for its weight
        self._in_flight: dict[str, int] = {}

    def in_flight(self, model: str) -> int:
        return self._in_flight.get(model, 0)

    def take(self, model: str) -> None:
        self._in_flight[model] = self._in_flight.get(model, 0) + 1
        self.active += 1

    def give_back(self, model: str) -> None:
        left = self._in_flight[model] - 1
        if left:
            self._in_flight[model] = left
        else:
            del self._in_flight[model]
        self.active -= 1


class Candidate(msgspec.Struct, frozen=True):
    """An endpoint that may answer, its own name for the model, and whether it has the model in memory (None: it does not say)."""

    endpoint: Endpoint
    model: str
    loaded: bool | None = None


class Lease:
    """A slot of an endpoint. Say how it went, then release it, both whatever happens."""

    __slots__ = (
        "_balancer",
        "_failed",
        "_openings",
        "_operation",
        "_released",
        "_told",
        "_trial",
        "endpoint",
        "model",
        "why",
    )

    def __init__(self, balancer: "Balancer", candidate: Candidate, operation: str, *, why: str) -> None:
        self._balancer = balancer
        self._operation = operation
        self._openings = candidate.endpoint.breaker.openings
        self._trial = candidate.endpoint.breaker.begin(operation)
        self._told = False
        self._failed = False
        self._released = False
        self.endpoint = candidate.endpoint
        self.model = candidate.model
        self.why = "trial" if self._trial else why

    def succeeded(self) -> None:
        if not self._told:
            self._told = True
            self.endpoint.breaker.succeeded(self._operation, openings=self._openings)

    def failed(self, error: TrunklineError) -> None:
        """Counts once, also after `succeeded`: an answer that breaks off in the middle is a failure too.

        That a client's mistake was refused speaks for the endpoint; an error that is not the endpoint's says nothing of it.
        """
        kind = failure_class(error)
        if kind is None:
            if isinstance(error, BackendError | TurnFailure):
                self.succeeded()
        elif not self._failed:
            trial = self._trial and not self._told
            self._told = self._failed = True
            self.endpoint.breaker.failed(self._operation, kind, trial=trial, retry_after_s=error.retry_after_s)

    def release(self) -> None:
        if self._released:
            return
        self._released = True
        if self._trial and not self._told:
            self.endpoint.breaker.abandoned(self._operation)
        self._balancer.returned(self)


class _Waiter:
    """A call in the queue. `lease` is done, with its slot, when its turn has come."""

    __slots__ = ("candidates", "insist", "lease", "operation", "tenant")

    def __init__(self, candidates: Sequence[Candidate], operation: str, *, tenant: str, insist: bool) -> None:
        self.candidates = candidates
        self.tenant = tenant
        self.operation = operation
        self.insist = insist
        self.lease: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()

    def takes(self, slot: Candidate) -> bool:
        """Whether it may go there, and has no better place to wait for."""
        if self.lease.done() or not any(
            one.endpoint is slot.endpoint and one.model == slot.model for one in self.candidates
        ):
            return False
        return self.trusts(slot) or not any(self.trusts(one) for one in self.candidates)

    def trusts(self, candidate: Candidate) -> bool:
        return candidate.endpoint.breaker.blocked_s(self.operation) <= 0


class Balancer:
    """Hands out slots. One instance serves every model, as endpoints serve several."""

    def __init__(self) -> None:
        self._waiters = FairQueue[_Waiter]()
        self._patient = FairQueue[_Waiter]()
        self._patient_next = False
        self._homes: OrderedDict[str, Endpoint] = OrderedDict()

    async def lease(
        self,
        candidates: Sequence[Candidate],
        *,
        operation: str,
        tenant: str = "default",
        affinity: str | None = None,
        avoid: Collection[Endpoint] = (),
        patient: bool = False,
        insist: bool = False,
    ) -> Lease:
        """A slot of one of the candidates, waiting for one if the queue has room.

        `tenant`: whose turn it is, where it has to wait. `affinity` names what should stay where it was. `avoid`: endpoints that
        have just failed this call. `patient`: it may wait in a queue of any length. `insist`: there is nobody else to ask, so a
        distrusted endpoint is better than none.

        Raises RateLimited when the queue is full, BackendUnavailable when no candidate is trusted.
        """
        if self._waiters or self._patient:  # a slot may be free that was not trusted when it became so: theirs first
            for candidate in candidates:
                self._hand_out(candidate)
        if len(candidates) == 1 and not avoid:  # most calls have one place to go, and nothing to compare
            only = candidates[0]
            if (insist or not only.endpoint.breaker.blocked_s(operation)) and _has_room(only):
                return self._take(only, operation, why=ONLY)
        fresh = [candidate for candidate in candidates if candidate.endpoint not in avoid] if avoid else candidates
        usable = self._usable(fresh, operation, insist=insist)
        free = [candidate for candidate in usable if _has_room(candidate)]
        if free:
            choice, why = self._choose(free, affinity)
            return self._take(choice, operation, why=why if len(candidates) > 1 else ONLY)
        return await self._wait(_Waiter(fresh, operation, tenant=tenant, insist=insist), patient=patient)

    def remember(self, affinity: str, endpoint: Endpoint) -> None:
        """What continues this comes back to the same endpoint while it has room: its caches know the beginning."""
        self._homes[affinity] = endpoint
        self._homes.move_to_end(affinity)
        if len(self._homes) > REMEMBERED:
            self._homes.popitem(last=False)

    def returned(self, lease: Lease) -> None:
        """A slot is free again: to whose turn it is among those who can use it, or to nobody."""
        lease.endpoint.give_back(lease.model)
        if self._waiters or self._patient:
            self._hand_out(Candidate(lease.endpoint, lease.model))

    def _hand_out(self, slot: Candidate) -> None:
        """Gives slots like this one, as many as are free, to those who wait for them."""
        while _has_room(slot):
            queues = (self._patient, self._waiters) if self._patient_next else (self._waiters, self._patient)
            found = next(((one, queue) for queue in queues for one in queue if one.takes(slot)), None)
            if found is None:
                return
            waiter, queue = found
            self._leave(waiter, queue, served=True)
            if not waiter.insist and not waiter.trusts(slot):
                waiter.lease.set_exception(_distrusted(waiter.candidates, waiter.operation))
                continue
            self._patient_next = queue is self._waiters
            why = "first free" if len(waiter.candidates) > 1 else ONLY
            waiter.lease.set_result(self._take(slot, waiter.operation, why=why))  # now, so that nobody gets in between

    def _usable(self, fresh: Sequence[Candidate], operation: str, *, insist: bool) -> Sequence[Candidate]:
        trusted = [candidate for candidate in fresh if candidate.endpoint.breaker.blocked_s(operation) <= 0]
        if trusted:
            return trusted
        if insist and fresh:
            return fresh
        raise _distrusted(fresh, operation)

    def _choose(self, free: Sequence[Candidate], affinity: str | None) -> tuple[Candidate, str]:
        if len(free) == 1:
            return free[0], "free"
        home = self._homes.get(affinity) if affinity is not None else None
        if home is not None:
            for candidate in free:
                if candidate.endpoint is home:
                    return candidate, "sticky"
        loaded = [candidate for candidate in free if candidate.loaded]
        among, why = (loaded, "loaded") if loaded else (free, "least busy")
        latest = max(candidate.endpoint.turn for candidate in among)
        for endpoint in {candidate.endpoint for candidate in among}:
            # One that was away, or has just come, takes its turns as the others do; it does not catch up on what it missed.
            endpoint.turn = max(endpoint.turn, latest - 1 / endpoint.weight)
        return min(among, key=_burden), why

    def _take(self, candidate: Candidate, operation: str, *, why: str) -> Lease:
        endpoint = candidate.endpoint
        endpoint.take(candidate.model)
        endpoint.turn += 1 / endpoint.weight
        return Lease(self, candidate, operation, why=why)

    async def _wait(self, waiter: _Waiter, *, patient: bool) -> Lease:
        candidates = waiter.candidates
        home = candidates[0].endpoint
        if not patient and home.queued >= sum(one.max_queue for one in {one.endpoint for one in candidates}):
            self._make_room(waiter, home)
        queue = self._patient if patient else self._waiters
        queue.add(waiter)
        home.queued += 0 if patient else 1
        home.waiting += 1
        try:
            return await waiter.lease
        except asyncio.CancelledError:
            if waiter.lease.cancelled():
                self._leave(waiter, queue)
            elif waiter.lease.exception() is None:  # handed over in the same moment: it goes on to the next
                waiter.lease.result().release()
            raise

    def _make_room(self, waiter: _Waiter, home: Endpoint) -> None:
        """In a full queue: one of a tenant that has more in it gives way. Raises RateLimited where there is none."""
        active = sum(candidate.endpoint.in_flight(candidate.model) for candidate in waiter.candidates)
        busy = RateLimited(
            f"backend {home.backend_name!r} is busy: {active} turns in progress and {home.queued} waiting",
            retry_after_s=RETRY_AFTER_S,
        )
        other = self._waiters.dispensable(waiter.tenant, lambda one: one.candidates[0].endpoint is home)
        if other is None:
            raise busy
        self._leave(other, self._waiters)
        other.lease.set_exception(busy)

    def _leave(self, waiter: _Waiter, queue: FairQueue[_Waiter], *, served: bool = False) -> None:
        (queue.serve if served else queue.leave)(waiter)
        home = waiter.candidates[0].endpoint
        home.queued -= 0 if queue is self._patient else 1
        home.waiting -= 1


def _has_room(candidate: Candidate) -> bool:
    return candidate.endpoint.in_flight(candidate.model) < candidate.endpoint.capacity


def _burden(candidate: Candidate) -> tuple[float, float]:
    """Turns in flight, then turns had, this one counted, both for the endpoint's weight: ties go round."""
    endpoint = candidate.endpoint
    return endpoint.in_flight(candidate.model) / endpoint.weight, endpoint.turn + 1 / endpoint.weight


def _distrusted(candidates: Sequence[Candidate], operation: str) -> BackendUnavailable:
    endpoints = {candidate.endpoint.label: candidate.endpoint for candidate in candidates}
    return BackendUnavailable(
        f"no endpoint is available now: {', '.join(sorted(endpoints))} failed a moment ago",
        retry_after_s=min((one.breaker.blocked_s(operation) for one in endpoints.values()), default=RETRY_AFTER_S),
    )
