"""One suite, every backend: what the port promises holds for each of them, the real model included.

The first half asks through a server, as a client does; the second through the port alone.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from tests.fakes.ollama import fake_ollama
from tests.serving import Serving, eventually, finish_of, serving, text_of
from trunkline.config.schema import EmbeddedSettings, HttpSettings, PythonSettings, ScriptedSettings
from trunkline.model import events as ev
from trunkline.plugins import build_backend
from trunkline.ports.backend import Backend, BackendSetup, Capabilities, stop
from trunkline.ports.runtime import SystemClock, SystemEntropy
from trunkline.testing.answers import batches_of, events_of, pinned_context, request_of, text_in

AGENT = """
import asyncio
async def agent(turn):
    for word in turn.input.split(' '):
        yield word + ' '
        await asyncio.sleep(0)
"""
TOML = {
    "scripted": '[backends.it]\ntype = "scripted"\n',
    "python": '[backends.it]\ntype = "python"\ntarget = "bot.py:agent"\n',
    "http": '[backends.it]\ntype = "http"\nendpoints = ["{url}/v1"]\n',
    "native": '[backends.it]\ntype = "http"\ndialect = "openai_responses"\nendpoints = ["{url}/v1"]\n',
    "ollama": '[backends.it]\ntype = "http"\ndialect = "ollama_chat"\nendpoints = ["{ollama}"]\n',
    "embedded": '[backends.it]\ntype = "embedded"\nslots = 2\ncontext_tokens = 512\nthreads = 2\n',
}
KINDS = list(TOML)
SHORT: dict[str, Any] = {"max_tokens": 8, "temperature": 0}


@contextlib.asynccontextmanager
async def served(kind: str, folder: Path) -> AsyncIterator[tuple[Serving, str]]:
    """A server with this one backend, and the name of its model."""
    async with contextlib.AsyncExitStack() as stack:
        toml = TOML[kind]
        if "{url}" in toml:
            behind = await stack.enter_async_context(serving())
            toml = toml.replace("{url}", behind.url)
        if "{ollama}" in toml:
            toml = toml.replace("{ollama}", (await stack.enter_async_context(fake_ollama())).url)
        (folder / "bot.py").write_text(AGENT)
        server = await stack.enter_async_context(serving(toml, base_dir=folder))
        yield server, (await server.get("/v1/models")).json()["data"][0]["id"]


@pytest.mark.parametrize("kind", KINDS)
async def test_as_a_client_sees_it(kind: str, tmp_path: Path) -> None:
    """One server and one story, for a real model is not loaded once per sentence."""
    async with served(kind, tmp_path) as (server, model):
        assert (await server.get("/health/ready")).status == 200

        whole = await server.chat("one two three", model=model, **SHORT)
        assert whole.status == 200, whole.body
        choice = whole.json()["choices"][0]
        assert choice["message"]["role"] == "assistant"
        assert choice["message"]["content"]
        assert choice["finish_reason"] in ("stop", "length")
        assert whole.json()["model"] == model

        streamed = await server.chat("one two three", model=model, stream=True, **SHORT)
        assert text_of(streamed.frames) == choice["message"]["content"], "the stream and the whole answer are one"
        assert finish_of(streamed.frames) == [choice["finish_reason"]]
        assert streamed.frames[-1] == "[DONE]"
        assert streamed.frames[0]["choices"][0]["delta"]["role"] == "assistant"

        together = await asyncio.gather(
            *[server.chat("one two three", model=model, stream=number % 2 == 0, **SHORT) for number in range(6)]
        )
        assert {reply.status for reply in together} == {200}

        cut = await server.chat("one two three", model=model, stop=[choice["message"]["content"][1:3]], **SHORT)
        assert cut.json()["choices"][0]["message"]["content"] == choice["message"]["content"][:1]
        assert cut.json()["choices"][0]["finish_reason"] == "stop"

        async with server.stream("tell a very long story " * 20, model=model) as wire:
            await wire.head()
            await wire.until(b'"content":"')
        endpoint = server.application.runtime.endpoints[0]
        await eventually(lambda: endpoint.active == 0)
        assert (await server.chat("and now", model=model, **SHORT)).status == 200

        unknown = await server.chat(model="no-such-model")
        assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
        wrong = await server.chat(model=model, messages=[])
        assert (wrong.status, wrong.error["param"]) == (400, "messages")


@pytest.mark.parametrize("kind", KINDS)
async def test_what_it_does_not_declare_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    """Every parameter that can be asked for is honoured, named as ignored, forwarded, or refused (decision 34)."""
    asked: dict[str, dict[str, Any]] = {
        "n": {"n": 2},
        "logprobs": {"logprobs": True},
        "top_logprobs": {"logprobs": True, "top_logprobs": 2},
        "response_format": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
        "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
        "tool_choice": {
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
        "web_search_options": {"web_search_options": {}},
        "audio": {"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "wav"}},
        "functions": {"functions": [{"name": "f"}]},
        "prediction": {"prediction": {"type": "content", "content": "x"}},
        "frequency_penalty": {"frequency_penalty": 0.5},
        "logit_bias": {"logit_bias": {"5": -1}},
        "reasoning_effort": {"reasoning_effort": "low"},
        "verbosity": {"verbosity": "low"},
        "service_tier": {"service_tier": "flex"},
        "top_p": {"top_p": 0.9},
    }  # fmt: skip
    async with served(kind, tmp_path) as (server, model):
        capabilities: Capabilities = server.backend().capabilities
        if "tool_choice" in capabilities.parameters:  # a model may have to be told
            asked["tools"] = asked["tool_choice"]
        for name, parameters in asked.items():
            reply = await server.chat("hi", model=model, max_tokens=4, **parameters)
            ignored = reply.headers.get("x-trunkline-ignored", "").split(", ")
            if capabilities.forwards_unknown == "openai_chat" or name in capabilities.parameters:
                assert name not in ignored, f"{name} is declared to be honoured"
                assert reply.status == 200 or kind in ("http", "native"), f"{name}: {reply.body!r}"
            elif name in capabilities.hints:
                assert (reply.status, name in ignored) == (200, True), f"{name}: {reply.body!r}"
            else:
                assert (reply.status, reply.error["code"]) == (400, "unsupported_parameter"), f"{name}: {reply.body!r}"
                assert reply.error["param"] in parameters, name
                assert f"'{reply.error['param']}'" in reply.error["message"]


@contextlib.asynccontextmanager
async def backend_of(kind: str, folder: Path) -> AsyncIterator[Backend]:
    """The backend alone, built and not started."""
    setup = BackendSetup(name="it", base_dir=folder, clock=SystemClock(), entropy=SystemEntropy())
    (folder / "bot.py").write_text(AGENT)
    async with contextlib.AsyncExitStack() as stack:
        match kind:
            case "scripted":
                backend = build_backend(ScriptedSettings(), setup)
            case "python":
                backend = build_backend(PythonSettings(target="bot.py:agent"), setup)
            case "http" | "native":
                behind = await stack.enter_async_context(serving())
                dialect: Literal["openai_chat", "openai_responses"] = (
                    "openai_chat" if kind == "http" else "openai_responses"
                )
                backend = build_backend(HttpSettings(endpoints=(f"{behind.url}/v1",), dialect=dialect), setup)
            case "ollama":
                fake = await stack.enter_async_context(fake_ollama())
                backend = build_backend(HttpSettings(endpoints=(fake.url,), dialect="ollama_chat"), setup)
            case _:
                backend = build_backend(EmbeddedSettings(slots=2, context_tokens=512, threads=2), setup)
        yield backend


@pytest.mark.parametrize("kind", KINDS)
async def test_through_the_port(kind: str, tmp_path: Path) -> None:
    async with backend_of(kind, tmp_path) as never_started:
        await never_started.close()
    async with backend_of(kind, tmp_path) as backend:
        await backend.start()
        try:
            model = (await backend.models())[0].id
            request = msgspec.structs.replace(
                request_of("one two three", model=model), max_output_tokens=6, temperature=0.0, stream=True
            )
            context = pinned_context(model=model)

            events = await events_of(backend, request, context)
            assert isinstance(events[0], ev.TurnStarted)
            assert isinstance(events[-1], ev.TurnCompleted | ev.TurnIncomplete)
            assert sum(isinstance(event, ev.ChoiceDone) for event in events) == 1
            assert text_in(events)
            assert text_in(await events_of(backend, request, context)) == text_in(events), "the same again"

            long = request_of("tell a very long story " * 10, model=model)
            for _ in range(2):  # closed after the first batch, its work has stopped and the next is answered
                batches = batches_of(backend, msgspec.structs.replace(long, stream=True), context)
                await anext(batches)
                with contextlib.suppress(
                    AssertionError
                ):  # `batches_of` says that the answer did not end; so it is meant
                    await batches.aclose()
            assert text_in(await events_of(backend, request, context)) == text_in(events)

            unread = backend.open(request, context)
            await stop(unread)  # closed before it was read

            waiting = asyncio.create_task(events_of(backend, msgspec.structs.replace(long, stream=True), context))
            await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            assert text_in(await events_of(backend, request, context)) == text_in(events)
        finally:
            await backend.close()
            await backend.close()
