"""A model server over HTTP.

What it speaks is a value from `http_dialects`. A client of the same dialect is relayed where the dialect can be: its own body
goes up with `model` respliced, and the answer's bytes come back with a tee that reads usage, finish reasons and failures. Everyone
else gets events through the dialect's codec. Both ways share one request path, so errors, deadlines and headers cannot differ.
"""

import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from urllib.parse import urlsplit

import msgspec

from trunkline.backends.http_context import ContextEndpoints
from trunkline.backends.http_dialects import DIALECTS, Relaying, is_asleep, with_running
from trunkline.backends.operations import ALL, HttpOperations
from trunkline.backends.redact import redacted
from trunkline.backends.upstream import Answer, Misframed, Upstream
from trunkline.backends.vendors import UNKNOWN, VENDORS, guessed, refusal, with_length_name
from trunkline.config.schema import HttpSettings
from trunkline.dialects.codec import Decoder
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from trunkline.model.request import Request
from trunkline.ports.backend import (
    BackendSetup,
    Capabilities,
    Compacted,
    Context,
    EventBatch,
    ModelInfo,
    PartKind,
    RelayAnswer,
    RelayBatch,
    WholeRelay,
)
from trunkline.ports.operations import OperationAnswer, OperationRequest

logger = logging.getLogger("trunkline.http")

_PARTS: frozenset[PartKind] = frozenset({"text", "refusal", "image", "audio", "file"})
_PASSED_PREFIXES = ("x-ratelimit-", "openai-")
_SECONDS = re.compile("[0-9]{1,9}")
_A_MODEL = re.compile(r"(?<![/\w])model", re.IGNORECASE)
"""In a sentence, not in a path such as /v1/models."""
_SAYS_NOTHING = (None, "not_found", BackendRejected.default_code)
"""Codes of a 404 that may be about the path."""
MAX_ERROR_BYTES = 65_536
ERROR_WITHIN_S = 5.0
"""A refusal's own words must not keep its client waiting for long: its status is known."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A whole turn as JSON. As text it may be a quarter of that, `answer_size`; the rest is for what describes it."""
MAX_LISTING_BYTES = 16 * 1024 * 1024
MAX_MESSAGE = 2000
END_WITHIN_S = 2.0
"""After a finish reason: an answer that says all but its end is whole, and no client waits for a server that has fallen silent."""


class HttpBackend:
    """One endpoint that speaks one dialect."""

    def __init__(self, settings: HttpSettings, setup: BackendSetup) -> None:
        self._settings = settings
        self._dialect = DIALECTS[settings.dialect]
        self._codec = self._dialect.codec
        self._vendor = VENDORS.get(settings.vendor or self._dialect.vendor or "", UNKNOWN)
        self._host = urlsplit(settings.endpoints[0]).hostname
        self._secrets = () if settings.api_key is None else (settings.api_key,)
        self._addresses = tuple([urlsplit(url).netloc.rpartition("@")[2] for url in settings.endpoints])
        headers = {"Content-Type": "application/json"}
        if settings.api_key is not None:
            headers["Authorization"] = f"Bearer {settings.api_key}"
        self._upstream = Upstream(
            settings.endpoints[0],
            name=f"backend {setup.name!r}",
            headers=headers,
            connect_timeout_s=settings.connect_timeout_s,
            first_byte_timeout_s=settings.first_event_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
            max_connections=settings.max_connections,
            trust_env=settings.trust_env,
        )
        self._context_endpoints = ContextEndpoints(
            self._dialect.counting, self._dialect.compact_path, refuse=self._refusal
        )
        self._operations = HttpOperations(
            self._upstream, prefix=self._dialect.operations_root, refusal=self._refusal, cleaned=self._cleaned
        )
        self.operations = ALL
        self.relay_dialect = None if self._dialect.relay is None else self._codec.name
        self.capabilities = Capabilities(
            parameters=self._dialect.parameters,
            forwards_unknown=self._codec.name,
            parts=_PARTS,
            streaming=settings.streaming,
            applies_stop=self._dialect.applies_stop,
        )

    async def start(self) -> None:
        await self._upstream.start()

    async def close(self) -> None:
        await self._upstream.close()

    async def models(self) -> Sequence[ModelInfo]:
        if self._settings.models:
            return [ModelInfo(id=model) for model in self._settings.models]
        answer = await self._upstream.get(self._dialect.models_path)
        try:
            body = await answer.read(at_most_bytes=MAX_LISTING_BYTES)
        finally:
            answer.close()
        if answer.status != 200:
            refused = self._refused(answer.status, body)
            if answer.status == 404:
                refused.message = self._missing("GET", self._dialect.models_path, 404, refused)
            raise refused
        models = self._dialect.read_models(body, self._upstream.name)
        if self._settings.vendor is None and self._dialect.vendor is None:
            self._vendor = guessed(models, server=answer.header("Server"), host=self._host)
        vendor = self._vendor
        if vendor.running_path is not None:
            return with_running(models, await self._told(vendor.running_path))
        if not vendor.lists_loaded:
            return models
        loaded = vendor.sleeping_path is None or not is_asleep(await self._told(vendor.sleeping_path))
        return [info if info.loaded is not None else msgspec.structs.replace(info, loaded=loaded) for info in models]

    async def probe(self) -> None:
        if self._settings.models:  # otherwise it has just been asked for them
            answer = await self._upstream.get(self._dialect.models_path)
            answer.close()

    async def _told(self, path: str) -> bytes | None:
        """What it says of the models in its memory; None where it does not: they count all the same."""
        try:
            answer = await self._upstream.get(self._dialect.root + path)
            try:
                return await answer.read(at_most_bytes=MAX_LISTING_BYTES) if answer.status == 200 else None
            finally:
                answer.close()
        except BackendError as error:
            logger.info("%s does not say which models are in memory: %s", self._upstream.name, error.message)
            return None

    async def count_tokens(self, request: Request, context: Context) -> int:
        body = self._body(msgspec.structs.replace(request, stream=False), context)
        return await self._context_endpoints.count_tokens(body, partial(self._post, context=context))

    async def compact(self, request: Request, context: Context) -> Compacted | None:
        return await self._context_endpoints.compact(self._body(request, context), partial(self._post, context=context))

    async def open(self, request: Request, context: Context) -> AsyncIterator[EventBatch]:
        if request.background and self._settings.streaming:  # its log has readers, and its answer may take long
            request = msgspec.structs.replace(request, stream=True)
        answer = await self._send(request, context)
        async with aclosing(self._decode(answer, request, context)) as batches:
            async for batch in batches:
                yield batch

    async def relay(self, request: Request, context: Context) -> RelayAnswer | AsyncIterator[EventBatch]:
        relaying = self._dialect.relay
        assert relaying is not None, "only asked of a backend with a relay_dialect"
        answer = await self._send(request, context)
        if request.stream != self._is_stream(answer):
            return self._decode(answer, request, context)
        passed = answer.headers(_PASSED_PREFIXES)
        if request.stream:
            return RelayAnswer(self._relay_stream(relaying, answer, request, context), passed)
        return RelayAnswer(WholeRelay(await self._relay_body(relaying, answer, request, context)), passed)

    async def perform(self, request: OperationRequest, context: Context) -> OperationAnswer:
        return await self._operations.perform(request, context)

    async def _relay_stream(
        self, relaying: Relaying, answer: Answer, request: Request, context: Context
    ) -> AsyncIterator[RelayBatch]:
        tee, whole = relaying.stream(request, entropy=context.entropy), False
        try:
            try:
                while chunk := await answer.chunk():
                    batch = tee.feed(chunk)
                    whole = tee.ended and _failure(batch.events) is None
                    if batch.events:
                        yield RelayBatch(batch.data, self._clean(batch.events), batch.content)
                    elif batch.data:
                        yield batch
                    if tee.ended:
                        return
                    if tee.finished:
                        answer.end_within(END_WITHIN_S)
            except (BackendUnavailable, BackendTimeout, Misframed):
                if not tee.finished:  # otherwise nothing but its usage and its end can be missing
                    raise
            yield tee.close()
        except BackendError as error:
            raise self._cleaned(error) from None
        finally:
            _leave(answer, whole=whole)

    async def _relay_body(self, relaying: Relaying, answer: Answer, request: Request, context: Context) -> RelayBatch:
        try:
            body = await answer.read(at_most_bytes=MAX_ANSWER_BYTES)
        finally:
            answer.close()
        try:
            return relaying.whole(body, request, entropy=context.entropy)
        except BackendError as error:
            raise self._cleaned(error) from None

    async def _decode(self, answer: Answer, request: Request, context: Context) -> AsyncGenerator[EventBatch, None]:
        fallback = ev.TurnStarted(context.turn_id, context.backend_model, context.created_at)
        streamed = self._is_stream(answer)
        decoder = self._codec.decoder(fallback, streamed=streamed, tools=request.tools)
        whole = finished = False
        try:
            try:
                while chunk := await (answer.chunk() if streamed else answer.read(at_most_bytes=MAX_ANSWER_BYTES)):
                    events = decoder.feed(chunk)
                    whole = decoder.ended and _failure(events) is None
                    if events:
                        yield self._clean(events)
                    if decoder.ended:
                        return
                    finished = finished or ev.ChoiceDone in map(type, events)
                    if finished and streamed and request.n == 1:
                        answer.end_within(END_WITHIN_S)
            except (BackendUnavailable, BackendTimeout, Misframed):
                if not streamed or request.n > 1:  # choices that never began would not be missed
                    raise
                last = _last_events(decoder)
                if last is None:
                    raise
                yield last
                return
            yield self._clean(decoder.close())
        except BackendError as error:
            raise self._cleaned(error) from None
        finally:
            _leave(answer, whole=whole)

    async def _send(self, request: Request, context: Context) -> Answer:
        answer = await self._post(self._dialect.path, self._body(request, context), context=context)
        if 200 <= answer.status < 300:
            return answer
        try:
            raise await self._refusal(answer)
        finally:
            answer.close()

    def _body(self, request: Request, context: Context) -> bytes:
        if context.body is not None and context.body_dialect == self._codec.name:
            body = self._codec.forward_body(
                context.body, request, model=context.backend_model, own_items=context.own_items
            )
        else:
            body = self._codec.encode_request(request, model=context.backend_model)
        return with_length_name(body, self._vendor.length_name) if self._dialect.has_length_names else body

    async def _post(self, path: str, body: bytes, *, context: Context) -> Answer:
        return await self._upstream.post(path, body, headers={"X-Request-Id": context.request_id})

    async def _refusal(self, answer: Answer) -> BackendError:
        body = await answer.excerpt(at_most_bytes=MAX_ERROR_BYTES, within_s=ERROR_WITHIN_S)
        if 300 <= answer.status < 400:
            logger.warning(
                "%s redirects to %r; configure that URL instead", self._upstream.name, answer.header("Location")
            )
            return BackendUnavailable(
                f"{self._upstream.name} redirects elsewhere; configure the address that the server's log names"
            )
        error = refusal(self._refused(answer.status, body))
        if answer.status in (404, 405) and error.code in _SAYS_NOTHING and not _is_about_model(error):
            message = self._missing("POST", self._dialect.path, answer.status, error)
            if not self._dialect.everywhere:
                return BackendUnavailable(message)
            error.message = message
        retry_after = answer.header("Retry-After")
        if _SECONDS.fullmatch(retry_after):
            error.retry_after_s = float(retry_after)
        return error

    def _is_stream(self, answer: Answer) -> bool:
        return answer.header("Content-Type").lower().startswith(self._dialect.stream_type)

    def _refused(self, status: int, body: bytes) -> BackendError:
        error = self._cleaned(self._codec.decode_error(status, body))
        if status == 401:  # its text is not shown: it may hold a part of the key
            name = self._upstream.name
            lacking = f"{name} wants an API key, and none is configured for it: api_key in [backends.NAME]"
            error.message = f"{name} refused this server's API key" if self._secrets else lacking
        return error

    def _missing(self, method: str, path: str, status: int, error: BackendError) -> str:
        return f"{self._upstream.name} answered {status} to {method} {path} ({error.message}); {self._dialect.missing}"

    def _cleaned(self, error: BackendError) -> BackendError:
        """The error without our key and the server's address, which some servers repeat."""
        error.message = self._text(error.message)
        return error

    def _text(self, message: str) -> str:
        return redacted(message, limit=MAX_MESSAGE, secrets=self._secrets, addresses=self._addresses)

    def _clean(self, events: EventBatch) -> EventBatch:
        """The same for a failure within an answer."""
        failed = _failure(events)
        if failed is None:
            return events
        info = failed.error
        return [*events[:-1], ev.TurnFailed(msgspec.structs.replace(info, message=self._text(info.message)))]


def _last_events(decoder: Decoder) -> EventBatch | None:
    """The end of an answer whose connection is lost, if nothing but its usage and its end can be missing."""
    try:
        return decoder.close()
    except BackendError:
        return None


def _is_about_model(error: BackendError) -> bool:
    if error.code == "model_not_found" or error.param == "model":
        return True
    return _A_MODEL.search(error.message) is not None


def _leave(answer: Answer, *, whole: bool) -> None:
    """Keeps the connection when the answer is whole; otherwise closing it tells the upstream to stop."""
    if whole:
        answer.finish()
    else:
        answer.close()


def _failure(events: EventBatch) -> ev.TurnFailed | None:
    last = events[-1] if events else None
    return last if isinstance(last, ev.TurnFailed) else None


def build(settings: HttpSettings, setup: BackendSetup) -> HttpBackend:
    return HttpBackend(settings, setup)


__all__ = ["HttpBackend", "build"]
