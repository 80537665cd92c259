"""The official SDKs with an agent's own tools as `mcp_call` items: typed, in streams and in their helpers, and sent back."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.responses.mcp_tool_call_error import McpToolExecutionError
from openai.types.responses.response_output_item import McpCall

from tests.sdk.node_program import report_of
from tests.serving import Serving, serving

AGENT = """
from trunkline.agent import ToolFinished, ToolStarted

async def agent(turn):
    if turn.input == "history":
        yield ", ".join(message["content"] for message in turn.messages if message["role"] == "tool")
        return
    yield ToolStarted("c1", "search", {"q": "cats"}, label="cats")
    yield ToolStarted("c2", "shell", {})
    yield "Looking. "
    yield ToolFinished("c2", "no shell", failed=True)
    yield ToolFinished("c1", "10 results")
    yield "Ten."
"""
TOML = '[server]\ntool_items = "mcp_call"\n[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\n'
ITEMS = [("mcp_call", "completed"), ("mcp_call", "failed"), ("message", "completed"), ("message", "completed")]
KINDS = [
    ("mcp_call.in_progress", 0),
    ("mcp_call_arguments.delta", 0),
    ("mcp_call_arguments.done", 0),
    ("mcp_call.in_progress", 1),
    ("mcp_call_arguments.delta", 1),
    ("mcp_call_arguments.done", 1),
    ("mcp_call.failed", 1),
    ("mcp_call.completed", 0),
]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"bot.py": AGENT}) as served:
        yield served


async def test_the_stream_helper_has_them_whole(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="bot", input="cats") as stream:
        events = [event async for event in stream if "mcp_call" in event.type]
        final = await stream.get_final_response()
    assert [(event.type.removeprefix("response."), getattr(event, "output_index", None)) for event in events] == KINDS
    assert final.output_text == "Looking. Ten."
    assert [(item.type, getattr(item, "status", None)) for item in final.output] == ITEMS
    search, shell = final.output[:2]
    assert isinstance(search, McpCall)
    assert (search.name, search.arguments, search.output, search.error) == (
        *("search", '{"q":"cats"}', "10 results"),
        None,
    )
    assert isinstance(shell, McpCall)
    assert isinstance(shell.error, McpToolExecutionError)
    assert shell.error.content == [{"type": "text", "text": "no shell"}]


async def test_its_items_are_sent_back(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model="bot", input="cats")
    asked: list[Any] = [{"role": "user", "content": "cats"}, *first.output, {"role": "user", "content": "history"}]
    assert (await client.responses.create(model="bot", input=asked)).output_text == "10 results, no shell"


async def test_the_node_sdk_does_the_same(server: Serving) -> None:
    assert await report_of("server_tools.mjs", server) == {
        "kinds": [list(kind) for kind in KINDS],
        "text": "Looking. Ten.",
        "items": [list(item) for item in ITEMS],
        "failed": "no shell",
        "told": "10 results, no shell",
    }
