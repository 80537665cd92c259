"""llama.cpp in this process, through xllamacpp, with an owner for every thread.

A call blocks the thread it is made on and hands each chunk to a callback there; the engine batches whatever calls are
under way, one per slot. So every call has a thread of its own, and a bridge to the loop: chunks that come while the
loop is busy wait in a list and wake it once. The list needs no bound of its own, an answer has no more chunks than
the context has tokens.

What the library does not say about itself, found by trying (xllamacpp 2026.10):

- The callback ends its call by returning True; the slot is free after the batch being computed. While a prompt is
  read the callback is only called between batches, and only with `return_progress`; so batches are small: cancelling
  takes about a second at worst, and other answers go on between them. Reading a prompt is a tenth slower for it.
- Creating a server holds the GIL until the model is loaded, whichever thread does it. Loading is the one moment in
  which everything stands still.
- Destroying a server before its main loop runs never returns. Asking for its metrics waits for that loop.
- A thread that is inside a call when the interpreter goes away aborts the process. So threads are ended at exit.
- Texts of different lengths that are embedded at once in caches of their own get wrong vectors: the longer one is computed
  in parts, and only the last part counts. In one cache they do not.
- A server always listens; it gets loopback, any port and a random key that nobody else learns.
"""

import asyncio
import atexit
import http.client
import itertools
import logging
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

import msgspec
import xllamacpp

from trunkline.backends.embedded.prompt import Body, Template
from trunkline.model.errors import BackendUnavailable, ConfigError

Chunk = dict[str, object]

BATCH_TOKENS = 128
"""Prompt tokens computed at once; see above."""

PROMPT_CACHE_MIB = 256
"""Memory for the state of conversations that have no slot now. The engine's own bound is 8 GiB."""

PORT_TIMEOUT_S = 10.0
METADATA_BYTES = 16 * 1024 * 1024
"""Of a file's beginning in which its own keys stand, before or after the vocabulary's."""

_log = logging.getLogger("trunkline.embedded")
_threads = itertools.count(1)

Found = TypeVar("Found")


class CallFailed(Exception):
    """The engine raised instead of answering. `refused`: it could not read the request."""

    def __init__(self, message: str, *, refused: bool) -> None:
        super().__init__(message)
        self.refused = refused


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to load a model.

    Attributes:
        key: the setting to blame when it fails.
        chat_template: Jinja text that replaces the model's own.
        embeddings: it makes embeddings and cannot answer.
    """

    path: Path
    key: str
    model: str
    slots: int
    context_tokens: int
    threads: int | None = None
    chat_template: str | None = None
    embeddings: bool = False


class _Model(msgspec.Struct, frozen=True):
    n_vocab: int
    n_embd: int


class _ListedModel(msgspec.Struct, frozen=True):
    meta: _Model


class _Models(msgspec.Struct, frozen=True):
    data: list[_ListedModel]


class _TemplateCapabilities(msgspec.Struct, frozen=True):
    supports_tools: bool = False
    supports_tool_calls: bool = False


class _Generation(msgspec.Struct, frozen=True):
    n_ctx: int


class _InputTokens(msgspec.Struct, frozen=True):
    input_tokens: int


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]


class _RefusalError(msgspec.Struct, frozen=True):
    message: str


class _Refusal(msgspec.Struct, frozen=True):
    error: _RefusalError


class _Properties(msgspec.Struct, frozen=True):
    default_generation_settings: _Generation
    chat_template_caps: _TemplateCapabilities = _TemplateCapabilities()


class Generation:
    """One call under way. Made and used on the loop; `batches` can be iterated once.

    Args:
        call: the engine's function; takes the body and the callback, returns when the call has ended.
        on_end: called on the loop once the thread is done with the engine.
    """

    def __init__(
        self, call: Callable[[Body, Callable[[Chunk], bool]], object], body: Body, *, on_end: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._lock = threading.Lock()
        self._chunks: list[Chunk] = []  # this and the next four: under the lock
        self._woken = False
        self._cancelled = False
        self._done = False
        self._error: Exception | None = None
        self._thread = threading.Thread(
            target=self._run, args=(call, body), name=f"trunkline-embedded-{next(_threads)}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    async def batches(self) -> AsyncIterator[list[Chunk]]:
        """Chunks as they come, those that came together in one list. Raises CallFailed."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            with self._lock:
                chunks, self._chunks = self._chunks, []
                self._woken = False
                done, error = self._done, self._error
            if chunks:
                yield chunks
            if error is not None:
                raise CallFailed(str(error), refused=isinstance(error, ValueError)) from error
            if done:
                return

    def cancel(self) -> None:
        """Ends the call at its next chunk. Any thread may say so."""
        with self._lock:
            self._cancelled = True

    async def ended(self) -> None:
        """Waits until the engine has returned."""
        await self._ended.wait()

    def join(self, timeout_s: float) -> bool:
        """Blocks until the thread has ended. For when no loop runs any more."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self, call: Callable[[Body, Callable[[Chunk], bool]], object], body: Body) -> None:
        error: Exception | None = None
        try:
            call(body, self._receive)
        except Exception as raised:  # noqa: BLE001 - the thread's supervisor: the reader raises it
            error = raised.with_traceback(None)  # its frames would keep the server alive
        del call
        with self._lock:
            self._error, self._done = error, True
        self._tell_loop(self._finish)

    def _receive(self, chunk: Chunk) -> bool:
        with self._lock:
            self._chunks.append(chunk)
            wake, self._woken = not self._woken, True
            cancelled = self._cancelled
        if wake and not cancelled:
            return not self._tell_loop(self._ready.set)
        return cancelled

    def _tell_loop(self, what: Callable[[], None]) -> bool:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:  # the loop is closed: nobody listens any more
            return False
        return True

    def _finish(self) -> None:
        self._ready.set()
        self._ended.set()
        self._on_end()


def _says_how_to_pool(path: Path) -> bool:
    """Whether the file's metadata, with which it begins, names how the vectors of a text's tokens become one."""
    with path.open("rb") as file:
        return b".pooling_type" in file.read(METADATA_BYTES)


class Engine:
    """One loaded model. `load`, then calls, then `close`; all on one loop."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._server: xllamacpp.Server | None = None
        self._port: _Port | None = None
        self._under_way: set[Generation] = set()
        # One thread for all that blocks and is not a call: loading, asking, unloading; in this order.
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="trunkline-embedded-keeper")
        self._closed = False
        self.embedding_size = 0  # numbers in an embedding, once it is loaded

    async def load(self) -> Template:
        """Reads the model into memory. Raises ConfigError when the engine cannot."""
        started_s = time.monotonic()
        template = await self._keep(self._load)
        _log.debug(
            "loaded %s in %.2f s: %d slots of %d tokens",
            self._options.model,
            time.monotonic() - started_s,
            self._options.slots,
            template.context_tokens,
        )
        return template

    @property
    def closed(self) -> bool:
        return self._closed

    def generate(self, body: Body, *, on_end: Callable[[], None]) -> Generation:
        """Begins a chat completion. `on_end` is called on the loop when the engine has let go of it.

        Raises BackendUnavailable when no model is loaded (any more).
        """
        return self._begin(self._running().handle_chat_completions, body, on_end=on_end)

    def embed(self, body: Body, *, on_end: Callable[[], None]) -> Generation:
        """The same for embeddings: one chunk, which is the whole answer or a refusal. The call cannot be cancelled."""
        server = self._running()
        return self._begin(lambda asked, receive: receive(_embedded(server, asked)), body, on_end=on_end)

    async def count_tokens(self, body: Body) -> int:
        """Tokens of the prompt that `generate` would make of this body. Raises CallFailed for what it would refuse."""
        return await self._keep(
            lambda: self._asked("/v1/chat/completions/input_tokens", body, _InputTokens).input_tokens
        )

    async def count_text_tokens(self, text: str) -> int:
        """Tokens of a text by itself, with those that the model puts around it."""
        return await self._keep(
            lambda: len(self._asked("/tokenize", {"content": text, "add_special": True}, _Tokens).tokens)
        )

    async def metrics(self) -> dict[str, float]:
        """The engine's own counters, without their prefix: requests_processing, tokens_predicted_total, …"""
        return await self._keep(self._metrics)

    async def close(self, *, timeout_s: float) -> None:
        """Cancels every call, waits for their threads and unloads; twice is fine.

        What does not end in time stays in memory.
        """
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(timeout_s):
                for generation in tuple(self._under_way):
                    generation.cancel()
                for generation in tuple(self._under_way):
                    await generation.ended()
                await self._keep(self._unload)
        except TimeoutError:
            _log.error("the engine did not stop within %g s; its memory stays taken", timeout_s)
        finally:
            self._keeper.shutdown(wait=False)

    async def _keep(self, work: Callable[[], Found]) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self._keeper, work)

    def _load(self) -> Template:
        parameters = self._parameters()
        if self._options.embeddings and not _says_how_to_pool(self._options.path):
            # A model made for answers does not. Found out by loading it, everybody would wait twice: llama.cpp's binding stops the
            # whole process while it loads.
            parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        server = self._created(parameters)
        if self._options.embeddings and "error" in _embedded(server, {"input": "a"}):
            # It does not say after all how the vectors of its tokens become one.
            del server
            parameters = self._parameters()
            parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
            server = self._created(parameters)
        self._server = server
        atexit.register(self._abandon)
        self._port = _Port(cast("str", server.listening_address), cast("str", parameters.api_keys[0]))
        properties = self._port.ask("/props", answer=_Properties)
        models = self._port.ask("/v1/models", answer=_Models)
        self.embedding_size = models.data[0].meta.n_embd
        template = properties.chat_template_caps
        context_tokens = properties.default_generation_settings.n_ctx
        if context_tokens < self._options.context_tokens:
            _log.warning(
                "the model was made for %d tokens of context; context_tokens = %d is more than it can use",
                context_tokens,
                self._options.context_tokens,
            )
        return Template(
            model=self._options.model,
            context_tokens=context_tokens,
            vocabulary_size=models.data[0].meta.n_vocab,
            tools=template.supports_tools and template.supports_tool_calls,
        )

    def _created(self, parameters: xllamacpp.CommonParams) -> xllamacpp.Server:
        options = self._options
        try:
            server = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise ConfigError(
                f"llama.cpp cannot load {options.path} ({error}); it needs a GGUF file of a chat model and"
                f" memory for {options.slots} × {options.context_tokens} tokens;"
                " log_level = 'debug' shows what it says",
                key=options.key,
            ) from error
        server.handle_metrics()  # returns when the main loop runs: from here on it may be destroyed
        return server

    def _parameters(self) -> xllamacpp.CommonParams:
        options = self._options
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(options.path)
        parameters.n_parallel = options.slots
        parameters.n_ctx = options.slots * options.context_tokens  # the engine divides it among the slots
        if options.embeddings:
            parameters.embedding = True
            parameters.n_batch = parameters.n_ubatch = options.context_tokens  # a text is computed at once
            parameters.kv_unified = True
        else:
            parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.cache_ram_mib = PROMPT_CACHE_MIB
        parameters.fit_params = False  # the settings say what to use
        if options.threads is not None:
            parameters.cpuparams.n_threads = options.threads
            parameters.cpuparams_batch.n_threads = options.threads
        parameters.use_jinja = True
        if options.chat_template is not None:
            parameters.chat_template = options.chat_template
        parameters.hostnames = ["127.0.0.1"]
        parameters.port = 0
        parameters.api_keys = [secrets.token_hex(32)]
        parameters.n_threads_http = 2
        parameters.ui = False
        parameters.endpoint_slots = False
        parameters.endpoint_metrics = True
        parameters.verbosity = 3 if _log.isEnabledFor(logging.DEBUG) else 0
        return parameters

    def _running(self) -> xllamacpp.Server:
        if self._closed or self._server is None:
            raise BackendUnavailable(f"the embedded model {self._options.model!r} is not loaded")
        return self._server

    def _begin(
        self, call: Callable[[Body, Callable[[Chunk], bool]], object], body: Body, *, on_end: Callable[[], None]
    ) -> Generation:
        def end() -> None:
            self._under_way.discard(generation)
            on_end()

        generation = Generation(call, body, on_end=end)
        self._under_way.add(generation)
        generation.start()
        return generation

    def _asked(self, path: str, body: Body, answer: type[Found]) -> Found:
        self._running()
        assert self._port is not None, "it is opened with the model"
        return self._port.ask(path, body=body, answer=answer)

    def _metrics(self) -> dict[str, float]:
        text = cast("str", self._running().handle_metrics())
        return {name: float(value) for name, value in re.findall(r"^llamacpp:(\w+) (\S+)$", text, re.MULTILINE)}

    def _unload(self) -> None:
        atexit.unregister(self._abandon)
        self._server = None

    def _abandon(self) -> None:
        """At exit without `close`: gets the threads out of the engine while there is an interpreter."""
        for generation in tuple(self._under_way):
            generation.cancel()
        for generation in tuple(self._under_way):
            generation.join(5.0)
        self._server = None


def _embedded(server: xllamacpp.Server, body: Body) -> Chunk:
    return cast("Chunk", server.handle_embeddings(body))


class _Port:
    """What the engine says about itself it only says over HTTP."""

    def __init__(self, address: str, key: str) -> None:
        self._address = address.removeprefix("http://")
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def ask(self, path: str, *, answer: type[Found], body: Body | None = None) -> Found:
        """Raises CallFailed with what a refusal says."""
        connection = http.client.HTTPConnection(self._address, timeout=PORT_TIMEOUT_S)
        try:
            data = None if body is None else msgspec.json.encode(body)
            connection.request("GET" if data is None else "POST", path, body=data, headers=self._headers)
            response = connection.getresponse()
            said = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CallFailed(f"the engine's port did not answer: {error}", refused=False) from error
        finally:
            connection.close()
        if response.status != 200:
            raise CallFailed(msgspec.json.decode(said, type=_Refusal).error.message, refused=response.status == 400)
        return msgspec.json.decode(said, type=answer)
