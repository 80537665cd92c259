"""Embeddings of the embedded model: a second engine of the same file, loaded at the start or when they are first asked for.

llama.cpp serves answers or embeddings, not both. The weights are mapped from the same file, so the second engine costs its buffers
and little else. It works in one call at a time, each of as many texts as there are slots: a call cannot be interrupted, so a long
list must not be one.

A text may have MAX_TOKENS. The engine computes a whole text at once, with a row of the vocabulary's size for each of its tokens;
what it would need for thousands is more than the model itself.
"""

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from typing import cast

import msgspec

from trunkline.backends.embedded.engine import CallFailed, Engine, EngineOptions
from trunkline.backends.embedded.slots import SlotQueue
from trunkline.dialects import reading
from trunkline.dialects.reading import Json, Object
from trunkline.model import events as ev
from trunkline.model.errors import (
    BackendError,
    BackendUnavailable,
    ConfigError,
    InvalidParameter,
    UnsupportedParameter,
)
from trunkline.model.usage import Usage
from trunkline.ports.backend import RelayBatch
from trunkline.ports.operations import OperationAnswer, OperationRequest

MAX_TOKENS = 512
MAX_INPUTS = 2048
"""OpenAI's own bound on one request."""

_READ = frozenset({"model", "input", "encoding_format", "dimensions"})
Text = str | list[int]


class _Embedding(msgspec.Struct, frozen=True):
    embedding: list[float]


class _Counts(msgspec.Struct, frozen=True):
    prompt_tokens: int


class _Made(msgspec.Struct, frozen=True):
    data: list[_Embedding]
    usage: _Counts


class Embeddings:
    """Embeds texts with one model. `options` are those of the engine that answers; `close` may be called at any time."""

    def __init__(self, options: EngineOptions) -> None:
        context_tokens = min(MAX_TOKENS, options.context_tokens)
        self._options = msgspec.structs.replace(options, embeddings=True, context_tokens=context_tokens)
        self._turn = SlotQueue(1)
        self._loading: asyncio.Task[Engine] | None = None
        self._closed = False

    async def perform(self, request: OperationRequest) -> OperationAnswer:
        """Raises InvalidParameter for what it cannot read, UnsupportedParameter for what it cannot do."""
        asked = reading.decode_body(b"".join(request.body(request.model)))
        texts = _texts(asked)
        encoding = reading.one_of(asked.get("encoding_format") or "float", "encoding_format", ("float", "base64"))
        dimensions = asked.get("dimensions")
        if dimensions is not None:
            dimensions = reading.integer(dimensions, "dimensions", low=1)
        engine = await self.load()
        size = engine.embedding_size
        if dimensions not in (None, size):
            raise UnsupportedParameter(
                f"model {request.model!r} has {size} dimensions and cannot make it {dimensions}", param="dimensions"
            )
        await self._check_lengths(engine, texts, request)
        ignored = tuple([name for name in asked if name not in _READ])
        batches = self._embed(engine, texts, request, as_base64=encoding == "base64")
        return OperationAnswer(batches, media_type="application/json", ignored=ignored)

    async def close(self, *, timeout_s: float) -> None:
        self._closed = True
        if self._loading is not None:
            await asyncio.wait([self._loading])
            if self._loading.exception() is None:
                await self._loading.result().close(timeout_s=timeout_s)

    async def load(self) -> Engine:
        """The engine, loaded once. Loading goes on when the client that began it leaves: a thread that loads cannot be stopped."""
        loading = self._loading
        if self._closed:
            raise self._gone()
        if loading is None or (loading.done() and loading.exception() is not None):
            loading = self._loading = asyncio.create_task(self._load(), name="load the engine for embeddings")
        engine = await asyncio.shield(loading)
        if self._closed:
            raise self._gone()
        return engine

    def _gone(self) -> BackendUnavailable:
        return BackendUnavailable(f"the embedded model {self._options.model!r} is not loaded")

    async def _load(self) -> Engine:
        engine = Engine(self._options)
        try:
            await engine.load()
        except ConfigError as error:  # it loaded for answers, so it is not the file
            raise BackendUnavailable(f"no memory for a second engine: {error.message}") from error
        return engine

    async def _check_lengths(self, engine: Engine, texts: list[Text], request: OperationRequest) -> None:
        limit = self._options.context_tokens
        for place, text in enumerate(texts):
            if len(text if isinstance(text, list) else text.encode()) < limit:  # no token is shorter than a byte
                continue
            try:
                count = len(text) if isinstance(text, list) else await engine.count_text_tokens(text)
            except CallFailed as error:
                raise _failed(str(error), refused=error.refused) from error
            if count > limit:
                raise InvalidParameter(
                    f"model {request.model!r} embeds texts of at most {limit} tokens; text {place} has {count}",
                    code="context_length_exceeded",
                    param="input",
                )

    async def _embed(
        self, engine: Engine, texts: list[Text], request: OperationRequest, *, as_base64: bool
    ) -> AsyncIterator[RelayBatch]:
        data: list[object] = []
        tokens = 0
        for start in range(0, len(texts), self._options.slots):
            made = await self._call(engine, texts[start : start + self._options.slots])
            tokens += made.usage.prompt_tokens
            for one in made.data:
                embedding = _as_base64(one.embedding) if as_base64 else one.embedding
                data.append({"object": "embedding", "index": len(data), "embedding": embedding})
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        body = msgspec.json.encode({"object": "list", "data": data, "model": request.model, "usage": usage})
        yield RelayBatch(body, (ev.UsageReported(Usage(input_tokens=tokens)), ev.TurnCompleted()), True)

    async def _call(self, engine: Engine, texts: list[Text]) -> _Made:
        await self._turn.acquire(1)
        try:
            generation = engine.embed({"input": cast("list[Json]", texts)}, on_end=lambda: self._turn.release(1))
        except BackendUnavailable:
            self._turn.release(1)
            raise
        answers = []
        try:
            async for chunks in generation.batches():
                answers += chunks
        except CallFailed as error:
            raise _failed(str(error), refused=error.refused) from error
        if engine.closed or not answers:
            raise BackendUnavailable("the server is shutting down")
        refusal = answers[0].get("error")
        if isinstance(refusal, dict):
            raise _failed(str(refusal.get("message")), refused=refusal.get("code") == 400)
        return msgspec.convert(answers[0], _Made)


def _failed(message: str, *, refused: bool) -> BackendError | InvalidParameter:
    if refused:
        return InvalidParameter(f"Invalid 'input': {message}", param="input")
    return BackendError(f"the embedded engine failed: {message}")


def _texts(asked: Object) -> list[Text]:
    """`input`: a text, texts, a list of tokens, or lists of tokens."""
    given = asked.get("input")
    if given is None:
        reading.missing("input")
    if isinstance(given, list) and given and type(given[0]) is int:
        return [_tokens(given, "input")]
    if not isinstance(given, list):
        given = [reading.text(given, "input")]
    if not 1 <= len(given) <= MAX_INPUTS:
        raise InvalidParameter(
            f"Invalid 'input': expected 1 to {MAX_INPUTS} texts, but got {len(given)}.", param="input"
        )
    texts: list[Text] = []
    for place, entry in enumerate(given):
        path = f"input[{place}]" if isinstance(asked["input"], list) else "input"
        text = _tokens(entry, path) if isinstance(entry, list) else reading.text(entry, path)
        if not text:
            raise InvalidParameter(f"Invalid '{path}': expected a text that is not empty.", param=path)
        texts.append(text)
    return texts


def _tokens(entry: list[Json], path: str) -> list[int]:
    if any(type(token) is not int or not 0 <= token < 2**31 for token in entry):
        raise InvalidParameter(f"Invalid '{path}': expected token numbers.", param=path)
    return cast("list[int]", entry)


def _as_base64(embedding: list[float]) -> str:
    """Little-endian floats of four bytes, as OpenAI's API has them."""
    return base64.b64encode(struct.pack(f"<{len(embedding)}f", *embedding)).decode()
