"""A model server over HTTP.

A client of the same dialect is relayed: its own body goes up with `model` respliced, and the answer's bytes come back with a
tee that reads usage, finish reasons and failures. Everyone else gets events through the dialect's codec. Both ways share one
request path, so errors, deadlines and headers cannot differ between them.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import msgspec

from trunkline.backends.redact import redacted
from trunkline.backends.tee import StreamTee, relay_body
from trunkline.backends.upstream import Answer, Upstream
from trunkline.config.schema import HttpSettings
from trunkline.dialects.openai_chat import EXPRESSIBLE, ChatBackend
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, BackendUnavailable
from trunkline.model.request import Request
from trunkline.ports.backend import (
    BackendSetup,
    Capabilities,
    Context,
    EventBatch,
    ModelInfo,
    PartKind,
    RelayAnswer,
    RelayBatch,
)

_ALL_PARTS: frozenset[PartKind] = frozenset({"text", "refusal", "image", "audio", "file", "opaque"})
_PASSED_PREFIXES = ("x-ratelimit-", "openai-")
MAX_ERROR_BYTES = 65_536
MAX_MESSAGE = 2000


class HttpBackend:
    """One endpoint that speaks chat completions."""

    def __init__(self, settings: HttpSettings, setup: BackendSetup) -> None:
        self._settings = settings
        self._codec = ChatBackend()
        self._secrets = () if settings.api_key is None else (settings.api_key,)
        headers = {"Content-Type": "application/json"}
        if settings.api_key is not None:
            headers["Authorization"] = f"Bearer {settings.api_key}"
        self._upstream = Upstream(
            settings.endpoints[0],
            headers=headers,
            connect_timeout_s=settings.connect_timeout_s,
            first_byte_timeout_s=settings.first_event_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
            max_connections=settings.max_connections,
            trust_env=settings.trust_env,
        )
        self.relay_dialect = self._codec.name
        self.capabilities = Capabilities(
            parameters=EXPRESSIBLE,
            forwards_unknown=self._codec.name,
            parts=_ALL_PARTS,
            streaming=settings.streaming,
            applies_stop=True,
        )

    async def start(self) -> None:
        await self._upstream.start()

    async def close(self) -> None:
        await self._upstream.close()

    async def models(self) -> Sequence[ModelInfo]:
        if self._settings.models:
            return [ModelInfo(id=model) for model in self._settings.models]
        answer = await self._upstream.get("/models")
        try:
            body = await answer.read()
        finally:
            answer.close()
        if answer.status != 200:
            raise self._cleaned(self._codec.decode_error(answer.status, body))
        return _read_models(body, self._upstream.where)

    async def open(self, request: Request, context: Context) -> AsyncIterator[EventBatch]:
        answer = await self._send(request, context)
        async with aclosing(self._decode(answer, context)) as batches:
            async for batch in batches:
                yield batch

    async def relay(self, request: Request, context: Context) -> RelayAnswer | AsyncIterator[EventBatch]:
        answer = await self._send(request, context)
        if request.stream != _is_stream(answer):
            return self._decode(answer, context)
        passed = {name: value for name, value in answer.headers().items() if name.lower().startswith(_PASSED_PREFIXES)}
        batches = (
            self._relay_stream(answer, request, context)
            if request.stream
            else self._relay_body(answer, request, context)
        )
        return RelayAnswer(batches, passed)

    async def _relay_stream(self, answer: Answer, request: Request, context: Context) -> AsyncIterator[RelayBatch]:
        tee = StreamTee(request, entropy=context.entropy)
        try:
            async with aclosing(answer.chunks()) as chunks:
                async for chunk in chunks:
                    batch = tee.feed(chunk)
                    if batch.events:
                        yield RelayBatch(batch.data, self._clean(batch.events), batch.content)
                    elif batch.data:
                        yield batch
                    if tee.ended:
                        return
            yield tee.close()
        except BackendError as error:
            raise self._cleaned(error) from None
        finally:
            await _leave(answer, whole=tee.ended)

    async def _relay_body(self, answer: Answer, request: Request, context: Context) -> AsyncIterator[RelayBatch]:
        try:
            body = await answer.read()
        finally:
            answer.close()
        try:
            whole = relay_body(body, request, entropy=context.entropy)
        except BackendError as error:
            raise self._cleaned(error) from None
        yield whole

    async def _decode(self, answer: Answer, context: Context) -> AsyncGenerator[EventBatch, None]:
        fallback = ev.TurnStarted(context.turn_id, context.backend_model, context.created_at)
        decoder = self._codec.decoder(fallback, streamed=_is_stream(answer))
        try:
            async with aclosing(answer.chunks()) as chunks:
                async for chunk in chunks:
                    events = decoder.feed(chunk)
                    if events:
                        yield self._clean(events)
                    if decoder.ended:
                        return
            yield self._clean(decoder.close())
        except BackendError as error:
            raise self._cleaned(error) from None
        finally:
            await _leave(answer, whole=decoder.ended)

    async def _send(self, request: Request, context: Context) -> Answer:
        if context.body is not None and context.body_dialect == self._codec.name:
            body = self._codec.forward_body(context.body, request, model=context.backend_model)
        else:
            body = self._codec.encode_request(request, model=context.backend_model)
        answer = await self._upstream.post("/chat/completions", body, headers={"X-Request-Id": context.request_id})
        if 200 <= answer.status < 300:
            return answer
        try:
            raise await self._refusal(answer)
        finally:
            answer.close()

    async def _refusal(self, answer: Answer) -> BackendError:
        body = (await answer.read())[:MAX_ERROR_BYTES]
        if 300 <= answer.status < 400:
            return BackendUnavailable(
                f"{self._upstream.where} redirects to {answer.header('Location')!r}; configure that URL instead"
            )
        error = self._cleaned(self._codec.decode_error(answer.status, body))
        retry_after = answer.header("Retry-After")
        if retry_after.isdigit():
            error.retry_after_s = float(retry_after)
        return error

    def _cleaned(self, error: BackendError) -> BackendError:
        """The error without our key, which some servers repeat."""
        error.message = redacted(error.message, limit=MAX_MESSAGE, secrets=self._secrets)
        return error

    def _clean(self, events: EventBatch) -> EventBatch:
        """The same for a failure within an answer."""
        if not events or not isinstance(events[-1], ev.TurnFailed):
            return events
        info = events[-1].error
        message = redacted(info.message, limit=MAX_MESSAGE, secrets=self._secrets)
        return [*events[:-1], ev.TurnFailed(msgspec.structs.replace(info, message=message))]


async def _leave(answer: Answer, *, whole: bool) -> None:
    """Keeps the connection when the answer is whole; otherwise closing it tells the upstream to stop."""
    if whole:
        await answer.finish()
    else:
        answer.close()


def _is_stream(answer: Answer) -> bool:
    return answer.header("Content-Type").lower().startswith("text/event-stream")


class _Listed(msgspec.Struct):
    id: str
    created: int | None = None
    owned_by: str | None = None


class _Listing(msgspec.Struct):
    data: list[_Listed]


def _read_models(body: bytes, where: str) -> list[ModelInfo]:
    try:
        listing = msgspec.json.decode(body, type=_Listing)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BackendUnavailable(f"{where}/models did not answer with a model list") from None
    return [
        ModelInfo(id=entry.id, created_at=entry.created or 0, owned_by=entry.owned_by or "trunkline")
        for entry in listing.data
    ]


def build(settings: HttpSettings, setup: BackendSetup) -> HttpBackend:
    return HttpBackend(settings, setup)


__all__ = ["HttpBackend", "build"]
