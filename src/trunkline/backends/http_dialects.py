"""What the HTTP backend has to know of a dialect, as one value each.

The transport itself knows none of them: a new dialect is an entry here. A dialect is relayed where a client's bytes may pass as
they are. Responses are not: ids and state are ours (they are stored here, and an upstream is told `store: false`), so each answer
is read and written anew, and what trunkline cannot name passes through the events.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from trunkline.backends.http_context import CHAT_COUNTING, OLLAMA_COUNTING, RESPONSES_COUNTING, Counting
from trunkline.backends.tee import StreamTee, relay_body
from trunkline.dialects import ollama_chat, openai_chat, openai_responses
from trunkline.dialects.codec import BackendCodec
from trunkline.dialects.ollama_chat.listings import NO_DIGEST, read_ps, read_tags
from trunkline.dialects.reading import NOT_JSON
from trunkline.model.errors import BackendProtocolError
from trunkline.ports.backend import ModelFile, ModelInfo, RelayBatch


class Tee(Protocol):
    """Bytes of one streamed answer in, bytes for the client out."""

    @property
    def ended(self) -> bool: ...

    @property
    def finished(self) -> bool: ...

    def feed(self, data: bytes) -> RelayBatch: ...

    def close(self) -> RelayBatch: ...


class Relaying(msgspec.Struct, frozen=True, kw_only=True):
    """How bytes of a dialect pass. Both are called with the request and `entropy`; `whole` also with the body, first."""

    stream: Callable[..., Tee]
    whole: Callable[..., RelayBatch]


class HttpDialect(msgspec.Struct, frozen=True, kw_only=True):
    """A dialect as a model server speaks it.

    Attributes:
        path: where turns are posted, after the base URL.
        parameters: what a request of another dialect may ask for.
        applies_stop: whether it has stop sequences.
        models_path: where the server lists its models.
        read_models: reads that list; its second argument names the server in errors.
        root: the server's root, from the base URL.
        operations_root: where its operations are, from the base URL.
        vendor: the only kind of server that speaks it; absent, it is configured or seen in the list.
        has_length_names: whether it has the two names for an answer's length of which some servers know one.
        missing: what to do about a server that may not know `path`.
        everywhere: whether nearly every server knows `path`, so that its 404 may as well be about what the request names.
        stream_type: the media type of its streams, which tells them from whole answers.
        counting: ways to have the tokens of a turn counted, best first.
        compact_path: where the server makes a conversation shorter, if it may.
        relay: absent, answers are always read and written anew.
    """

    codec: BackendCodec
    path: str
    parameters: frozenset[str]
    applies_stop: bool
    models_path: str
    read_models: Callable[[bytes, str], Sequence[ModelInfo]]
    root: str = "/.."
    operations_root: str = ""
    vendor: str | None = None
    has_length_names: bool = False
    missing: str
    everywhere: bool = False
    stream_type: str = "text/event-stream"
    counting: Sequence[Counting]
    compact_path: str | None = None
    relay: Relaying | None = None


class _Listed(msgspec.Struct):
    id: str
    created: int | None = None
    owned_by: str | None = None
    max_model_len: object = None  # vLLM
    status: object = None  # llama.cpp that serves several models


class _Props(msgspec.Struct):
    is_sleeping: bool = False


class _Listing(msgspec.Struct):
    data: list[_Listed]


def read_openai_models(body: bytes, where: str) -> Sequence[ModelInfo]:
    try:
        listing = msgspec.json.decode(body, type=_Listing)
    except NOT_JSON:
        raise BackendProtocolError(f"{where} did not answer GET /models with a model list") from None
    return [
        ModelInfo(
            id=entry.id,
            created_at=entry.created or 0,
            owned_by=entry.owned_by or "trunkline",
            context_tokens=entry.max_model_len if type(entry.max_model_len) is int else None,
            loaded=entry.status.get("value") == "loaded" if isinstance(entry.status, dict) else None,
        )
        for entry in listing.data
    ]


def read_ollama_models(body: bytes, where: str) -> Sequence[ModelInfo]:
    try:
        cards = read_tags(body)
    except BackendProtocolError:
        raise BackendProtocolError(f"{where} did not answer GET /api/tags with a model list") from None
    return [
        ModelInfo(
            id=card.name,
            created_at=card.modified_at,
            owned_by="library",
            context_tokens=card.context_tokens,
            abilities=card.capabilities,
            file=ModelFile(
                format=card.format,
                family=card.family,
                families=card.families,
                parameter_size=card.parameter_size,
                quantization_level=card.quantization_level,
                size_bytes=card.size_bytes,
                digest="" if card.digest == NO_DIGEST else card.digest,
            ),
        )
        for card in cards
    ]


def with_running(models: Sequence[ModelInfo], body: bytes | None) -> Sequence[ModelInfo]:
    """The models, with what Ollama's list of those in memory says: which they are, and how long a context each was given."""
    if body is None:
        return models
    try:
        running = {card.name: card for card in read_ps(body)}
    except BackendProtocolError:
        return models
    return [
        msgspec.structs.replace(
            info,
            loaded=info.id in running,
            context_tokens=(running[info.id].context_tokens if info.id in running else None) or info.context_tokens,
        )
        for info in models
    ]


def is_asleep(body: bytes | None) -> bool:
    """Whether llama.cpp's `/props` say that its model is not in memory. Asking does not wake it."""
    try:
        return body is not None and msgspec.json.decode(body, type=_Props).is_sleeping
    except NOT_JSON:
        return False


DIALECTS: Mapping[str, HttpDialect] = {
    "ollama_chat": HttpDialect(
        codec=ollama_chat.OllamaBackend(),
        path="/api/chat",
        parameters=ollama_chat.EXPRESSIBLE,
        applies_stop=True,
        models_path="/api/tags",
        read_models=read_ollama_models,
        root="",
        operations_root="/v1",
        vendor="ollama",
        missing="check that the endpoint is Ollama's own address, without /v1 or /api",
        stream_type="application/x-ndjson",
        counting=OLLAMA_COUNTING,
    ),
    "openai_chat": HttpDialect(
        codec=openai_chat.ChatBackend(),
        path="/chat/completions",
        parameters=openai_chat.EXPRESSIBLE,
        applies_stop=True,
        models_path="/models",
        read_models=read_openai_models,
        has_length_names=True,
        missing="is the part before /chat/completions right (often it ends in /v1)?",
        everywhere=True,
        counting=CHAT_COUNTING,
        relay=Relaying(stream=StreamTee, whole=relay_body),
    ),
    "openai_responses": HttpDialect(
        codec=openai_responses.ResponsesBackend(),
        path="/responses",
        parameters=openai_responses.EXPRESSIBLE,
        applies_stop=False,
        models_path="/models",
        read_models=read_openai_models,
        missing="is the part before /responses right (often it ends in /v1)? "
        "A server that speaks only chat completions needs dialect = 'openai_chat'",
        counting=RESPONSES_COUNTING,
        compact_path="/responses/compact",
    ),
}
