"""From a call to its answer: who answers, when, and what becomes of failures.

    resolve the model → what the backend can honour → a slot → relay or open → guard → stop sequences → the surface

An answer is either events or relayed bytes; both come in batches. Until the first content or the end has arrived nothing is
handed over, so a failure before it is still an HTTP status, and a retryable one moves on to the next backend of the route.
After it, a failure is an honest TurnFailed at the end of the stream.
"""

import logging
from collections.abc import AsyncIterator, Mapping

import msgspec

from trunkline.engine.admission import Admission
from trunkline.engine.attempt import Attempt
from trunkline.engine.call import Call
from trunkline.engine.honour import check_streaming, translated
from trunkline.model.errors import NotFound, RateLimited, RequestError, TrunklineError
from trunkline.ports.backend import Context, EventBatch, RelayBatch
from trunkline.ports.runtime import Clock, Entropy
from trunkline.routing.router import Route, Router

logger = logging.getLogger("trunkline.engine")


class Slots(msgspec.Struct, frozen=True):
    """A backend's admission, the seconds one of its turns may take, and the seconds one may go on without its client."""

    admission: Admission
    timeout_s: float
    grace_s: float = 0.0


class Answer:
    """An answer under way: iterate `batches` once, then `aclose`, however far it was read."""

    def __init__(self, attempt: Attempt, route: Route, ignored: tuple[str, ...]) -> None:
        self._attempt = attempt
        self.route = route
        self.ignored = ignored
        self.headers = attempt.headers

    @property
    def relayed(self) -> bool:
        return self._attempt.relayed

    def relay_batches(self) -> AsyncIterator[RelayBatch]:
        return self._attempt.relay_batches()

    def event_batches(self) -> AsyncIterator[EventBatch]:
        return self._attempt.event_batches()

    async def aclose(self) -> None:
        await self._attempt.aclose()


class Gateway:
    """Answers calls. One instance serves them all."""

    def __init__(
        self, router: Router, slots: Mapping[str, Slots], *, clock: Clock, entropy: Entropy, may_relay: bool
    ) -> None:
        self._router = router
        self._slots = slots
        self._clock = clock
        self._entropy = entropy
        self._may_relay = may_relay

    async def answer(self, call: Call) -> Answer:
        """Opens the answer. Raises the typed error of the last backend tried when none could begin."""
        model = call.request.model
        assert model is not None, "the surface has chosen a model"
        routes = await self._router.resolve(model)
        failure: TrunklineError = NotFound(f"model {model!r} has no route", param="model")
        for position, route in enumerate(routes):
            last = position == len(routes) - 1
            try:
                return await self._try(call, route, model=model, last=last)
            except RequestError as error:
                # What the first choice cannot honour is refused; a fallback that cannot is no fallback for this call.
                if position == 0 and not isinstance(error, RateLimited):
                    raise
                failure = error if position == 0 else failure
            except TrunklineError as error:
                if not error.retryable:
                    raise
                failure = error
            if not last:
                logger.warning(
                    "backend %s failed before any content, trying the next: %s", route.backend_name, failure.message
                )
        raise failure

    async def check(self, call: Call) -> None:
        """Raises what `answer` would raise at once: an unknown model, a parameter that nobody here can honour."""
        route = (await self._router.resolve(call.request.model or ""))[0]
        check_streaming(call.request, route.backend.capabilities)
        translated(call.request, route.backend.capabilities, dialect=call.dialect, model=call.request.model or "")

    async def _try(self, call: Call, route: Route, *, model: str, last: bool) -> Answer:
        capabilities = route.backend.capabilities
        check_streaming(call.request, capabilities)
        request, ignored = translated(call.request, capabilities, dialect=call.dialect, model=model)
        if request is not call.request:
            call = msgspec.structs.replace(call, request=request)
        outcome = call.outcome
        outcome.backend = route.backend_name
        if last:
            outcome.route, outcome.ignored = route_name(route), ignored
        slots = self._slots[route.backend_name]
        outcome.grace_s = slots.grace_s
        await slots.admission.acquire(patient=call.patient)
        attempt = Attempt(call, route, self._context(call, route), slots.admission, timeout_s=slots.timeout_s)
        await attempt.begin(may_relay=self._may_relay and not call.own_ids)
        outcome.route, outcome.ignored = route_name(route), ignored
        return Answer(attempt, route, ignored)

    def _context(self, call: Call, route: Route) -> Context:
        return Context(
            turn_id=call.turn_id,
            created_at=call.created_at,
            backend_model=route.backend_model,
            request_id=call.request_id,
            clock=self._clock,
            entropy=self._entropy,
            tenant=call.tenant,
            session_id=call.session_id,
            body=call.body,
            body_dialect=call.dialect,
        )


def route_name(route: Route) -> str:
    """What `x-trunkline-route` says."""
    return f"{route.backend_name}/{route.backend_model}"
