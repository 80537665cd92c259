"""Embeddings, speech, reranking and the like: the way of a turn, without a turn.

The same steps, slots, circuits and retries as for chat (`failover`), the same deadline and end (`attempt`). Not every endpoint that
lists a model has every operation, so those that have it not are no candidates. A circuit is an operation's own: an endpoint that
fails at speech still answers chats.
"""

from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from trunkline.engine.attempt import Attempt
from trunkline.engine.call import Call
from trunkline.engine.failover import Failover, Prepared, route_name
from trunkline.engine.honour import check_streaming
from trunkline.model import events as ev
from trunkline.model.errors import InvalidParameter, TurnFailure
from trunkline.ports.backend import Context, RelayAnswer, RelayBatch
from trunkline.ports.operations import OperationAnswer, OperationRequest
from trunkline.ports.runtime import Clock, Entropy
from trunkline.routing.balancer import Balancer, Endpoint, Lease
from trunkline.routing.router import Router, Step


class Performed:
    """An answer under way: iterate `batches` once, then `aclose`, however far it was read. Bytes of one media type."""

    def __init__(self, attempt: Attempt, answer: OperationAnswer) -> None:
        self._attempt = attempt
        self.media_type = answer.media_type
        self.headers: Mapping[str, str] = answer.headers

    def batches(self) -> AsyncIterator[RelayBatch]:
        """A failure is a last batch with TurnFailed."""
        return self._attempt.relay_batches()

    async def aclose(self) -> None:
        await self._attempt.aclose()


def check(batch: RelayBatch) -> None:
    """Raises the failure with which an answer ends."""
    last = batch.events[-1] if batch.events else None
    if isinstance(last, ev.TurnFailed):
        raise TurnFailure(last.error)


async def whole_of(answer: Performed) -> bytes:
    """All of its bytes. Raises what ended it too early."""
    pieces = []
    async for batch in answer.batches():
        check(batch)
        pieces.append(batch.data)
    return b"".join(pieces)


class OperationGateway:
    """Has operations performed. One instance serves them all; `endpoints` are all there are."""

    def __init__(
        self, router: Router, balancer: Balancer, endpoints: Sequence[Endpoint], *, clock: Clock, entropy: Entropy
    ) -> None:
        self._failover = Failover(router, balancer)
        self._endpoints = endpoints
        self._clock = clock
        self._entropy = entropy

    async def perform(self, call: Call, request: OperationRequest) -> Performed:
        """Opens the answer. Raises the typed error of the last endpoint tried when none could begin.

        Of the call's own request only the model counts, and whether it streams.
        """

        def _able(steps: Sequence[Step]) -> Sequence[Step]:
            return self._able(steps, request)

        async def _ask(prepared: Prepared, lease: Lease, certain: bool) -> Performed:
            return await self._perform(prepared[0], request, lease, certain=certain)

        return await self._failover.first(call, _prepare, _ask, operation=request.operation, able=_able)

    async def _perform(self, call: Call, request: OperationRequest, lease: Lease, *, certain: bool) -> Performed:
        performer, outcome, answers = lease.endpoint.performer, call.outcome, list[OperationAnswer]()
        assert performer is not None, "others are no candidates"
        perform, context = performer.perform, self._context(call, lease)

        async def source() -> RelayAnswer:
            answers.append(await perform(request, context))
            return answers[-1]

        outcome.backend, outcome.endpoint = lease.endpoint.backend_name, lease.endpoint.label
        outcome.grace_s = lease.endpoint.grace_s
        if certain:
            outcome.route = route_name(lease)
        attempt = Attempt(call, lease, context, source=source)
        await attempt.begin(may_relay=True)
        outcome.route, outcome.ignored = route_name(lease), answers[-1].ignored
        return Performed(attempt, answers[-1])

    def _able(self, steps: Sequence[Step], request: OperationRequest) -> Sequence[Step]:
        """The steps without those who lack the operation. Raises InvalidParameter, which says who has it, where nobody is left."""
        found: list[Step] = []
        for step in steps:
            able = tuple([one for one in step.candidates if _has(one.endpoint, request)])
            if able:  # the first that has the operation is nobody's fallback
                found.append(msgspec.structs.replace(step, candidates=able, fallback=step.fallback and bool(found)))
        if found:
            return found
        asked = sorted({one.endpoint.backend_name for step in steps for one in step.candidates})
        others = sorted({endpoint.backend_name for endpoint in self._endpoints if _has(endpoint, request)})
        raise InvalidParameter(
            f"model {request.model[:200]!r} does not do {request.operation}: {_names(asked)} cannot; "
            + (f"backends that can: {_names(others)}" if others else "no backend here can"),
            code="unsupported_operation",
            param="model",
        )

    def _context(self, call: Call, lease: Lease) -> Context:
        return Context(
            turn_id=call.turn_id,
            created_at=call.created_at,
            backend_model=lease.model,
            request_id=call.request_id,
            clock=self._clock,
            entropy=self._entropy,
            tenant=call.tenant,
            session_id=call.session_id,
        )


def _prepare(call: Call, endpoint: Endpoint) -> Prepared:
    check_streaming(call.request, endpoint.backend.capabilities)
    return call, ()


def _has(endpoint: Endpoint, request: OperationRequest) -> bool:
    return endpoint.performer is not None and request.operation in endpoint.performer.operations


def _names(backends: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in backends)
