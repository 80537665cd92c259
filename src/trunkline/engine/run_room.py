"""How much work may wait or be answered in the background: so many runs of each tenant, and so many bytes of requests in all.

Requests with their histories wait in memory, which all tenants share. Nobody may take more of it than is left for the others: a
tenant is refused once it holds as much as is free. Alone it gets half, and there is always room for whoever comes next.
"""

from trunkline.model.errors import RateLimited

MAX_RUNS = 1024
MAX_HELD_BYTES = 384_000_000
BUSY_RETRY_AFTER_S = 5.0


class _Taken:
    __slots__ = ("held_bytes", "runs")

    def __init__(self) -> None:
        self.runs = 0
        self.held_bytes = 0


class RunRoom:
    """For what waits or is answered, by tenant."""

    def __init__(self, *, max_runs: int, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_runs = max_runs
        self._free_bytes = max_held_bytes
        self._taken: dict[str, _Taken] = {}

    def check(self, tenant: str, held_bytes: int) -> None:
        """Raises RateLimited where there is none. A tenant that has nothing here may always bring one."""
        taken = self._taken.get(tenant)
        if taken is None:
            return
        if taken.runs >= self._max_runs or taken.held_bytes + held_bytes > self._free_bytes - held_bytes:
            raise RateLimited(
                f"{taken.runs} runs are waiting or being answered, as many as this server holds for you; "
                "try again when some of them have ended",
                retry_after_s=BUSY_RETRY_AFTER_S,
            )

    def take(self, tenant: str, held_bytes: int) -> None:
        taken = self._taken.setdefault(tenant, _Taken())
        taken.runs += 1
        taken.held_bytes += held_bytes
        self._free_bytes -= held_bytes

    def give_back(self, tenant: str, held_bytes: int) -> None:
        taken = self._taken[tenant]
        taken.runs -= 1
        taken.held_bytes -= held_bytes
        self._free_bytes += held_bytes
        if not taken.runs:
            del self._taken[tenant]
