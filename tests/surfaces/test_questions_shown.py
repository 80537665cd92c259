"""Who is shown what an agent asks, and who is denied at once: the client that cannot see a question is never kept waiting."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import Serve
from tests.responses import events_in
from tests.serving import Serving, Wire, read_frames, text_of
from tests.sockets import socket

AGENT = """
async def agent(turn):
    yield "May I? "
    yield await turn.approve("shell", "rm -r build", choices=("once", "deny"))
"""
TOML = '[server]\n{server}\n[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\n'
SCRIPTS = {"bot.py": AGENT}
UNSEEN = (
    "a question of the agent was denied: this client does not see questions; streams with stream_options.include_tool_events "
    "show them, and so do runs (POST /v1/runs)"
)


def toml(server: str = "") -> str:
    return TOML.replace("{server}", server)


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Serving]:
    async with serve(toml(), scripts=SCRIPTS) as served:
        yield served


async def respond(wire: Wire, **body: object) -> None:
    data = json.dumps({"model": "bot", "input": "hi", "stream": True, **body}).encode()
    await wire.send(b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)


async def approve(server: Serving, turn_id: str) -> None:
    reply = await server.request("POST", f"/v1/runs/{turn_id}/approval", b'{"choice": "once"}')
    assert reply.status == 200, reply


def turn_in(data: bytes) -> str:
    """The id that an answer is found by."""
    found = re.search(rb"(chatcmpl-|resp_)\w+", data)
    assert found is not None, data
    return found[0].decode()


async def test_a_chat_stream_that_asked_for_nothing_is_denied_at_once(
    server: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    reply = await server.chat(model="bot", stream=True)
    assert text_of(reply.frames) == "May I? deny"
    assert all(chunk["choices"] for chunk in reply.frames[:-1])  # a client may read choices[0] of each
    assert "event:" not in reply.body.decode()
    assert "approval denied: its client does not see questions; streams with stream_options.include" in caplog.text


async def test_a_whole_answer_says_that_a_question_was_denied(server: Serving) -> None:
    chat = await server.chat(model="bot", stream_options={"include_tool_events": True})
    assert chat.json()["choices"][0]["message"]["content"] == "May I? deny"
    response = await server.request("POST", "/v1/responses", b'{"model": "bot", "input": "hi"}')
    assert response.json()["output_text"] == "May I? deny"
    assert [one.headers["x-trunkline-warning"] for one in (chat, response)] == [UNSEEN, UNSEEN]


async def test_a_stream_whose_head_waits_for_the_denied_question_says_it_there(serve: Serve) -> None:
    first = 'async def agent(turn):\n    yield await turn.approve("shell")\n'
    async with serve(toml(), scripts={"bot.py": first}) as server:
        assert (await server.chat(model="bot", stream=True)).headers["x-trunkline-warning"] == UNSEEN


@pytest.mark.parametrize(("setting", "asked"), [("", True), ('tool_events = "events"', None)])
async def test_a_chat_stream_with_tool_events_is_asked(serve: Serve, setting: str, asked: bool | None) -> None:
    options: dict[str, Any] = {} if asked is None else {"stream_options": {"include_tool_events": asked}}
    async with serve(toml(setting), scripts=SCRIPTS) as server, server.stream(model="bot", **options) as wire:
        await wire.head()
        shown = await wire.until(b"rm -r build")
        assert b"event: trunkline.approval.requested\n" in shown
        await approve(server, turn_in(shown))
        assert b'"content":"once"' in await wire.until(b"[DONE]")


async def test_a_chat_stream_that_turns_tool_events_off_is_denied_at_once(serve: Serve) -> None:
    async with serve(toml('tool_events = "events"'), scripts=SCRIPTS) as server:
        reply = await server.chat(model="bot", stream=True, stream_options={"include_tool_events": False})
        assert text_of(reply.frames) == "May I? deny"


@pytest.mark.parametrize(("setting", "asked"), [("", "reasoning"), ('tool_events = "reasoning"', None)])
async def test_a_chat_stream_with_reasoning_reads_the_question_there(
    serve: Serve, setting: str, asked: str | None
) -> None:
    options: dict[str, Any] = {} if asked is None else {"stream_options": {"include_tool_events": asked}}
    async with serve(toml(setting), scripts=SCRIPTS) as server, server.stream(model="bot", **options) as wire:
        await wire.head()
        data = await wire.until(b"/approval")
        turn_id = turn_in(data)
        await approve(server, turn_id)
        data += await wire.until(b"[DONE]")
        chunks = read_frames(data[data.index(b"data: ") :].rpartition(b"[DONE]")[0] + b"[DONE]\n\n")
    assert b"event:" not in data
    thoughts = [chunk["choices"][0]["delta"].get("reasoning_content") for chunk in chunks[:-1]]
    assert [thought for thought in thoughts if thought] == [
        f"shell asks: rm -r build (once, deny; answer with POST /v1/runs/{turn_id}/approval)\n",
        "shell: once\n",
    ]
    assert text_of(chunks) == "May I? once"


async def test_a_responses_stream_that_asked_for_nothing_is_denied_at_once(server: Serving) -> None:
    body = b'{"model": "bot", "input": "hi", "stream": true}'
    reply = await server.request("POST", "/v1/responses", body)
    events = events_in(reply.body)
    assert all(event.kind.startswith("response.") for event in events)
    assert events[-1].json["response"]["output_text"] == "May I? deny"


@pytest.mark.parametrize(("setting", "asked"), [("", True), ('tool_events = "events"', None)])
async def test_a_responses_stream_with_tool_events_is_asked(serve: Serve, setting: str, asked: bool | None) -> None:
    options: dict[str, Any] = {} if asked is None else {"stream_options": {"include_tool_events": asked}}
    async with serve(toml(setting), scripts=SCRIPTS) as server, server.connect() as wire:
        await respond(wire, **options)
        await wire.head()
        await approve(server, turn_in(await wire.until(b"rm -r build")))
        assert b"May I? once" in await wire.until(b"response.completed")


async def test_lines_of_reasoning_are_for_chat_alone(serve: Serve) -> None:
    async with serve(toml('tool_events = "reasoning"'), scripts=SCRIPTS) as server:
        reply = await server.request("POST", "/v1/responses", b'{"model": "bot", "input": "hi", "stream": true}')
        assert events_in(reply.body)[-1].json["response"]["output_text"] == "May I? deny"
        wrong = (
            b'{"model": "bot", "input": "hi", "stream": true, "stream_options": {"include_tool_events": "reasoning"}}'
        )
        refused = await server.request("POST", "/v1/responses", wrong)
        assert (refused.status, refused.error["param"]) == (400, "stream_options.include_tool_events")


async def test_a_turn_over_a_websocket_is_asked_where_it_asked_for_tool_events(server: Serving) -> None:
    async with socket(server, model="bot") as ws:
        assert (await ws.answer("hi"))["output_text"] == "May I? deny"
        await ws.create("hi", stream_options={"include_tool_events": True})
        asked = await ws.until("trunkline.approval.requested")
        await approve(server, asked["response_id"])
        assert (await ws.until("response.completed"))["response"]["output_text"] == "May I? once"


async def test_what_followed_a_question_that_nobody_saw_is_not_said_again(serve: Serve) -> None:
    models = '[[models]]\nname = "cached"\ncache = true\nroutes = [{ backend = "bot" }]\n'
    async with serve(toml() + models, scripts=SCRIPTS) as server:
        for _ in range(2):
            for stream in (False, True):
                reply = await server.chat(model="cached", stream=stream)
                assert reply.headers["x-trunkline-cache"] == "miss"
