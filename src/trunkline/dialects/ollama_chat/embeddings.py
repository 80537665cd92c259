"""Embeddings: Ollama's two requests as OpenAI's, which is what operations speak behind, and OpenAI's answer as theirs.

POST /api/embed takes one text or several. POST /api/embeddings is what it was before: one prompt, one vector. What only Ollama
knows of them (`options`, `keep_alive`, cutting what is too long or refusing it) has no word behind; it is named as ignored.
"""

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.ollama_chat.listings import Embed
from trunkline.model.errors import BackendProtocolError


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None


class Vectors(msgspec.Struct):
    """An answer: a vector for each input, and how many tokens those had."""

    data: list[_Vector]
    usage: _Usage | None = None

    @property
    def numbers(self) -> list[list[float]]:
        return [one.embedding for one in sorted(self.data, key=lambda one: one.index)]

    @property
    def input_tokens(self) -> int | None:
        return None if self.usage is None else self.usage.prompt_tokens


def decode_prompt(body: bytes) -> Embed:
    """POST /api/embeddings. Raises RequestError."""
    source = reading.decode_body(body)
    model, prompt = source.get("model"), source.get("prompt")
    text = "" if prompt is None else reading.text(prompt, "prompt")
    return Embed(
        model=None if model is None else reading.text(model, "model") or None,
        inputs=(text,) if text else (),
        extra={key: reading.raw(value) for key, value in source.items() if key not in ("model", "prompt")},
    )


def ignored(embed: Embed) -> tuple[str, ...]:
    """What of the request nobody behind is told."""
    return (*embed.extra, *(() if embed.truncate else ("truncate",)))


def body_around_model(embed: Embed) -> tuple[bytes, bytes]:
    """OpenAI's request, before and behind the name of the model."""
    members: dict[str, object] = {"input": embed.inputs, "encoding_format": "float"}
    if embed.dimensions is not None:
        members["dimensions"] = embed.dimensions
    return b'{"model":', b"," + msgspec.json.encode(members)[1:]


def read_vectors(body: bytes, *, inputs: int) -> Vectors:
    """OpenAI's answer to so many inputs. Raises BackendProtocolError."""
    try:
        vectors = msgspec.json.decode(body, type=Vectors)
    except reading.NOT_JSON:
        raise BackendProtocolError("the upstream did not answer with embeddings") from None
    if len(vectors.data) != inputs:  # nobody could tell which text each is of
        raise BackendProtocolError(f"the upstream answered {inputs} inputs with {len(vectors.data)} embeddings")
    return vectors


def write_vector(numbers: list[float]) -> bytes:
    """The answer of POST /api/embeddings."""
    return msgspec.json.encode({"embedding": numbers})
