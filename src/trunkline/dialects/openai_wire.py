"""What OpenAI's two APIs have in common on the wire: error objects, log probabilities, unknown keys.

Not a dialect: pieces that mean the same in both, written once so that the dialects need not know each other.
"""

import re
from collections.abc import Sequence
from typing import TypeGuard

import msgspec

from trunkline.dialects.reading import NOT_JSON, Json, Object, raw
from trunkline.model.errors import (
    BackendError,
    BackendRateLimited,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ErrorInfo,
)
from trunkline.model.events import OWN, Extension
from trunkline.model.tokens import TokenLogprob, TopLogprob
from trunkline.model.usage import Usage

# A request that does not fit into the context, as servers say it that do not say OpenAI's `code`. Read here, so that everybody else
# has a code to go by.
_STATUSES_TOO_LONG = frozenset({400, 413, 422})
_TYPES_TOO_LONG = frozenset({"exceed_context_size_error"})  # llama.cpp, and what has it inside: Ollama, LM Studio
_TEXTS_TOO_LONG = re.compile(
    r"maximum context length"  # OpenAI, vLLM to 0.15, SGLang (requested tokens), Ollama ("input length exceeds …")
    r"|model's context length is only"  # vLLM from 0.16
    r"|longer than the model's context length"  # SGLang (input alone)
    r"|exceeds the available context size"  # llama.cpp before it had a type
    r"|exceeds? the context length"  # Ollama
    r"|exceeded max context length"  # Ollama's cloud
)

_STREAMED_TEXT = frozenset({"arguments", "data", "summary", "text", "transcript"})


def read_logprobs(entries: Json) -> tuple[TokenLogprob, ...]:
    """`logprobs.content` or `logprobs.refusal`."""
    if not isinstance(entries, list):
        return ()
    read = []
    for entry in entries:
        if isinstance(entry, dict):
            top = entry.get("top_logprobs")
            read.append(
                TokenLogprob(
                    *_logprob(entry),
                    top=tuple(TopLogprob(*_logprob(one)) for one in top if isinstance(one, dict))
                    if isinstance(top, list)
                    else (),
                )
            )
    return tuple(read)


def _logprob(entry: Object) -> tuple[str, float, tuple[int, ...] | None, int | None]:
    token, logprob, data, token_id = entry.get("token"), entry.get("logprob"), entry.get("bytes"), entry.get("id")
    return (
        token if isinstance(token, str) else "",
        float(logprob) if type(logprob) is float or (type(logprob) is int and -1e9 < logprob <= 0) else -9999.0,
        tuple([byte for byte in data if type(byte) is int]) if isinstance(data, list) else None,
        token_id if type(token_id) is int else None,
    )


def write_logprobs(tokens: tuple[TokenLogprob, ...]) -> list[dict[str, object]]:
    return [{**_write_logprob(token), "top_logprobs": [_write_logprob(top) for top in token.top]} for token in tokens]


def _write_logprob(token: TokenLogprob | TopLogprob) -> dict[str, object]:
    written: dict[str, object] = {"token": token.token, "logprob": token.logprob, "bytes": token.bytes}
    if token.id is not None:
        written["id"] = token.id
    return written


def join_extensions(extensions: Sequence[Extension]) -> dict[str, msgspec.Raw]:
    """The members that extensions of one place make in a whole answer; pieces of a streamed one are put together."""
    joined: dict[str, msgspec.Raw] = {}
    for extension in extensions:
        earlier = joined.get(extension.name)
        joined[extension.name] = (
            extension.payload
            if earlier is None
            else raw(_join(msgspec.json.decode(earlier), msgspec.json.decode(extension.payload), extension.name))
        )
    return joined


def _join(earlier: Json, later: Json, key: str) -> Json:
    """Objects merge, lists join (by `index` where entries have one), text that streams is joined; else the later holds."""
    if isinstance(earlier, dict) and isinstance(later, dict):
        merged = dict(earlier)
        for name, value in later.items():
            merged[name] = _join(merged[name], value, name) if merged.get(name) is not None else value
        return merged
    if isinstance(earlier, list) and isinstance(later, list):
        entries = list(earlier)
        places = {entry["index"]: place for place, entry in enumerate(entries) if _is_indexed(entry)}
        for entry in later:
            place = places.get(entry["index"]) if _is_indexed(entry) else None
            if place is None:
                entries.append(entry)
            else:
                entries[place] = _join(entries[place], entry, key)
        return entries
    if isinstance(earlier, str) and isinstance(later, str) and key in _STREAMED_TEXT:
        return earlier + later
    return later


def _is_indexed(entry: Json) -> TypeGuard[dict[str, Json]]:
    return isinstance(entry, dict) and isinstance(entry.get("index"), int)


def write_error(error: ErrorInfo, *, own_name: str = OWN) -> dict[str, object]:
    """The error object: always `message, type, param, code`, and `code` a string or null (decision 2). How an agent says its run
    went stands beside them under `own_name`."""
    written = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": {**written, own_name: error.state} if error.state else written}


def read_error(status: int, source: Json) -> BackendError:
    """An upstream's error object as a typed error. `source` is the member `error`, or whatever the body held instead."""
    message, kind, code, param = f"upstream answered {status}", None, None, None
    if isinstance(source, dict):
        inner_message = source.get("message") or source.get("detail")
        if isinstance(inner_message, str):
            message = inner_message
        elif inner_message is not None:  # FastAPI's 422: a list of what is wrong
            message = msgspec.json.encode(inner_message).decode()
        kind, code, param = (
            value if isinstance(value, str) else None
            for value in (source.get("type"), source.get("code"), source.get("param"))
        )
        meant = source.get("code")
        if status == 200 and type(meant) is int and 400 <= meant <= 599:
            status = meant  # llama.cpp and vLLM put the status they mean into a stream's error object
    elif isinstance(source, str) and source:
        message = source
    message = message[:2000]
    if status == 401:  # the text speaks of our key, and may show a part of it
        return BackendError("the upstream refused this server's API key", code="upstream_unauthorized")
    if status == 429:
        return BackendRateLimited(message, code=code, param=param)
    if status in (408, 504):
        return BackendTimeout(message, code=code, param=param)
    if status == 503:
        return BackendUnavailable(message, code=code, param=param)
    if status in _STATUSES_TOO_LONG and (kind in _TYPES_TOO_LONG or _TEXTS_TOO_LONG.search(message)):
        kind, code = "invalid_request_error", "context_length_exceeded"
    if 400 <= status < 500 and status not in (402, 403):  # those are about our account, another backend may answer
        return BackendRejected(message, status=status, type=kind, code=code, param=param)
    return BackendError(message, code=code, param=param)


def decode_error(status: int, body: bytes) -> BackendError:
    """A refused request's body, whatever it is. An upstream's 401 or 403 is about our key, not the client's: a 502 here."""
    try:
        source: Json = msgspec.json.decode(body)
    except NOT_JSON:
        return read_error(status, None)
    if isinstance(source, list) and source:  # Gemini's compatible API wraps its error object in an array
        source = source[0]
    if isinstance(source, dict) and source.get("error") is not None:
        source = source["error"]
    return read_error(status, source)


def read_usage(source: Object, *, input_name: str, output_name: str) -> Usage:
    """Usage under an API's own names for its two counts. Counts that are absent or null stay unknown."""
    details: dict[str, int] = {}
    known: dict[str, int] = {}
    for prefix, key in (("input", f"{input_name}_details"), ("output", f"{output_name}_details")):
        counts = source.get(key)
        if isinstance(counts, dict):
            for name, count in counts.items():
                if type(count) is int:
                    if name in ("cached_tokens", "cache_write_tokens", "reasoning_tokens"):
                        known[name] = count
                    else:
                        details[f"{prefix}.{name}"] = count
    return Usage(
        input_tokens=_count(source, input_name),
        output_tokens=_count(source, output_name),
        cached_tokens=known.get("cached_tokens"),
        cache_write_tokens=known.get("cache_write_tokens"),
        reasoning_tokens=known.get("reasoning_tokens"),
        details=details,
    )


def _count(source: Object, key: str) -> int:
    value = source.get(key)
    return value if type(value) is int else 0


def tool_error_text(error: Json) -> str:
    """What the failed tool of an `mcp_call` said, of whichever of the API's three kinds its error is."""
    said = error
    if isinstance(error, dict):
        said = error.get("content") or error.get("message") or error
    parts = said if isinstance(said, list) else []
    texts = [text for part in parts if isinstance(part, dict) and isinstance(text := part.get("text"), str)]
    if texts and len(texts) == len(parts):
        return "".join(texts)
    if said is None or isinstance(said, str):
        return said or ""
    return msgspec.json.encode(said).decode()
