"""Tools that run while their agent speaks, and tools that never end: what is kept of them, and what the next turn gets."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.ollama import fake_ollama
from tests.fakes.upstream import COMPLETION, FakeUpstream, json_answer
from tests.profiles.hermes import named_events
from tests.serving import Reply, Serving, serving

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


def call(call_id: str, **more: Any) -> Any:
    return {"type": "function_call", "call_id": call_id, "name": "look", "arguments": "{}", **more}


def output(call_id: str) -> Any:
    return {"type": "function_call_output", "call_id": call_id, "output": call_id}


def said(text: str) -> Any:
    return {"type": "message", "role": "assistant", "content": text}


def shown(messages: list[Any]) -> list[str]:
    """A message that calls as its calls, any other as what it says."""
    return [
        ",".join(one["id"] for one in message["tool_calls"]) if "tool_calls" in message else message["content"]
        for message in messages
    ]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([call("c1"), said("wait"), output("c1"), said("so")], ["go", "c1", "c1", "so", "well?"]),
        ([call("c1"), said("and"), call("c2"), output("c2"), output("c1")], ["go", "c1,c2", "c2", "c1", "well?"]),
        ([call("c1"), call("c2"), output("c1"), output("c2")], ["go", "c1,c2", "c1", "c2", "well?"]),
    ],
)
async def test_a_chat_model_gets_what_tools_gave_right_behind_their_calls(
    serve: Serve, upstream: FakeUpstream, items: list[Any], expected: list[str]
) -> None:
    upstream.plan([json_answer(COMPLETION)])
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        asked = [{"role": "user", "content": "go"}, *items, {"role": "user", "content": "well?"}]
        await sent(server, "/v1/responses", model="up-model", input=asked)
    assert shown(upstream.posts[0].json()["messages"]) == expected


async def test_a_chat_model_that_goes_on_for_an_agent_gets_its_tools_in_order(
    serve: Serve, upstream: FakeUpstream
) -> None:
    upstream.plan([json_answer(COMPLETION)])
    toml = f'{TOML}[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n'
    async with serve(toml, scripts={"bot.py": AGENT}) as server:
        first = await sent(server, "/v1/responses", input="go")
        await sent(server, "/v1/responses", model="up-model", input="well?", previous_response_id=first["id"])
    messages = upstream.posts[0].json()["messages"]
    assert [message["role"] for message in messages] == ["user", *ROLES, "user"]


async def test_ollama_gets_what_tools_gave_right_behind_their_calls(serve: Serve) -> None:
    async with fake_ollama() as ollama:
        toml = f'[backends.up]\ntype = "http"\ndialect = "ollama_chat"\nendpoints = ["{ollama.url}"]\nmodels = ["llama3.2"]\n'
        async with serve(toml) as server:
            asked = [{"role": "user", "content": "go"}, call("c1"), said("wait"), output("c1")]
            await server.request("POST", "/v1/responses", json.dumps({"model": "llama3.2", "input": asked}).encode())
        messages = ollama.posts("/api/chat")[0]["messages"]
    assert [(one["role"], one["content"]) for one in messages] == [
        ("user", "go"),
        ("assistant", "wait"),
        ("tool", "c1"),
    ]


async def test_an_output_that_answers_no_call_is_the_upstreams_to_refuse(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan([json_answer(COMPLETION)])
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        asked = [{"role": "user", "content": "go"}, {"role": "tool", "tool_name": "look", "content": "sunny"}]
        await sent(server, "/api/chat", model="up-model", messages=asked, stream=False)
    assert shown(upstream.posts[0].json()["messages"]) == ["go", "sunny"]


async def test_messages_of_a_session_can_be_handed_to_a_chat_model(serve: Serve) -> None:
    toml = f'[server]\nprofile = "hermes"\napi_keys = ["k"]\n{TOML}'
    async with serve(toml, scripts={"bot.py": AGENT}) as server:

        async def asked(method: str, path: str, **body: Any) -> Reply:
            data = json.dumps(body).encode() if body else None
            reply = await server.request(method, f"/api/sessions{path}", data, headers={"authorization": "Bearer k"})
            assert reply.status in (200, 201), reply
            return reply

        await asked("POST", "", id="s1")
        reply = await asked("POST", "/s1/chat/stream", message="go", model="bot")
        messages = dict(named_events(reply.body))["run.completed"]["messages"]
        assert [message["role"] for message in messages] == ROLES
        kept = (await asked("GET", "/s1/messages")).json()["data"]
        assert [message["role"] for message in kept] == ["user", *ROLES]
