"""What is not an answer: the lists of models, one model, the version, and embeddings.

Bodies as pure functions of values, both ways where a backend needs to read them. `ModelCard` is what this API tells of a
model; what nobody knows stays empty, except where a client relies on it: the command line cuts a digest to 12 characters, so
an unknown one is zeros, and a model that is never unloaded has an end beyond all plans.
"""

from collections.abc import Sequence

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.ollama_chat.times import timestamp, unix_seconds
from trunkline.dialects.reading import NOT_JSON, Json, Object
from trunkline.model.errors import BackendProtocolError

NO_DIGEST = "0" * 64
NEVER_S = 10_982_649_600
"""The year 2318, which Ollama's own command line shows as "Forever"."""


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model. Times in unix seconds; `expires_at` and the last two are those of a loaded model."""

    name: str
    modified_at: int = 0
    size_bytes: int = 0
    digest: str = NO_DIGEST
    format: str = ""
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = ""
    capabilities: tuple[str, ...] = ()
    context_tokens: int | None = None
    expires_at: int = NEVER_S
    vram_bytes: int = 0


class Embed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request for embeddings. `truncate` false refuses what is too long instead of cutting it."""

    model: str | None
    inputs: tuple[str, ...]
    dimensions: int | None = None
    truncate: bool = True
    extra: dict[str, msgspec.Raw] = {}


def write_tags(models: Sequence[ModelCard]) -> bytes:
    """GET /api/tags: every model there is."""
    return msgspec.json.encode(
        {
            "models": [
                {
                    "name": card.name,
                    "model": card.name,
                    "modified_at": timestamp(card.modified_at),
                    "size": card.size_bytes,
                    "digest": card.digest,
                    "details": _details(card),
                    **({"capabilities": card.capabilities} if card.capabilities else {}),
                }
                for card in models
            ]
        }
    )


def write_ps(models: Sequence[ModelCard]) -> bytes:
    """GET /api/ps: the models that are loaded."""
    return msgspec.json.encode(
        {
            "models": [
                {
                    "name": card.name,
                    "model": card.name,
                    "size": card.size_bytes,
                    "digest": card.digest,
                    "details": _details(card),
                    "expires_at": timestamp(card.expires_at),
                    "size_vram": card.vram_bytes,
                    "context_length": card.context_tokens or 0,
                }
                for card in models
            ]
        }
    )


def write_show(card: ModelCard) -> bytes:
    """POST /api/show: one model. Editors read capabilities and the context length, which is under the architecture's name."""
    architecture = card.family or "unknown"
    info: dict[str, object] = {"general.architecture": architecture, "general.basename": card.name}
    if card.context_tokens is not None:
        info[f"{architecture}.context_length"] = card.context_tokens
    return msgspec.json.encode(
        {
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": _details(card),
            "model_info": info,
            "capabilities": card.capabilities or ("completion",),
            "modified_at": timestamp(card.modified_at),
        }
    )


def write_version(version: str) -> bytes:
    """GET /api/version. Clients compare it with what they need, so it is the version of Ollama's API that is meant."""
    return msgspec.json.encode({"version": version})


def decode_show(body: bytes) -> str:
    """The model that POST /api/show asks for. `name` is what older clients say."""
    source = reading.decode_body(body)
    model = source.get("model") or source.get("name")
    if model is None:
        reading.missing("model")
    return reading.text(model, "model")


def decode_embed(body: bytes) -> Embed:
    """POST /api/embed. Raises RequestError; `param` is the path of what is wrong."""
    source = reading.decode_body(body)
    model, value = source.get("model"), source.get("input")
    if value is None:
        inputs: tuple[str, ...] = ()
    elif isinstance(value, str):
        inputs = (value,) if value else ()
    elif isinstance(value, list):
        inputs = tuple([reading.text(one, f"input[{position}]") for position, one in enumerate(value)])
    else:
        reading.wrong_type("input", "a string or an array of strings", value)
    dimensions, truncate = source.get("dimensions"), source.get("truncate")
    named = {"model", "input", "dimensions", "truncate"}
    return Embed(
        model=None if model is None else reading.text(model, "model") or None,
        inputs=inputs,
        dimensions=None if dimensions is None else reading.integer(dimensions, "dimensions", low=0) or None,
        truncate=True if truncate is None else reading.boolean(truncate, "truncate"),
        extra={key: reading.raw(member) for key, member in source.items() if key not in named and member is not None},
    )


def write_embed(
    model: str, embeddings: Sequence[Sequence[float]], *, input_tokens: int | None = None, elapsed_ns: int = 0
) -> bytes:
    """The answer of POST /api/embed, a vector for each input."""
    body: dict[str, object] = {"model": model, "embeddings": embeddings}
    if elapsed_ns > 0:
        body["total_duration"] = elapsed_ns
    if input_tokens is not None:
        body["prompt_eval_count"] = input_tokens
    return msgspec.json.encode(body)


def read_tags(body: bytes) -> list[ModelCard]:
    """An upstream's models. Raises BackendProtocolError for what is no such list."""
    return [_read_card(entry) for entry in _models(body, "/api/tags")]


def read_ps(body: bytes) -> list[ModelCard]:
    """The models that an upstream has loaded. Raises BackendProtocolError for what is no such list."""
    return [_read_card(entry) for entry in _models(body, "/api/ps")]


def _details(card: ModelCard) -> dict[str, object]:
    return {
        "parent_model": "",
        "format": card.format,
        "family": card.family,
        "families": card.families or ((card.family,) if card.family else ()),
        "parameter_size": card.parameter_size,
        "quantization_level": card.quantization_level,
    }


def _models(body: bytes, where: str) -> list[Object]:
    try:
        source: Json = msgspec.json.decode(body)
    except NOT_JSON:
        source = None
    models = source.get("models") if isinstance(source, dict) else None
    entries = [entry for entry in models if isinstance(entry, dict)] if isinstance(models, list) else None
    if entries is None or any(not _name(entry) for entry in entries):
        raise BackendProtocolError(f"the upstream's {where} did not answer with a list of models")
    return entries


def _name(entry: Object) -> str:
    name = entry.get("model") or entry.get("name")  # older versions know only `name`
    return name if isinstance(name, str) else ""


def _read_card(entry: Object) -> ModelCard:
    details = entry.get("details")
    known: Object = details if isinstance(details, dict) else {}
    families, capabilities = known.get("families"), entry.get("capabilities")
    return ModelCard(
        name=_name(entry),
        modified_at=_time(entry, "modified_at") or 0,
        size_bytes=_count(entry, "size") or 0,
        digest=_text(entry, "digest") or NO_DIGEST,
        format=_text(known, "format"),
        family=_text(known, "family"),
        families=_texts(families),
        parameter_size=_text(known, "parameter_size"),
        quantization_level=_text(known, "quantization_level"),
        capabilities=_texts(capabilities),
        context_tokens=_count(entry, "context_length") or _count(known, "context_length"),
        expires_at=_time(entry, "expires_at") or NEVER_S,
        vram_bytes=_count(entry, "size_vram") or 0,
    )


def _text(source: Object, key: str) -> str:
    value = source.get(key)
    return value if isinstance(value, str) else ""


def _texts(value: Json) -> tuple[str, ...]:
    return tuple([one for one in value if isinstance(one, str)]) if isinstance(value, list) else ()


def _count(source: Object, key: str) -> int | None:
    value = source.get(key)
    return value if type(value) is int and value > 0 else None


def _time(source: Object, key: str) -> int | None:
    return unix_seconds(_text(source, key))
