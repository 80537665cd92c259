"""From the model a client asked for to the endpoints that may answer, in order.

Names from `[[models]]` come first: their routes are tried one after the other. Every other name goes to all endpoints, of all
backends without an entry of their own, that list it; one that cannot list its models (and was given no list) is passed any name
and decides itself. What was found is remembered until an endpoint lists something else.
"""

from collections.abc import Mapping, Sequence

import msgspec

from trunkline.config.profiles import ModelChoice
from trunkline.config.schema import ModelSettings
from trunkline.model.errors import BackendError, BackendUnavailable, InvalidParameter, ModelNotFound, TrunklineError
from trunkline.ports.backend import ModelInfo
from trunkline.routing.balancer import Candidate, Endpoint
from trunkline.routing.catalog import Catalog
from trunkline.routing.names import DEFAULT_TAG, MAX_CHARACTERS, shape_of

LISTED_IN_ERRORS = 20
REMEMBERED = 4096
ANYBODY = ""
"""The name that stands for none, where that is enough to be answered."""


class Step(msgspec.Struct, frozen=True):
    """One step of a route: any of these may answer. The next step is for when none of them can.

    `fallback`: a step before it was there for the model, if only in the configuration.
    """

    candidates: tuple[Candidate, ...]
    fallback: bool = False

    @property
    def first(self) -> Candidate:
        return self.candidates[0]


class Described(msgspec.Struct, frozen=True):
    """A model a client may ask for, and the endpoint that is asked first."""

    info: ModelInfo
    endpoint: Endpoint


class Router:
    """Resolves names.

    Args:
        backends: the endpoints of each backend, by its name.
        choice: who answers where no name is given or the name is nobody's, as the profile of that name says.
        unknown_status: of the error for a name that is nobody's.
        only_model_answers: who has but one model means that one where no name is given.
    """

    def __init__(
        self,
        backends: Mapping[str, Sequence[Endpoint]],
        models: Sequence[ModelSettings],
        catalog: Catalog,
        *,
        default_model: str | None,
        choice: ModelChoice = "known",
        unknown_status: int = ModelNotFound.status,
        only_model_answers: bool = False,
    ) -> None:
        self._backends = backends
        self._configured = {model.name: model for model in models}
        self._open = tuple(
            name for name in backends if all(route.backend != name for model in models for route in model.routes)
        )
        self._open_endpoints = tuple(endpoint for name in self._open for endpoint in backends[name])
        self._catalog = catalog
        self._default_model = default_model
        self._choice = choice
        self._unknown_status = unknown_status
        self._only_model_answers = only_model_answers
        self._resolved: dict[str, tuple[Step, ...]] = {}
        self._version = -1

    def choose(self, asked: str | None) -> str:
        """The model asked for, or the default one. Raises when there is neither."""
        if asked is not None:
            return asked
        if self._default_model is None and self._choice != "known":
            return next(iter(self.known()), ANYBODY)
        if self._default_model is None:
            self._catalog.refresh()  # who could not say what it has may be back
            known = self.known()
            if len(known) == 1 and self._only_model_answers:
                return known[0]
            listed = ", ".join(repr(name) for name in known[:LISTED_IN_ERRORS])
            silent = None if listed else self._catalog.first_error(of_unheard=self._only_model_answers)
            if silent is not None:
                raise BackendUnavailable(f"no model is known yet: {silent.message}", retry_after_s=silent.retry_after_s)
            raise InvalidParameter(
                f"Missing required parameter: 'model'.{f' Configured: {listed}.' if listed else ''}",
                code="missing_required_parameter",
                param="model",
            )
        return self._default_model

    def endpoints_of(self, backend_name: str) -> Sequence[Endpoint]:
        """Those of a backend; none for a name that is no backend's (any more)."""
        return self._backends.get(backend_name, ())

    def resolved(self, model: str) -> tuple[Step, ...] | None:
        """What `resolve` gives, where that is known already."""
        self._catalog.refresh()
        if self._version != self._catalog.version:
            self._version = self._catalog.version
            self._resolved.clear()
        return self._resolved.get(model)

    async def resolve(self, model: str) -> tuple[Step, ...]:
        """Who may answer, first choice first. Raises ModelNotFound, which lists what there is."""
        resolved = self.resolved(model)
        if resolved is not None:
            return resolved
        configured = self._configured.get(model) or self._configured.get(model.removesuffix(DEFAULT_TAG))
        if configured is not None:
            steps = await self._configured_steps(configured)
        else:
            try:
                steps = (await self._discovered(model),)
            except ModelNotFound as error:
                instead = await self._instead(model)
                if instead is None:
                    error.status = self._unknown_status
                    raise
                steps = await self.resolve(instead)
        short = len(model) <= MAX_CHARACTERS  # any text may be a name, where an endpoint decides itself
        if short and len(self._resolved) < REMEMBERED and self._version == self._catalog.version:
            self._resolved[model] = steps
        return steps

    async def models(self) -> list[ModelInfo]:
        """Every model a client may ask for, configured ones first, each name once."""
        found: dict[str, ModelInfo] = {name: ModelInfo(id=name) for name in self._configured}
        if self._open:
            listings = await self._catalog.listings()
            for endpoint in self._open_endpoints:
                for info in listings[endpoint.label].models:
                    found.setdefault(info.id, info)
        return list(found.values())

    async def describe(self, model: str) -> Described:
        """What is known of the model behind a name, under that name. Raises ModelNotFound."""
        step = (await self.resolve(model))[0]
        endpoint, own_name = step.first.endpoint, step.first.model
        listed = self._catalog.named(endpoint.label, own_name) or ModelInfo(id=model)
        loaded = [candidate.loaded for candidate in step.candidates if candidate.loaded is not None]
        return Described(msgspec.structs.replace(listed, id=model, loaded=any(loaded) if loaded else None), endpoint)

    def known(self) -> list[str]:
        """The names known now, without asking anybody."""
        found = dict.fromkeys(self._configured)
        for endpoint in self._open_endpoints:
            found.update(dict.fromkeys(info.id for info in self._catalog.known(endpoint.label)))
        return list(found)

    async def endpoint_failures(self) -> dict[str, BackendError]:
        """Endpoints that cannot say what they offer, or were out of reach and have not answered since, by label."""
        listings = await self._catalog.listings(fresh=True)
        found = {label: listing.error for label, listing in listings.items() if listing.error is not None}
        for endpoints in self._backends.values():
            for endpoint in endpoints:
                if endpoint.breaker.out_of_reach and endpoint.label not in found:
                    found[endpoint.label] = BackendUnavailable(f"{endpoint.label!r} could not be reached a moment ago")
        return found

    async def failures(self) -> dict[str, BackendError]:
        """Backends of which no endpoint can say what it offers, by name: they are unlikely to answer anything else."""
        failures = await self.endpoint_failures()
        found: dict[str, BackendError] = {}
        for name, endpoints in self._backends.items():
            failed = [failures[endpoint.label] for endpoint in endpoints if endpoint.label in failures]
            if len(failed) == len(endpoints):
                found[name] = failed[0]
        return found

    async def _configured_steps(self, configured: ModelSettings) -> tuple[Step, ...]:
        """The steps of a route, without those whose backend cannot say what it has. Raises the first error if none is left."""
        steps: list[Step] = []
        failures: list[TrunklineError] = []
        for position, route in enumerate(configured.routes):
            try:
                step = await self._configured_step(route.backend, route.model)
            except (BackendError, ModelNotFound) as error:
                failures.append(error)
            else:
                steps.append(msgspec.structs.replace(step, fallback=position > 0))
        if not steps:
            raise failures[0]
        return tuple(steps)

    async def _configured_step(self, name: str, model: str | None) -> Step:
        endpoints = self._backends[name]
        listings = {endpoint.label: await self._catalog.listing(endpoint.label) for endpoint in endpoints}
        if model is None:
            first = next((listing.models[0] for listing in listings.values() if listing.models), None)
            if first is None:
                error = next((listing.error for listing in listings.values() if listing.error is not None), None)
                raise error or ModelNotFound(f"backend {name!r} lists no model; name one in its route")
            model = first.id
        offering = self._offering(model, endpoints)
        # Who lists other models only may still know this one, as long as nobody is known to.
        return Step(tuple(offering or [Candidate(endpoint, model) for endpoint in endpoints]))

    def _offering(self, model: str, endpoints: Sequence[Endpoint]) -> list[Candidate]:
        """The endpoints that list the model, under the name itself or with or without the default tag; else by its shape."""
        wanted = model.removesuffix(DEFAULT_TAG)
        exact = [
            Candidate(endpoint, info.id, info.loaded)
            for endpoint in endpoints
            if (info := self._catalog.untagged(endpoint.label, wanted)) is not None
        ]
        if exact:
            return exact
        shape = shape_of(model)
        alike = [
            Candidate(endpoint, info.id, info.loaded)
            for endpoint in endpoints
            for info in self._catalog.alike(endpoint.label, shape)
        ]
        return alike if len({candidate.model.removesuffix(DEFAULT_TAG) for candidate in alike}) == 1 else []

    async def _discovered(self, model: str) -> Step:
        offering = self._offering(model, self._open_endpoints)
        if not offering:
            await self._catalog.listings()
            offering = self._offering(model, self._open_endpoints)
        if not offering:
            # Who is silent and what is known are looked at in one moment: a list that came in between would be seen by neither.
            listings = await self._catalog.listings(fresh=True)
            offering = (
                self._offering(model, self._open_endpoints)
                or [
                    Candidate(endpoint, model)
                    for endpoint in self._open_endpoints
                    if listings[endpoint.label].error is not None
                    and not listings[endpoint.label].models
                    and endpoint.backend.capabilities.forwards_unknown
                ][:1]
            )
        if not offering:
            raise await self.unknown(model)
        return Step(tuple(offering))

    async def _instead(self, model: str) -> str | None:
        """Who answers to a name that nobody has, where that is the default or first model."""
        if self._choice == "any" or (self._choice == "first" and model == ANYBODY):
            listed = next((info.id for info in await self.models()), model)
            first = listed if self._default_model in (None, model) else self._default_model
            if first != model:
                return first
        return None

    async def unknown(self, model: str) -> ModelNotFound:
        """The error for a name that nobody offers; it lists what there is."""
        names = [info.id for info in await self.models()]
        listed = ", ".join(repr(name) for name in names[:LISTED_IN_ERRORS]) or "none"
        more = f" and {len(names) - LISTED_IN_ERRORS} more" if len(names) > LISTED_IN_ERRORS else ""
        return ModelNotFound(f"unknown model {model[:200]!r}; configured: {listed}{more}", param="model")
