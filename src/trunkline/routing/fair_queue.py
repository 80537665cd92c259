"""Who waits, by tenant: each tenant's calls in the order they came, the tenants in turn.

One tenant's hundred calls then cost another's one call a single turn, not a hundred. And a queue that is full is not a door one
tenant can keep shut: room is made for the others by the last call of whoever has the most in it.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """Who waits."""

    tenant: str


Waiter = TypeVar("Waiter", bound=Waiting)


class FairQueue(Generic[Waiter]):
    """One queue. It is false where nobody waits."""

    def __init__(self) -> None:
        self._by_tenant: OrderedDict[str, deque[Waiter]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._by_tenant)

    def __iter__(self) -> Iterator[Waiter]:
        """In the order of their turns: whoever is taken out of it has had one."""
        for waiters in self._by_tenant.values():
            yield from waiters

    def add(self, waiter: Waiter) -> None:
        self._by_tenant.setdefault(waiter.tenant, deque()).append(waiter)

    def leave(self, waiter: Waiter) -> None:
        """It waits no longer, and has had no turn."""
        waiters = self._by_tenant[waiter.tenant]
        waiters.remove(waiter)
        if not waiters:
            del self._by_tenant[waiter.tenant]

    def serve(self, waiter: Waiter) -> None:
        """It waits no longer: it was its tenant's turn."""
        self.leave(waiter)
        if waiter.tenant in self._by_tenant:
            self._by_tenant.move_to_end(waiter.tenant)

    def dispensable(self, tenant: str, among: Callable[[Waiter], bool]) -> Waiter | None:
        """The last of those who wait for whoever has the most among them, if that is more than this tenant has with one more."""
        counts = {name: sum(map(among, waiters)) for name, waiters in self._by_tenant.items()}
        most = max(counts, key=lambda name: counts[name], default=None)
        if most is None or counts[most] <= counts.get(tenant, 0) + 1:
            return None
        return next(waiter for waiter in reversed(self._by_tenant[most]) if among(waiter))
