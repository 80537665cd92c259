"""What models each backend offers, asked for and remembered.

A listing is remembered for LISTING_TTL_S, a failure for FAILURE_TTL_S, so a dead upstream costs one attempt in that time and
not one per request. Backends are asked side by side, and one that answers slowly is waited for once.
"""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from trunkline.model.errors import BackendError, BackendTimeout
from trunkline.ports.backend import Backend, ModelInfo
from trunkline.ports.runtime import Clock

LISTING_TTL_S = 60.0
FAILURE_TTL_S = 5.0
LISTING_TIMEOUT_S = 5.0


class Listing(msgspec.Struct, frozen=True):
    """What one backend said last. `error` is set when it could not say; `models` are then those of an earlier answer."""

    models: tuple[ModelInfo, ...]
    error: BackendError | None
    asked_at_s: float


class Catalog:
    """The listings of all backends, by backend name, in the order of the configuration."""

    def __init__(self, backends: Mapping[str, Backend], *, clock: Clock) -> None:
        self._backends = backends
        self._clock = clock
        self._listings: dict[str, Listing] = {}
        self._asking: dict[str, asyncio.Task[Listing]] = {}

    async def listings(self, *, fresh: bool = False) -> Mapping[str, Listing]:
        """Every backend's listing; stale ones are asked again. `fresh` asks all that were not asked in the last moments."""
        due = [name for name in self._backends if self._is_due(name, LISTING_TTL_S if not fresh else FAILURE_TTL_S)]
        if due:
            await asyncio.gather(*[self._ask_once(name) for name in due])
        return {name: self._listings[name] for name in self._backends}

    async def listing(self, name: str) -> Listing:
        """One backend's listing; asked again, it alone, where it is stale."""
        if self._is_due(name, LISTING_TTL_S):
            await self._ask_once(name)
        return self._listings[name]

    def known(self, name: str) -> Sequence[ModelInfo]:
        """What a backend listed last, without asking."""
        listing = self._listings.get(name)
        return listing.models if listing is not None else ()

    async def close(self) -> None:
        for task in list(self._asking.values()):
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    def _is_due(self, name: str, ttl_s: float) -> bool:
        listing = self._listings.get(name)
        if listing is None:
            return True
        return self._clock.monotonic_s() - listing.asked_at_s >= (FAILURE_TTL_S if listing.error is not None else ttl_s)

    async def _ask_once(self, name: str) -> None:
        """Asks one backend; callers that come meanwhile wait for the same answer."""
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._ask(name), name=f"list models of {name}")
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        await asyncio.shield(task)

    async def _ask(self, name: str) -> Listing:
        error: BackendError | None = None
        models = tuple(self.known(name))
        try:
            async with asyncio.timeout(LISTING_TIMEOUT_S):
                models = tuple(await self._backends[name].models())
        except TimeoutError:
            error = BackendTimeout(f"backend {name!r} did not list its models within {LISTING_TIMEOUT_S:g} s")
        except BackendError as failure:
            error = failure
        listing = self._listings[name] = Listing(models, error, self._clock.monotonic_s())
        return listing
