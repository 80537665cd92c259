"""The official Python SDK's Responses against a running server: everything it offers for them, with its types held strictly."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseOutputMessage, ResponseTextDeltaEvent
from pydantic import BaseModel

from tests.responses import EVENT, GET_WEATHER
from tests.serving import REQUEST_ID, Serving, eventually, serving

SCRIPT = r"""
[[rules]]
match = "weather in"
steps = [
  { reasoning = "I need the tool. " },
  { text = "Let me look. " },
  { call = "get_weather", arguments = ['{"city": ', '"Paris"}'], call_id = "call_a" },
  { call = "get_weather", arguments = ['{"city": "Rome"}'], call_id = "call_b" },
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
match = "hang"
steps = [{ text = "on" }, { hang = true }]
"""
TOML = '[server]\napi_keys = ["sk-test"]\n[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n'
SEARCH: Any = {"type": "web_search"}
TOOLS: list[Any] = [{**GET_WEATHER, "strict": False}]


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"script.toml": SCRIPT}) as served:
        yield served


@pytest.fixture
async def client(server: Serving) -> AsyncIterator[AsyncOpenAI]:
    made = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sk-test", max_retries=0, _strict_response_validation=True)
    async with made:
        yield made


async def test_create_retrieve_and_delete(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="scripted", input="hello there", metadata={"a": "b"})
    assert response.output_text == "hello there"
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.output_tokens == 2
    assert response.metadata == {"a": "b"}
    assert REQUEST_ID.fullmatch(response._request_id or "")
    assert (await client.responses.retrieve(response.id)).to_dict() == response.to_dict()
    await client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError) as refused:
        await client.responses.retrieve(response.id)
    assert refused.value.code == "response_not_found"


async def test_stream(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model="scripted", input="weather in", tools=TOOLS, stream=True)
    events = [event async for event in stream]
    for event in events:
        EVENT.validate_json(event.to_json(), strict=True)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert (await client.responses.retrieve(last.response.id)).to_dict() == last.response.to_dict()
    text = "".join(event.delta for event in events if isinstance(event, ResponseTextDeltaEvent))
    assert text == last.response.output_text == "Let me look. "


async def test_stream_helper(client: AsyncOpenAI) -> None:
    for text in ("plain words", "weather in", "refuse"):
        async with client.responses.stream(model="scripted", input=text, tools=TOOLS) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
        stored = await client.responses.retrieve(final.id)
        assert [item.type for item in stored.output] == [item.type for item in final.output]
        assert stored.output_text == final.output_text


async def test_other_ways_of_reading(client: AsyncOpenAI) -> None:
    async with client.responses.with_streaming_response.create(model="scripted", input="plain words") as whole:
        assert (await whole.parse()).output_text == "plain words"
        assert REQUEST_ID.fullmatch(whole.headers["x-request-id"])
    async with client.responses.with_streaming_response.create(
        model="scripted", input="plain words", stream=True
    ) as lines:
        kinds = [line.removeprefix("event: ") async for line in lines.iter_lines() if line.startswith("event: ")]
    raw = await client.responses.with_raw_response.create(model="scripted", input="plain words", stream=True)
    assert [event.type async for event in raw.parse()] == kinds
    async with client.responses.stream(model="scripted", input="plain words") as helper:
        await helper.until_done()
        assert (await helper.get_final_response()).output_text == "plain words"


async def test_a_stream_adds_up_for_who_watches_it(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="scripted", input="weather in", tools=TOOLS) as stream:
        seen = [event.snapshot async for event in stream if event.type == "response.function_call_arguments.delta"]
    assert seen == ['{"city": ', '{"city": "Paris"}', '{"city": "Rome"}']
    async with client.responses.stream(model="scripted", input="as json", text_format=Person) as typed:
        texts = [event.snapshot async for event in typed if event.type == "response.output_text.delta"]
    assert texts[-1] == '{"name": "Ada", "age": 36}'


async def test_what_was_answered_is_input_again(client: AsyncOpenAI) -> None:
    """The SDK's own objects, every member of them, and every parameter said to be nothing."""
    first = await client.responses.create(model="scripted", input="hello")
    again: list[Any] = [*first.output, {"role": "user", "content": "and again"}]
    nothing: Any = dict.fromkeys(
        ("conversation", "include", "instructions", "max_output_tokens", "metadata", "prompt", "reasoning", "store")
    )
    second = await client.responses.create(model="scripted", input=again, tools=[], **nothing)
    assert second.output_text == "and again"


async def test_parse(client: AsyncOpenAI) -> None:
    parsed = await client.responses.parse(model="scripted", input="as json", text_format=Person)
    assert parsed.output_parsed == Person(name="Ada", age=36)
    async with client.responses.stream(model="scripted", input="as json", text_format=Person) as stream:
        final = await stream.get_final_response()
    assert final.output_parsed == Person(name="Ada", age=36)


async def test_tools_round_trip(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model="scripted", input="weather in Paris and Rome", tools=TOOLS)
    calls = [item for item in first.output if isinstance(item, ResponseFunctionToolCall)]
    assert [call.call_id for call in calls] == ["call_a", "call_b"]
    outputs: list[Any] = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls
    ]
    chained = await client.responses.create(
        model="scripted", input=[*outputs, {"role": "user", "content": "thanks"}], previous_response_id=first.id
    )
    assert chained.output_text == "thanks"
    replayed: list[Any] = [
        {"role": "user", "content": "weather in Paris and Rome"},
        *[item.to_dict() for item in first.output],
        *outputs,
        {"role": "user", "content": "thanks"},
    ]
    alone = await client.responses.create(model="scripted", input=replayed, store=False)
    assert alone.output_text == "thanks"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="scripted", input="and?", previous_response_id=first.id)
    assert "No tool output found for function call call_a" in refused.value.message


async def test_background_is_polled_to_its_end(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="scripted", input="hello", background=True)
    assert response.status == "queued"
    while response.status in ("queued", "in_progress"):
        response = await client.responses.retrieve(response.id)
    assert response.status == "completed"
    assert isinstance(response.output[0], ResponseOutputMessage)


async def test_a_background_stream_is_resumed(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model="scripted", input="one two three", background=True, stream=True)
    events = [event async for event in stream]
    last = events[-1]
    assert last.type == "response.completed"
    for number in (0, 3, len(events) - 2):
        resumed = await client.responses.retrieve(last.response.id, stream=True, starting_after=number)
        assert [event.to_dict() async for event in resumed] == [event.to_dict() for event in events[number + 1 :]]
    async with client.responses.stream(response_id=last.response.id, starting_after=2) as helper:
        assert [event.type async for event in helper][-1] == "response.completed"


async def test_cancel(client: AsyncOpenAI, server: Serving) -> None:
    response = await client.responses.create(model="scripted", input="hang", background=True)
    await eventually(lambda: server.backend().active == 1)
    cancelled = await client.responses.cancel(response.id)
    assert cancelled.status == "cancelled"
    await eventually(lambda: server.backend().active == 0)
    assert (await client.responses.cancel(response.id)).to_dict() == cancelled.to_dict()
    foreground = await client.responses.create(model="scripted", input="hello")
    with pytest.raises(openai.BadRequestError):
        await client.responses.cancel(foreground.id)


async def test_input_items(client: AsyncOpenAI) -> None:
    said: list[Any] = [{"role": "user", "content": f"message {number}"} for number in range(7)]
    response = await client.responses.create(model="scripted", input=said)
    pages = client.responses.input_items.list(response.id, limit=3, order="asc")
    texts = [item.to_dict()["content"] async for item in pages]
    assert [content[0]["text"] for content in texts] == [f"message {number}" for number in range(7)]  # type: ignore[index]


async def test_failures(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model="scripted", input="fail midway", stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "gone"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="scripted", input="x", previous_response_id="resp_nobody")
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")
    with pytest.raises(openai.BadRequestError) as unknown:
        await client.responses.create(model="nobody", input="x")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")


async def test_what_an_agent_loop_sends_for_itself(client: AsyncOpenAI) -> None:
    """Reasoning summaries, encrypted reasoning, tools of the host's: hints for those who have them, named where ignored."""
    raw = await client.responses.with_raw_response.create(
        model="scripted",
        input="hello",
        store=False,
        reasoning={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        parallel_tool_calls=False,
        tools=[*TOOLS, SEARCH],
        extra_body={"client_metadata": {"x": "y"}},
    )
    response = raw.parse()
    assert isinstance(response, Response)
    assert response.output_text == "hello"
    assert [tool.type for tool in response.tools] == ["function", "web_search"]
    ignored = raw.headers["x-trunkline-ignored"]
    assert {"tools[1]", "client_metadata", "reasoning.summary"} <= {name.strip() for name in ignored.split(",")}
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="scripted", input="x", tools=[SEARCH], tool_choice=SEARCH)
    assert refused.value.param == "tools[0].type"
