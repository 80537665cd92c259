"""`profile = "hermes"`: /api/sessions, as the clients of hermes-agent's API server use it, and what else they ask for."""

import json
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes import hermes_agent
from tests.profiles.hermes import AUTH, chat, given, named_events, said, toml
from tests.serving import Reply, Serving
from trunkline.config.load import build_config
from trunkline.model.errors import ConfigError

MEMBERS = {
    "id",
    "source",
    "user_id",
    "model",
    "title",
    "started_at",
    "ended_at",
    "end_reason",
    "message_count",
    "tool_call_count",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "estimated_cost_usd",
    "actual_cost_usd",
    "api_call_count",
    "parent_session_id",
    "has_system_prompt",
    "has_model_config",
}
BOT = toml(key=True).replace("tests.fakes.hermes_agent:Agent", "bot.py:agent")
SEES = """
async def agent(turn):
    yield f"{turn.input} {len(turn.attachments)}"
"""
BREAKS = """
async def agent(turn):
    yield "Half of"
    raise RuntimeError("the line is cut")
"""

DIGS = """
from trunkline.agent import ToolFinished, ToolStarted

async def agent(turn):
    yield ToolStarted("call_1", "dig", "[" * 5000 + "]" * 5000)
    yield ToolFinished("call_1")
    yield "Done."
"""


async def send(server: Serving, method: str, path: str, **body: Any) -> Reply:
    data = None if method in ("GET", "DELETE") else json.dumps(body).encode()
    return await server.request(method, f"/api/sessions{path}", data, headers=AUTH)


async def made(server: Serving, **body: Any) -> Any:
    reply = await send(server, "POST", "", **body)
    assert reply.status == 201, reply
    assert reply.json()["object"] == "hermes.session"
    return reply.json()["session"]


async def talk(server: Serving, text: object, session_id: str = "s1", **body: Any) -> Reply:
    return await send(server, "POST", f"/{session_id}/chat", message=text, **body)


async def heard(server: Serving, text: object, session_id: str = "s1", **body: Any) -> list[tuple[str, Any]]:
    reply = await send(server, "POST", f"/{session_id}/chat/stream", message=text, **body)
    assert reply.status == 200, reply
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.headers["x-hermes-session-id"] == session_id
    return named_events(reply.body)


# The resource


async def test_a_session_is_made_and_found(keyed: Serving) -> None:
    session = await made(keyed, title="  Plans \n for May ", model="big", system_prompt="Be a pirate.")
    assert session.keys() == MEMBERS
    assert session["id"].startswith("api_")
    assert (session["source"], session["title"], session["model"]) == ("api_server", "Plans for May", "big")
    assert (session["message_count"], session["has_system_prompt"], session["ended_at"]) == (0, True, None)
    assert (await made(keyed))["model"] == "hermes-agent"
    found = (await send(keyed, "GET", f"/{session['id']}")).json()
    assert found == {"object": "hermes.session", "session": session}


@pytest.mark.parametrize("name", ["id", "session_id"])
async def test_a_client_may_choose_the_id_once(keyed: Serving, name: str) -> None:
    assert (await made(keyed, **{name: "mine"}))["id"] == "mine"
    taken = await send(keyed, "POST", "", **{name: "mine"})
    assert (taken.status, taken.error["code"]) == (409, "session_exists")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"id": "../etc"}, "invalid_session_id"),
        ({"id": "x" * 257}, "invalid_session_id"),
        ({"system_prompt": 5}, "invalid_system_prompt"),
        ({"title": "x" * 101}, "invalid_title"),
    ],
)
async def test_a_session_that_cannot_be_made(keyed: Serving, body: dict[str, Any], code: str) -> None:
    reply = await send(keyed, "POST", "", **body)
    assert (reply.status, reply.error["code"]) == (400, code)


async def test_the_list_begins_with_what_was_said_last(keyed: Serving) -> None:
    for name in ("a", "b", "c"):
        await made(keyed, id=name)
    await talk(keyed, "What is  the news?", "a")
    listed = (await send(keyed, "GET", "?limit=2")).json()
    assert (listed["limit"], listed["offset"], listed["has_more"]) == (2, 0, True)
    assert len(listed["data"]) == 2
    whole = (await send(keyed, "GET", "")).json()
    assert (whole["limit"], whole["has_more"], len(whole["data"])) == (50, False, 3)
    previews = {one["id"]: one["preview"] for one in whole["data"]}
    assert previews == {"a": "What is the news?", "b": "", "c": ""}
    assert whole["data"][0].keys() == MEMBERS | {"last_active", "preview"}
    rest = (await send(keyed, "GET", "?limit=2&offset=2")).json()
    assert [one["id"] for one in (*listed["data"], *rest["data"])] == [one["id"] for one in whole["data"]]
    assert (await send(keyed, "GET", "?source=telegram")).json()["data"] == []


async def test_a_session_is_renamed_and_ended(keyed: Serving) -> None:
    await made(keyed, id="s1", title="Old")
    changed = (await send(keyed, "PATCH", "/s1", title="New", end_reason="user_exit")).json()["session"]
    assert (changed["title"], changed["end_reason"]) == ("New", "user_exit")
    assert changed["ended_at"] >= changed["started_at"]
    assert (await send(keyed, "PATCH", "/s1", title=None)).json()["session"]["title"] is None
    assert (await send(keyed, "PATCH", "/s1", end_reason="other")).json()["session"]["end_reason"] == "user_exit"
    refused = await send(keyed, "PATCH", "/s1", model="big")
    assert (refused.status, refused.error["code"]) == (400, "unsupported_session_field")


async def test_a_session_is_deleted(keyed: Serving) -> None:
    await made(keyed, id="s1")
    deleted = (await send(keyed, "DELETE", "/s1")).json()
    assert deleted == {"object": "hermes.session.deleted", "id": "s1", "deleted": True}
    assert (await send(keyed, "DELETE", "/s1")).status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/none"),
        ("PATCH", "/none"),
        ("DELETE", "/none"),
        ("GET", "/none/messages"),
        ("POST", "/none/fork"),
        ("POST", "/none/chat"),
        ("POST", "/none/chat/stream"),
    ],
)
async def test_a_session_that_is_not_there(keyed: Serving, method: str, path: str) -> None:
    reply = await send(keyed, method, path)
    assert (reply.status, reply.error["code"]) == (404, "session_not_found")


async def test_errors_have_openais_form_whatever_refuses(keyed: Serving) -> None:
    assert (await keyed.get("/api/sessions")).error["code"] == "invalid_api_key"
    assert (await keyed.request("PUT", "/api/sessions", headers=AUTH)).error["message"].startswith("PUT is not allowed")
    assert (await keyed.get("/api/jobs")).error["code"] == "invalid_api_key"


async def test_a_fork_goes_on_by_itself(keyed: Serving) -> None:
    await made(keyed, id="s1", title="Plans", system_prompt="Be brief.")
    await talk(keyed, "Hello")
    reply = await send(keyed, "POST", "/s1/fork", id="s2")
    fork = reply.json()["session"]
    assert reply.status == 201
    assert (fork["id"], fork["parent_session_id"], fork["title"]) == ("s2", "s1", "Plans #2")
    assert (fork["message_count"], fork["has_system_prompt"], fork["end_reason"]) == (2, True, None)
    assert (await send(keyed, "GET", "/s1")).json()["session"]["end_reason"] == "branched"
    await talk(keyed, "More", "s2")
    counts = [(await send(keyed, "GET", f"/{one}")).json()["session"]["message_count"] for one in ("s1", "s2")]
    assert counts == [2, 4]
    again = (await send(keyed, "POST", "/s2/fork")).json()["session"]
    assert again["title"] == "Plans #3"


async def test_it_is_the_session_that_others_name(keyed: Serving) -> None:
    await made(keyed, id="s1")
    await chat(keyed, "Hello", headers={**AUTH, "x-hermes-session-id": "s1"})
    messages = (await send(keyed, "GET", "/s1/messages")).json()["data"]
    assert [(one["role"], one["content"]) for one in messages] == [("user", "Hello"), ("assistant", "You said: Hello")]
    assert (await keyed.get("/v1/sessions/s1", headers=AUTH)).json()["message_count"] == 2


# Talking


async def test_a_turn_is_answered_and_kept(keyed: Serving) -> None:
    await made(keyed, id="s1")
    reply = await talk(keyed, "count")
    assert reply.headers["x-hermes-session-id"] == "s1"
    assert reply.json() == {
        "object": "hermes.session.chat.completion",
        "session_id": "s1",
        "message": {"role": "assistant", "content": "You said: count"},
        "usage": {"input_tokens": 200, "output_tokens": 80, "total_tokens": 280},
    }
    shown = given((await talk(keyed, "show")).json()["message"]["content"])
    assert shown["session_id"] == "s1"
    assert [one["content"] for one in shown["history"]] == ["count", "You said: count"]


async def test_a_session_is_kept_here_whatever_answers(serve: Serve) -> None:
    async with serve(toml(key=True) + "sessions = false\n") as server:
        await made(server, id="s1")
        await talk(server, "Hello")
        shown = given((await talk(server, "show")).json()["message"]["content"])
        assert [one["content"] for one in shown["history"]] == ["Hello", "You said: Hello"]
        assert dict(await heard(server, "Bye"))["assistant.completed"]["content"] == "You said: Bye"
        assert len((await send(server, "GET", "/s1/messages")).json()["data"]) == 6


@pytest.mark.parametrize("kept", [True, False], ids=["agent", "model"])
async def test_a_turn_that_is_asked_for_twice_is_one(serve: Serve, *, kept: bool) -> None:
    headers = {**AUTH, "idempotency-key": "k1"}
    body = json.dumps({"message": "Hello"}).encode()
    async with serve(toml(key=True) + ("" if kept else "sessions = false\n")) as server:
        await made(server, id="s1")
        first, second = [await server.request("POST", "/api/sessions/s1/chat", body, headers=headers) for _ in range(2)]
        assert first.json() == second.json()
        assert second.headers["x-trunkline-idempotent"] == "replayed"
        assert len((await send(server, "GET", "/s1/messages")).json()["data"]) == 2
        other = await server.request("POST", "/api/sessions/s1/chat", b'{"message": "Bye"}', headers=headers)
        assert other.json()["message"]["content"] == "You said: Bye"


async def test_a_stream_that_broke_can_be_asked_for_again(keyed: Serving) -> None:
    await made(keyed, id="s1")
    path, headers = "/api/sessions/s1/chat/stream", {**AUTH, "idempotency-key": "k1"}
    once, again = [
        named_events((await keyed.request("POST", path, b'{"message": "tool"}', headers=headers)).body)
        for _ in range(2)
    ]
    assert [name for name, _ in once] == [name for name, _ in again]
    assert {data["run_id"] for _, data in (*once, *again)} == {once[0][1]["run_id"]}
    assert len((await send(keyed, "GET", "/s1/messages")).json()["data"]) == 4


async def test_instructions_are_the_sessions_and_the_turns(keyed: Serving) -> None:
    await made(keyed, id="s1", system_prompt="Be a pirate.")
    for name in ("system_message", "instructions"):
        shown = given((await talk(keyed, "show", **{name: "Be brief."})).json()["message"]["content"])
        assert shown["system"].split("\n") == ["Be a pirate.", "Be brief."]
        assert shown["message"] == "show"
    assert all(one["role"] != "system" for one in (await send(keyed, "GET", "/s1/messages")).json()["data"])


async def test_memory_reaches_the_agent(keyed: Serving) -> None:
    await made(keyed, id="s1")
    body = json.dumps({"input": "show"}).encode()
    headers = {**AUTH, "x-hermes-session-key": "ann"}
    reply = await keyed.request("POST", "/api/sessions/s1/chat", body, headers=headers)
    assert reply.headers["x-hermes-session-key"] == "ann"
    assert given(reply.json()["message"]["content"])["memory_key"] == "ann"


async def test_a_message_may_have_parts(serve: Serve) -> None:
    picture = "data:image/png;base64,iVBORw0KGgo="
    parts = [{"type": "input_text", "text": "Look"}, {"type": "input_image", "image_url": picture}]
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        await made(server, id="s1")
        assert (await talk(server, parts)).json()["message"]["content"] == "Look 1"
        kept = (await send(server, "GET", "/s1/messages")).json()["data"][0]["content"]
    assert [part["type"] for part in kept] == ["text", "image_url"]
    assert kept[1]["image_url"]["url"] == picture


@pytest.mark.parametrize("path", ["chat", "chat/stream"])
@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_message", "message"),
        ({"message": "  "}, "missing_message", "message"),
        ({"message": []}, "missing_message", "message"),
        ({"message": [{"type": "text", "text": ""}]}, "missing_message", "message"),
        ({"message": 5}, "invalid_type", "message"),
        ({"message": "hi", "system_message": 5}, "invalid_system_message", "system_message"),
        ({"input": [{"type": "text", "text": 5}]}, "invalid_type", "input[0].text"),
    ],
)
async def test_a_message_that_says_nothing(
    keyed: Serving, path: str, body: dict[str, Any], code: str, param: str
) -> None:
    await made(keyed, id="s1")
    reply = await send(keyed, "POST", f"/s1/{path}", **body)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, code, param)


async def test_a_failure_is_a_status(keyed: Serving) -> None:
    await made(keyed, id="s1")
    reply = await talk(keyed, "fail")
    assert (reply.status, "Provider failed" in reply.error["message"]) == (500, True)
    assert (await send(keyed, "GET", "/s1/messages")).json()["data"] == []


async def test_without_a_key_of_the_servers_nobody_chooses(hermes: Serving) -> None:
    await made(hermes, id="s1")
    assert (await talk(hermes, "Hello")).status == 403


async def test_a_stream_says_whose_it_is_and_counts(keyed: Serving) -> None:
    await made(keyed, id="s1")
    events = await heard(keyed, "count")
    assert [name for name, _ in events] == [
        "run.started",
        "message.started",
        "assistant.delta",
        "assistant.completed",
        "run.completed",
        "done",
    ]
    assert [data["seq"] for _, data in events] == [1, 2, 3, 4, 5, 6]
    assert {data["session_id"] for _, data in events} == {"s1"}
    assert len({data["run_id"] for _, data in events}) == 1
    assert events[0][1]["run_id"].startswith("run_")
    assert all(isinstance(data["ts"], float) for _, data in events)
    by_name = dict(events)
    assert by_name["run.started"]["user_message"] == {"role": "user", "content": "count"}
    message_id = by_name["message.started"]["message"]["id"]
    assert by_name["message.started"]["message"] == {"id": message_id, "role": "assistant"}
    assert by_name["assistant.delta"]["message_id"] == message_id
    completed = by_name["assistant.completed"]
    assert (completed["content"], completed["message_id"]) == ("You said: count", message_id)
    assert (completed["completed"], completed["partial"], completed["interrupted"]) == (True, False, False)
    assert by_name["run.completed"]["usage"] == {"input_tokens": 200, "output_tokens": 80, "total_tokens": 280}
    assert by_name["run.completed"]["messages"] == [{"role": "assistant", "content": "You said: count"}]


async def test_tools_are_seen_in_a_stream_and_kept(keyed: Serving) -> None:
    await made(keyed, id="s1")
    events = await heard(keyed, "tool")
    names = [name for name, _ in events if name.startswith("tool.")]
    assert names == ["tool.started", "tool.completed"]
    started = next(data for name, data in events if name == "tool.started")
    assert (started["tool_name"], started["call_id"]) == ("terminal", "call_123")
    assert started["args"] == hermes_agent.ARGUMENTS
    deltas = "".join(data["delta"] for name, data in events if name == "assistant.delta")
    by_name = dict(events)
    assert deltas == by_name["assistant.completed"]["content"] == "Looking. Found."
    told = [one["role"] for one in by_name["run.completed"]["messages"]]
    assert told == ["assistant", "tool", "assistant"]
    kept = (await send(keyed, "GET", "/s1/messages")).json()["data"]
    assert [one["role"] for one in kept] == ["user", *told]
    assert kept[1]["tool_calls"][0]["function"]["name"] == "terminal"
    assert (kept[2]["tool_call_id"], kept[2]["content"]) == ("call_123", '{"content":"hello"}')
    assert len({one["id"] for one in kept}) == 4


async def test_arguments_that_nobody_can_read_are_left_out(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": DIGS}) as server:
        await made(server, id="s1")
        by_name = dict(await heard(server, "dig"))
    assert by_name["tool.started"]["args"] is None
    assert by_name["assistant.completed"]["content"] == "Done."


async def test_an_agents_own_affairs_are_not_seen(keyed: Serving) -> None:
    await made(keyed, id="s1")
    tools = [(name, data["tool_name"]) for name, data in await heard(keyed, "inner") if name.startswith("tool.")]
    assert tools == [("tool.started", "web_search"), ("tool.completed", "web_search")]


async def test_an_answer_that_was_cut_says_so(keyed: Serving) -> None:
    await made(keyed, id="s1")
    by_name = dict(await heard(keyed, "truncate"))
    completed = by_name["assistant.completed"]
    assert (completed["content"], completed["completed"], completed["partial"]) == ("Half of it", False, True)
    assert "truncated" in completed["error"]
    assert (by_name["run.completed"]["completed"], list(by_name)[-1]) == (False, "done")
    whole = await talk(keyed, "truncate")
    assert whole.json()["hermes"]["error_code"] == "output_truncated"
    assert whole.headers["x-hermes-completed"] == "false"


async def test_a_stream_that_fails_ends_with_its_error(serve: Serve) -> None:
    async with serve(BOT, scripts={"bot.py": BREAKS}) as server:
        await made(server, id="s1")
        events = await heard(server, "Hello")
    assert [name for name, _ in events][-2:] == ["error", "done"]
    assert "assistant.completed" not in dict(events)
    assert "the line is cut" in dict(events)["error"]["message"]


async def test_a_question_is_seen_and_answered(serve: Serve) -> None:
    async with serve(toml(key=True, agent="asking")) as server:
        await made(server, id="s1")
        async with server.connect() as wire:
            body = b'{"message": "go"}'
            await wire.send(
                b"POST /api/sessions/s1/chat/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-secret\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            await wire.head()
            read = await wire.until(b"event: approval.request\n")
            asked = read.partition(b"event: approval.request\ndata: ")[2]
            data = json.loads(asked.partition(b"\n")[0])
            choice = json.dumps({"choice": "once"}).encode()
            answered = await server.request("POST", f"/v1/runs/{data['run_id']}/approval", choice, headers=AUTH)
            assert answered.json()["resolved"] == 1


# What else they ask for


async def test_lists_that_are_empty(keyed: Serving) -> None:
    skills = await keyed.get("/v1/skills", headers=AUTH)
    assert skills.json() == {"object": "list", "data": []}
    toolsets = await keyed.get("/v1/toolsets", headers=AUTH)
    assert toolsets.json() == {"object": "list", "platform": "api_server", "data": []}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", ""),
        ("GET", "/0123456789ab"),
        ("PATCH", "/0123456789ab"),
        ("DELETE", "/0123456789ab"),
        ("POST", "/0123456789ab/pause"),
        ("POST", "/0123456789ab/resume"),
        ("POST", "/0123456789ab/run"),
    ],
)
async def test_jobs_are_not_kept(keyed: Serving, method: str, path: str) -> None:
    reply = await keyed.request(method, f"/api/jobs{path}", headers=AUTH)
    assert (reply.status, reply.json()) == (501, {"error": "Cron module not available"})


async def test_jobs_are_not_fired_either(keyed: Serving) -> None:
    reply = await keyed.request("POST", "/api/cron/fire", b'{"job_id": "0123456789ab"}', headers=AUTH)
    assert (reply.status, reply.json()) == (501, {"error": "Cron module not available"})


async def test_no_chat_platform_is_connected(keyed: Serving) -> None:
    reply = await keyed.request("POST", "/api/platforms/google_chat/events", b"{}", headers=AUTH)
    assert (reply.status, reply.error["code"]) == (503, "platform_unavailable")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("DELETE", "/x")]
)
async def test_there_are_no_profiles_below_a_path(keyed: Serving, method: str, path: str) -> None:
    reply = await keyed.request(method, f"/p/lucas{path}", headers=AUTH)
    assert (reply.status, reply.error["code"]) == (404, "profile_not_found")
    assert "'/p/lucas'" in reply.error["message"]
    assert (await keyed.request(method, f"/p/lucas{path}")).status == 401


async def test_capabilities_name_what_is_here(keyed: Serving) -> None:
    told = (await keyed.get("/v1/capabilities", headers=AUTH)).json()
    names = ("session_resources", "session_chat", "session_chat_streaming", "session_fork", "skills_api")
    assert all(told["features"][name] is True for name in names)
    assert told["features"]["jobs_admin"] is False
    assert told["endpoints"]["sessions"] == {"method": "GET", "path": "/api/sessions"}
    assert told["endpoints"]["session_update"] == {"method": "PATCH", "path": "/api/sessions/{session_id}"}


async def test_no_other_profile_has_them(echo: Serving) -> None:
    for path in ("/api/sessions", "/api/jobs", "/v1/skills", "/v1/toolsets", "/api/cron/fire", "/p/lucas/v1/models"):
        assert (await echo.get(path)).status == 404
    told = (await echo.get("/v1/capabilities")).json()
    assert told["endpoints"]["sessions"]["path"] == "/v1/sessions"
    assert told["features"]["session_chat"] is False


async def test_tools_have_emojis_of_their_own(keyed: Serving) -> None:
    async def emoji(text: str) -> Any:
        events = named_events((await chat(keyed, text, stream=True, headers=AUTH)).body)
        return next(data["emoji"] for name, data in events if name == "hermes.tool.progress")

    assert (await emoji("tool"), await emoji("inner")) == ("\U0001f4bb", "\U0001f50d")


async def test_an_answer_that_was_cut_says_why_in_its_head(hermes: Serving) -> None:
    reply = await chat(hermes, "truncate")
    assert reply.headers["x-hermes-error"] == "Response truncated due to output length limit"
    assert "x-hermes-error" not in (await chat(hermes, "Hello")).headers
    assert said(await chat(hermes, "Hello")) == "You said: Hello"


@pytest.mark.parametrize("key", ["your_api_key_here", "Your_Api_Key_Here"])
def test_a_key_from_an_example_is_for_loopback_only(key: str) -> None:
    agent = {"backends": {"agent": {"type": "python", "target": "bot:agent"}}}
    with pytest.raises(ConfigError, match=r"^server\.api_keys\[0\]: is a placeholder"):
        build_config({"server": {"profile": "hermes", "host": "0.0.0.0", "api_keys": [key]}, **agent}, environ={})
    local = build_config({"server": {"profile": "hermes", "api_keys": [key]}, **agent}, environ={})
    assert local.server.api_keys == (key,)


async def test_errors_and_lists_are_spaced_as_answers_are(keyed: Serving) -> None:
    await made(keyed, id="s1", title="Plans")
    replies = [
        await keyed.get(path, headers=AUTH) for path in ("/v1/sessions", "/api/sessions", "/api/sessions/s9", "/v1/x")
    ]
    replies += [
        await keyed.request("POST", path, b"{}", headers=AUTH) for path in ("/v1/chat/completions", "/v1/responses")
    ]
    assert [reply.status for reply in replies] == [200, 200, 404, 404, 400, 400]
    for reply in replies:
        assert reply.body.decode() == json.dumps(reply.json(), ensure_ascii=False)
