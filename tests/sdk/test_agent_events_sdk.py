"""The official SDKs with an agent's own events in its streams: they do not know them, and lose nothing by that."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from tests.sdk.node_program import report_of
from tests.serving import Serving, serving

AGENT = """
from trunkline.agent import ToolFinished, ToolStarted

async def agent(turn):
    yield "Looking. "
    yield ToolStarted("call_1", "search", {"q": "cats"}, label="cats")
    yield ToolFinished("call_1", output="10 results")
    yield await turn.approve("shell", "rm -r build") if turn.input == "ask" else "Done."
"""
SEEN = {"stream_options": {"include_tool_events": True}}
TOML = '[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\n'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"bot.py": AGENT}) as served:
        yield served


async def _approve(server: Serving, event: object) -> None:
    said = event.to_dict() if hasattr(event, "to_dict") else {}
    body = json.dumps({"choice": "once", "call_id": said["approval"]["call_id"]}).encode()
    reply = await server.request("POST", f"/v1/runs/{said['response_id']}/approval", body)
    assert reply.status == 200, reply


async def test_streams_with_an_agents_events_are_read_to_their_end(server: Serving, client: AsyncOpenAI) -> None:
    kinds, progress, text = [], [], ""
    async for event in await client.responses.create(model="bot", input="ask", stream=True, extra_body=SEEN):
        kinds.append(event.type)
        progress.append(event.to_dict().get("progress"))
        if str(event.type) == "trunkline.approval.requested":
            await _approve(server, event)
        if event.type == "response.output_text.delta":
            text += event.delta
    assert text == "Looking. once"
    assert [(one["status"], one.get("label")) for one in progress if isinstance(one, dict)] == [
        ("running", "cats"),
        ("completed", None),
    ]
    assert kinds[-1] == "response.completed"


async def test_the_stream_helper_reads_them_too(server: Serving, client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="bot", input="ask", extra_body=SEEN) as stream:
        async for event in stream:
            if str(event.type) == "trunkline.approval.requested":
                await _approve(server, event)
        final = await stream.get_final_response()
    assert final.output_text == "Looking. once"
    assert [item.type for item in final.output] == ["message", "function_call", "function_call_output", "message"]


async def test_the_node_sdk_reads_them_too(server: Serving) -> None:
    assert await report_of("agent_events.mjs", server) == {
        "text": "Looking. once",
        "progress": ["running", "completed"],
        "last": "response.completed",
        "helper": "Looking. deny",  # it throws on events it does not know, and has not asked for any
        "items": ["message", "function_call", "function_call_output", "message"],
    }
