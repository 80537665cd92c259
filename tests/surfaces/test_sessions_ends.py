"""What a session keeps of a turn by how the turn ended, and of one whose session goes meanwhile."""

import asyncio
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import Serve
from tests.fakes.stores import open_store
from tests.responses import Asking, call_output
from tests.serving import Reply, Serving, eventually, user
from tests.sockets import HELD, HOLD, HOLDING, socket
from trunkline.engine.answer_size import MAX_ANSWER_CHARACTERS
from trunkline.model.errors import RateLimited
from trunkline.ports.stores import StoredItem

BOT = '[backends.mine]\ntype = "python"\ntarget = "bot.py:agent"\n'
STORED = 'store.url = "sqlite:///trunkline.db"\n'
S = {"x-session-id": "s1"}
LONG = f"""
async def agent(turn):
    if turn.input == "long":
        yield "x" * {MAX_ANSWER_CHARACTERS + 1}
        yield "more"
    if turn.input == "nothing":
        return
    yield " | ".join(m["content"][:9] for m in turn.messages)
"""
AT_ONCE = f"""
def agent(turn):
    return "x" * {MAX_ANSWER_CHARACTERS + 1} if turn.input == "long" else "short"
"""


async def post(server: Serving, said: str, *, headers: dict[str, str] = S, **body: Any) -> Reply:
    data = json.dumps({"model": "bot", "messages": user(said), **body}).encode()
    return await server.request("POST", "/v1/chat/completions", data, headers=headers)


async def kept(server: Serving, session_id: str = "s1") -> list[str]:
    """The texts in it; none where there is no such session."""
    reply = await server.get(f"/v1/sessions/{session_id}/messages?limit=100")
    return [item["content"][0]["text"] for item in reply.json()["data"]] if reply.status == 200 else []


async def held(server: Serving, surface: str) -> "asyncio.Task[Any]":
    """Somebody who is being answered over that surface."""
    HELD.begin()
    responses = Asking(server, model="bot")
    responses.headers = S
    asked: dict[str, Any] = {
        "chat": lambda: post(server, "hold"),
        "chat stream": lambda: post(server, "hold", stream=True),
        "keyed": lambda: post(server, "hold", headers={**S, "idempotency-key": "k1"}),
        "responses": lambda: responses.post("hold"),
        "responses stream": lambda: responses.post("hold", stream=True),
        "run": lambda: responses.post("hold", stream=True, background=True),
    }
    task = asyncio.create_task(asked[surface]())
    await eventually(lambda: HELD.begun == ["hold"])
    return task


@pytest.mark.parametrize("surface", ["chat", "chat stream", "keyed", "responses", "responses stream", "run"])
async def test_a_turn_that_a_stopping_server_cut_leaves_nothing(serve: Serve, surface: str) -> None:
    async with aiohttp.ClientSession() as staying:  # of a client that does not leave before the server does
        async with serve(STORED + HOLDING, scripts={"bot.py": HOLD}, grace_s=0) as server:
            client = Serving(server.application, (server.host, server.port), staying, io.StringIO())
            task = await held(client, surface)
        told = (await asyncio.gather(task, return_exceptions=True))[0]
    assert not isinstance(told, Reply) or b"shutting down" in told.body or b"worker_lost" in told.body
    async with serve(STORED + HOLDING, scripts={"bot.py": HOLD}) as server:
        assert await kept(server) == []
        assert (await post(server, "again")).status == 200
        assert await kept(server) == ["again", "Heard: again"]


async def test_a_turn_over_a_socket_that_a_stopping_server_cut_leaves_nothing(serve: Serve) -> None:
    HELD.begin()
    async with contextlib.AsyncExitStack() as after:
        async with serve(STORED + HOLDING, scripts={"bot.py": HOLD}, grace_s=0) as server:
            client = await after.enter_async_context(socket(server))
            await client.create("hold", model="bot", session_id="s1")
            await client.until("response.output_text.delta")
        failed = await client.until("response.failed")
        assert failed["response"]["error"]["message"] == "the server is shutting down"
    async with serve(STORED + HOLDING, scripts={"bot.py": HOLD}) as server:
        assert await kept(server) == []


async def test_what_was_heard_over_a_socket_whose_client_leaves_is_kept(serve: Serve) -> None:
    HELD.begin()
    async with serve(HOLDING, scripts={"bot.py": HOLD}) as server:
        async with socket(server) as client:
            await client.create("hold", model="bot", session_id="s1")
            await client.until("response.output_text.delta")
        await eventually(lambda: server.application.runtime.sessions.busy == 0)
        assert await kept(server) == ["hold", "Heard: "]


async def test_what_a_run_that_is_stopped_had_said_is_kept(serve: Serve) -> None:
    async with serve(HOLDING, scripts={"bot.py": HOLD}) as server:
        task = await held(server, "run")
        [run] = (await server.get("/v1/runs")).json()["data"]
        await server.request("POST", f"/v1/runs/{run['id']}/stop")
        await task
        await eventually(lambda: server.application.runtime.sessions.busy == 0)
        assert await kept(server) == ["hold", "Heard: "]


@pytest.mark.parametrize("script", [LONG, AT_ONCE], ids=["piece by piece", "at once"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("key", [False, True])
async def test_a_turn_that_was_too_long_leaves_nothing(serve: Serve, script: str, *, stream: bool, key: bool) -> None:
    headers = {**S, "idempotency-key": "k1"} if key else S
    async with serve(BOT, scripts={"bot.py": script}) as server:
        for _ in range(2):
            refused = await post(server, "long", headers=headers, stream=stream)
            status, end = refused.status, refused.body[-300:]
            assert b"answer_too_long" in end
            assert stream or status == 502
        assert await kept(server) == []


@pytest.mark.parametrize("script", [LONG, AT_ONCE], ids=["piece by piece", "at once"])
@pytest.mark.parametrize("body", [{}, {"stream": True}, {"background": True}], ids=["whole", "stream", "run"])
async def test_what_says_the_whole_answer_at_its_end_is_held_to_its_size(
    serve: Serve, script: str, body: dict[str, bool]
) -> None:
    async with serve(BOT, scripts={"bot.py": script}) as server:
        responses = Asking(server, model="bot")
        reply = await responses.post("long", **body)
        if "background" in body:
            reply = await responses.get(reply.json()["id"], "?stream=true")
        end = reply.body[-10_000:]
        assert b"as much as is held in memory" in end
        assert len(reply.body) < MAX_ANSWER_CHARACTERS


async def test_a_socket_is_held_to_the_size_of_an_answer(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": AT_ONCE}) as server, socket(server) as client:
        refused = (await client.turn("long", model="bot"))[-1]
        assert "as much as is held in memory" in json.dumps(refused)[:10_000]


async def test_what_was_said_to_an_agent_without_an_answer_is_kept(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": LONG}) as server:
        for stream in (False, True):
            assert (await post(server, "nothing", stream=stream)).status == 200
        assert await kept(server) == ["nothing", "nothing"]
        await post(server, "and now?")
        assert (await kept(server))[-1] == "nothing | nothing | and now?"


async def test_a_turn_stays_out_of_a_session_that_was_made_after_its_own_had_gone(serve: Serve) -> None:
    async with serve(HOLDING, scripts={"bot.py": HOLD}) as server:
        await post(server, "one")
        task = await held(server, "chat")
        assert (await server.request("DELETE", "/v1/sessions/s1")).status == 200
        assert (await server.request("POST", "/v1/sessions", b'{"id": "s1", "title": "another"}')).status == 200
        HELD.open("hold")
        assert (await task).status == 200
        assert await kept(server) == []
        assert (await server.get("/v1/sessions/s1")).json()["title"] == "another"


async def test_a_session_can_be_deleted_during_its_first_turn(serve: Serve) -> None:
    async with serve(HOLDING, scripts={"bot.py": HOLD}) as server:
        task = await held(server, "chat")
        assert (await server.request("DELETE", "/v1/sessions/s1")).status == 200
        assert (await server.request("DELETE", "/v1/sessions/s1")).status == 404
        HELD.open("hold")
        assert (await task).status == 200
        assert (await server.get("/v1/sessions/s1")).status == 404
        await post(server, "anew")
        assert await kept(server) == ["anew", "Heard: anew"]


async def test_an_output_of_no_call_is_not_added_to_a_session(serve: Serve) -> None:
    tool_call = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}

    async with serve(BOT, scripts={"bot.py": LONG}) as server:
        await server.request("POST", "/v1/sessions", b'{"id": "s1"}')

        async def add(*messages: object) -> Reply:
            body = json.dumps({"messages": messages}).encode()
            return await server.request("POST", "/v1/sessions/s1/messages", body)

        refused = await add(*user("hi"), call_output("call_1"))
        assert (refused.status, refused.error["param"]) == (400, "messages[1]")
        assert "No tool call found" in refused.error["message"]
        assert await kept(server) == []
        assert (await add(*user("hi"), tool_call)).status == 200
        assert (await add(call_output("call_1"))).status == 200
        assert (await add(tool_call | {"call_id": "call_2"}, call_output("call_2"))).status == 200
        assert (await add(call_output("call_2"), tool_call | {"call_id": "call_3"})).status == 200
        assert (await add(call_output("call_9"))).status == 400


async def test_an_output_whose_call_a_session_has_lost_is_left_out(serve: Serve, tmp_path: Path) -> None:
    output = {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "lost"}
    said = {"type": "message", "id": "msg_1", "role": "user", "content": [{"type": "input_text", "text": "one"}]}
    items = [StoredItem(str(one["id"]), json.dumps(one).encode()) for one in (output, said)]
    async with open_store(tmp_path / "trunkline.db") as store:
        await store.sessions.extend("default", "s1", items, now_s=1_800_000_000, new=True)
    async with serve(STORED + BOT, scripts={"bot.py": LONG}) as server:
        reply = await post(server, "two")
        assert reply.json()["choices"][0]["message"]["content"] == "one | two"


async def test_who_is_refused_is_not_counted_among_those_who_wait(serve: Serve) -> None:
    async with serve("[sessions]\nmax_waiting = 1\n" + BOT, scripts={"bot.py": LONG}) as server:
        sessions = server.application.runtime.sessions
        with await sessions.turn("default", "s1"):
            waiting = asyncio.create_task(sessions.turn("default", "s1"))
            await eventually(lambda: sessions._turns.waiting(("default", "s1")) == 2)
            more = [sessions.turn("default", "s1") for _ in range(3)]
            refusals = await asyncio.gather(*more, return_exceptions=True)
        (await waiting).close()
        for refusal in refusals:
            assert isinstance(refusal, RateLimited)
            assert refusal.message.startswith("1 turns of session 's1' are waiting already")


@pytest.mark.parametrize("name", ["X-Session-Id", "X-Session-Key", "Idempotency-Key"])
async def test_a_header_that_is_there_twice_is_refused(serve: Serve, name: str) -> None:
    keys = '[[server.keys]]\nname = "ann"\nkey = "ka"\n'
    async with serve(keys + BOT, scripts={"bot.py": LONG}) as server, server.connect() as wire:
        body = json.dumps({"model": "bot", "messages": user("hi")}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ka\r\n{name}: a\r\n{name}: b\r\n"
        )
        await wire.send(head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        refused = await wire.reply()
        assert (refused.status, refused.error["param"]) == (400, name.lower() if name != "Idempotency-Key" else name)
        assert "twice" in refused.error["message"]
