"""The official Python SDK asking how long a context is, and having it made shorter."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.responses import GET_WEATHER
from tests.serving import Serving, serving
from tests.sockets import socket

SCRIPT = '[[rules]]\nmatch = "Summarise"\nsteps = [{ text = "Bo wants tea." }]\n'
TOML = '[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"script.toml": SCRIPT}) as served:
        yield served


async def test_input_tokens(client: AsyncOpenAI) -> None:
    tools: list[Any] = [{**GET_WEATHER, "strict": False}]
    counted = await client.responses.input_tokens.count(
        model="scripted", input="one two", instructions="be kind", tools=tools, truncation="auto"
    )
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", 4)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.input_tokens.count(model="nobody", input="x")
    assert refused.value.code == "model_not_found"


async def test_compact_and_go_on(client: AsyncOpenAI, server: Serving) -> None:
    first = await client.responses.create(model="scripted", input="I am Bo.")
    compacted = await client.responses.compact(model="scripted", previous_response_id=first.id, instructions="Briefly.")
    assert compacted.object == "response.compaction"
    assert [item.type for item in compacted.output] == ["message", "compaction"]
    assert compacted.usage.output_tokens == 3
    window: list[Any] = [item.to_dict(warnings=False) for item in compacted.output]
    go_on: Any = {"role": "user", "content": "Go on"}
    second = await client.responses.create(model="scripted", input=[*window, go_on])
    assert second.usage is not None
    async with socket(server) as ws:
        over_socket = await ws.answer(None, input=[*window, go_on], store=False, truncation="auto")
        assert over_socket["usage"]["input_tokens"] == second.usage.input_tokens
        third = await ws.answer("and on", previous_response_id=over_socket["id"])
        assert third["usage"]["input_tokens"] == second.usage.input_tokens + 4
    talk = await client.conversations.create(items=window)
    listed = [item.type async for item in await client.conversations.items.list(talk.id, order="asc")]
    assert listed == ["message", "compaction"]
