"""Ollama's official client against the server that stands for Ollama in our tests, and against our own surface.

The first half keeps the stand-in honest; the second drives the dialect with what the client really sends and reads.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence

import aiohttp
import ollama
import pytest
from aiohttp import web
from openai import AsyncOpenAI

from tests.fakes.ollama import CREATED_S, DURATIONS, FakeOllama, Reply, fake_ollama
from trunkline.config.profiles import Profile
from trunkline.dialects.codec import encode_all
from trunkline.dialects.ollama_chat import (
    OllamaBackend,
    OllamaChatSurface,
    OllamaGenerateSurface,
    asks_to_load,
    listings,
)
from trunkline.dialects.openai_chat import ChatSurface
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, BackendRejected, RequestError
from trunkline.model.grammar import Grammar
from trunkline.model.items import FunctionCall, Message, Reasoning, text_of
from trunkline.model.request import Request
from trunkline.model.turn import Turn, fold
from trunkline.model.usage import Usage

ASK = [{"role": "user", "content": "hi"}]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
async def fake() -> AsyncIterator[FakeOllama]:
    async with fake_ollama() as server:
        yield server


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(host=url, trust_env=False)
    try:
        yield client
    finally:
        await client.close()  # type: ignore[no-untyped-call]  # the client has no types there


async def test_the_client_reads_what_the_stand_in_says(fake: FakeOllama) -> None:
    fake.replies.append(Reply(thinking=("hm", "."), text=("Hel", "lo"), calls=(("f", {"a": 1}),)))
    fake.replies.append(Reply(text=("Hel", "lo")))
    async with connected(fake.url) as client:
        lines = [line async for line in await client.chat("llama3.2", ASK, stream=True, think=True)]
        assert "".join(line.message.content or "" for line in lines) == "Hello"
        assert "".join(line.message.thinking or "" for line in lines) == "hm."
        assert [call.function.arguments for line in lines for call in line.message.tool_calls or []] == [{"a": 1}]
        assert (lines[-1].done_reason, lines[-1].eval_count) == ("stop", 4)
        assert lines[-1].total_duration == DURATIONS["total_duration"]
        whole = await client.chat("llama3.2", ASK, logprobs=True, top_logprobs=2)
        assert whole.message.content == "Hello"
        assert [entry.token for entry in whole.logprobs or []] == ["Hel", "lo"]
        generated = await client.generate("llama3.2", "hi", system="Be brief.")
        assert generated.response == "Hello there!"
        pieces = [line.response async for line in await client.generate("llama3.2", "hi", stream=True)]
        assert "".join(piece or "" for piece in pieces) == "Hello there!"


async def test_the_client_lists_loads_and_frees_models(fake: FakeOllama) -> None:
    fake.add("qwen3:8b")
    async with connected(fake.url) as client:
        assert [model.model for model in (await client.list()).models] == ["llama3.2:latest", "qwen3:8b"]
        assert (await client.ps()).models == []
        await client.chat("qwen3:8b", [])
        assert [model.model for model in (await client.ps()).models] == ["qwen3:8b"]
        assert (await client.generate("qwen3:8b", keep_alive=0)).done_reason == "unload"
        assert (await client.ps()).models == []
        shown = await client.show("llama3.2")
        assert (shown.modelinfo or {})["llama.context_length"] == 131072
        vectors = await client.embed("llama3.2", ["one", "two"])
        assert [round(sum(n * n for n in vector), 6) for vector in vectors.embeddings] == [1, 1]


async def test_the_client_sees_errors_as_errors(fake: FakeOllama) -> None:
    fake.add("plain:latest", "completion")
    async with connected(fake.url) as client:
        with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as missing:
            await client.chat("nope", ASK)
        assert missing.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="does not support thinking"):
            await client.chat("plain", ASK, think=True)
        fake.replies.append(Reply(status=503, error="server busy"))
        with pytest.raises(ollama.ResponseError, match="server busy"):
            await client.chat("plain", ASK)
        fake.replies.append(Reply(text=("a",), error="broke"))
        with pytest.raises(ollama.ResponseError, match="broke"):
            [line async for line in await client.chat("plain", ASK, stream=True)]


async def test_the_compatible_side_serves_the_official_openai_client(fake: FakeOllama) -> None:
    fake.replies.append(Reply(text=("Hel", "lo"), calls=(("f", {"a": 1}),)))
    async with AsyncOpenAI(base_url=f"{fake.url}/v1", api_key="ollama", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == ["llama3.2:latest"]
        stream = await client.chat.completions.create(
            model="llama3.2",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
        assert chunks[-1].usage is not None
        whole = await client.chat.completions.create(model="llama3.2", messages=[{"role": "user", "content": "hi"}])
        assert whole.choices[0].message.content == "Hello there!"


async def test_the_stand_in_says_when_a_client_has_left(fake: FakeOllama) -> None:
    fake.replies.append(Reply(text=("a", "b"), hold=asyncio.Event()))
    async with aiohttp.ClientSession() as session:
        response = await session.post(f"{fake.url}/api/chat", json={"model": "llama3.2", "messages": ASK})
        await response.content.readline()
        response.close()
        await fake.left.wait()


async def ask(fake: FakeOllama, request: Request) -> list[ev.Event]:
    """The events with which the dialect answers, as a backend uses it. Raises BackendError."""
    codec = OllamaBackend()
    body = codec.encode_request(request, model=request.model or "")
    grammar, events = Grammar(), []
    async with aiohttp.ClientSession() as session, session.post(f"{fake.url}/api/chat", data=body) as response:
        if response.status != 200:
            raise codec.decode_error(response.status, await response.read())
        decoder = codec.decoder(ev.TurnStarted("chatcmpl-t", "?", 1), streamed=request.stream)
        with contextlib.suppress(aiohttp.ClientPayloadError):  # a cut connection: `close` says what that means
            async for data in response.content.iter_any():
                events += decoder.feed(data)
        events += decoder.close()
    for event in events:
        grammar.feed(event)
    assert grammar.ended
    return events


def openai_request(**body: object) -> Request:
    """What a chat completions client asks."""
    return ChatSurface(Profile()).decode_request(json.dumps({"model": "llama3.2", "messages": ASK, **body}).encode())


def said(turn: Turn) -> tuple[str, str, list[tuple[str, str, str]]]:
    items = [one.item for one in turn.items]
    return (
        "".join(text_of(item.content) for item in items if isinstance(item, Message)),
        "".join(item.text for item in items if isinstance(item, Reasoning)),
        [(item.call_id, item.name, item.arguments) for item in items if isinstance(item, FunctionCall)],
    )


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("ids", [True, False])
async def test_the_dialect_reads_an_answer_streamed_or_whole(fake: FakeOllama, *, stream: bool, ids: bool) -> None:
    fake.ids = ids
    fake.replies.append(Reply(thinking=("hm",), text=("Hel", "lo"), calls=(("f", {"a": 1}), ("g", {}))))
    turn = fold(await ask(fake, openai_request(stream=stream)))
    text, thinking, calls = said(turn)
    assert (text, thinking) == ("Hello", "hm")
    assert [(name, arguments) for _, name, arguments in calls] == [("f", '{"a":1}'), ("g", "{}")]
    assert len({call_id for call_id, _, _ in calls}) == 2
    assert (turn.model, turn.created_at, turn.usage) == (
        "llama3.2",
        CREATED_S,
        Usage(input_tokens=26, output_tokens=4),
    )
    assert turn.choices[0].finish_reason == "tool_calls"
    assert {one.name for one in turn.extensions} == set(DURATIONS)


async def test_a_whole_conversation_is_written_as_the_server_takes_it(fake: FakeOllama) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    await ask(
        fake,
        openai_request(
            messages=messages,
            tools=tools,
            temperature=0.5,
            max_tokens=9,
            stop="END",
            seed=7,
            reasoning_effort="minimal",
            response_format={"type": "json_object"},
            logprobs=True,
            top_logprobs=1,
        ),
    )
    (body,) = fake.posts("/api/chat")
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool"]
    assert body["messages"][3] == {"role": "tool", "content": "42", "tool_name": "f", "tool_call_id": "c1"}
    assert body["options"] == {"temperature": 0.5, "seed": 7, "num_predict": 9, "stop": ["END"]}
    assert (body["think"], body["format"], body["stream"]) == ("low", "json", False)


async def test_a_model_that_has_to_be_loaded_first_just_takes_longer(fake: FakeOllama) -> None:
    fake.gate = asyncio.Event()
    asked = asyncio.create_task(ask(fake, openai_request(stream=True)))
    await fake.loading.wait()
    assert (fake.loaded, asked.done()) == ({}, False)
    fake.gate.set()
    assert said(fold(await asked))[0] == "Hello there!"
    assert list(fake.loaded) == ["llama3.2:latest"]


async def test_refusals_and_broken_answers_are_typed_errors(fake: FakeOllama) -> None:
    with pytest.raises(BackendRejected, match="model 'nope' not found") as missing:
        await ask(fake, openai_request(model="nope"))
    assert missing.value.status == 404
    fake.replies.append(Reply(status=503, error="server busy, please try again"))
    with pytest.raises(BackendError, match="server busy") as busy:
        await ask(fake, openai_request())
    assert (busy.value.status, busy.value.retryable) == (503, True)
    fake.replies.append(Reply(text=("a", "b"), cut=True))
    with pytest.raises(BackendError, match="before it was done"):
        await ask(fake, openai_request(stream=True))
    fake.replies.append(Reply(text=("a",), error="CUDA error"))
    turn = fold(await ask(fake, openai_request(stream=True)))
    assert isinstance(turn.terminal, ev.TurnFailed)
    assert turn.terminal.error.message == "CUDA error"


async def test_the_dialect_reads_the_lists_of_models(fake: FakeOllama) -> None:
    fake.add("qwen3:8b", loaded=True)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{fake.url}/api/tags") as response:
            cards = listings.read_tags(await response.read())
        async with session.get(f"{fake.url}/api/ps") as response:
            loaded = listings.read_ps(await response.read())
    assert [card.name for card in cards] == ["llama3.2:latest", "qwen3:8b"]
    assert [(card.name, card.context_tokens) for card in loaded] == [("qwen3:8b", 4096)]


class Surface:
    """Our side of Ollama's API, as a server will use it, over answers that the test gives."""

    def __init__(self, answer: Sequence[ev.Event]) -> None:
        self.url = ""
        self.answer = list(answer)
        self.requests: list[Request] = []

    async def handle(self, request: web.Request) -> web.Response:
        kind = OllamaGenerateSurface if request.path == "/api/generate" else OllamaChatSurface
        codec = kind(elapsed_ns=lambda: 7)
        try:
            asked = codec.decode_request(await request.read())
        except RequestError as error:
            return web.Response(status=error.status, body=codec.encode_error(error.info()))
        self.requests.append(asked)
        reason = asks_to_load(asked)
        if reason is not None:
            return web.Response(body=codec.encode_loaded(asked, reason=reason, created_at=1))
        if asked.stream:
            return web.Response(body=encode_all(codec.encoder(asked), self.answer), content_type="application/x-ndjson")
        return web.Response(body=codec.encode_turn(fold(self.answer), asked))

    async def tell(self, request: web.Request) -> web.Response:
        card = listings.ModelCard(name="fast", family="llama", context_tokens=8192, capabilities=("tools",))
        match request.path:
            case "/api/tags":
                body = listings.write_tags([card])
            case "/api/ps":
                body = listings.write_ps([card])
            case "/api/show":
                assert listings.decode_show(await request.read()) == "fast"
                body = listings.write_show(card)
            case _:
                asked = listings.decode_embed(await request.read())
                vectors = [[1.0, 0.0]] * len(asked.inputs)
                body = listings.write_embed(asked.model or "", vectors, input_tokens=3, elapsed_ns=5)
        return web.Response(body=body, content_type="application/json")


@contextlib.asynccontextmanager
async def surface(answer: Sequence[ev.Event] = ()) -> AsyncIterator[tuple[Surface, ollama.AsyncClient]]:
    server = Surface(answer)
    app = web.Application()
    app.router.add_post("/api/chat", server.handle)
    app.router.add_post("/api/generate", server.handle)
    app.router.add_get("/api/{what}", server.tell)
    app.router.add_post("/api/{what}", server.tell)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with connected(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
            yield server, client
    finally:
        await runner.cleanup()


ANSWER: list[ev.Event] = [
    ev.TurnStarted("t", "backend", 1751919739),
    ev.ItemStarted(index=0, kind="reasoning"),
    ev.ReasoningDelta(0, "hm"),
    ev.ItemDone(index=0),
    ev.ItemStarted(index=1, kind="message"),
    ev.TextDelta(1, "Hel"),
    ev.TextDelta(1, "lo"),
    ev.ItemDone(index=1),
    ev.ItemStarted(index=2, kind="function_call", call_id="c1", name="weather"),
    ev.ArgumentsDelta(2, '{"city": '),
    ev.ArgumentsDelta(2, '"Oslo"}'),
    ev.ItemDone(index=2),
    ev.ChoiceDone(0, "tool_calls"),
    ev.UsageReported(Usage(input_tokens=5, output_tokens=2)),
    ev.TurnCompleted(),
]


def weather(city: str) -> str:
    """The weather.

    Args:
      city: The city
    """
    return city


async def test_the_client_holds_a_conversation_with_tools_over_our_surface() -> None:
    async with surface(ANSWER) as (server, client):
        whole = await client.chat("fast", ASK, tools=[weather], think="low", options={"num_predict": 9, "top_k": 3})
        assert (whole.message.content, whole.message.thinking, whole.done_reason) == ("Hello", "hm", "stop")
        assert (whole.prompt_eval_count, whole.eval_count, whole.total_duration) == (5, 2, 7)
        (call,) = whole.message.tool_calls or []
        assert (call.function.name, call.function.arguments) == ("weather", {"city": "Oslo"})
        asked = server.requests[-1]
        assert (asked.stream, asked.max_output_tokens, asked.reasoning_effort) == (False, 9, "low")
        assert list(asked.extra) == ["options.top_k"]
        # The client keeps no ids: the result still finds its call.
        lines = await client.chat(
            "fast",
            [*ASK, whole.message, {"role": "tool", "tool_name": "weather", "content": "5"}],
            stream=True,
        )
        assert "".join([line.message.content or "" async for line in lines]) == "Hello"
        request = server.requests[-1]
        calls = [item.call_id for item in request.items if isinstance(item, FunctionCall)]
        assert [getattr(item, "call_id", None) for item in request.items[-2:]] == calls * 2
        assert request.stream


async def test_the_client_generates_over_our_surface() -> None:
    async with surface([*ANSWER[:8], ev.ChoiceDone(0, "stop"), ev.TurnCompleted()]) as (server, client):
        whole = await client.generate("fast", "hi", system="Be brief.", images=[PNG], format="json")
        assert (whole.response, whole.thinking, whole.done_reason) == ("Hello", "hm", "stop")
        assert server.requests[-1].instructions == "Be brief."
        assert server.requests[-1].asked == {"response_format": "format"}
        lines = [line async for line in await client.generate("fast", "hi", stream=True)]
        assert "".join(line.response or "" for line in lines) == "Hello"
        loaded = await client.generate("fast")
        assert loaded.done_reason == "load"
        assert (await client.chat("fast", [], keep_alive=0)).done_reason == "unload"


async def test_the_client_reads_our_errors() -> None:
    failed = [*ANSWER[:6], ev.TurnFailed(BackendError("the upstream broke").info())]
    async with surface(failed) as (_, client):
        with pytest.raises(ollama.ResponseError, match="Supported values are: 'low'") as refused:
            await client.chat("fast", ASK, think="very")
        assert refused.value.status_code == 400
        with pytest.raises(ollama.ResponseError, match="the upstream broke"):
            [line async for line in await client.chat("fast", ASK, stream=True)]


async def test_the_client_reads_our_lists() -> None:
    async with surface() as (_, client):
        assert [model.model for model in (await client.list()).models] == ["fast"]
        assert [model.context_length for model in (await client.ps()).models] == [8192]
        shown = await client.show("fast")
        assert (shown.capabilities, (shown.modelinfo or {})["llama.context_length"]) == (["tools"], 8192)
        vectors = await client.embed("fast", ["a", "b"])
        assert (vectors.embeddings, vectors.prompt_eval_count) == ([[1.0, 0.0], [1.0, 0.0]], 3)
