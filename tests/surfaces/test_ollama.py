"""Ollama's API in front of any backend, as Ollama's official client and plain HTTP see it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import ollama
import pydantic
import pytest

from tests.conftest import Serve
from tests.fakes.ollama import FakeOllama, Reply, fake_ollama
from tests.fakes.upstream import HELLO, FakeUpstream, json_answer, streamed, text_frame
from tests.serving import ECHO, Serving, serving

ASK = [{"role": "user", "content": "hello there"}]


@contextlib.asynccontextmanager
async def connected(server: Serving) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(host=server.url, trust_env=False)
    try:
        yield client
    finally:
        await client.close()  # type: ignore[no-untyped-call]  # the client has no types there


@pytest.fixture
async def client(echo: Serving) -> AsyncIterator[ollama.AsyncClient]:
    async with connected(echo) as connection:
        yield connection


def lines(body: bytes) -> list[Any]:
    assert body.endswith(b"\n")
    return [json.loads(line) for line in body.splitlines()]


async def post(server: Serving, path: str, **body: Any) -> Any:
    return await server.request("POST", path, json.dumps({"model": "scripted", **body}).encode())


async def test_the_client_talks_to_a_scripted_backend(client: ollama.AsyncClient) -> None:
    whole = await client.chat("scripted", ASK)
    assert (whole.message.content, whole.done, whole.done_reason, whole.model) == (
        "hello there",
        True,
        "stop",
        "scripted",
    )
    assert whole.total_duration
    pieces = [piece async for piece in await client.chat("scripted", ASK, stream=True)]
    assert "".join(piece.message.content or "" for piece in pieces) == "hello there"
    assert [piece.done for piece in pieces] == [*[False] * (len(pieces) - 1), True]
    assert pieces[-1].eval_count == whole.eval_count
    generated = await client.generate("scripted", "hello there", system="Be brief.")
    assert (generated.response, generated.done_reason) == ("hello there", "stop")
    told = [piece.response async for piece in await client.generate("scripted", "hello there", stream=True)]
    assert "".join(piece or "" for piece in told) == "hello there"


def test_the_synchronous_client_streams_too() -> None:
    async def run() -> list[str]:
        async with serving() as server:

            def ask() -> list[str]:
                with contextlib.closing(ollama.Client(host=server.url, trust_env=False)) as client:
                    return [line.message.content or "" for line in client.chat("scripted", ASK, stream=True)]

            return await asyncio.to_thread(ask)

    assert "".join(asyncio.run(run())) == "hello there"


async def test_the_client_lists_shows_loads_and_frees(client: ollama.AsyncClient) -> None:
    assert [model.model for model in (await client.list()).models] == ["scripted"]
    assert (await client.ps()).models == []
    shown = await client.show("scripted")
    assert shown.capabilities is not None
    assert shown.capabilities[0] == "completion"
    assert (await client.chat("scripted", [])).done_reason == "load"
    assert (await client.generate("scripted", keep_alive=0)).done_reason == "unload"


async def test_a_stream_is_lines_of_json_and_never_anything_else(echo: Serving) -> None:
    reply = await post(echo, "/api/chat", messages=ASK)
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert [line["done"] for line in lines(reply.body)][-1] is True
    whole = await post(echo, "/api/chat", messages=ASK, stream=False)
    assert whole.headers["content-type"] == "application/json"
    assert whole.json()["message"] == {"role": "assistant", "content": "hello there"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/api/chat", {"model": "nope", "messages": ASK}, 404, "unknown model 'nope'; configured: 'scripted'"),
        ("POST", "/api/chat", {"model": "nope"}, 404, "unknown model 'nope'"),
        ("POST", "/api/chat", {"messages": ASK}, 400, "Missing required parameter: 'model'"),
        ("POST", "/api/chat", {"model": "scripted", "messages": "hi"}, 400, "messages"),
        ("POST", "/api/generate", {"model": "scripted", "prompt": "a", "raw": True}, 400, "'raw' is not supported"),
        ("POST", "/api/generate", {"model": "scripted", "prompt": "a", "suffix": "b"}, 400, "'suffix'"),
        ("POST", "/api/show", {}, 400, "model"),
        ("POST", "/api/show", {"model": "nope"}, 404, "unknown model"),
        ("POST", "/api/pull", {"model": "nope"}, 404, "models are managed at the server that has them"),
        ("DELETE", "/api/delete", {"model": "nope"}, 404, "models are managed"),
        ("GET", "/api/nothing", None, 404, "unknown route"),
        ("GET", "/api/chat", None, 405, "not allowed"),
    ],
)
async def test_errors_are_one_text(echo: Serving, method: str, path: str, body: Any, status: int, words: str) -> None:
    refused = await echo.request(method, path, None if body is None else json.dumps(body).encode())
    assert refused.status == status
    assert refused.json().keys() == {"error"}
    assert words in refused.json()["error"]


async def test_a_body_that_is_no_json_is_refused_in_the_same_envelope(echo: Serving) -> None:
    refused = await echo.request("POST", "/api/chat", b"{")
    assert (refused.status, list(refused.json())) == (400, ["error"])


async def test_a_missing_key_is_refused_in_the_same_envelope(serve: Serve) -> None:
    async with serve(f'[server]\napi_keys = ["k"]\n{ECHO}') as server:
        refused = await server.get("/api/tags")
        assert (refused.status, list(refused.json())) == (401, ["error"])
        assert (await server.get("/api/tags", headers={"authorization": "Bearer k"})).status == 200


async def test_clients_find_somebody_there(echo: Serving) -> None:
    assert (await echo.get("/")).status == 200
    assert (await echo.request("HEAD", "/")).status == 200
    version = (await echo.get("/api/version")).json()["version"]
    assert [part.isdigit() for part in version.split(".")] == [True] * 3


async def test_a_name_of_the_configuration_is_a_model_with_what_its_server_says_of_it(serve: Serve) -> None:
    async with fake_ollama() as fake:
        fake.add("llama3.2:latest", "completion", "tools", loaded=True)
        config = (
            f'[server]\ndefault_model = "fast"\n'
            f'[backends.desk]\ntype = "http"\ndialect = "ollama_chat"\nendpoints = ["{fake.url}"]\n'
            '[[models]]\nname = "fast"\nroutes = [{ backend = "desk", model = "llama3.2" }]\n'
        )
        async with serve(config) as server, connected(server) as client:
            (listed,) = (await client.list()).models
            assert (listed.model, listed.details and listed.details.quantization_level) == ("fast", "Q4_K_M")
            assert [model.model for model in (await client.ps()).models] == ["fast"]
            shown = await client.show("fast:latest")
            assert (shown.capabilities, (shown.modelinfo or {})["llama.context_length"]) == (
                ["completion", "tools"],
                4096,
            )
            unnamed = await server.request("POST", "/api/chat", json.dumps({"messages": ASK, "stream": False}).encode())
            assert (unnamed.status, unnamed.json()["model"]) == (200, "fast")


async def test_over_an_ollama_server_the_body_goes_up_as_it_came(serve: Serve) -> None:
    async with fake_ollama() as fake:
        fake.replies.extend([Reply(thinking=("hm",), text=("Hel", "lo"), calls=(("f", {"a": 1}),)), Reply(text=("x",))])
        async with serve(over(fake)) as server, connected(server) as client:
            options = {"num_ctx": 8192, "top_k": 3, "temperature": 0.5}
            answer = await client.chat("llama3.2", ASK, options=options, keep_alive="5m", think=True)
            assert (answer.message.content, answer.message.thinking) == ("Hello", "hm")
            assert [call.function.name for call in answer.message.tool_calls or []] == ["f"]
            assert answer.load_duration, "what the server measured stays"
            (sent,) = fake.posts("/api/chat")
            assert (sent["options"], sent["keep_alive"], sent["think"]) == (options, "5m", True)
            await client.generate("llama3.2", "hi", options={"num_ctx": 4096})
            assert fake.posts("/api/chat")[-1]["options"] == {"num_ctx": 4096}


@pytest.mark.parametrize("dialect", ["ollama_chat", "openai_chat"])
async def test_embeddings_are_those_of_whoever_has_the_model(serve: Serve, dialect: str) -> None:
    async with fake_ollama() as fake:
        base = fake.url if dialect == "ollama_chat" else f"{fake.url}/v1"
        config = f'[backends.desk]\ntype = "http"\ndialect = "{dialect}"\nendpoints = ["{base}"]\n'
        async with serve(config) as server, connected(server) as client:
            answer = await client.embed("llama3.2", ["one", "two words"])
            assert [round(sum(n * n for n in vector), 6) for vector in answer.embeddings] == [1, 1]
            assert (answer.prompt_eval_count, answer.model) == (3, "llama3.2")
            alone = await client.embed("llama3.2", "one", dimensions=2)
            assert list(alone.embeddings[0]) == list(answer.embeddings[0])[:2]
            older = await client.embeddings("llama3.2", "one")
            assert list(older.embedding) == list(answer.embeddings[0])
            assert (await client.embed("llama3.2", "")).embeddings == []
            kept = await post(server, "/api/embed", model="llama3.2", input="a", keep_alive=0, truncate=False)
            assert kept.headers["x-trunkline-ignored"] == "keep_alive, truncate"


@pytest.mark.parametrize("vectors", [[], [[1.0], [2.0]]])
async def test_embeddings_that_are_too_few_or_too_many_are_a_failure(
    vectors: list[list[float]], serve: Serve, upstream: FakeUpstream
) -> None:
    """An empty vector in its place would be stored by whoever asked, and found by nobody."""
    data = [{"index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    async with serve(f'[backends.b]\ntype = "http"\nendpoints = ["{upstream.url}"]\nretries = 0\n') as server:
        for path, given in (("/api/embed", {"input": "a"}), ("/api/embeddings", {"prompt": "a"})):
            upstream.plan([json_answer({"object": "list", "data": data})])
            reply = await post(server, path, model="up-model", **given)
            assert reply.status == 502
            assert reply.json() == {"error": f"the upstream answered 1 inputs with {len(vectors)} embeddings"}


async def test_embeddings_of_a_backend_without_them_are_refused(echo: Serving) -> None:
    refused = await post(echo, "/api/embed", input="a")
    assert refused.status == 400
    assert "does not do embeddings" in refused.json()["error"]
    unknown = await post(echo, "/api/embeddings", model="nope", prompt="a")
    assert (unknown.status, list(unknown.json())) == (404, ["error"])


async def test_over_an_ollama_server_models_are_loaded_and_freed(serve: Serve) -> None:
    async with fake_ollama() as fake, serve(over(fake)) as server, connected(server) as client:
        loaded = await client.generate("llama3.2")
        assert (loaded.done_reason, list(fake.loaded)) == ("load", ["llama3.2:latest"])
        freed = await client.chat("llama3.2", [], keep_alive=0)
        assert (freed.done_reason, fake.loaded) == ("unload", {})


def over(fake: FakeOllama) -> str:
    return f'[backends.desk]\ntype = "http"\ndialect = "ollama_chat"\nendpoints = ["{fake.url}"]\n'


def chat_server(upstream: FakeUpstream) -> str:
    return f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\nretries = 0\n'


async def test_over_a_chat_server_the_answer_is_translated(serve: Serve, upstream: FakeUpstream) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    completion = {"id": "c", "object": "chat.completion", "created": 1, "model": "up-model", "choices": [choice]}
    upstream.plan(streamed(HELLO), [json_answer(completion)])

    def weather(city: str) -> str:
        """The weather.

        Args:
          city: The city
        """
        return city

    async with serve(chat_server(upstream)) as server, connected(server) as client:
        pieces = [piece async for piece in await client.chat("up-model", ASK, stream=True)]
        assert "".join(piece.message.content or "" for piece in pieces) == "Hello"
        assert (pieces[-1].prompt_eval_count, pieces[-1].eval_count) == (5, 2)
        answer = await client.chat("up-model", ASK, tools=[weather], options={"num_predict": 5})
        (call,) = answer.message.tool_calls or []
        assert (call.function.name, call.function.arguments) == ("weather", {"city": "Oslo"})
    sent = upstream.posts[-1].json()
    assert (sent["max_completion_tokens"], sent["tools"][0]["function"]["name"]) == (5, "weather")


async def test_an_answer_in_a_schema_is_asked_for_as_one(serve: Serve, upstream: FakeUpstream) -> None:
    class Country(pydantic.BaseModel):
        name: str

    upstream.plan(streamed(text_frame('{"name":"Norway"}') + text_frame(finish="stop")))
    async with serve(chat_server(upstream)) as server, connected(server) as client:
        stream = await client.chat("up-model", ASK, format=Country.model_json_schema(), stream=True)
        text = "".join([piece.message.content or "" async for piece in stream])
    assert Country.model_validate_json(text).name == "Norway"
    form = upstream.posts[-1].json()["response_format"]
    assert (form["type"], form["json_schema"]["schema"]["title"]) == ("json_schema", "Country")


async def test_what_only_ollama_knows_is_named_as_ignored_elsewhere(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan(streamed(HELLO))
    async with serve(chat_server(upstream)) as server:
        reply = await post(server, "/api/chat", model="up-model", messages=ASK, keep_alive="5m", options={"num_ctx": 9})
    assert (reply.status, reply.headers["x-trunkline-ignored"]) == (200, "keep_alive, options.num_ctx")


@pytest.mark.parametrize("think", [True, "high"])
async def test_thinking_is_asked_for(serve: Serve, upstream: FakeUpstream, think: Any) -> None:
    upstream.plan(streamed(HELLO))
    async with serve(chat_server(upstream)) as server:
        assert (await post(server, "/api/chat", model="up-model", messages=ASK, think=think)).status == 200
    assert upstream.posts[-1].json()["reasoning_effort"] == ("medium" if think is True else think)


async def test_a_stream_that_breaks_ends_with_an_error_line(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan(streamed(text_frame("Hel")))
    async with serve(chat_server(upstream)) as server:
        told = lines((await post(server, "/api/chat", model="up-model", messages=ASK)).body)
    assert told[0]["message"]["content"] == "Hel"
    assert told[-1].keys() == {"error"}
    assert not any(line.get("done") for line in told)


async def test_usage_and_the_log_count_these_calls_too(echo: Serving) -> None:
    await post(echo, "/api/chat", messages=ASK)
    assert any("path=/api/chat" in line and "model=scripted" in line for line in echo.access_lines)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_a_client_that_leaves_ends_the_work(serve: Serve, path: str) -> None:
    async with fake_ollama() as fake, serve(over(fake)) as server, server.connect() as wire:
        fake.replies.append(Reply(text=("a", "b"), hold=asyncio.Event()))
        data = json.dumps({"model": "llama3.2", "messages": ASK, "prompt": "hi"}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        await wire.send(head + data)
        await wire.head()
        await wire.until(b'"a"')
        wire.writer.transport.abort()
        await fake.left.wait()
