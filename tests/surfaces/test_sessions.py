"""Sessions: which one a request belongs to, what is kept of it, one turn at a time, and the resources under /v1/sessions."""

import asyncio
import contextlib
import io
import json
import sqlite3
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets

from tests.conftest import Serve
from tests.fakes.upstream import DONE, FakeUpstream, json_answer, streamed, text_frame
from tests.responses import Asking, call_output
from tests.serving import Reply, Serving, eventually, user
from tests.sockets import HELD, HOLD, HOLDING, Socket, socket

SEES = """
import json
from trunkline.agent import FunctionCall, ToolFinished, ToolStarted

async def agent(turn):
    if turn.input == "fail":
        raise RuntimeError("no")
    if turn.input == "call" and turn.messages[-1]["role"] == "user":
        yield FunctionCall("get_weather", {}, call_id="call_1")
        return
    if turn.input == "tool":
        yield ToolStarted("call_9", "search", {"q": "cats"})
        yield ToolFinished("call_9", output="ten")
    roles = [message["role"][0] + ":" + message["content"] for message in turn.messages]
    yield json.dumps([turn.session_id, turn.memory_key, turn.instructions, roles])
"""
BOT = '[backends.mine]\ntype = "python"\ntarget = "bot.py:agent"\nclient_tools = true\n'
KEYS = '[[server.keys]]\nname = "ann"\nkey = "ka"\n[[server.keys]]\nname = "bob"\nkey = "kb"\n'
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
S = {"x-session-id": "s1"}
ANSWER = json_answer(
    {
        "id": "chatcmpl-up",
        "object": "chat.completion",
        "created": 1,
        "model": "up",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
    }
)


class Client:
    """A chat client of the agent above."""

    def __init__(self, server: Serving, *, headers: Mapping[str, str] = {}, path: str = "/v1/chat/completions") -> None:
        self.server = server
        self._headers = headers
        self._path = path

    async def post(self, said: str | Sequence[object], **body: Any) -> Reply:
        messages = user(said) if isinstance(said, str) else said
        data = json.dumps({"model": "bot", "messages": messages, **body}).encode()
        return await self.server.request("POST", self._path, data, headers=self._headers)

    async def sees(self, said: str | Sequence[object], **body: Any) -> Any:
        """What the agent sees: session, memory, instructions, messages."""
        reply = await self.post(said, **body)
        assert reply.status == 200, reply
        return json.loads(reply.json()["choices"][0]["message"]["content"])

    async def messages(self, said: str | Sequence[object], **body: Any) -> list[str]:
        """Who said what, each as one letter and text; what the agent itself said is shortened to its role."""
        return shown((await self.sees(said, **body))[3])


def shown(messages: Sequence[str]) -> list[str]:
    return [one if one.startswith(("u:", "t:")) else one[0] for one in messages]


async def listed(server: Serving, session_id: str, *, headers: Mapping[str, str] = {}) -> list[Any]:
    reply = await server.get(f"/v1/sessions/{session_id}/messages?limit=100", headers=headers)
    assert reply.status == 200, reply
    return list(reply.json()["data"])


async def call(server: Serving, method: str, path: str, *, headers: Mapping[str, str] = {}, **body: Any) -> Reply:
    return await server.request(method, path, json.dumps(body).encode(), headers=headers)


# Which session it is


async def test_a_conversation_keeps_the_id_that_was_found_out_for_it(serve: Serve) -> None:
    first = [{"role": "system", "content": "Be brief."}, *user("hello")]
    later = [*first, {"role": "assistant", "content": "hi"}, *user("and now?")]
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        client = Client(server)
        one, two = await client.post(first), await client.post(later)
        found = one.headers["x-session-id"]
        assert found == two.headers["x-session-id"] == "api-" + sha256(b"Be brief.\nhello").hexdigest()[:16]
        assert (await client.sees(later))[0] == found
        for other in (user("hello"), [first[0], *user("hullo")]):
            assert (await client.post(other)).headers["x-session-id"] != found
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        assert (await client.post([{"role": "user", "content": [image]}])).headers["x-session-id"].startswith("api-")
        assert (await server.get("/v1/sessions")).json()["data"] == []


async def test_streams_and_relayed_answers_say_their_session_too(serve: Serve, upstream: FakeUpstream) -> None:
    http = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\nmodels = ["up"]\n'
    upstream.plan([ANSWER], streamed(text_frame("Hello.") + text_frame(finish="stop") + DONE))
    async with serve(BOT + http, scripts={"bot.py": SEES}) as server:
        assert (await Client(server).post("hi", stream=True)).headers["x-session-id"].startswith("api-")
        assert (await Client(server).post("hi", model="up")).headers["x-session-id"].startswith("api-")
        relayed = await Client(server, headers=S).post("hi", model="up", stream=True)
        assert relayed.headers["x-session-id"] == "s1"
        responses = Asking(server, model="bot")
        assert (await responses.post("hi")).headers["x-session-id"].startswith("api-")
        assert (await responses.post("hi", stream=True)).headers["x-session-id"].startswith("api-")


async def test_the_path_wins_over_a_header_and_a_header_over_the_body(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        path = "/v1/sessions/in-path/chat/completions"
        for client, expected in (
            (Client(server, headers=S, path=path), "in-path"),
            (Client(server, headers=S), "s1"),
            (Client(server), "in-body"),
        ):
            reply = await client.post("hi", session_id="in-body")
            assert reply.headers["x-session-id"] == expected
            assert "x-trunkline-ignored" not in reply.headers
        body = json.dumps({"model": "bot", "input": "hi", "session_id": "in-body"}).encode()
        for way, headers, expected in (
            ("/v1/sessions/in-path/responses", S, "in-path"),
            ("/v1/responses", S, "s1"),
            ("/v1/responses", {}, "in-body"),
        ):
            assert (await server.request("POST", way, body, headers=headers)).headers["x-session-id"] == expected


@pytest.mark.parametrize("bad", ["../etc", "a..b", "a/b", "/a", "a b", ".a", "x" * 257, "a\\b", "ä"])
async def test_a_session_id_that_could_do_harm_is_refused(serve: Serve, bad: str) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        reply = await Client(server).post("hi", session_id=bad)
        assert (reply.status, reply.error["param"]) == (400, "session_id")
        if bad.isascii():
            reply = await Client(server, headers={"x-session-id": bad}).post("hi")
            assert (reply.status, reply.error["param"]) == (400, "x-session-id")
        reply = await call(server, "POST", "/v1/sessions", id=bad)
        assert (reply.status, reply.error["param"]) == (400, "id")
        reply = await Client(server).post("hi", session_id=["s"])
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "invalid_type", "session_id")


async def test_a_memory_key_needs_an_api_key_and_reaches_the_agent(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        reply = await Client(server, headers={"x-session-key": "k"}).post("hi")
        assert (reply.status, reply.error["code"], reply.error["param"]) == (403, "permission_denied", "x-session-key")
        assert "x-session-key" not in (await Client(server).post("hi")).headers
    async with serve(KEYS + BOT, scripts={"bot.py": SEES}) as server:
        key = {"authorization": "Bearer ka", "x-session-key": "user:ann/main"}
        reply = await Client(server, headers={**key, **S}).post("hi")
        assert (reply.headers["x-session-key"], reply.headers["x-session-id"]) == ("user:ann/main", "s1")
        assert (await Client(server, headers=key).sees("hi"))[1] == "user:ann/main"
        data = json.dumps({"model": "bot", "input": "hi"}).encode()
        response = await server.request("POST", "/v1/responses", data, headers=key)
        assert response.headers["x-session-key"] == "user:ann/main"
        assert json.loads(response.json()["output_text"])[1] == "user:ann/main"
        for bad in ("x" * 257, "a\tb"):
            reply = await Client(server, headers={**key, "x-session-key": bad}).post("hi")
            assert (reply.status, reply.error["param"]) == (400, "x-session-key")


async def test_a_profile_has_names_and_rules_of_its_own(serve: Serve) -> None:
    async with serve('server.profile = "hermes"\n' + BOT, scripts={"bot.py": SEES}) as server:
        named = await Client(server, headers={"x-hermes-session-id": "s1"}).post("hi")
        assert (named.status, named.error["code"]) == (403, "permission_denied")
        assert (await Client(server).post("hi")).headers["x-hermes-session-id"].startswith("api-")
    keyed = 'server.profile = "hermes"\nserver.api_keys = ["sk-secret"]\n' + BOT
    async with serve(keyed, scripts={"bot.py": SEES}) as server:
        headers = {"authorization": "Bearer sk-secret", "x-hermes-session-id": "s1", "x-hermes-session-key": "k"}
        seen = await Client(server, headers=headers).post("hi")
        assert (seen.headers["x-hermes-session-id"], seen.headers["x-hermes-session-key"]) == ("s1", "k")
    async with serve('server.profile = "nanobot"\n' + BOT, scripts={"bot.py": SEES}) as server:
        client = Client(server)
        assert (await client.sees("hi", model="nanobot", session_id="my-session"))[0] == "api:my-session"
        assert (await client.sees("one", model="nanobot"))[::3] == ["api:default", ["u:one"]]
        assert await client.messages("two", model="nanobot") == ["u:one", "a", "u:two"]


# What is kept


async def test_the_store_s_history_takes_the_place_of_the_body_s(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        client = Client(server, headers=S)
        assert await client.messages("one") == ["u:one"]
        body = [{"role": "system", "content": "Brief."}, *user("invented"), {"role": "assistant", "content": "no"}]
        seen = await client.sees([*body, {"role": "developer", "content": "Now."}, *user("two")])
        assert seen[2] == "Brief.\nNow."
        assert shown(seen[3]) == ["u:one", "a", "u:two"]
        assert await client.messages("three", stream=False) == ["u:one", "a", "u:two", "a", "u:three"]
        assert [item["role"] for item in await listed(server, "s1")] == ["user", "assistant"] * 3
        assert await Client(server, headers={"x-session-id": "s2"}).messages("one") == ["u:one"]


async def test_a_session_goes_on_over_every_surface(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        await Client(server, headers=S).post("chat")
        await Client(server, headers=S).post("streamed", stream=True)
        responses = Asking(server, model="bot")
        responses.headers = S
        await responses.create("response")
        await responses.stream("streamed response")
        ended = await responses.ended((await responses.create("background", background=True))["id"])
        assert shown(json.loads(ended["output_text"])[3])[-3:] == ["u:streamed response", "a", "u:background"]
        async with socket(server, model="bot", additional_headers=S) as ws:
            assert ws.connection.response is not None
            assert ws.connection.response.headers["x-session-id"] == "s1"
            await ws.answer("socket", store=False)
        url = f"ws://{server.host}:{server.port}/v1/sessions/s1/responses"
        async with websockets.connect(url, proxy=None) as connection:
            await Socket(connection, "bot").answer("socket by path")
        said = ["chat", "streamed", "response", "streamed response", "background", "socket", "socket by path"]
        expected = [one for text in said for one in (f"u:{text}", "a")]
        assert await Client(server, headers=S).messages("last") == [*expected, "u:last"]


async def test_ollama_s_api_and_runs_take_part(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        body = json.dumps({"model": "bot", "messages": user("ollama"), "stream": False}).encode()
        assert (await server.request("POST", "/api/chat", body, headers=S)).status == 200
        run = (await call(server, "POST", "/v1/runs", model="bot", input="run", session_id="s1")).json()
        await server.get(f"/v1/runs/{run['run_id']}/events")
        assert await Client(server, headers=S).messages("last") == ["u:ollama", "a", "u:run", "a", "u:last"]


async def test_what_is_asked_twice_under_one_key_is_said_once(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        client = Client(server, headers={**S, "idempotency-key": "k1"})
        first, again = await client.post("one"), await client.post("one")
        assert again.headers["x-trunkline-idempotent"] == "replayed"
        assert (first.json()["id"], first.headers["x-session-id"]) == (
            again.json()["id"],
            again.headers["x-session-id"],
        )
        assert len(await listed(server, "s1")) == 2


async def test_an_answer_of_the_cache_is_part_of_the_session(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        client = Client(server, headers={**S, "x-trunkline-cache": "use"})
        assert (await client.post("one")).headers["x-trunkline-cache"] == "miss"
        assert (await client.post("one")).headers["x-trunkline-cache"] == "miss"  # more had been said before it
        assert (await server.request("DELETE", "/v1/sessions/s1")).status == 200
        assert (await client.post("one")).headers["x-trunkline-cache"] == "hit"
        assert len(await listed(server, "s1")) == 2
        other = Client(server, headers={"x-session-id": "s2", "x-trunkline-cache": "use"})
        assert (await other.post("one")).headers["x-trunkline-cache"] == "miss"


async def test_runs_of_tools_are_kept(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        await Client(server, headers=S).post("tool")
        kept = await listed(server, "s1")
        assert [item["type"] for item in kept] == ["message", "function_call", "function_call_output", "message"]
        assert (kept[1]["name"], kept[2]["output"]) == ("search", "ten")
        assert len({item["id"] for item in kept}) == 4
        assert await Client(server, headers=S).messages("next") == ["u:tool", "a", "t:ten", "a", "u:next"]


@pytest.mark.parametrize("whole", [True, False])
async def test_what_a_client_s_tool_gave_is_added_once(serve: Serve, *, whole: bool) -> None:
    called = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        client = Client(server, headers=S)
        await client.post("call", tools=[TOOL])
        answer = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
        said = [*user("call"), {"role": "assistant", "content": None, "tool_calls": [called]}, answer]
        if whole:
            assert await client.messages(said, tools=[TOOL]) == ["u:call", "a", "t:sunny"]
        else:
            responses = Asking(server, model="bot")
            responses.headers = S
            created = await responses.create([call_output("call_1")])
            assert shown(json.loads(created["output_text"])[3]) == ["u:call", "a", "t:sunny"]
        kinds = [item["type"] for item in await listed(server, "s1")]
        assert kinds == ["message", "function_call", "function_call_output", "message"]


async def test_a_call_that_was_never_answered_does_not_stand_in_the_way(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        client = Client(server, headers=S)
        await client.post("call", tools=[TOOL])
        assert await client.messages("never mind") == ["u:call", "u:never mind"]


async def test_an_output_of_no_call_is_refused(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        responses = Asking(server, model="bot")
        refused = await responses.post([call_output("call_1")])
        assert (refused.status, refused.error["param"]) == (400, "input")
        responses.headers = S
        refused = await responses.post([call_output("call_1")])
        assert (refused.status, refused.error["param"]) == (400, "input[0]")
        assert "No tool call found" in refused.error["message"]


async def test_a_turn_that_failed_leaves_nothing(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        client = Client(server, headers=S)
        await client.post("one")
        assert (await client.post("fail")).status == 500
        assert (await client.post("fail", stream=True)).status in (200, 500)
        assert await client.messages("two") == ["u:one", "a", "u:two"]


async def test_what_a_client_that_leaves_had_heard_is_kept(serve: Serve) -> None:
    HELD.begin()
    async with serve(HOLDING, scripts={"bot.py": HOLD}) as server:
        async with server.connect() as wire:
            body = json.dumps({"model": "bot", "messages": user("hold"), "stream": True}).encode()
            await wire.send(
                b"POST /v1/sessions/s1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            await wire.head()
            await wire.until(b"Heard")
        await eventually(lambda: bool(HELD.left))
        await eventually(lambda: server.application.runtime.sessions.busy == 0)
        kept = await listed(server, "s1")
        assert [item["content"][0]["text"] for item in kept] == ["hold", "Heard: "]
        assert kept[1]["status"] == "incomplete"
        reply = await Client(server, headers=S).post("next")
        assert reply.json()["choices"][0]["message"]["content"] == "Heard: hold | next"


async def test_a_session_belongs_to_its_tenant(serve: Serve) -> None:
    async with serve(KEYS + BOT, scripts={"bot.py": SEES}) as server:
        ann, bob = {"authorization": "Bearer ka", **S}, {"authorization": "Bearer kb", **S}
        await Client(server, headers=ann).post("secret")
        assert await Client(server, headers=bob).messages("hi") == ["u:hi"]
        assert len(await listed(server, "s1", headers=ann)) == 2
        assert [one["id"] for one in (await server.get("/v1/sessions", headers=bob)).json()["data"]] == ["s1"]
        assert (await server.request("DELETE", "/v1/sessions/s1", headers=bob)).status == 200
        assert (await server.get("/v1/sessions/s1", headers=bob)).status == 404
        assert len(await listed(server, "s1", headers=ann)) == 2


async def test_a_model_server_s_session_is_a_name(serve: Serve, upstream: FakeUpstream) -> None:
    http = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\nmodels = ["up"]\n'
    upstream.plan([ANSWER], [ANSWER])
    async with serve(http) as server:
        for text in ("one", "two"):
            reply = await Client(server, headers=S).post(text, model="up")
            assert (reply.status, reply.headers["x-session-id"]) == (200, "s1")
        assert [post.json()["messages"] for post in upstream.posts] == [user("one"), user("two")]
        assert (await server.get("/v1/sessions/s1")).status == 404


async def test_a_model_server_s_sessions_are_kept_where_that_is_set(serve: Serve, upstream: FakeUpstream) -> None:
    http = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\nmodels = ["up"]\nsessions = true\n'
    upstream.plan([ANSWER], [ANSWER])
    async with serve(http) as server:
        answer = (await Client(server, headers=S).post("one", model="up")).json()["choices"][0]["message"]["content"]
        body = [{"role": "system", "content": "Brief."}, *user("other"), *user("two")]
        assert (await Client(server, headers=S).post(body, model="up", temperature=0.5)).status == 200
        asked = upstream.posts[1].json()
        assert asked["temperature"] == 0.5
        assert [(one["role"], one["content"]) for one in asked["messages"]] == [
            ("system", "Brief."),
            ("user", "one"),
            ("assistant", answer),
            ("user", "two"),
        ]


async def test_an_agent_with_a_memory_of_its_own_keeps_it_alone(serve: Serve) -> None:
    async with serve(BOT + "sessions = false\n", scripts={"bot.py": SEES}) as server:
        client = Client(server, headers=S)
        await client.post("one")
        assert await client.messages([*user("a"), {"role": "assistant", "content": "b"}, *user("c")]) == [
            "u:a",
            "a",
            "u:c",
        ]
        assert (await server.get("/v1/sessions")).json()["data"] == []


# Chains


async def test_a_chain_keeps_the_session_it_began_in(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        named, plain = Asking(server, model="bot"), Asking(server, model="bot")
        named.headers = S
        first = await named.create("one")
        second = await plain.post("two", previous_response_id=first["id"])
        assert second.headers["x-session-id"] == "s1"
        third = await plain.post("three", previous_response_id=second.json()["id"], instructions="Other.")
        assert third.headers["x-session-id"] == "s1"
        assert shown(json.loads(third.json()["output_text"])[3]) == ["u:one", "a", "u:two", "a", "u:three"]
        found = await plain.post("alone")
        again = await plain.post("more", previous_response_id=found.json()["id"], instructions="New.")
        assert again.headers["x-session-id"] == found.headers["x-session-id"]
        by_name = [(await plain.post("hi", conversation="chat", instructions=text)) for text in ("a", "b")]
        assert by_name[0].headers["x-session-id"] == by_name[1].headers["x-session-id"]
        conversation = (await call(server, "POST", "/v1/conversations")).json()["id"]
        assert (await plain.post("hi", conversation=conversation)).headers["x-session-id"] == conversation


async def test_a_chain_that_begins_in_the_middle_of_a_session_has_its_own_turns_alone(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        client = Asking(server, model="bot")
        client.headers = S
        assert await Client(server, headers=S).messages("zero") == ["u:zero"]
        first = await client.create("one")
        assert shown(json.loads(first["output_text"])[3]) == ["u:zero", "a", "u:one"]
        second = await client.create("two", previous_response_id=first["id"])
        assert shown(json.loads(second["output_text"])[3]) == ["u:one", "a", "u:two"]
        unnamed = await Asking(server, model="bot").post("aside", previous_response_id=second["id"])
        assert unnamed.headers["x-session-id"] == "s1"
        whole = await client.create("three")
        assert shown(json.loads(whole["output_text"])[3]) == ["u:zero", "a", "u:one", "a", "u:two", "a", "u:three"]


async def test_a_chain_in_a_session_is_said_once_and_kept_in_both(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        client = Asking(server, model="bot")
        client.headers = S
        first = await client.create("one")
        second = await client.create("two", previous_response_id=first["id"])
        assert shown(json.loads(second["output_text"])[3]) == ["u:one", "a", "u:two"]
        assert await Client(server, headers=S).messages("three") == ["u:one", "a", "u:two", "a", "u:three"]


# One turn at a time


async def test_turns_of_a_session_come_one_after_another(serve: Serve) -> None:
    HELD.begin()
    async with serve(HOLDING, scripts={"bot.py": HOLD}) as server:
        client = Client(server, headers=S)
        first = asyncio.create_task(client.post("hold"))
        await eventually(lambda: HELD.begun == ["hold"])
        others = []
        for position, text in enumerate(("two", "three"), start=2):
            others.append(asyncio.create_task(client.post(text)))
            await until_waiting(server, position)
        assert (await Client(server, headers={"x-session-id": "other"}).post("aside")).status == 200
        assert HELD.begun == ["hold", "aside"]
        HELD.open("hold")
        said = [(await one).json()["choices"][0]["message"]["content"] for one in (first, *others)]
        assert said == ["Heard: hold", "Heard: hold | two", "Heard: hold | two | three"]
        assert server.application.runtime.sessions.busy == 0


def waiting(server: Serving) -> int:
    """How many have session s1 or wait for it."""
    return server.application.runtime.sessions._turns.waiting(("default", "s1"))


async def until_waiting(server: Serving, count: int) -> None:
    await eventually(lambda: waiting(server) == count)


async def test_who_waits_is_bounded_and_who_leaves_waits_no_more(serve: Serve) -> None:
    HELD.begin()
    async with serve("[sessions]\nmax_waiting = 1\n" + HOLDING, scripts={"bot.py": HOLD}) as server:
        client = Client(server, headers=S)
        first = asyncio.create_task(client.post("hold"))
        await eventually(lambda: HELD.begun == ["hold"])
        second = asyncio.create_task(client.post("two"))
        await until_waiting(server, 2)
        refused = await client.post("three")
        assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (429, "session_busy", "1")
        run = await Asking(server, model="bot").post("background", background=True, session_id="s1")
        assert run.json()["status"] == "queued"  # what nobody waits for may wait
        await until_waiting(server, 3)
        second.cancel()
        await until_waiting(server, 2)
        HELD.open("hold")
        await first
        ended = await Asking(server, model="bot").ended(run.json()["id"])
        assert ended["output_text"] == "Heard: hold | background"
        assert waiting(server) == 0


async def test_a_busy_session_may_be_refused_at_once(serve: Serve) -> None:
    HELD.begin()
    async with serve('[sessions]\nwhen_busy = "refuse"\n' + HOLDING, scripts={"bot.py": HOLD}) as server:
        client = Client(server, headers=S)
        first = asyncio.create_task(client.post("hold"))
        await eventually(lambda: HELD.begun == ["hold"])
        for stream in (False, True):
            refused = await client.post("two", stream=stream)
            assert (refused.status, refused.error["code"], refused.error["param"]) == (
                409,
                "session_busy",
                "session_id",
            )
        HELD.open("hold")
        assert (await first).status == 200
        for _ in range(3):  # a session is free before its client hears of the end
            assert (await client.post("next", stream=True)).status == 200


async def test_a_session_deleted_during_a_turn_stays_deleted(serve: Serve) -> None:
    HELD.begin()
    async with serve(HOLDING, scripts={"bot.py": HOLD}) as server:
        client = Client(server, headers=S)
        await client.post("one")
        second = asyncio.create_task(client.post("hold"))
        await eventually(lambda: HELD.begun == ["one", "hold"])
        assert (await server.request("DELETE", "/v1/sessions/s1")).status == 200
        HELD.open("hold")
        assert (await second).status == 200
        assert (await server.get("/v1/sessions/s1")).status == 404


# Resources


async def test_a_session_can_be_made_changed_and_deleted(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        made = (await call(server, "POST", "/v1/sessions", title="Cats", metadata={"who": "me"})).json()
        assert made["id"].startswith("sess_")
        assert made.keys() == {
            *("id", "object", "title", "created_at", "updated_at", "message_count", "parent_id", "metadata")
        }
        assert (made["object"], made["title"], made["message_count"]) == ("session", "Cats", 0)
        path = f"/v1/sessions/{made['id']}"
        assert (await server.get(path)).json() == made
        assert (await Client(server, path=f"{path}/chat/completions").messages("hi")) == ["u:hi"]
        changed = (await call(server, "PATCH", path, title="Dogs")).json()
        assert (changed["title"], changed["metadata"], changed["message_count"]) == ("Dogs", {"who": "me"}, 2)
        changed = (await call(server, "POST", path, title=None, metadata={})).json()
        assert (changed["title"], changed["metadata"]) == (None, {})
        gone = await server.request("DELETE", path)
        assert gone.json() == {"id": made["id"], "object": "session.deleted", "deleted": True}
        for method, way in (
            ("GET", path),
            ("DELETE", path),
            ("GET", f"{path}/messages"),
            ("POST", f"{path}/fork"),
        ):
            reply = await server.request(method, way)
            assert (reply.status, reply.error["code"]) == (404, "session_not_found")


async def test_what_cannot_be_a_session_is_refused(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        assert (await call(server, "POST", "/v1/sessions", id="s1")).json()["id"] == "s1"
        taken = await call(server, "POST", "/v1/sessions", id="s1")
        assert (taken.status, taken.error["code"], taken.error["param"]) == (409, "session_exists", "id")
        for path, body, param in (
            ("/v1/sessions", {"title": "x" * 513}, "title"),
            ("/v1/sessions", {"title": 1}, "title"),
            ("/v1/sessions", {"metadata": {"a": 1}}, "metadata.a"),
            ("/v1/sessions/s1", {}, None),
            ("/v1/sessions/s1/messages", {}, "messages"),
            ("/v1/sessions/s1/messages", {"messages": []}, "messages"),
            ("/v1/sessions/s1/messages", {"messages": [{"role": "cat", "content": "m"}]}, "messages[0].role"),
            ("/v1/sessions/s1/fork", {"up_to": "msg_9"}, "up_to"),
        ):
            refused = await call(server, "POST", path, **body)
            assert (refused.status, refused.error["param"]) == (400, param), refused
        assert (await call(server, "POST", "/v1/sessions/s1/fork", id="s1")).status == 409


ITEM = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("method", "path", "body", "known"),
    [
        ("POST", "/v1/sessions", {"title": "t"}, "'id', 'title', 'metadata'"),
        ("POST", "/v1/sessions/s1", {"title": "t"}, "'title', 'metadata'"),
        ("PATCH", "/v1/sessions/s1", {}, "'title', 'metadata'"),
        ("POST", "/v1/sessions/s1/messages", {"messages": [ITEM]}, "'messages'"),
        ("POST", "/v1/sessions/s1/fork", {}, "'id', 'title', 'metadata', 'up_to'"),
        ("POST", "/v1/conversations", {}, "'items', 'metadata'"),
        ("POST", "/v1/conversations/c1", {"metadata": {}}, "'metadata'"),
        ("POST", "/v1/conversations/c1/items", {"items": [ITEM]}, "'items'"),
        ("POST", "/v1/chat/completions/chatcmpl_1", {"metadata": {}}, "'metadata'"),
        ("POST", "/v1/runs/run_1/approval", {"choice": "once"}, "'choice', 'call_id', 'all', 'resolve_all'"),
    ],
)
async def test_a_member_that_nobody_knows_is_refused(
    serve: Serve, method: str, path: str, body: dict[str, Any], known: str
) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        before = (await call(server, "POST", "/v1/sessions", id="s1")).json()
        refused = await call(server, method, path, **body, meta={"a": "b"})
        assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "unknown_parameter", "meta")
        assert refused.error["message"] == f"Unknown parameter: 'meta'. What is known here: {known}."
        assert (await server.get("/v1/sessions/s1")).json() == before


async def test_sessions_are_listed_by_pages(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        for number in range(3):
            await call(server, "POST", "/v1/sessions", id=f"s{number}")
        page = (await server.get("/v1/sessions?limit=2")).json()
        assert ([one["id"] for one in page["data"]], page["has_more"], page["last_id"]) == (["s2", "s1"], True, "s1")
        page = (await server.get("/v1/sessions?after=s1")).json()
        assert ([one["id"] for one in page["data"]], page["has_more"]) == (["s0"], False)
        assert (await server.get("/v1/sessions?after=s9")).error["param"] == "after"


async def test_messages_are_listed_by_pages_and_can_be_added(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        await call(server, "POST", "/v1/sessions", id="s1")
        said = [*user("one"), {"role": "assistant", "content": "two"}]
        added = await call(server, "POST", "/v1/sessions/s1/messages", messages=said)
        assert [item["role"] for item in added.json()["data"]] == ["user", "assistant"]
        page = (await server.get("/v1/sessions/s1/messages?limit=1")).json()
        assert (page["data"], page["has_more"]) == (added.json()["data"][:1], True)
        page = (await server.get(f"/v1/sessions/s1/messages?after={page['last_id']}")).json()
        assert (page["data"], page["has_more"]) == (added.json()["data"][1:], False)
        assert (await Client(server, headers=S).sees("three"))[3] == ["u:one", "a:two", "u:three"]


async def test_a_fork_goes_its_own_way(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        client = Client(server, headers=S)
        await client.post("one")
        await client.post("two")
        await call(server, "PATCH", "/v1/sessions/s1", title="Cats")
        up_to = (await listed(server, "s1"))[1]["id"]
        fork = (await call(server, "POST", "/v1/sessions/s1/fork", up_to=up_to)).json()
        assert (fork["parent_id"], fork["title"], fork["message_count"]) == ("s1", "Cats", 2)
        other = Client(server, path=f"/v1/sessions/{fork['id']}/chat/completions")
        assert await other.messages("else") == ["u:one", "a", "u:else"]
        assert await client.messages("three") == ["u:one", "a", "u:two", "a", "u:three"]
        whole = (await call(server, "POST", "/v1/sessions/s1/fork", id="copy", title="Copy")).json()
        assert (whole["id"], whole["title"], whole["message_count"]) == ("copy", "Copy", 6)


async def test_a_store_that_fails_costs_the_history_and_not_the_answer(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = 'store.url = "sqlite:///trunkline.db"\n' + BOT
    async with serve(stored, scripts={"bot.py": SEES}) as server:
        client = Client(server, headers=S)
        await client.post("one")
        with contextlib.closing(sqlite3.connect(tmp_path / "trunkline.db")) as other:
            other.execute("DROP TABLE session_items")
        reply = await client.post("two")
        assert shown(json.loads(reply.json()["choices"][0]["message"]["content"])[3]) == ["u:two"]
        assert reply.headers["x-trunkline-warning"] == "the session's history could not be read; answered without it"
        reply = await client.post("two", stream=True)
        assert reply.headers["x-trunkline-warning"] == "the session's history could not be read; answered without it"
        assert "session s1: the session could not be extended by this turn" in caplog.text
        assert "session s1: the session's history could not be read" in caplog.text
        responses = Asking(server, model="bot")
        responses.headers = S
        assert (await responses.create("three"))["status"] == "completed"


async def test_work_that_waited_for_its_turn_goes_on_in_its_session_after_a_restart(serve: Serve) -> None:
    HELD.begin()
    stored = 'store.url = "sqlite:///trunkline.db"\n' + HOLDING
    async with aiohttp.ClientSession() as staying:  # of a client that does not leave before the server does
        async with serve(stored, scripts={"bot.py": HOLD}, grace_s=0) as server:
            client = Client(Serving(server.application, (server.host, server.port), staying, io.StringIO()), headers=S)
            await client.post("one")
            first = asyncio.create_task(client.post("hold", stream=True))
            await eventually(lambda: HELD.begun == ["one", "hold"])
            run = (await Asking(server, model="bot").post("later", background=True, session_id="s1")).json()
            await until_waiting(server, 2)
        assert "the server is shutting down" in str((await first).body)
    async with serve(stored, scripts={"bot.py": HOLD}) as server:
        ended = await Asking(server, model="bot").ended(run["id"])
        assert (ended["status"], ended["output_text"]) == ("completed", "Heard: one | later")
        said = [item["content"][0]["text"] for item in await listed(server, "s1")]
        assert said == ["one", "Heard: one", "later", "Heard: one | later"]


async def test_sessions_outlive_the_server(serve: Serve) -> None:
    stored = 'store.url = "sqlite:///trunkline.db"\n' + BOT
    async with serve(stored, scripts={"bot.py": SEES}) as server:
        await Client(server, headers=S).post("one")
    async with serve(stored, scripts={"bot.py": SEES}) as server:
        assert await Client(server, headers=S).messages("two") == ["u:one", "a", "u:two"]
