"""Clients that run tools of their own, in front of an agent that runs its own: `tool_items = "mcp_call"` keeps them apart."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.install import HERE
from tests.clients.programs import available, node, python_of, run
from tests.serving import Serving, serving

pytestmark = pytest.mark.clients

AGENT = """
import json
from trunkline.agent import FunctionCall, ToolFinished, ToolStarted

async def agent(turn):
    if turn.input == "history":
        told = {message["tool_call_id"]: message["content"] for message in turn.messages if message["role"] == "tool"}
        called = [call["function"]["name"] for message in turn.messages for call in message.get("tool_calls", ())]
        yield json.dumps([called, list(told.values())])
        return
    if turn.input == "weather":
        if turn.messages[-1]["role"] == "tool":
            yield "It is " + turn.messages[-1]["content"]
            return
        yield ToolStarted("c0", "map", {"of": "France"})
        yield ToolFinished("c0", "Paris")
        yield FunctionCall("weather", {"city": "Paris"}, call_id="c9")
        return
    yield "Looking. "
    yield ToolStarted("c1", "search", {"q": "cats"}, label="cats")
    yield ToolStarted("c2", "shell", {"command": "cat"})
    yield ToolFinished("c2", "no shell", failed=True)
    yield ToolFinished("c1", "10 results")
    yield "Ten."
"""
TOML = """
[server]
tool_items = "mcp_call"
[backends.bot]
type = "python"
target = "bot.py:agent"
client_tools = true
"""
TOLD = '[["search", "shell"], ["10 results", "no shell"]]'


@pytest.fixture
async def bot(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"bot.py": AGENT}) as served:
        yield served


async def seen(bot: Serving, program: object, *trial: object, home: Path) -> Any:
    return json.loads(await run(program, HERE / Path(*map(str, trial)), f"{bot.url}/v1", home=home))


async def test_openai_agents(bot: Serving, tmp_path: Path) -> None:
    assert await seen(bot, python_of("openai_agents"), "openai_agents", "server_tools.py", home=tmp_path) == {
        "run": [["message_output_item", "tool_call_item", "tool_call_item", "message_output_item"], "Ten."],
        "sent back": TOLD,
        "chained": TOLD,
        "session": TOLD,
        "conversation": TOLD,
        "stream": ["message_output_created", "tool_called", "tool_called", "message_output_created", "Ten."],
        "both": [["tool_call_item", "tool_call_item", "tool_call_output_item", "message_output_item"], "It is sunny"],
        "socket": ["message_output_created", "tool_called", "tool_called", "message_output_created", "Ten."],
    }


async def test_langchain(bot: Serving, tmp_path: Path) -> None:
    kinds = ["text", *["server_tool_call", "server_tool_result"] * 2, "text"]
    assert (
        await seen(bot, python_of("adapters"), "langchain", "server_tools.py", home=tmp_path)
        == {
            "agent": [["human", "ai"], "Looking. Ten.", [], kinds],
            "sent back": TOLD,
            "stream": ["Looking. Ten.", [], kinds],
            "streamed and sent back": '[["shell", "search"], ["no shell", "10 results"]]',  # in the order in which they ended
            "v1": [kinds, TOLD],
            "both": [["human", "ai", "tool", "ai"], "It is sunny"],
            "chained": TOLD,
        }
    )


async def test_ai_sdk(bot: Serving, tmp_path: Path) -> None:
    available(HERE / "ai_sdk" / "node_modules" / "ai")
    assert await seen(bot, node("ai_sdk"), "ai_sdk", "server_tools.mjs", home=tmp_path) == {
        "generate": [
            "Looking. Ten.",
            1,
            [["mcp.search", "10 results"], ["mcp.shell", "mcp_tool_execution_error"]],
        ],
        "sentBack": TOLD,
        "chained": TOLD,
        "stateless": "[[], []]",  # it leaves out what a provider's tools gave
        "both": ["It is sunny", 2],
        "stream": ["Looking. Ten.", 1, ["tool-call", "tool-result", "tool-call", "tool-result"]],
    }


async def test_librechat(bot: Serving, tmp_path: Path) -> None:
    available(HERE / "librechat" / "node_modules" / "@librechat" / "agents")
    assert await seen(bot, node("librechat"), "librechat", "server_tools.mjs", home=tmp_path) == {
        "first": ["Looking. Ten."],
        "second": ["[[], []]"],
    }
