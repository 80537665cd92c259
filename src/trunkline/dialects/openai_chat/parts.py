"""Pieces of chat answers that both directions share: usage, log probabilities, finish reasons, error objects."""

import msgspec

from trunkline.dialects import openai_wire
from trunkline.dialects.openai_wire import (
    decode_error,
    join_extensions,
    read_error,
    read_logprobs,
    write_error,
    write_logprobs,
)
from trunkline.dialects.reading import Json, Object, raw
from trunkline.model.events import FinishReason
from trunkline.model.usage import Usage

__all__ = [
    "FINISH_REASONS",
    "SAID",
    "decode_error",
    "join_extensions",
    "read_error",
    "read_logprobs",
    "read_usage",
    "write_annotation",
    "write_error",
    "write_logprobs",
    "write_usage",
]

_NOT_IN_CHAT = frozenset({"file_citation", "file_path", "container_file_citation"})
SAID = frozenset({"content", "refusal", "tool_calls", "function_call", "audio"})
"""With any of these, content may be null."""
FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "function_call",
    "error": "error",
    "model_length": "length",  # Mistral: the context is full
    "abort": "error",  # vLLM, SGLang: the engine dropped the request
    "insufficient_system_resource": "error",  # DeepSeek: interrupted
}


def read_usage(source: Object) -> Usage:
    """Usage of a chunk or completion. Counts that are absent or null stay unknown."""
    return openai_wire.read_usage(source, input_name="prompt_tokens", output_name="completion_tokens")


def write_usage(usage: Usage) -> dict[str, object]:
    """Usage with the details that are known, and no others."""
    written: dict[str, object] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
    sides: dict[str, dict[str, int]] = {"input": {}, "output": {}}
    if usage.cached_tokens is not None:
        sides["input"]["cached_tokens"] = usage.cached_tokens
    if usage.cache_write_tokens is not None:
        sides["input"]["cache_write_tokens"] = usage.cache_write_tokens
    if usage.reasoning_tokens is not None:
        sides["output"]["reasoning_tokens"] = usage.reasoning_tokens
    for name, count in usage.details.items():
        side, _, key = name.partition(".")
        sides[side][key] = count
    if sides["input"]:
        written["prompt_tokens_details"] = sides["input"]
    if sides["output"]:
        written["completion_tokens_details"] = sides["output"]
    return written


def write_annotation(annotation: msgspec.Raw) -> msgspec.Raw | None:
    """An annotation as this dialect writes it: a citation of a URL has its members under its type, `{"type": T, T: {…}}`.

    None for the other types of Responses: chat has none of them, and the `index` they have means a place in the text there, but a
    place in the list to a chat client that joins deltas.
    """
    source: Json = msgspec.json.decode(annotation)
    kind = source.get("type") if isinstance(source, dict) else None
    if not isinstance(source, dict) or not isinstance(kind, str) or kind in source:
        return annotation
    if kind in _NOT_IN_CHAT:
        return None
    if kind != "url_citation":
        return annotation
    return raw({"type": kind, "url_citation": {key: value for key, value in source.items() if key != "type"}})
