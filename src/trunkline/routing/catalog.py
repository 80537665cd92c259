"""What models each endpoint offers, asked for and remembered.

A listing older than LISTING_TTL_S is still used while it is asked for again, so no request waits for a list but the first. An
endpoint that does not answer is asked again every FAILURE_TTL_S until it does, which is also how one that was given up is found
to be back; nobody waits longer than PATIENCE_S for it, and its models of an earlier answer still count. One whose models the
configuration names is asked as well, for a sign of life: these models stay listed whatever it says.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from trunkline.model.errors import BackendError, BackendProtocolError, BackendTimeout, BackendUnavailable
from trunkline.ports.backend import ModelInfo, Probe
from trunkline.ports.runtime import Clock
from trunkline.routing.balancer import Endpoint
from trunkline.routing.breaker import failure_class
from trunkline.routing.names import DEFAULT_TAG, shape_of

logger = logging.getLogger("trunkline.routing")

LISTING_TTL_S = 30.0
FAILURE_TTL_S = 5.0
LISTING_TIMEOUT_S = 5.0
PATIENCE_S = 1.0
MAX_MODELS = 10_000
"""Of one endpoint: many times what the largest catalogues offer."""


class _Names:
    """One listing's models by their names, and by the shapes of these. Made once for a listing, shapes when they are needed."""

    def __init__(self, models: Sequence[ModelInfo]) -> None:
        self._models = models
        self._shapes: dict[str, list[ModelInfo]] | None = None
        self.exact = {info.id: info for info in reversed(models)}
        self.untagged = {info.id.removesuffix(DEFAULT_TAG): info for info in reversed(models)}

    def alike(self, shape: str) -> Sequence[ModelInfo]:
        if self._shapes is None:
            self._shapes = {}
            for info in self._models:
                self._shapes.setdefault(shape_of(info.id), []).append(info)
        return self._shapes.get(shape, ())


class Listing(msgspec.Struct, frozen=True):
    """What one endpoint said last. `error` is set when it could not say; `models` are then those of an earlier answer."""

    models: tuple[ModelInfo, ...]
    error: BackendError | None
    asked_at_s: float


class Catalog:
    """The listings of all endpoints, by label, in the order of the configuration.

    Attributes:
        version: grows whenever a listing says something else than before.
    """

    def __init__(self, endpoints: Iterable[Endpoint], *, clock: Clock) -> None:
        self._endpoints = {endpoint.label: endpoint for endpoint in endpoints}
        self._clock = clock
        self._listings: dict[str, Listing] = {}
        self._names: dict[str, _Names] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._out: set[str] = set()
        self._due_s = -1.0
        self.version = 0

    async def listings(self, *, fresh: bool = False) -> Mapping[str, Listing]:
        """Every endpoint's listing. Stale ones are asked again meanwhile; `fresh` waits for those not asked in the last moments.

        An endpoint that was never heard of is waited for, PATIENCE_S at most.
        """
        self.refresh()
        await self._wait_for(self._endpoints, fresh=fresh)
        return {label: self._known(label) for label in self._endpoints}

    async def listing(self, label: str) -> Listing:
        """One endpoint's listing."""
        self.refresh()
        await self._wait_for([label], fresh=False)
        return self._known(label)

    def known(self, label: str) -> Sequence[ModelInfo]:
        """What an endpoint listed last, without asking."""
        listing = self._listings.get(label)
        return listing.models if listing is not None else ()

    def first_error(self, *, of_unheard: bool) -> BackendError | None:
        """Why the first endpoint that could not list its models could not. `of_unheard`: be it that it has not answered yet."""
        asked = self._endpoints if of_unheard else self._listings
        return next((error for label in asked if (error := self._known(label).error) is not None), None)

    def named(self, label: str, name: str) -> ModelInfo | None:
        """The model that an endpoint lists under exactly this name."""
        names = self._names.get(label)
        return None if names is None else names.exact.get(name)

    def untagged(self, label: str, name: str) -> ModelInfo | None:
        """The same for a name without its default tag, whether or not the endpoint lists it with that."""
        names = self._names.get(label)
        return None if names is None else names.untagged.get(name)

    def alike(self, label: str, shape: str) -> Sequence[ModelInfo]:
        """Those of an endpoint whose names have this shape."""
        names = self._names.get(label)
        return () if names is None else names.alike(shape)

    def refresh(self) -> None:
        """Asks again, in the background, whoever is due. Cheap when nobody is: one comparison."""
        now = self._clock.monotonic_s()
        if now < self._due_s:
            return
        for label in self._endpoints:
            if self._age_s(label) >= self._ttl_s(label):
                self._ask(label)
        ages = [self._ttl_s(label) - self._age_s(label) for label in self._endpoints if label not in self._asking]
        self._due_s = now + max(0.1, min([FAILURE_TTL_S, *ages]))

    async def close(self) -> None:
        for task in list(self._asking.values()):
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _wait_for(self, labels: Iterable[str], *, fresh: bool) -> None:
        waiting = set()
        for label in labels:
            if label not in self._listings or (fresh and self._age_s(label) >= FAILURE_TTL_S):
                self._ask(label)
                waiting.add(self._asking[label])
        if waiting:
            await asyncio.wait(waiting, timeout=PATIENCE_S)

    def _known(self, label: str) -> Listing:
        found = self._listings.get(label)
        if found is None:
            silent = BackendTimeout(f"{label!r} has not listed its models yet")
            found = Listing((), silent, self._clock.monotonic_s())
        return found

    def _age_s(self, label: str) -> float:
        listing = self._listings.get(label)
        return float("inf") if listing is None else self._clock.monotonic_s() - listing.asked_at_s

    def _ttl_s(self, label: str) -> float:
        listing = self._listings.get(label)
        return LISTING_TTL_S if listing is not None and listing.error is None else FAILURE_TTL_S

    def _ask(self, label: str) -> None:
        """Asks one endpoint; who needs the answer meanwhile waits for the same one."""
        if label not in self._asking:
            task = self._asking[label] = asyncio.create_task(self._ask_now(label), name=f"list models of {label}")
            task.add_done_callback(lambda _: self._asking.pop(label, None))

    async def _ask_now(self, label: str) -> None:
        endpoint = self._endpoints[label]
        error: BackendError | None = None
        models = tuple(self.known(label))
        try:
            async with asyncio.timeout(LISTING_TIMEOUT_S):
                models = _bounded(await endpoint.backend.models(), label)
                if isinstance(endpoint.backend, Probe):
                    await self._probe(label, endpoint.backend, models)
        except TimeoutError:
            error = BackendTimeout(f"{label!r} did not list its models within {LISTING_TIMEOUT_S:g} s")
        except BackendError as failure:
            error = failure
        if error is None:
            endpoint.breaker.reachable()
        elif isinstance(error, BackendUnavailable) and failure_class(error) is not None:
            endpoint.breaker.unreachable()
        self._tell(label, error)
        self._remember(label, Listing(models, error, self._clock.monotonic_s()))

    def _tell(self, label: str, error: BackendError | None) -> None:
        """One line when an endpoint stops answering, and one when it answers again."""
        told = label in self._out
        if error is not None and not told:
            self._out.add(label)
            logger.warning("endpoint %s does not list its models: %s", label, error.message)
        elif error is None and told:
            self._out.discard(label)
            logger.info("endpoint %s lists its models again", label)

    async def _probe(self, label: str, backend: Probe, models: tuple[ModelInfo, ...]) -> None:
        """Whether somebody is there. Models that are known without asking may be asked for meanwhile."""
        if label not in self._listings:
            silent = BackendTimeout(f"{label!r} has not answered yet")
            self._remember(label, Listing(models, silent, self._clock.monotonic_s()))
        await backend.probe()

    def _remember(self, label: str, listing: Listing) -> None:
        before = self._listings.get(label)
        self._listings[label] = listing
        if before is None or before.models != listing.models:
            self._names[label] = _Names(listing.models)
        if before is None or before.models != listing.models or (before.error is None) != (listing.error is None):
            self.version += 1


def _bounded(models: Sequence[ModelInfo], label: str) -> tuple[ModelInfo, ...]:
    if len(models) > MAX_MODELS:
        raise BackendProtocolError(
            f"{label!r} lists {len(models)} models, more than the {MAX_MODELS} that are taken; name those you want in its 'models'"
        )
    return tuple(models)
