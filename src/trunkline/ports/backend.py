"""The backend port: whatever answers, behind four methods.

`open` yields *batches* of events: what arrived together travels together and leaves in one write, and a hop through an async
generator is paid per read, not per event. A backend raises typed errors before its first event and may raise after it; the
engine turns a raise after TurnStarted into TurnFailed. Closing the iterator (`aclose`) must stop the work behind it.

`capabilities` is data: the engine refuses, by the client's own name for it, what no field declares (decision 34).

A backend that speaks the surface's own dialect over HTTP may also offer `relay`: bytes in, bytes out. One that can tell the
length of a request without answering it is a `TokenCounter`; one whose upstream makes conversations shorter is a `Compactor`; one
that knows its models without asking is a `Probe`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import msgspec

from trunkline.model.events import Event
from trunkline.model.ids import Entropy
from trunkline.model.items import Item
from trunkline.model.request import Request
from trunkline.model.usage import Usage
from trunkline.ports.approvals import Approvals
from trunkline.ports.runtime import Clock

EventBatch = Sequence[Event]
PartKind = Literal["text", "refusal", "image", "audio", "file", "opaque"]

SAMPLING_HINTS = frozenset(
    {
        "temperature",
        "top_p",
        "max_output_tokens",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "reasoning_effort",
        "verbosity",
        "parallel_tool_calls",
        "service_tier",
        "prediction",
    }
)
"""Parameters an agent may use or not: they reach it, and `x-trunkline-ignored` names them where nothing honours them."""


class BackendSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What every backend's factory gets beside its settings. `base_dir` is what relative paths are relative to.

    `agent` is what answers, where a program that embeds us has it; the settings then name nothing that is loaded.
    `ignores_tools`: one that has no use for the tools a client declares ignores them.
    """

    name: str
    base_dir: Path
    clock: Clock
    entropy: Entropy
    model_name: str | None = None
    agent: object = None
    ignores_tools: bool = False


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend honours. Parameter names are those of `Request`, or the wire's own for what `Request` does not name.

    Attributes:
        parameters: honoured by the backend.
        hints: accepted and ignored; named in `x-trunkline-ignored`.
        remedies: what would have a parameter honoured that is not, for the message that refuses it.
        forwards_unknown: an HTTP backend of this dialect gets every key the client sent, known or not.
        parts: content part kinds it can read.
        streaming: False answers `stream: true` with 400 (decision 1).
        applies_stop: False lets trunkline cut at stop sequences itself.
        context_tokens: tokens of context, where they are known and counting is cheap: then what does not fit is found out before
            it is asked (`truncation`).
        acts: it does things in the world, so one that has failed is not asked again by clients of their own accord.
    """

    parameters: frozenset[str] = frozenset()
    hints: frozenset[str] = frozenset()
    remedies: Mapping[str, str] = {}
    forwards_unknown: str | None = None
    parts: frozenset[PartKind] = frozenset({"text", "refusal"})
    streaming: bool = True
    applies_stop: bool = False
    context_tokens: int | None = None
    acts: bool = False


class ModelFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The weights behind a model, as far as its server tells; what it does not say stays empty."""

    format: str = ""
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = ""
    size_bytes: int = 0
    digest: str = ""


NO_OWNER = "trunkline"
"""Who owns a model whose backend names nobody."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model a backend offers, under the backend's own name. `created_at` in unix seconds.

    `loaded`: whether it is in memory and answers without being loaded first; None where the backend does not say.
    `abilities`: what the model itself can do, in Ollama's words (completion, tools, vision, thinking, embedding); empty where the
    backend does not say, and then what it takes at all is in its capabilities.
    """

    id: str
    created_at: int = 0
    owned_by: str = NO_OWNER
    context_tokens: int | None = None
    loaded: bool | None = None
    abilities: tuple[str, ...] = ()
    file: ModelFile | None = None


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend gets beside the request. `turn_id` and `created_at` are for backends whose wire has none of its own.

    `backend_model` is the name to use towards the answerer; `request.model` is what the client asked for. `body` is the
    client's request as it came, in `body_dialect`, and `own_items` what its items were read as: the request may hold others, such
    as those of the turns before it. `approvals` asks people in the name of this turn; None: there is nobody to ask.
    """

    turn_id: str
    created_at: int
    backend_model: str
    request_id: str
    clock: Clock
    entropy: Entropy
    tenant: str = "default"
    session_id: str | None = None
    memory_key: str | None = None
    approvals: Approvals | None = None
    body: bytes | None = None
    body_dialect: str | None = None
    own_items: tuple[Item, ...] = ()


class Backend(Protocol):
    """Whatever answers. One instance serves many turns at once."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def start(self) -> None:
        """Acquires what it needs (a connection pool, a model in memory). Raises ConfigError or BackendUnavailable."""
        ...

    async def close(self) -> None:
        """Ends all work within a bounded time and releases everything. Safe to call twice and without `start`."""
        ...

    async def models(self) -> Sequence[ModelInfo]:
        """The models it offers now. Raises BackendError when it cannot say."""
        ...

    def open(self, request: Request, context: Context) -> AsyncIterator[EventBatch]:
        """Answers one request. Yields batches that follow `model.grammar`; closing the iterator stops the work."""
        ...


async def stop(batches: AsyncIterator[object]) -> None:
    """Closes a backend's iterator, which stops the work behind it."""
    if isinstance(batches, AsyncGenerator):
        await batches.aclose()


class RelayBatch(msgspec.Struct, frozen=True, gc=False):
    """Bytes for the client, whole frames only, and what the tee saw in them: usage, finish reasons, a failure.

    `content` is True once the answer's first content is among the bytes: from then on it cannot move to another backend.
    """

    data: bytes
    events: EventBatch = ()
    content: bool = False


class WholeRelay:
    """A relayed answer that has arrived whole: one batch, at once."""

    __slots__ = ("_given", "batch")

    def __init__(self, batch: RelayBatch) -> None:
        self.batch = batch
        self._given = False

    def __aiter__(self) -> "WholeRelay":
        return self

    async def __anext__(self) -> RelayBatch:
        if self._given:
            raise StopAsyncIteration
        self._given = True
        return self.batch


class RelayAnswer(msgspec.Struct, frozen=True):
    """An upstream's answer to pass on. `headers` are the upstream's own that a client may want (rate limits and the like)."""

    batches: AsyncIterator[RelayBatch]
    headers: Mapping[str, str] = {}


@runtime_checkable
class Relay(Protocol):
    """A backend that can pass a dialect through as bytes."""

    @property
    def relay_dialect(self) -> str | None: ...

    async def relay(self, request: Request, context: Context) -> RelayAnswer | AsyncIterator[EventBatch]:
        """Opens the upstream with the client's own body (`context.body`).

        Gives events instead where the upstream's answer is not of the kind the client asked for (JSON for a stream, say).
        Raises BackendError for everything that is not a 2xx answer.
        """
        ...


@runtime_checkable
class Checkable(Protocol):
    """A backend that can say, without being started, whether it could be."""

    def check(self) -> None:
        """Raises ConfigError."""
        ...


@runtime_checkable
class Probe(Protocol):
    """A backend whose `models` may be known without asking anybody, and which can then still say whether somebody is there."""

    async def probe(self) -> None:
        """Raises BackendError when nobody answers; whatever is answered will do."""
        ...


@runtime_checkable
class TokenCounter(Protocol):
    """A backend that can say how long a request is before it answers it."""

    async def count_tokens(self, request: Request, context: Context) -> int:
        """Its input tokens, as the usage of its answer would report them. Raises what opening it would raise."""
        ...


class Compacted(msgspec.Struct, frozen=True):
    """A conversation made shorter: items of the Responses wire that stand for the whole of it, and what that cost."""

    output: tuple[msgspec.Raw, ...]
    usage: Usage


@runtime_checkable
class Compactor(Protocol):
    """A backend that makes conversations shorter in a way that only it can read again."""

    async def compact(self, request: Request, context: Context) -> Compacted | None:
        """None where it turns out that it cannot. Raises BackendError when it failed."""
        ...
