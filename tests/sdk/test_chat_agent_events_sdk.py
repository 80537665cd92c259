"""The official Python SDK with what an agent does besides answering in its chat streams: it hands that over, and loses nothing."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.serving import Serving, serving, user

AGENT = """
from trunkline.agent import ToolFinished, ToolStarted

async def agent(turn):
    yield ToolStarted("call_1", "search", {"q": "cats"}, label="cats")
    yield ToolFinished("call_1", output="10 results")
    yield "Found ten. "
    yield await turn.approve("shell", "rm -r build")
"""
TOML = '[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\n'
ASKED: dict[str, Any] = {"model": "bot", "messages": user("go")}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"bot.py": AGENT}) as served:
        yield served


def status_of(chunk: Any) -> str:
    extra = chunk.model_extra
    return str(extra["status"] if "tool" in extra else extra["approval"]["status"])


async def approve(server: Serving, chunk: Any) -> None:
    """Answers a question from the chunk that asks it; other chunks ask nothing."""
    asked = chunk.model_extra.get("approval")
    if asked is None or asked["status"] != "requested":
        return
    body = json.dumps({"choice": "once", "call_id": asked["call_id"]}).encode()
    reply = await server.request("POST", f"/v1/runs/{chunk.id}/approval", body)
    assert reply.status == 200, reply


async def test_a_stream_hands_over_what_it_does_not_know(server: Serving, client: AsyncOpenAI) -> None:
    text, seen = "", []
    stream = await client.chat.completions.create(
        **ASKED, stream=True, extra_body={"stream_options": {"include_tool_events": True}}
    )
    async for chunk in stream:
        text += "".join([choice.delta.content or "" for choice in chunk.choices])
        if not chunk.choices:
            seen.append(status_of(chunk))
            await approve(server, chunk)
    assert text == "Found ten. once"
    assert seen == ["running", "completed", "requested", "resolved"]


async def test_the_helper_that_accumulates_is_not_confused(server: Serving, client: AsyncOpenAI) -> None:
    asked = client.chat.completions.stream(**ASKED, extra_body={"stream_options": {"include_tool_events": True}})
    async with asked as stream:
        async for event in stream:
            if event.type == "chunk":
                await approve(server, event.chunk)
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Found ten. once"
    assert (final.model, final.choices[0].finish_reason) == ("bot", "stop")
