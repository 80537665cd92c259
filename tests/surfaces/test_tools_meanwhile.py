"""Tools that run while their agent speaks, and tools that never end: what is kept of them, and what the next turn gets."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Serving, serving

AGENT = """
import json
from trunkline.agent import ToolFinished, ToolStarted

async def agent(turn):
    if turn.input == "messages":
        yield json.dumps(turn.messages)
        return
    yield ToolStarted("c1", "search", {"q": "cats"})
    yield "One moment. "
    yield ToolFinished("c1", "10 results")
    yield ToolStarted("c2", "shell", {"command": "sleep"})
    yield "Ten."

def told(turn):
    calls = [{"id": "c1", "type": "function", "function": {"name": "shell", "arguments": "{}"}}]
    return {"final_response": "Ten.", "messages": [{"role": "assistant", "content": "", "tool_calls": calls}]}
"""
TOML = """
[backends.bot]
type = "python"
target = "bot.py:agent"

[backends.told]
type = "python"
target = "bot.py:told"
"""
ROLES = ["assistant", "tool", "assistant", "tool"]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"bot.py": AGENT}) as served:
        yield served


async def sent(server: Serving, path: str, **body: Any) -> Any:
    reply = await server.request("POST", path, json.dumps({"model": "bot", **body}).encode())
    assert reply.status in (200, 202), reply
    return reply.json()


async def completed(server: Serving, run_id: str) -> Any:
    reply = await server.get(f"/v1/runs/{run_id}/events")
    return json.loads(reply.body.split(b"data: ")[-1].split(b"\n\n")[0])


async def test_messages_of_a_run_can_be_handed_to_a_chat_model(server: Serving) -> None:
    run = await sent(server, "/v1/runs", input="go")
    messages = (await completed(server, run["run_id"]))["messages"]
    assert [message["role"] for message in messages] == ROLES
    assert [message["content"] for message in messages] == ["One moment. ", "10 results", "Ten.", ""]
    again = await sent(
        server, "/v1/responses", input="messages", previous_response_id=run["run_id"].replace("run_", "resp_")
    )
    history = json.loads(again["output"][0]["content"][0]["text"])
    assert [message["role"] for message in history] == ["user", *ROLES, "user"]
    assert history[1:-1] == messages


async def test_a_tool_that_never_ended_is_incomplete(server: Serving) -> None:
    output = (await sent(server, "/v1/responses", input="go"))["output"]
    said = {(item["type"], item["call_id"]): item["status"] for item in output if "call_id" in item}
    assert said == {
        ("function_call", "c1"): "completed",
        ("function_call_output", "c1"): "completed",
        ("function_call", "c2"): "completed",
        ("function_call_output", "c2"): "incomplete",
    }


async def test_a_tool_that_a_result_tells_no_end_of_is_incomplete(server: Serving) -> None:
    output = (await sent(server, "/v1/responses", input="go", model="told"))["output"]
    assert [(item["type"], item["status"]) for item in output] == [
        ("function_call", "completed"),
        ("function_call_output", "incomplete"),
        ("message", "completed"),
    ]
    run = await sent(server, "/v1/runs", input="go", model="told")
    messages = (await completed(server, run["run_id"]))["messages"]
    assert [(message["role"], message["content"]) for message in messages] == [
        ("assistant", ""),
        ("tool", ""),
        ("assistant", "Ten."),
    ]


async def test_the_streamed_item_of_a_tool_that_never_ended_is_incomplete(server: Serving) -> None:
    body = json.dumps({"model": "bot", "input": "go", "stream": True}).encode()
    reply = await server.request("POST", "/v1/responses", body)
    events = [json.loads(frame.split(b"data: ")[1]) for frame in reply.body.split(b"\n\n")[:-1] if b"data: {" in frame]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["status"] for item in done if item.get("call_id") == "c2"] == ["completed", "incomplete"]
