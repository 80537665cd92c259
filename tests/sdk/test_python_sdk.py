"""The official Python SDK against a running server: what it returns, streams, accumulates, parses and raises."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.conftest import Serve
from tests.serving import REQUEST_ID, Serving, eventually, serving

SCRIPT = r"""
[[rules]]
match = "weather in"
steps = [
  { reasoning = "I need the tool. " },
  { text = "Let me look. " },
  { call = "get_weather", arguments = ['{"city": ', '"Paris"}'], call_id = "call_a" },
  { call = "get_time", call_id = "call_b" },
]
[[rules]]
match = "as json"
steps = [{ text = '{"name": "Ada", ' }, { text = '"age": 36}' }]
[[rules]]
match = "refuse"
steps = [{ refusal = "I will " }, { refusal = "not." }]
[[rules]]
match = "fail midway"
steps = [{ text = "part" }, { error = "unavailable", message = "gone" }]
[[rules]]
match = "be busy"
steps = [{ error = "rate_limited", message = "slow down", retry_after_s = 7 }]
[[rules]]
match = "break"
steps = [{ error = "bug" }]
[[rules]]
match = "hang"
steps = [{ text = "on" }, { hang = true }]
"""
TOML = '[server]\napi_keys = ["sk-test"]\n[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n'
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    for name in ("get_weather", "get_time")
]
T = TypeVar("T")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"script.toml": SCRIPT}) as served:
        yield served


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


async def test_create(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(model="scripted", messages=said("hello there"))
    assert completion.choices[0].message.content == "hello there"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.object == "chat.completion"
    assert completion.model == "scripted"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 4
    assert REQUEST_ID.fullmatch(completion._request_id or "")


async def test_stream_with_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="scripted",
        messages=said("one two three"),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.content for chunk in chunks[:3]] == ["one", " two", " three"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[3].choices[0].finish_reason == "stop"
    assert chunks[3].choices[0].delta.model_dump(exclude_none=True) == {}
    assert chunks[4].choices == []
    assert chunks[4].usage is not None
    assert chunks[4].usage.completion_tokens == 3
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks[:4])


async def test_stream_helper_accumulates_what_create_returns(client: AsyncOpenAI) -> None:
    for text in ("plain words", "what is the weather in Paris", "refuse", "as json"):
        async with client.chat.completions.stream(model="scripted", messages=said(text), tools=TOOLS) as stream:
            kinds = [event.type async for event in stream]
            streamed = (await stream.get_final_completion()).choices[0]
        whole = (await client.chat.completions.create(model="scripted", messages=said(text), tools=TOOLS)).choices[0]
        assert (streamed.message.content or None) == whole.message.content
        assert streamed.message.refusal == whole.message.refusal
        assert streamed.finish_reason == whole.finish_reason
        assert [call.model_dump(include={"id", "type"}) for call in streamed.message.tool_calls or ()] == [
            call.model_dump(include={"id", "type"}) for call in whole.message.tool_calls or ()
        ]
        assert "chunk" in kinds


async def test_tools_round_trip(client: AsyncOpenAI) -> None:
    first = await client.chat.completions.create(model="scripted", messages=said("weather in Paris?"), tools=TOOLS)
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look. "
    assert choice.message.model_extra == {"reasoning_content": "I need the tool. "}
    calls = choice.message.tool_calls
    assert calls is not None
    assert [(call.id, call.type) for call in calls] == [("call_a", "function"), ("call_b", "function")]
    assert calls[0].type == "function"
    assert json.loads(calls[0].function.arguments) == {"city": "Paris"}
    conversation: list[Any] = [
        *said("first"),
        choice.message,
        *[{"role": "tool", "tool_call_id": call.id, "content": "22 C"} for call in calls],
        *said("and so"),
    ]
    second = await client.chat.completions.create(model="scripted", messages=conversation, tools=TOOLS)
    assert second.choices[0].message.content == "and so"


async def test_tool_calls_stream_in_pieces(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model="scripted", messages=said("weather in Paris?"), tools=TOOLS
    ) as stream:
        done = [event async for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert [(event.index, event.name, event.arguments) for event in done] == [
        (0, "get_weather", '{"city": "Paris"}'),
        (1, "get_time", "{}"),
    ]


class Person(BaseModel):
    name: str
    age: int


async def test_parse_into_a_model(client: AsyncOpenAI) -> None:
    parsed = await client.chat.completions.parse(model="scripted", messages=said("as json"), response_format=Person)
    assert parsed.choices[0].message.parsed == Person(name="Ada", age=36)
    async with client.chat.completions.stream(
        model="scripted", messages=said("as json"), response_format=Person
    ) as stream:
        assert (await stream.get_final_completion()).choices[0].message.parsed == Person(name="Ada", age=36)


async def test_n_choices(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(model="scripted", messages=said("same for all"), n=2)
    assert [(choice.index, choice.message.content) for choice in completion.choices] == [
        (0, "same for all"),
        (1, "same for all"),
    ]
    async with client.chat.completions.stream(model="scripted", messages=said("same for all"), n=2) as stream:
        choices = (await stream.get_final_completion()).choices
    assert [(choice.index, choice.message.content) for choice in choices] == [(0, "same for all"), (1, "same for all")]


async def test_logprobs_belong_to_their_text(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(
        model="scripted",
        messages=said("one two"),
        logprobs=True,
        top_logprobs=2,
    )
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content) == "one two"
    assert all(len(token.top_logprobs) == 2 for token in logprobs.content)
    async with client.chat.completions.stream(
        model="scripted",
        messages=said("one two"),
        logprobs=True,
        top_logprobs=2,
    ) as stream:
        streamed = (await stream.get_final_completion()).choices[0].logprobs
    assert streamed is not None
    assert streamed.content == logprobs.content


async def test_errors_are_the_sdks_own(client: AsyncOpenAI, server: Serving) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as bad:
        await create(model="scripted", messages=[])
    assert (bad.value.param, bad.value.code, bad.value.type) == ("messages", "empty_array", "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as unknown:
        await create(model="gpt-9", messages=said("x"))
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.RateLimitError) as busy:
        await create(model="scripted", messages=said("be busy"))
    assert busy.value.response.headers["retry-after"] == "7"
    with pytest.raises(openai.InternalServerError) as broken:
        await create(model="scripted", messages=said("break"))
    assert str(broken.value.request_id) in str(broken.value)
    with pytest.raises(openai.NotFoundError):
        await client.files.list()


async def test_a_stream_that_fails_midway_raises_in_the_sdk(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="scripted", messages=said("fail midway"), stream=True)
    assert (await anext(aiter(stream))).choices[0].delta.content == "part"
    with pytest.raises(openai.APIError, match="gone"):
        await anext(aiter(stream))


async def test_the_sdks_own_retries_end_a_short_rush(serve: Serve) -> None:
    """429 with Retry-After and 503 are what the SDK waits for and tries again."""
    script = '[[rules]]\ntimes = 1\nsteps = [{ error = "unavailable", retry_after_s = 1 }]\n'
    toml = '[backends.talk]\ntype = "scripted"\nscript = "s.toml"\n'
    async with serve(toml, scripts={"s.toml": script}) as server:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=1) as client:
            completion = await client.chat.completions.create(model="scripted", messages=said("again"))
        assert completion.choices[0].message.content == "again"
        assert server.backend().opened == 2


async def test_models(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["scripted"]
    model = await client.models.retrieve("scripted")
    assert (model.id, model.object) == ("scripted", "model")
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("org/none")


async def test_raw_response_shows_our_headers(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="scripted",
        messages=said("hi"),
        temperature=0.5,
        extra_body={"x_mine": 1},
    )
    assert raw.headers["x-trunkline-route"] == "talk/scripted"
    assert raw.headers["x-trunkline-ignored"] == "temperature, x_mine"
    assert raw.parse().choices[0].message.content == "hi"


async def test_leaving_a_stream_stops_the_backend(client: AsyncOpenAI, server: Serving) -> None:
    stream = await client.chat.completions.create(model="scripted", messages=said("hang"), stream=True)
    async for _ in stream:
        break
    await stream.close()
    await eventually(lambda: server.backend().active == 0)


async def in_a_thread(server: Serving, work: Callable[[OpenAI], T]) -> T:
    def run() -> T:
        with OpenAI(base_url=f"{server.url}/v1", api_key="sk-test", max_retries=0) as client:
            return work(client)

    return await asyncio.to_thread(run)


async def test_the_synchronous_client(server: Serving) -> None:
    def work(client: OpenAI) -> tuple[str | None, list[str | None], str | None]:
        whole = client.chat.completions.create(model="scripted", messages=said("one two"))
        stream = client.chat.completions.create(model="scripted", messages=said("one two"), stream=True)
        pieces = [chunk.choices[0].delta.content for chunk in stream]
        with client.chat.completions.stream(
            model="scripted", messages=said("as json"), response_format=Person
        ) as helper:
            for _ in helper:
                pass
            parsed = helper.get_final_completion().choices[0].message.parsed
        return whole.choices[0].message.content, pieces, parsed.name if parsed else None

    assert await in_a_thread(server, work) == ("one two", ["one", " two", None], "Ada")


async def test_the_synchronous_clients_errors(server: Serving) -> None:
    def work(client: OpenAI) -> None:
        client.chat.completions.create(model="gpt-9", messages=said("x"))

    with pytest.raises(openai.NotFoundError):
        await in_a_thread(server, work)


async def test_the_embedded_model_answers_the_sdk(serve: Serve) -> None:
    """A real model in this process: text, stream, exact tokens, a schema and a demanded tool, through the official client."""
    toml = '[backends.local]\ntype = "embedded"\nslots = 2\ncontext_tokens = 1024\nthreads = 2\n'
    async with serve(toml) as server, AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        model = (await client.models.list()).data[0].id
        asked: dict[str, Any] = {
            "model": model,
            "messages": said("What is the capital of France?"),
            "max_tokens": 12,
        }
        asked |= {"temperature": 0, "seed": 1}
        whole = await client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
        text = whole.choices[0].message.content
        assert text
        assert whole.usage is not None
        assert 0 < whole.usage.completion_tokens <= 12
        logprobs = whole.choices[0].logprobs
        assert logprobs is not None
        assert "".join(token.token for token in logprobs.content or ()).startswith(text.strip()[:3])
        stream = await client.chat.completions.create(**asked, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == text
        parsed = await client.chat.completions.parse(
            **{**asked, "max_tokens": 60, "messages": said("Ada is 36 years old.")}, response_format=Person
        )
        assert isinstance(parsed.choices[0].message.parsed, Person)
        called = await client.chat.completions.create(
            **{**asked, "max_tokens": 60},
            tools=TOOLS,
            tool_choice={"type": "function", "function": {"name": "get_weather"}},
        )
        calls = called.choices[0].message.tool_calls
        assert calls is not None
        assert calls[0].type == "function"
        assert calls[0].function.name == "get_weather"
        json.loads(calls[0].function.arguments)
