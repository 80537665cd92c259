"""A model server that is asked through Ollama's own API: what it is told, what clients of ours see, and what goes wrong."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.ollama import CREATED_S, FakeOllama, Reply, fake_ollama
from tests.responses import Asking, check_stream
from tests.serving import Serving, finish_of

MODEL = "llama3.2:latest"
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


def toml(url: str, more: str = "") -> str:
    return f'[backends.up]\ntype = "http"\ndialect = "ollama_chat"\nendpoints = ["{url}"]\n{more}'


@pytest.fixture
async def ollama() -> AsyncIterator[FakeOllama]:
    async with fake_ollama() as fake:
        yield fake


@pytest.fixture
async def server(ollama: FakeOllama, serve: Serve) -> AsyncIterator[Serving]:
    async with serve(toml(ollama.url)) as served:
        yield served


async def test_its_models_are_listed_under_their_own_names(server: Serving, ollama: FakeOllama) -> None:
    ollama.add("qwen3:8b")
    listed = (await server.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == [MODEL, "qwen3:8b"]
    assert (await server.get("/health/ready")).status == 200


async def test_a_chat_client_gets_text_thinking_calls_and_usage(server: Serving, ollama: FakeOllama) -> None:
    said = Reply(thinking=("hm", "."), text=("Hel", "lo"), calls=(("f", {"a": 1}), ("f", {})))
    ollama.replies.extend([said, said])
    whole = (await server.chat("hi", model=MODEL, tools=TOOLS)).json()
    message = whole["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Hello", "hm.")
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "f", "arguments": '{"a":1}'},
        {"name": "f", "arguments": "{}"},
    ]
    assert (whole["choices"][0]["finish_reason"], whole["created"]) == ("tool_calls", CREATED_S)
    assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (26, 4)

    stream = await server.chat("hi", model=MODEL, tools=TOOLS, stream=True, stream_options={"include_usage": True})
    assert (stream.text, finish_of(stream.frames), stream.frames[-1]) == ("Hello", ["tool_calls"], "[DONE]")
    assert stream.frames[-2]["usage"]["total_tokens"] == 30
    assert [body["stream"] for body in ollama.posts("/api/chat")] == [False, True]


async def test_older_versions_have_calls_without_ids_which_clients_need(server: Serving, ollama: FakeOllama) -> None:
    ollama.ids = False
    ollama.replies.append(Reply(calls=(("f", {}), ("f", {}))))
    message = (await server.chat("hi", model=MODEL, tools=TOOLS)).json()["choices"][0]["message"]
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    history = [
        {"role": "user", "content": "hi"},
        {**message, "refusal": None},
        *({"role": "tool", "tool_call_id": call["id"], "content": "1"} for call in message["tool_calls"]),
    ]
    assert (await server.chat(model=MODEL, messages=history, tools=TOOLS)).status == 200
    assert [one.get("tool_name") for one in ollama.posts("/api/chat")[-1]["messages"]] == [None, None, "f", "f"]


async def test_parameters_become_options(server: Serving, ollama: FakeOllama) -> None:
    asked: dict[str, Any] = {
        "temperature": 0.5,
        "max_tokens": 9,
        "stop": ["END"],
        "seed": 7,
        "reasoning_effort": "none",
    }
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    reply = await server.chat("hi", model=MODEL, **asked, response_format=form, logprobs=True, top_logprobs=2)
    (body,) = ollama.posts("/api/chat")
    assert body["options"] == {"temperature": 0.5, "seed": 7, "num_predict": 9, "stop": ["END"]}
    assert (body["think"], body["format"]) == (False, {"type": "object"})
    entries = reply.json()["choices"][0]["logprobs"]["content"]
    assert ["".join(entry["token"] for entry in entries), len(entries[0]["top_logprobs"])] == ["Hello there!", 2]


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "tools[0].type"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}],
                    }
                ]
            },
            "messages[0].content[0]",
        ),
    ],
)
async def test_what_ollama_has_no_word_for_is_refused_by_name(
    server: Serving, ollama: FakeOllama, parameters: dict[str, Any], param: str
) -> None:
    refused = await server.chat("hi", model=MODEL, **parameters)
    assert (refused.status, refused.error["param"]) == (400, param)
    assert ollama.posts("/api/chat") == []


async def test_what_a_chat_client_adds_for_other_servers_is_named_as_ignored(server: Serving) -> None:
    reply = await server.chat("hi", model=MODEL, top_k=5)
    assert (reply.status, reply.headers["x-trunkline-ignored"]) == (200, "top_k")


async def test_a_responses_client_gets_the_same_items_streamed_and_whole(server: Serving, ollama: FakeOllama) -> None:
    said = Reply(thinking=("hm",), text=("Hel", "lo"), calls=(("f", {"a": 1}),))
    ollama.replies.extend([said, said])
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}]
    client = Asking(server, model=MODEL)
    streamed = check_stream(await client.stream("hi", tools=tools))
    whole = await client.create("hi", tools=tools)
    for response in (streamed, whole):
        assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call"]
        assert response["output"][1]["content"][0]["text"] == "Hello"
        assert response["usage"]["output_tokens"] == 4


async def test_a_model_that_is_not_there_is_the_clients_mistake(server: Serving, ollama: FakeOllama) -> None:
    assert (await server.get("/v1/models")).status == 200
    del ollama.models[MODEL]
    gone = await server.chat("hi", model=MODEL)
    assert (gone.status, gone.error["code"], gone.error["param"]) == (404, "model_not_found", "model")


async def test_an_endpoint_that_ends_in_v1_is_told_what_is_right(ollama: FakeOllama, serve: Serve) -> None:
    async with serve(toml(f"{ollama.url}/v1", f'models = ["{MODEL}"]\n')) as server:
        wrong = await server.chat("hi", model=MODEL)
    assert wrong.status == 503
    assert "Ollama's own address, without /v1" in wrong.error["message"]


async def test_refusals_and_failures_keep_their_meaning(server: Serving, ollama: FakeOllama) -> None:
    ollama.add("plain:latest", "completion")
    thinks = await server.chat("hi", model="plain:latest", reasoning_effort="low")
    assert (thinks.status, thinks.error["message"]) == (400, '"plain:latest" does not support thinking')
    for reply, status in (
        (Reply(status=503, error="server busy, please try again.  maximum pending requests exceeded"), 503),
        (Reply(status=500, error="llama runner process has terminated"), 502),
        (Reply(error="CUDA error"), 502),
    ):
        ollama.default = reply  # whoever tries again gets it again
        failed = await server.chat("hi", model=MODEL)
        assert (failed.status, failed.error["message"]) == (status, reply.error)


@pytest.mark.parametrize("reply", [Reply(text=("a", "b"), error="CUDA error"), Reply(text=("a", "b"), cut=True)])
async def test_a_stream_that_breaks_ends_with_an_error_and_never_well(
    server: Serving, ollama: FakeOllama, reply: Reply
) -> None:
    ollama.replies.append(reply)
    stream = await server.chat("hi", model=MODEL, stream=True)
    assert (stream.status, stream.text, finish_of(stream.frames)) == (200, "ab", [])
    assert "error" in stream.frames[-1]


async def test_a_client_that_leaves_ends_the_work(server: Serving, ollama: FakeOllama) -> None:
    ollama.replies.append(Reply(text=("a", "b"), hold=asyncio.Event()))
    async with server.stream("hi", model=MODEL) as wire:
        await wire.head()
        await wire.until(b'"content":"a"')
    await ollama.left.wait()


async def test_a_chat_client_waits_while_the_model_is_loaded(server: Serving, ollama: FakeOllama) -> None:
    ollama.gate = asyncio.Event()
    asked = asyncio.create_task(server.chat("hi", model=MODEL))
    await ollama.loading.wait()
    assert (ollama.loaded, asked.done()) == ({}, False)
    ollama.gate.set()
    assert (await asked).status == 200
    assert list(ollama.loaded) == [MODEL]
