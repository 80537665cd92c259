"""The table of docs/chat-completions.md says what the code does with each parameter, for each backend.

It is made here from the request reader and from what the backends declare, and compared with the page.
"""

import importlib
import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from trunkline.config.profiles import PROFILES
from trunkline.config.schema import Backend as Settings
from trunkline.config.schema import EmbeddedSettings, HttpSettings, PythonSettings, ScriptedSettings
from trunkline.dialects.openai_chat import ChatSurface
from trunkline.dialects.openai_chat.decode_request import OPAQUE, READERS
from trunkline.engine.honour import translated
from trunkline.model.errors import UnsupportedParameter
from trunkline.model.request import Request
from trunkline.plugins import build_backend
from trunkline.ports.backend import BackendSetup, Capabilities
from trunkline.testing.answers import CountingEntropy, PinnedClock

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "chat-completions.md"
TOOL = {"type": "function", "function": {"name": "f"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}

ROWS: dict[str, list[dict[str, object]]] = {
    "`max_completion_tokens`, `max_tokens`": [{"max_completion_tokens": 5}, {"max_tokens": 5}],
    "`stop`": [{"stop": "END"}],
    "`n` above 1": [{"n": 2}],
    "`temperature`, `top_p`": [{"temperature": 0.5}, {"top_p": 0.5}],
    "`seed`": [{"seed": 1}],
    "`frequency_penalty`, `presence_penalty`, `logit_bias`": [
        {"frequency_penalty": 1},
        {"presence_penalty": 1},
        {"logit_bias": {"1": 1}},
    ],
    "`logprobs`, `top_logprobs`": [{"logprobs": True}, {"logprobs": True, "top_logprobs": 2}],
    "`response_format`": [{"response_format": {"type": "json_object"}}, {"response_format": SCHEMA}],
    "`tools`, `tool_choice`": [{"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "required"}],
    "`parallel_tool_calls`": [{"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False}],
    "`reasoning_effort`, `verbosity`": [{"reasoning_effort": "low"}, {"verbosity": "low"}],
    "`service_tier`": [{"service_tier": "priority"}],
    "`prediction`": [{"prediction": {"type": "content", "content": "x"}}],
    "`modalities` with audio, `audio`": [{"modalities": ["text", "audio"]}, {"audio": {"voice": "a", "format": "wav"}}],
    "`functions`, `function_call`": [{"functions": [{"name": "f"}]}, {"function_call": "auto"}],
    "`web_search_options`, `moderation`": [{"web_search_options": {}}, {"moderation": {}}],
    "`prompt_cache_options`, `prompt_cache_retention`": [
        {"prompt_cache_options": {}},
        {"prompt_cache_retention": "24h"},
    ],
    "`store`: true": [{"store": True}],
    "`metadata`, `user`, `safety_identifier`, `prompt_cache_key`": [
        {"metadata": {"a": "b"}},
        {"user": "ada"},
        {"safety_identifier": "ada"},
        {"prompt_cache_key": "k"},
    ],
    "a key that nobody knows": [{"x_of_a_client": 1}],
}
PLAIN = {"stream", "stream_options"}
"""About the answer's form, for every backend alike; the page says so above the table."""

COLUMNS: Mapping[str, Settings] = {
    "http": HttpSettings(endpoints=("http://127.0.0.1:9/v1",)),
    "embedded": EmbeddedSettings(path="model.gguf"),
    "python": PythonSettings(target="examples/hello.py:agent"),
    "scripted": ScriptedSettings(),
}


def decoded(parameters: Mapping[str, object]) -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **parameters}
    return ChatSurface(PROFILES["openai"]).decode_request(json.dumps(body).encode())


def word(parameters: Mapping[str, object], capabilities: Capabilities) -> str:
    """What becomes of these parameters, as the engine decides it."""
    name = list(parameters)[-1]
    request = decoded(parameters)
    if name == "store" and name not in translated(request, capabilities, dialect="openai_chat", model="m")[1]:
        return "kept by trunkline"
    if capabilities.forwards_unknown == "openai_chat":
        return "forwarded"
    try:
        ignored = translated(request, capabilities, dialect="openai_chat", model="m")[1]
    except UnsupportedParameter:
        return "refused"
    if name in ignored:
        return "ignored, named"
    if name == "stop" and not capabilities.applies_stop:
        return "cut by trunkline"
    return "honoured" if set(request.asked.values()) & set(parameters) else "accepted"


def made() -> str:
    setup = BackendSetup(name="b", base_dir=ROOT, clock=PinnedClock(), entropy=CountingEntropy())
    backends = {name: build_backend(settings, setup).capabilities for name, settings in COLUMNS.items()}
    lines = [f"| parameter | {' | '.join(f'`{name}`' for name in backends)} |", "| --- |" + " --- |" * len(backends)]
    for row, samples in ROWS.items():
        words = [list(dict.fromkeys(word(sample, declared) for sample in samples)) for declared in backends.values()]
        lines.append(f"| {row} | {' | '.join(' / '.join(cell) for cell in words)} |")
    return "\n".join(lines)


def test_the_table_says_what_the_code_does() -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the embedded runtime is not installed here, so its column cannot be made")
    table = re.search(r"^\| parameter \|.*?(?=\n\n)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert table is not None
    assert table[0] == made(), f"write this table into {PAGE.relative_to(ROOT)}:\n\n{made()}\n"


def test_every_parameter_is_in_the_table() -> None:
    shown = {name for samples in ROWS.values() for sample in samples for name in sample}
    assert READERS.keys() | OPAQUE == (shown - {"x_of_a_client"}) | PLAIN
