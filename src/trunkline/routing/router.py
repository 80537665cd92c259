"""From the model a client asked for to the backends that may answer, in order.

Names from `[[models]]` come first. A backend that no entry mentions offers its own models under their own names; one that
cannot list them (and was given no list) is passed any name and decides itself.
"""

from collections.abc import Mapping, Sequence

import msgspec

from trunkline.config.schema import ModelSettings
from trunkline.model.errors import BackendError, InvalidParameter, ModelNotFound
from trunkline.ports.backend import Backend, ModelInfo, Relay
from trunkline.routing.catalog import Catalog

LISTED_IN_ERRORS = 20


class Route(msgspec.Struct, frozen=True):
    """One backend that may answer, and its own name for the model. `relay` is the backend again if it can relay."""

    backend_name: str
    backend: Backend
    backend_model: str
    relay: Relay | None


class Router:
    """Resolves names."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        models: Sequence[ModelSettings],
        catalog: Catalog,
        *,
        default_model: str | None,
    ) -> None:
        self._backends = backends
        self._configured = {model.name: model for model in models}
        self._open = tuple(
            name for name in backends if all(route.backend != name for model in models for route in model.routes)
        )
        self._catalog = catalog
        self._default_model = default_model
        self._resolved: dict[str, tuple[Route, ...]] = {}
        # Whether a backend relays is asked once: isinstance with a protocol costs as much as reading a request.
        self._relays = {name: backend if isinstance(backend, Relay) else None for name, backend in backends.items()}

    def choose(self, asked: str | None) -> str:
        """The model asked for, or the default one. Raises when there is neither."""
        if asked is not None:
            return asked
        if self._default_model is None:
            listed = ", ".join(repr(name) for name in self.known()[:LISTED_IN_ERRORS])
            raise InvalidParameter(
                f"Missing required parameter: 'model'.{f' Configured: {listed}.' if listed else ''}",
                code="missing_required_parameter",
                param="model",
            )
        return self._default_model

    async def resolve(self, model: str) -> tuple[Route, ...]:
        """Who may answer, first choice first. Raises ModelNotFound, which lists what there is."""
        resolved = self._resolved.get(model)
        if resolved is not None:
            return resolved
        configured = self._configured.get(model)
        if configured is not None:
            routes = [await self._configured_route(route.backend, route.model) for route in configured.routes]
            self._resolved[model] = tuple(routes)
            return self._resolved[model]
        return await self._discovered(model)

    async def models(self) -> list[ModelInfo]:
        """Every model a client may ask for, configured ones first, each name once."""
        found: dict[str, ModelInfo] = {name: ModelInfo(id=name) for name in self._configured}
        if self._open:
            listings = await self._catalog.listings()
            for name in self._open:
                for info in listings[name].models:
                    found.setdefault(info.id, info)
        return list(found.values())

    def known(self) -> list[str]:
        """The names known now, without asking anybody."""
        found = dict.fromkeys(self._configured)
        for name in self._open:
            found.update(dict.fromkeys(info.id for info in self._catalog.known(name)))
        return list(found)

    async def failures(self) -> dict[str, BackendError]:
        """Backends that cannot say what they offer, by name: they are unlikely to answer anything else."""
        listings = await self._catalog.listings(fresh=True)
        return {name: listing.error for name, listing in listings.items() if listing.error is not None}

    async def _configured_route(self, name: str, model: str | None) -> Route:
        if model is None:
            listing = await self._catalog.listing(name)
            if not listing.models:
                raise listing.error or ModelNotFound(f"backend {name!r} lists no model; name one in its route")
            model = listing.models[0].id
        return self._route(name, model)

    def _route(self, name: str, model: str) -> Route:
        return Route(name, self._backends[name], model, self._relays[name])

    async def _discovered(self, model: str) -> tuple[Route, ...]:
        for name in self._open:
            # Who is known to offer it answers, and at most it alone is asked: a backend that hangs delays only its own models.
            if any(info.id == model for info in self._catalog.known(name)):
                listing = await self._catalog.listing(name)
                if any(info.id == model for info in listing.models):
                    return (self._route(name, model),)
        listings = await self._catalog.listings()
        if not any(info.id == model for name in self._open for info in listings[name].models):
            listings = await self._catalog.listings(fresh=True)
        for name in self._open:
            if any(info.id == model for info in listings[name].models):
                return (self._route(name, model),)
        for name in self._open:
            listing = listings[name]
            if listing.error is not None and not listing.models and self._backends[name].capabilities.forwards_unknown:
                return (self._route(name, model),)
        raise await self.unknown(model)

    async def unknown(self, model: str) -> ModelNotFound:
        """The error for a name that nobody offers; it lists what there is."""
        names = [info.id for info in await self.models()]
        listed = ", ".join(repr(name) for name in names[:LISTED_IN_ERRORS]) or "none"
        more = f" and {len(names) - LISTED_IN_ERRORS} more" if len(names) > LISTED_IN_ERRORS else ""
        return ModelNotFound(f"unknown model {model[:200]!r}; configured: {listed}{more}", param="model")
