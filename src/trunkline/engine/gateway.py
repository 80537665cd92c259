"""From a call to its answer: who answers, when, and what becomes of failures.

    resolve the model → a slot of an endpoint → what it can honour → relay or open → guard → stop sequences → the surface

An answer is either events or relayed bytes; both come in batches. Until the first content or the end has arrived nothing is
handed over, so a failure before it is still an HTTP status, and a retryable one moves on (`failover`). After it, a failure is an
honest TurnFailed at the end of the stream. Where the cache is wanted, it is asked before anybody else (`cache`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import msgspec

from trunkline.engine.approvals import ApprovalRegistry, Asker
from trunkline.engine.attempt import Attempt
from trunkline.engine.cache import AnswerCache
from trunkline.engine.call import Call
from trunkline.engine.failover import Failover, Prepared, route_name
from trunkline.engine.flight import Source
from trunkline.engine.honour import check_streaming, translated
from trunkline.engine.sessions import Sessions
from trunkline.engine.truncation import truncation_for
from trunkline.model.errors import BackendTimeout, UnsupportedParameter
from trunkline.model.request import Request
from trunkline.ports.backend import Compacted, Compactor, Context, EventBatch, RelayBatch, TokenCounter
from trunkline.ports.runtime import Clock, Entropy
from trunkline.routing.balancer import Balancer, Endpoint, Lease
from trunkline.routing.router import Router

OPERATION = "chat"


class Answer:
    """An answer under way: iterate `batches` once, then `aclose`, however far it was read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.headers = source.headers
        self.relayed = source.relayed

    def relay_batches(self) -> AsyncIterator[RelayBatch]:
        return self._source.relay_batches()

    def event_batches(self) -> AsyncIterator[EventBatch]:
        return self._source.event_batches()

    async def aclose(self) -> None:
        await self._source.aclose()


class Gateway:
    """Answers calls. One instance serves them all."""

    def __init__(
        self,
        router: Router,
        balancer: Balancer,
        cache: AnswerCache,
        approvals: ApprovalRegistry,
        sessions: Sessions,
        *,
        clock: Clock,
        entropy: Entropy,
        may_relay: bool,
        lightens: bool = False,
    ) -> None:
        self._router = router
        self._cache = cache
        self._approvals = approvals
        self._sessions = sessions
        self._failover = Failover(router, balancer)
        self._clock = clock
        self._entropy = entropy
        self._may_relay = may_relay
        self._lightens = lightens

    async def answer(self, call: Call) -> Answer:
        """Opens the answer. Raises the typed error of the last endpoint tried when none could begin."""
        if call.named_session is not None and await self.keeps_sessions(call.request.model or ""):
            await self.check(call)  # what is refused is refused before it waits for its turn
            return Answer(await self._sessions.answer(call, self._known_or_asked))
        return await self._known_or_asked(call)

    async def _known_or_asked(self, call: Call) -> Answer:
        """What the cache has, where it is wanted, or a backend's."""
        if not self._cache.wanted(call):
            return await self._ask(call)
        return Answer(await self._cache.answer(msgspec.structs.replace(call, own_ids=True), self._ask, self.check))

    def _ask(self, call: Call) -> Awaitable[Answer]:
        return self._failover.first(call, self._for_turn, self._try, operation=OPERATION)

    async def count_tokens(self, call: Call) -> int:
        """The input tokens that an answer would report. Raises as `answer` does, and where nobody can tell."""
        return await self._failover.first(call, self._for_endpoint, self._count, operation=OPERATION)

    async def compact(self, call: Call) -> Compacted | None:
        """The conversation as the backend's upstream makes it shorter; None where it does not."""
        return await self._failover.first(call, self._for_endpoint, self._compact, operation=OPERATION)

    async def check(self, call: Call) -> tuple[str, ...]:
        """Raises what `answer` would raise at once: an unknown model, a parameter that nobody here can honour. Gives the names of
        what will be ignored, whoever is asked first."""
        return await self._failover.check(call, self._for_turn)

    async def context_tokens(self, model: str) -> int | None:
        """How long a context is for whoever is asked first, as far as it is known. Raises ModelNotFound."""
        described = await self._router.describe(model)
        return described.endpoint.backend.capabilities.context_tokens or described.info.context_tokens

    async def first_choice(self, model: str) -> str:
        """The backend that is asked first. Raises ModelNotFound."""
        return (await self._router.resolve(model))[0].first.endpoint.backend_name

    async def keeps_sessions(self, model: str) -> bool:
        """Whether a session that is named for this model is kept: who is asked first decides. Raises ModelNotFound."""
        return (await self._router.resolve(model))[0].first.endpoint.sessions

    def restarts(self, backend_name: str) -> bool:
        """Whether a lost run whose first choice was this backend is run again."""
        return any(endpoint.restarts for endpoint in self._router.endpoints_of(backend_name))

    async def _try(self, prepared: Prepared, lease: Lease, certain: bool) -> Answer:
        call, ignored = self._noted(prepared, lease, certain=certain)
        call.outcome.grace_s = lease.endpoint.grace_s
        attempt = Attempt(call, lease, self._context(call, lease), lightens=self._lightens)
        await attempt.begin(may_relay=self._may_relay and not call.own_ids)
        if not certain or attempt.left_out:
            call.outcome.route, call.outcome.ignored = route_name(lease), (*ignored, *attempt.left_out)
        return Answer(attempt)

    async def _count(self, prepared: Prepared, lease: Lease, certain: bool) -> int:
        call, _ = self._noted(prepared, lease, certain=certain)
        backend = lease.endpoint.backend
        call.outcome.operation = "count_tokens"
        if not isinstance(backend, TokenCounter):
            raise UnsupportedParameter(
                f"model {call.request.model!r} cannot count tokens: only what answers knows what it makes of its input",
                param="model",
            )
        counter, context = backend, self._context(call, lease)  # names that the closure can trust

        async def count(request: Request) -> int:
            return await counter.count_tokens(request, context)

        truncation = truncation_for(call.request, lightens=self._lightens)
        context_tokens = backend.capabilities.context_tokens
        async with self._turn(lease):
            if truncation is None or context_tokens is None:
                return await count(call.request)
            return await count(await truncation.fit(count, context_tokens=context_tokens))

    async def _compact(self, prepared: Prepared, lease: Lease, certain: bool) -> Compacted | None:
        call, _ = self._noted(prepared, lease, certain=certain)
        backend = lease.endpoint.backend
        async with self._turn(lease):
            if isinstance(backend, Compactor):
                call.outcome.operation = "compact"
                return await backend.compact(call.request, self._context(call, lease))
            return None

    @staticmethod
    def _for_endpoint(call: Call, endpoint: Endpoint) -> Prepared:
        """The call as this endpoint gets it."""
        capabilities, model = endpoint.backend.capabilities, call.request.model or ""
        request, ignored = translated(call.request, capabilities, dialect=call.dialect, model=model)
        return call if request is call.request else msgspec.structs.replace(call, request=request), ignored

    def _for_turn(self, call: Call, endpoint: Endpoint) -> Prepared:
        check_streaming(call.request, endpoint.backend.capabilities)
        return self._for_endpoint(call, endpoint)

    @staticmethod
    def _noted(prepared: Prepared, lease: Lease, *, certain: bool) -> Prepared:
        call, ignored = prepared
        call.outcome.backend, call.outcome.endpoint = lease.endpoint.backend_name, lease.endpoint.label
        call.outcome.acted = lease.endpoint.backend.capabilities.acts
        if certain:
            call.outcome.route, call.outcome.ignored = route_name(lease), ignored
        return prepared

    @asynccontextmanager
    async def _turn(self, lease: Lease) -> AsyncIterator[None]:
        """The time of one turn, for what is none."""
        limit = asyncio.timeout(lease.endpoint.timeout_s)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise BackendTimeout(f"{lease.endpoint.label!r} took longer than {lease.endpoint.timeout_s:g} s") from None
        lease.succeeded()
        lease.release()

    def _context(self, call: Call, lease: Lease) -> Context:
        seen = call.request.background or (call.request.stream and call.shows_approvals)
        asker = Asker(
            tenant=call.tenant,
            turn_id=call.turn_id,
            session_id=call.named_session,  # one that was found out may be another conversation that began alike
            backend=lease.endpoint.backend_name,
            request_id=call.request_id,
            visible=seen,
            outcome=call.outcome,
        )
        return Context(
            turn_id=call.turn_id,
            created_at=call.created_at,
            backend_model=lease.model,
            request_id=call.request_id,
            clock=self._clock,
            entropy=self._entropy,
            tenant=call.tenant,
            session_id=call.session_id,
            memory_key=call.memory_key,
            approvals=self._approvals.of_turn(asker),
            body=call.body,
            body_dialect=call.dialect,
            own_items=call.own_items,
        )
