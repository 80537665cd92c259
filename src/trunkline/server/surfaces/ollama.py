"""Ollama's own API: /api/chat and /api/generate, embeddings, the lists of models, one model, the version.

Any backend answers, as with every surface. A client that was written for Ollama asks more of its server than answers, and gets it
as far as it means anything here: models are listed under the names that clients of this server use, those in memory are those of
which a backend says so. To load a model, or to free it, is passed on to an Ollama server; everywhere else there is nothing to load,
and the answer says so at once. Models are managed where they are: pull, push, create, copy and delete are refused by a sentence.

`OLLAMA_VERSION` is the version of Ollama's API that is spoken: clients compare it with what they need.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline.dialects.codec import SurfaceCodec
from trunkline.dialects.ollama_chat import (
    NAME,
    OllamaChatSurface,
    OllamaGenerateSurface,
    asks_to_load,
    embeddings,
    listings,
)
from trunkline.dialects.ollama_chat.listings import Embed, ModelCard
from trunkline.engine.call import Call
from trunkline.engine.operations import OperationGateway, whole_of
from trunkline.model.errors import ErrorInfo, NotFound, TrunklineError, UnsupportedParameter
from trunkline.model.ids import new_id
from trunkline.model.request import Request
from trunkline.ports.backend import Capabilities, ModelFile, ModelInfo
from trunkline.ports.operations import Operation, OperationRequest
from trunkline.server.answering import Answerer, outcome_headers
from trunkline.server.body import read_body
from trunkline.server.cache_choice import cache_choice
from trunkline.server.disconnect import DisconnectWatch
from trunkline.server.exchange import Exchange, exchange_of
from trunkline.server.json_response import send_json
from trunkline.server.operation_body import JSON, operation_call
from trunkline.server.runtime import Runtime
from trunkline.server.session import session_id_of

OLLAMA_VERSION = "0.24.0"
PREFIX = "/api/"
EMBEDDINGS: Operation = "embeddings"
MANAGED = ("blobs/{digest}", "copy", "create", "delete", "pull", "push")
_TEXT = b"trunkline is running"


class TurnCodec(SurfaceCodec, Protocol):
    """Of one exchange: it tells how long that has lasted."""

    def encode_loaded(self, request: Request, *, reason: str, created_at: int) -> bytes: ...


MakeCodec = Callable[..., TurnCodec]


class OllamaErrors:
    """The envelope of errors under /api/, whichever layer they come from."""

    def encode_error(self, error: ErrorInfo) -> bytes:
        return msgspec.json.encode({"error": error.message})


class Turns:
    """POST /api/chat or /api/generate. `forwards`: whether an Ollama server may get the client's body as it came."""

    def __init__(self, runtime: Runtime, make_codec: MakeCodec, *, forwards: bool) -> None:
        self._runtime = runtime
        self._make_codec = make_codec
        self._forwards = forwards

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime, exchange = self._runtime, exchange_of(scope)
        codec = self._make_codec(elapsed_ns=_since(exchange, runtime))
        body = await read_body(scope, receive, limit_bytes=runtime.settings.max_body_bytes)
        body, cache = cache_choice(scope, body, runtime.profile)
        request = codec.decode_request(body)
        if request.model is None:
            request = msgspec.structs.replace(request, model=runtime.router.choose(None))
        if not self._forwards:
            _check_conversation(request)
        call = Call(
            request=request,
            body=body if self._forwards else None,
            own_items=request.items,
            dialect=NAME,
            turn_id=new_id("chatcmpl-", runtime.entropy),
            created_at=int(runtime.clock.now_s()),
            request_id=exchange.request_id,
            tenant=exchange.tenant,
            outcome=exchange.outcome,
            session_id=session_id_of(scope, runtime),
            session_named=True,
            cache=cache,
            shows_approvals=False,
        )
        reason = asks_to_load(request)
        if reason is not None and not await self._loads(call):
            exchange.outcome.model = request.model
            await send_json(codec.encode_loaded(request, reason=reason, created_at=call.created_at), send)
            return
        answerer = Answerer(runtime.gateway, codec, keepalive_s=runtime.settings.keepalive_s)
        await answerer.respond(call, exchange, receive, send)

    async def _loads(self, call: Call) -> bool:
        """Whether who would answer knows what loading is. Raises ModelNotFound."""
        described = await self._runtime.router.describe(call.request.model or "")
        return described.endpoint.backend.capabilities.forwards_unknown == NAME


def _check_conversation(request: Request) -> None:
    """Raises UnsupportedParameter for what /api/generate alone has: a text that is no conversation is nothing to answer here."""
    for name, wire in request.asked.items():
        if name in request.extra:
            raise UnsupportedParameter(
                f"'{wire}' is not supported: a prompt is answered here as a user's message, with the model's own template",
                param=wire,
            )


def _since(exchange: Exchange, runtime: Runtime) -> Callable[[], int]:
    return lambda: int((runtime.clock.monotonic_s() - exchange.started_s) * 1e9)


class Embeddings:
    """POST /api/embed, or /api/embeddings with one prompt (`single`): an operation, as /v1/embeddings is."""

    def __init__(self, runtime: Runtime, gateway: OperationGateway, *, single: bool) -> None:
        self._runtime = runtime
        self._gateway = gateway
        self._single = single

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime, exchange = self._runtime, exchange_of(scope)
        body = await read_body(scope, receive, limit_bytes=runtime.settings.max_body_bytes)
        embed = embeddings.decode_prompt(body) if self._single else listings.decode_embed(body)
        model = exchange.outcome.model = runtime.router.choose(embed.model)
        if embed.inputs:
            vectors = None
            with DisconnectWatch(receive, exchange.outcome, graceful=True):
                vectors = await self._vectors(embed, model, exchange, scope)
            if vectors is None:  # the client has left
                return
        else:  # asks only that the model be loaded
            await runtime.router.describe(model)
            vectors = embeddings.Vectors([])
        numbers = vectors.numbers
        if self._single:
            answer = embeddings.write_vector(numbers[0] if numbers else [])
        else:
            elapsed_ns = _since(exchange, runtime)()
            answer = listings.write_embed(model, numbers, input_tokens=vectors.input_tokens, elapsed_ns=elapsed_ns)
        await send_json(answer, send, headers=outcome_headers(exchange.outcome))

    async def _vectors(self, embed: Embed, model: str, exchange: Exchange, scope: Scope) -> embeddings.Vectors:
        before, after = embeddings.body_around_model(embed)
        call = operation_call(scope, self._runtime, EMBEDDINGS, model=model)
        request = OperationRequest(
            operation=EMBEDDINGS, model=model, content_type=JSON, before=(before,), after=(after,)
        )
        answer = await self._gateway.perform(call, request)
        try:
            body = await whole_of(answer)
        finally:
            await answer.aclose()
        exchange.outcome.ignored = (*exchange.outcome.ignored, *embeddings.ignored(embed))
        return embeddings.read_vectors(body, inputs=len(embed.inputs))


class Tags:
    """GET /api/tags: every model a client may ask for; GET /api/ps: those in memory."""

    def __init__(self, runtime: Runtime, *, running: bool) -> None:
        self._runtime = runtime
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        router = self._runtime.router
        cards = []
        for listed in await router.models():
            try:
                described = await router.describe(listed.id)
            except TrunklineError:  # who answers it cannot be said now; the name is offered all the same
                info, capabilities = listed, Capabilities()
            else:
                info, capabilities = described.info, described.endpoint.backend.capabilities
            if info.loaded or not self._running:
                cards.append(card_of(info, capabilities))
        await send_json(listings.write_ps(cards) if self._running else listings.write_tags(cards), send)


class Show:
    """POST /api/show: one model."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, limit_bytes=self._runtime.settings.max_body_bytes)
        described = await self._runtime.router.describe(listings.decode_show(body))
        card = card_of(described.info, described.endpoint.backend.capabilities)
        await send_json(listings.write_show(card), send)


def card_of(info: ModelInfo, capabilities: Capabilities) -> ModelCard:
    """What this API tells of a model. Where its server does not say what it can do, it is what its backend takes."""
    file = info.file or ModelFile()
    abilities = info.abilities or (
        "completion",
        *(("tools",) if "tools" in capabilities.parameters else ()),
        *(("vision",) if "image" in capabilities.parts else ()),
    )
    return ModelCard(
        name=info.id,
        modified_at=info.created_at,
        size_bytes=file.size_bytes,
        digest=file.digest or listings.NO_DIGEST,
        format=file.format,
        family=file.family,
        families=file.families,
        parameter_size=file.parameter_size,
        quantization_level=file.quantization_level,
        capabilities=abilities,
        context_tokens=info.context_tokens,
    )


class Version:
    """GET /api/version."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(listings.write_version(OLLAMA_VERSION), send)


class Managed:
    """What manages models, which this server does not."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotFound(f"{scope['path'][:200]} is not here: models are managed at the server that has them")


class Root:
    """GET /: clients of Ollama ask here whether anybody is there."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(_TEXT)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": _TEXT})


def routes(runtime: Runtime, gateway: OperationGateway) -> list[BaseRoute]:
    return [
        Route("/api/chat", Turns(runtime, OllamaChatSurface, forwards=True), methods=["POST"]),
        Route("/api/generate", Turns(runtime, OllamaGenerateSurface, forwards=False), methods=["POST"]),
        Route("/api/embed", Embeddings(runtime, gateway, single=False), methods=["POST"]),
        Route("/api/embeddings", Embeddings(runtime, gateway, single=True), methods=["POST"]),
        Route("/api/tags", Tags(runtime, running=False), methods=["GET"]),
        Route("/api/ps", Tags(runtime, running=True), methods=["GET"]),
        Route("/api/show", Show(runtime), methods=["POST"]),
        Route("/api/version", Version(), methods=["GET"]),
        *[Route(f"{PREFIX}{name}", Managed(), methods=["POST", "PUT", "DELETE"]) for name in MANAGED],
        Route("/", Root(), methods=["GET"]),
    ]
