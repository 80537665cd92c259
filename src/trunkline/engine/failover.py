"""Who is asked next when an endpoint fails before its answer has begun.

    each step of the model's route → a slot of one of its endpoints → another one → the same one again after a pause → next step

What a client did wrong is told at once, and held against nobody. What nobody of the first step can honour is refused; a fallback
that cannot is no fallback for this call. Once an answer has begun nothing here can take it elsewhere.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

from trunkline.engine.call import Call
from trunkline.model.errors import BackendError, NotFound, RateLimited, RequestError, TrunklineError, TurnFailure
from trunkline.routing.balancer import ONLY, Balancer, Endpoint, Lease
from trunkline.routing.breaker import failure_class
from trunkline.routing.router import Router, Step

PAUSE_S = 0.25
PAUSE_AT_MOST_S = 3.0
"""A pause that is longer is the client's to make: it is told Retry-After."""
MODEL_SHOWN = 40
"""Characters of a model's name in a route. Some are paths, whose end tells more than their beginning."""
logger = logging.getLogger("trunkline.engine")

Given = TypeVar("Given")
Prepared = tuple[Call, tuple[str, ...]]
"""A call as an endpoint gets it, and the names of what that will ignore."""
Prepare = Callable[[Call, Endpoint], Prepared]
"""Raises RequestError for what the endpoint can neither honour nor ignore."""
Able = Callable[[Sequence[Step]], Sequence[Step]]
"""The steps without those who cannot. Raises RequestError where none is left."""
Ask = Callable[[Prepared, Lease, bool], Awaitable[Given]]
"""Asks an endpoint. It owns the lease once it returns; when it raises, the lease is released for it. The flag says that nobody else
can take the call over, so what is known of its route may be said at once."""


class Failover:
    """Asks until somebody answers. One instance serves all calls."""

    def __init__(self, router: Router, balancer: Balancer) -> None:
        self._router = router
        self._balancer = balancer

    async def check(self, call: Call, prepare: Prepare) -> tuple[str, ...]:
        """Raises what `first` would raise at once: an unknown model, what nobody of the first step can honour. Gives the names of
        what everybody of it will ignore."""
        prepared = _prepared(call, (await self._router.resolve(call.request.model or ""))[0], prepare)
        first, *others = [ignored for _, ignored in prepared.values()]
        return tuple([name for name in first if all(name in other for other in others)])

    async def first(
        self, call: Call, prepare: Prepare, ask: Ask[Given], *, operation: str, able: Able | None = None
    ) -> Given:
        """What the first endpoint gives that can. Raises the typed error of the last one tried when none could."""
        call.outcome.operation = operation
        model = call.request.model
        assert model is not None, "the surface has chosen a model"
        steps: Sequence[Step] = self._router.resolved(model) or await self._router.resolve(model)
        if able is not None:
            steps = able(steps)
        failure: TrunklineError | None = None
        try:
            for position, step in enumerate(steps):
                last = position == len(steps) - 1
                try:
                    return await self._from_step(
                        call, step, prepare, ask, operation=operation, fallback=step.fallback or position > 0, last=last
                    )
                except RequestError as error:
                    if position == 0 and not isinstance(error, RateLimited):
                        raise
                    # A full queue says more than an endpoint that is out.
                    failure = error if failure is None or isinstance(error, RateLimited) else failure
                except TrunklineError as error:
                    if not error.retryable:
                        raise
                    failure = error
                if not last:
                    logger.warning(
                        "backend %s failed before any content, trying the next: %s",
                        step.first.endpoint.backend_name,
                        failure.message,
                    )
            raise failure or NotFound(f"model {model!r} has no route", param="model")
        finally:
            failure = None  # its traceback holds this frame, and with it the request's body

    async def _from_step(
        self,
        call: Call,
        step: Step,
        prepare: Prepare,
        ask: Ask[Given],
        *,
        operation: str,
        fallback: bool,
        last: bool,
    ) -> Given:
        prepared = _prepared(call, step, prepare)  # what cannot be honoured is told before it waits for a slot
        candidates = [one for one in step.candidates if one.endpoint.backend_name in prepared]
        choice = len(candidates) > 1
        affinity = _affinity(call) if choice else None
        failed: list[Endpoint] = []
        retries = 0
        while True:
            lease = await self._balancer.lease(
                candidates,
                operation=operation,
                tenant=call.tenant,
                affinity=None if affinity is None else f"{call.tenant}/{affinity}",
                avoid=failed,
                patient=call.patient,
                insist=last,
            )
            if fallback:
                lease.why = "fallback"
            elif failed or retries:
                lease.why = "retry"
            others = choice and any(
                one.endpoint is not lease.endpoint and one.endpoint not in failed for one in candidates
            )
            given = False
            try:
                answer = await ask(prepared[lease.endpoint.backend_name], lease, last and not others)
                given = True
            except TrunklineError as error:
                lease.failed(error)
                lease.release()
                if not isinstance(error, BackendError | TurnFailure) or not error.retryable:
                    raise
                if others:
                    failed.append(lease.endpoint)
                else:
                    retries += 1
                    pause_s = _pause_s(error, retries, at_most=lease.endpoint.retries)
                    if pause_s is None or not last:
                        raise
                    failed.clear()
                    await asyncio.sleep(pause_s)
                logger.warning("%s failed before any content, trying again: %s", lease.endpoint.label, error.message)
            else:
                if choice:
                    self._remember(call, [call.turn_id, *([] if affinity is None else [affinity])], lease.endpoint)
                return answer
            finally:
                if not given:  # also when the client has left meanwhile
                    lease.release()

    def _remember(self, call: Call, names: Collection[str], endpoint: Endpoint) -> None:
        for name in names:
            self._balancer.remember(f"{call.tenant}/{name}", endpoint)


def _prepared(call: Call, step: Step, prepare: Prepare) -> Mapping[str, Prepared]:
    """The call for each backend of the step, by its name, that can honour it. Raises the first one's refusal when none can."""
    if len(step.candidates) == 1:
        endpoint = step.first.endpoint
        return {endpoint.backend_name: prepare(call, endpoint)}
    prepared: dict[str, Prepared] = {}
    refused: dict[str, RequestError] = {}
    for candidate in step.candidates:
        name = candidate.endpoint.backend_name
        if name not in prepared and name not in refused:
            try:
                prepared[name] = prepare(call, candidate.endpoint)
            except RequestError as refusal:
                refused[name] = refusal
    try:
        if not prepared:
            raise next(iter(refused.values()))
    finally:
        refused.clear()  # their tracebacks hold this frame
    return prepared


def route_name(lease: Lease) -> str:
    """What `x-trunkline-route` says: who answers, under its own name for the model, and why it where there was a choice."""
    why = "" if lease.why == ONLY else f"; {lease.why}"
    model = lease.model if len(lease.model) <= MODEL_SHOWN else f"...{lease.model[3 - MODEL_SHOWN :]}"
    return f"{lease.endpoint.label}/{model}{why}"


def _affinity(call: Call) -> str | None:
    """What should stay with one endpoint: the turns of a conversation, whose beginning its caches know."""
    request = call.request
    return request.previous_response_id or request.conversation or call.named_session or request.prompt_cache_key


def _pause_s(error: TrunklineError, retry: int, *, at_most: int) -> float | None:
    """Seconds until the same endpoint may be asked again; None where it should not be.

    Being out of reach or busy passes. What took its whole time, refused our key or speaks nonsense will do so again.
    """
    if retry > at_most or failure_class(error) not in ("unavailable", "rate_limited"):
        return None
    pause_s = PAUSE_S * 2 ** (retry - 1) if error.retry_after_s is None else error.retry_after_s
    return pause_s if pause_s <= PAUSE_AT_MOST_S else None
