"""The official Python SDK over a native Responses server: both its APIs put together all that such a server says."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.conftest import Serve
from tests.fakes.responses_upstream import (
    CITATION,
    FakeResponses,
    code_interpreter,
    fake_responses,
    function_call,
    mcp_call,
    message,
    reasoning,
    web_search,
)
from tests.responses import GET_WEATHER

MODEL = "up-model"
TOOLS: Any = [{**GET_WEATHER, "strict": False}, {"type": "web_search"}]
OUTPUT = [
    reasoning("Let me think.", encrypted=True),
    web_search("cats"),
    code_interpreter("print(2 + 2)"),
    mcp_call("lookup", '{"page": "cats"}', "Cats purr."),
    message(
        "Cats purr.", annotations=[CITATION, {"type": "file_citation", "file_id": "f", "filename": "x", "index": 3}]
    ),
    function_call("get_weather", '{"city": "Paris"}', call_id="call_a"),
    function_call("get_weather", '{"city": "Rome"}', call_id="call_b", item_id="fc_up2"),
]


@pytest.fixture
async def native() -> AsyncIterator[FakeResponses]:
    async with fake_responses() as upstream:
        upstream.output = OUTPUT
        yield upstream


@pytest.fixture
async def client(native: FakeResponses, serve: Serve) -> AsyncIterator[AsyncOpenAI]:
    toml = f'[backends.up]\ntype = "http"\ndialect = "openai_responses"\nendpoints = ["{native.url}"]\n'
    async with serve(toml) as server:
        url = f"{server.url}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, _strict_response_validation=True) as made:
            yield made


async def test_responses(client: AsyncOpenAI, native: FakeResponses) -> None:
    include: Any = ["reasoning.encrypted_content"]
    async with client.responses.stream(model=MODEL, input="go", tools=TOOLS, include=include) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == [item["type"] for item in OUTPUT]
    assert final.output_text == "Cats purr."
    assert (await client.responses.retrieve(final.id)).output_text == "Cats purr."
    native.output = None
    outputs: Any = [
        {"type": "function_call_output", "call_id": call_id, "output": "sunny"} for call_id in ("call_a", "call_b")
    ]
    follow = await client.responses.create(model=MODEL, input=outputs, previous_response_id=final.id)
    assert follow.output_text == "sunny"


async def test_chat_completions(client: AsyncOpenAI) -> None:
    weather = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": "go"}], "tools": [weather]}
    whole = (await client.chat.completions.create(**asked)).choices[0]
    async with client.chat.completions.stream(**asked) as stream:
        async for _ in stream:
            pass
        streamed = (await stream.get_final_completion()).choices[0]
    for choice in (whole, streamed):
        said = choice.message
        assert choice.finish_reason == "tool_calls"
        assert said.content == "Cats purr."
        assert said.annotations is not None
        assert [one.url_citation.title for one in said.annotations] == ["Cats"]
        assert [call.id for call in said.tool_calls or ()] == ["call_a", "call_b"]
