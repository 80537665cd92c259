"""Pieces of answers that both directions share: usage, log probabilities, annotations, errors of a failed response."""

from collections.abc import Mapping, Sequence

import msgspec

from trunkline.dialects import openai_wire
from trunkline.dialects.reading import Json, Object
from trunkline.model.errors import BackendError, BackendRateLimited, BackendRejected, ErrorInfo
from trunkline.model.tokens import TokenLogprob, TopLogprob
from trunkline.model.usage import Usage

ERROR_CODES = frozenset(
    {
        "server_error",
        "rate_limit_exceeded",
        "invalid_prompt",
        "data_residency_mismatch",
        "bio_policy",
        "misalignment_policy_violation",
        "vector_store_timeout",
        "invalid_image",
        "invalid_image_format",
        "invalid_base64_image",
        "invalid_image_url",
        "image_too_large",
        "image_too_small",
        "image_parse_error",
        "image_content_policy_violation",
        "invalid_image_mode",
        "image_file_too_large",
        "unsupported_image_media_type",
        "empty_image_file",
        "failed_to_download_image",
        "image_file_not_found",
        "worker_lost",  # ours: decision 29
    }
)
"""What `response.error.code` may be: the official SDK's literals, and one of ours."""


def read_usage(source: Object) -> Usage:
    """Usage of a response. Counts that are absent or null stay unknown."""
    return openai_wire.read_usage(source, input_name="input_tokens", output_name="output_tokens")


def write_usage(usage: Usage, *, always_details: bool) -> dict[str, object]:
    """Usage. The details are always there, 0 where unknown; or else only those the backend supplied (decision 9)."""
    unknown = 0 if always_details else None
    sides: dict[str, dict[str, int | None]] = {
        "input": {
            "cached_tokens": unknown if usage.cached_tokens is None else usage.cached_tokens,
            "cache_write_tokens": unknown if usage.cache_write_tokens is None else usage.cache_write_tokens,
        },
        "output": {"reasoning_tokens": unknown if usage.reasoning_tokens is None else usage.reasoning_tokens},
    }
    for name, count in usage.details.items():
        side, _, key = name.partition(".")
        sides[side][key] = count
    written: dict[str, object] = {"input_tokens": usage.input_tokens}
    if given := _given(sides["input"]):
        written["input_tokens_details"] = given
    written["output_tokens"] = usage.output_tokens
    if given := _given(sides["output"]):
        written["output_tokens_details"] = given
    written["total_tokens"] = usage.total_tokens
    return written


def _given(counts: Mapping[str, int | None]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count is not None}


def write_logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, object]]:
    """Log probabilities. `bytes` are required here: where they are unknown they are those of the token's text."""
    return [{**_write_logprob(token), "top_logprobs": [_write_logprob(top) for top in token.top]} for token in tokens]


def _write_logprob(token: TokenLogprob | TopLogprob) -> dict[str, object]:
    data = tuple(token.token.encode()) if token.bytes is None else token.bytes
    written: dict[str, object] = {"token": token.token, "logprob": token.logprob, "bytes": data}
    if token.id is not None:
        written["id"] = token.id
    return written


def write_annotation(annotation: msgspec.Raw) -> msgspec.Raw:
    """An annotation as this dialect writes it. Chat nests its members under the type: `{"type": T, T: {…}}`."""
    if b"_citation" not in bytes(annotation):  # chat has only url_citation; most annotations are not even looked at
        return annotation
    source: Json = msgspec.json.decode(annotation)
    if isinstance(source, dict) and isinstance(kind := source.get("type"), str):
        inner = source.get(kind)
        if isinstance(inner, dict):
            return msgspec.Raw(msgspec.json.encode({"type": kind, **inner}))
    return annotation


def write_failure(error: ErrorInfo) -> dict[str, object]:
    """`response.error`: a code the official SDK knows, and the message. `own_code` is what every other API of ours calls it."""
    if error.code in ERROR_CODES:
        code = error.code
    elif error.status == 429:
        code = "rate_limit_exceeded"
    elif 400 <= error.status < 500:
        code = "invalid_prompt"
    else:
        code = "server_error"
    written: dict[str, object] = {"code": code, "message": error.message}
    return written if error.code in (None, code) else {**written, "own_code": error.code}


def read_failure(source: Json) -> BackendError:
    """`response.error`, or an `error` event, as a typed error."""
    message, code, param = "the upstream failed without saying why", None, None
    if isinstance(source, dict):
        nested = source.get("error")
        if isinstance(nested, dict):  # Open Responses nests it
            source = nested
        if isinstance(said := source.get("message"), str) and said:
            message = said[:2000]
        code, param = (value if isinstance(value, str) else None for value in (source.get("code"), source.get("param")))
    if code == "rate_limit_exceeded":
        return BackendRateLimited(message, code=code, param=param)
    if code == "context_length_exceeded":
        return BackendRejected(message, status=400, code=code, param=param)
    if code is not None and code in ERROR_CODES and code not in ("server_error", "vector_store_timeout", "worker_lost"):
        return BackendRejected(message, status=400, code=code, param=param)
    return BackendError(message, code=code, param=param)
