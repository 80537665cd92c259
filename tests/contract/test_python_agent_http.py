"""Agents and scripts behind the whole application: what a chat client gets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import msgspec
import pytest
from starlette.types import Message, Scope

from trunkline.assembly import assemble
from trunkline.config.load import build_config
from trunkline.server.app import Application

AGENTS = """
from trunkline.agent import FunctionCall, Reasoning, ToolFinished, ToolStarted, Usage

async def stream(turn):
    yield Reasoning("hm")
    yield "Hello "
    yield ToolStarted("c1", "search", {"q": 1}, label="cats")
    yield ToolFinished("c1", output="ten")
    yield turn.input
    yield Usage(input_tokens=5, output_tokens=2)

def words(turn):
    for word in turn.input.split():
        yield word + " "

def fails(turn):
    raise RuntimeError("Provider failed with token=abc123")

async def fails_late(turn):
    yield "almost"
    raise RuntimeError("broke")

async def partial(turn):
    return {"final_response": "half", "partial": True, "error": "cut"}

async def nothing(turn):
    return {"final_response": "", "failed": True, "error": "quota"}

async def calls(turn):
    yield FunctionCall(turn.tools[0].name, {"city": "Paris"}, call_id="call_1")
"""


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[Application]:
    (tmp_path / "http_agents.py").write_text(AGENTS)
    names = ("stream", "words", "fails", "fails_late", "partial", "nothing", "calls")
    backends: dict[str, object] = {
        name: {"type": "python", "target": f"http_agents.py:{name}", "client_tools": name == "calls"} for name in names
    }
    backends["scripted"] = {"type": "scripted"}
    config = build_config({"server": {"access_log": False}, "backends": backends}, environ={})
    app = assemble(config, base_dir=tmp_path)
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    lifespan = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    try:
        yield app
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
        await lifespan


async def chat(app: Application, model: str, text: str = "you all", **fields: object) -> tuple[int, str]:
    """Status and body of one chat completion."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    scope: Scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "query_string": b"", "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    requests: asyncio.Queue[Message] = asyncio.Queue()
    await requests.put({"type": "http.request", "body": msgspec.json.encode(body), "more_body": False})
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, requests.get, send)
    return sent[0]["status"], b"".join([message.get("body", b"") for message in sent[1:]]).decode()


def chunks(body: str) -> list[dict[str, object]]:
    frames = [line.removeprefix("data: ") for line in body.split("\n") if line.startswith("data: ")]
    return [msgspec.json.decode(frame) for frame in frames if frame != "[DONE]"]


def content(body: str) -> str:
    choices = [cast("list[dict[str, dict[str, str]]]", chunk.get("choices", [])) for chunk in chunks(body)]
    return "".join([choice["delta"].get("content") or "" for some in choices for choice in some])


@pytest.mark.parametrize(
    ("model", "expected"), [("stream", "Hello you all"), ("words", "you all "), ("scripted", "you all")]
)
async def test_an_agent_answers_a_chat_streamed_and_not(model: str, expected: str, tmp_path: Path) -> None:
    async with serving(tmp_path) as app:
        status, body = await chat(app, model)
        answer = msgspec.json.decode(body)
        assert (status, answer["choices"][0]["message"]["content"]) == (200, expected)
        assert answer["choices"][0]["finish_reason"] == "stop"
        status, body = await chat(app, model, stream=True)
        assert (status, content(body)) == (200, expected)
        assert body.endswith("data: [DONE]\n\n")


async def test_usage_and_reasoning_are_the_agents(tmp_path: Path) -> None:
    async with serving(tmp_path) as app:
        answer = msgspec.json.decode((await chat(app, "stream"))[1])
        assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (5, 2)
        assert "hm" not in answer["choices"][0]["message"]["content"]
        assert not answer["choices"][0]["message"].get("tool_calls")


async def test_an_agent_that_raises_is_a_500_with_its_text_redacted(tmp_path: Path) -> None:
    async with serving(tmp_path) as app:
        for stream in (False, True):
            status, body = await chat(app, "fails", stream=stream)
            assert status == 500
            assert msgspec.json.decode(body)["error"]["message"] == "Provider failed with token=[redacted]"
            assert "Traceback" not in body


async def test_a_failure_midway_ends_the_stream_honestly(tmp_path: Path) -> None:
    async with serving(tmp_path) as app:
        status, body = await chat(app, "fails_late", stream=True)
        assert (status, "almost" in body, '"broke"' in body) == (200, True, True)
        assert "[DONE]" not in body
        assert '"finish_reason":"stop"' not in body
        assert (await chat(app, "fails_late"))[0] == 500


async def test_a_cut_result_is_length_and_an_empty_one_502(tmp_path: Path) -> None:
    async with serving(tmp_path) as app:
        status, body = await chat(app, "partial")
        assert (status, msgspec.json.decode(body)["choices"][0]["finish_reason"]) == (200, "length")
        status, body = await chat(app, "nothing")
        assert (status, msgspec.json.decode(body)["error"]["code"]) == (502, "agent_incomplete")


async def test_client_tools_reach_only_agents_that_handle_them(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    async with serving(tmp_path) as app:
        answer = msgspec.json.decode((await chat(app, "calls", tools=tools))[1])
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Paris"}'}
        status, body = await chat(app, "stream", tools=tools)
        assert (status, msgspec.json.decode(body)["error"]["code"]) == (400, "unsupported_parameter")


@pytest.mark.parametrize("fields", [{"n": 2}, {"logprobs": True}, {"response_format": {"type": "json_object"}}])
async def test_what_an_agent_cannot_do_is_refused_by_name(fields: dict[str, object], tmp_path: Path) -> None:
    async with serving(tmp_path) as app:
        status, body = await chat(app, "stream", "x", **fields)
        assert (status, msgspec.json.decode(body)["error"]["param"]) == (400, next(iter(fields)))


async def test_the_scripted_backend_honours_choices_limits_and_logprobs(tmp_path: Path) -> None:
    async with serving(tmp_path) as app:
        answer = msgspec.json.decode((await chat(app, "scripted", n=2, max_tokens=1, logprobs=True))[1])
        assert [choice["message"]["content"] for choice in answer["choices"]] == ["you", "you"]
        assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "length"]
        assert answer["choices"][1]["logprobs"]["content"][0]["logprob"] == -0.1
        answer = msgspec.json.decode((await chat(app, "scripted", stop=" all"))[1])
        assert answer["choices"][0]["message"]["content"] == "you"
