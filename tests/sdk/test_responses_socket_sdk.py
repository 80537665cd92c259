"""The official Python SDK's `responses.connect()`, asynchronous and not, against a running server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from openai import AsyncOpenAI, OpenAI, OpenAIError
from openai.types.responses import ResponseSteerFailedEvent
from openai.types.responses.responses_server_event import (
    ResponsesServerEvent,
    ResponseTextWsDelta,
    ResponseWsCompleted,
    ResponseWsError,
)

from tests.responses import GET_WEATHER, call_output
from tests.serving import Serving, serving

SCRIPT = r"""
[[rules]]
match = "weather"
steps = [
  { text = "Let me look. " },
  { call = "get_weather", arguments = ['{"city": ', '"Paris"}'], call_id = "call_a" },
]
"""
TOML = '[server]\napi_keys = ["sk-test"]\n[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n'
TOOLS: list[Any] = [{**GET_WEATHER, "strict": False}]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"script.toml": SCRIPT}) as served:
        yield served


@pytest.fixture
async def client(server: Serving) -> AsyncIterator[AsyncOpenAI]:
    made = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sk-test", max_retries=0, _strict_response_validation=True)
    async with made:
        yield made


async def completed(connection: Any, *, stream_id: str | None = None) -> ResponseWsCompleted:
    async for event in connection:
        assert event.stream_id == stream_id
        if isinstance(event, ResponseWsCompleted):
            return event
        assert not isinstance(event, ResponseWsError), event
    raise AssertionError("the connection ended before the turn did")


async def test_a_turn_with_a_tool_and_its_continuation(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        await connection.response.create(model="scripted", input="weather", tools=TOOLS, store=False)
        first = await completed(connection)
        call = first.response.output[1]
        assert call.type == "function_call"
        await connection.response.create(
            model="scripted",
            input=[call_output(call.call_id), {"role": "user", "content": "So?"}],  # type: ignore[list-item]
            previous_response_id=first.response.id,
            store=False,
            tools=TOOLS,
        )
        second = await completed(connection)
        assert second.response.output_text == "So?"
        assert second.response.previous_response_id == first.response.id


async def test_lanes_and_a_stored_response(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        await connection.response.create(model="scripted", input="one two", stream_id="main", metadata={"k": "v"})
        event = await completed(connection, stream_id="main")
    stored = await client.responses.retrieve(event.response.id)
    assert stored.output_text == "one two"
    assert stored.metadata == {"k": "v"}


async def test_a_warm_up(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        await connection.response.create(model="scripted", input="remember this", tools=TOOLS, generate=False)
        warm = await completed(connection)
        assert warm.response.output == []
        await connection.response.create(model="scripted", input="go", previous_response_id=warm.response.id)
        assert (await completed(connection)).response.output_text == "go"


async def test_errors_are_events(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        await connection.response.create(model="scripted", input="x", previous_response_id="resp_no")
        error = await connection.recv()
        assert isinstance(error, ResponseWsError)
        assert (error.status, error.error.code) == (400, "previous_response_not_found")
        await connection.response.steer(previous_response_id="resp_1", input="left")
        failed = await connection.recv()
        assert isinstance(failed, ResponseSteerFailedEvent)
        assert failed.error.code == "steering_not_supported"
        await connection.response.create(model="scripted", input="x", previous_response_id="resp_no")
        with pytest.raises(OpenAIError, match="resp_no"):
            await connection.dispatch_events()


async def test_handlers_get_events(client: AsyncOpenAI) -> None:
    said: list[str] = []
    async with client.responses.connect() as connection:

        async def hear(event: ResponseTextWsDelta) -> None:
            said.append(event.delta)

        async def leave(event: ResponsesServerEvent) -> None:
            await connection.close()

        connection.on("response.output_text.delta", hear)
        connection.on("response.completed", leave)
        await connection.response.create(model="scripted", input="one two three")
        await connection.dispatch_events()
    assert "".join(said) == "one two three"


async def test_a_wrong_key_does_not_get_a_connection(server: Serving) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong", max_retries=0) as client:
        with pytest.raises(websockets.InvalidStatus) as raised:
            async with client.responses.connect():
                pass
    assert raised.value.response.status_code == 401


@pytest.mark.filterwarnings(
    "ignore:connect.. must be used as a context manager"
)  # the SDK's own way to call `websockets`
async def test_the_client_that_blocks(server: Serving) -> None:
    def talk() -> list[str]:
        texts = []
        with (
            OpenAI(base_url=f"{server.url}/v1", api_key="sk-test", max_retries=0) as client,
            client.responses.connect() as connection,
        ):
            previous = None
            for text in ("one", "two"):
                connection.response.create(model="scripted", input=text, store=False, previous_response_id=previous)
                for event in connection:
                    if event.type == "response.completed":
                        previous = event.response.id
                        texts.append(event.response.output_text)
                        break
        return texts

    assert await asyncio.to_thread(talk) == ["one", "two"]
