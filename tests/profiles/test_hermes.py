"""`profile = "hermes"`: what clients of hermes-agent's API server pin, as they would check it from outside.

The numbered tests are the black-box checks of that contract, in its order. Those that hold for every server here are asked of the
default profile too. The agent is real: a class with the callbacks that server's agents have.
"""

import os

import pytest

from tests.conftest import Serve
from tests.profiles.hermes import (
    AUTH,
    BOTH,
    DEFAULT,
    HERMES,
    Names,
    ask,
    chat,
    content_of,
    given,
    held,
    named_events,
    said,
    toml,
)
from tests.serving import Serving, user

SECURITY = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-xss-protection": "0",
    "referrer-policy": "no-referrer",
}


# Health and headers


@BOTH
async def test_1_every_answer_has_the_security_headers(either: Serving) -> None:
    reply = await either.get("/health")
    assert reply.status == 200
    assert {name: reply.headers[name] for name in SECURITY} == SECURITY
    for other in (
        await chat(either),
        await chat(either, stream=True),
        await chat(either, "fail"),
        await either.get("/v1/none"),
        await either.get("/v1/models", headers={"origin": "https://app.example"}),
    ):
        assert {name: other.headers[name] for name in SECURITY} == SECURITY


async def test_2_and_3_health_says_who_it_is(hermes: Serving) -> None:
    for path in ("/health", "/v1/health"):
        reply = await hermes.get(path)
        assert (reply.status, reply.json()["status"], reply.json()["platform"]) == (200, "ok", "hermes-agent")


@BOTH
async def test_4_and_5_detailed_health_describes_the_process(either: Serving) -> None:
    reply = await either.get("/health/detailed")
    body = reply.json()
    assert reply.status == 200
    assert body["status"] == "ok"
    assert body["platform"] == ("hermes-agent" if either.application.runtime.profile.platform_name else "trunkline")
    assert body["pid"] == os.getpid()
    assert (body["active_agents"], body["exit_reason"]) == (0, None)
    assert body["updated_at"].startswith("20")
    # No gateway to other platforms runs beside this server.
    assert (body["gateway_state"], body["platforms"]) == (None, {})


@BOTH
async def test_6_and_7_health_needs_no_key(either_keyed: Serving) -> None:
    for path in ("/health", "/v1/health", "/health/detailed"):
        assert (await either_keyed.get(path)).status == 200


# Models and capabilities


async def test_8_there_is_one_model(hermes: Serving) -> None:
    body = (await hermes.get("/v1/models")).json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("hermes-agent", "model", "hermes")
    assert (model["root"], model["parent"], model["permission"]) == ("hermes-agent", None, [])


async def test_9_and_10_the_model_has_the_name_it_is_given(serve: Serve) -> None:
    """Whatever the agent's own name would be: without the profile it is called as its class."""
    async with serve(toml(server='model_name = "lucas"')) as server:
        (model,) = (await server.get("/v1/models")).json()["data"]
        assert (model["id"], model["root"]) == ("lucas", "lucas")
        assert (await server.get("/v1/capabilities")).json()["model"] == "lucas"


@BOTH
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/capabilities"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/runs"),
        ("GET", "/v1/runs/run_none"),
        ("GET", "/v1/runs/run_none/events"),
        ("POST", "/v1/runs/run_none/stop"),
        ("POST", "/v1/runs/run_none/approval"),
    ],
)
async def test_all_else_needs_the_key(either_keyed: Serving, method: str, path: str) -> None:
    refused = await either_keyed.request(method, path, b"{}" if method == "POST" else None)
    assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")


@BOTH
async def test_11_models_need_the_key(either_keyed: Serving) -> None:
    refused = await either_keyed.get("/v1/models")
    assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
    assert (await either_keyed.get("/v1/models", headers={"authorization": "Bearer wrong"})).status == 401
    assert (await either_keyed.get("/v1/models", headers=AUTH)).status == 200


async def test_12_capabilities_have_what_clients_read(hermes: Serving) -> None:
    body = (await hermes.get("/v1/capabilities")).json()
    assert body["object"] == "hermes.api_server.capabilities"
    assert (body["platform"], body["model"]) == ("hermes-agent", "hermes-agent")
    assert body["auth"] == {"type": "bearer", "required": False}
    runtime = body["runtime"]
    assert (runtime["mode"], runtime["tool_execution"], runtime["split_runtime"]) == ("server_agent", "server", False)
    assert "API-server host" in runtime["description"]
    features = body["features"]
    assert features["chat_completions"] is features["run_status"] is features["run_events_sse"] is True
    assert features["session_continuity_header"] == "X-Hermes-Session-Id"
    assert features["session_key_header"] == "X-Hermes-Session-Key"
    assert body["endpoints"]["run_status"]["path"] == "/v1/runs/{run_id}"


async def test_13_capabilities_need_the_key_and_say_so(keyed: Serving) -> None:
    assert (await keyed.get("/v1/capabilities")).status == 401
    body = (await keyed.get("/v1/capabilities", headers=AUTH)).json()
    assert body["auth"] == {"type": "bearer", "required": True}


async def test_the_default_profile_has_capabilities_of_its_own_name(serve: Serve) -> None:
    async with serve(toml(DEFAULT, server='cors_origins = ["https://app.example"]')) as server:
        body = (await server.get("/v1/capabilities")).json()
    assert (body["object"], body["platform"]) == ("trunkline.capabilities", "trunkline")
    assert (body["features"]["session_continuity_header"], body["features"]["cors"]) == ("X-Session-Id", True)


async def test_every_endpoint_that_capabilities_name_is_there(hermes: Serving) -> None:
    body = (await hermes.get("/v1/capabilities")).json()
    for endpoint in body["endpoints"].values():
        path = endpoint["path"].replace("{", "x").replace("}", "")
        reply = await hermes.request(endpoint["method"], path, b"{" if endpoint["method"] == "POST" else None)
        assert reply.status != 405, endpoint
        assert reply.status != 404 or "unknown route" not in reply.error["message"], endpoint


# Chat errors


@BOTH
async def test_14_a_body_that_is_no_json(either: Serving) -> None:
    reply = await either.post_raw(b"not json")
    assert reply.status == 400
    assert "Invalid JSON" in reply.error["message"]


@BOTH
async def test_a_body_that_is_an_array(either: Serving) -> None:
    reply = await either.post_raw(b"[]")
    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")


@BOTH
@pytest.mark.parametrize("messages", [None, []], ids=["15_missing", "16_empty"])
async def test_15_and_16_no_messages(either: Serving, messages: object) -> None:
    reply = await either.chat(messages=messages)
    assert reply.status == 400
    assert "messages" in reply.error["message"]


@BOTH
async def test_17_only_a_system_message(either: Serving) -> None:
    assert (await chat(either, messages=[{"role": "system", "content": "Be brief."}])).status == 400


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_18_an_agent_that_raises(either: Serving, *, stream: bool) -> None:
    """Before its first word also a stream fails with a status."""
    reply = await chat(either, "fail", stream=stream)
    assert reply.status == 500
    assert "Provider failed" in reply.error["message"]


@BOTH
@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/none", 404), ("PUT", "/v1/models", 405)])
async def test_what_is_not_there_is_refused_in_json(either: Serving, method: str, path: str, status: int) -> None:
    reply = await either.request(method, path)
    assert reply.status == status
    assert reply.error["type"] == "invalid_request_error"


# Chat


@BOTH
async def test_19_a_whole_answer(either: Serving, names: Names) -> None:
    reply = await chat(either, "count")
    body = reply.json()
    assert (reply.status, body["object"], body["model"]) == (200, "chat.completion", "hermes-agent")
    assert body["id"].startswith("chatcmpl-")
    (choice,) = body["choices"]
    assert (choice["message"]["role"], choice["finish_reason"]) == ("assistant", "stop")
    assert choice["message"]["content"] == "You said: count"
    assert "usage" in body


async def test_19_a_whole_answer_has_usage_where_nobody_counted(hermes: Serving) -> None:
    assert (await chat(hermes)).json()["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


async def test_19_any_model_is_accepted_and_echoed(hermes: Serving) -> None:
    reply = await chat(hermes, model="gpt-9")
    assert (reply.status, reply.json()["model"]) == (200, "gpt-9")
    reply = await chat(hermes, model=None)
    assert (reply.status, reply.json()["model"]) == (200, "hermes-agent")
    assert (await ask(hermes, model="gpt-9")).json()["model"] == "gpt-9"


async def test_the_default_profile_knows_an_unknown_model(serve: Serve) -> None:
    async with serve(toml(DEFAULT)) as server:
        reply = await chat(server, model="gpt-9")
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")
        reply = await ask(server, model="gpt-9")
        assert (reply.status, reply.error["param"]) == (400, "model")


@BOTH
async def test_20_usage_is_the_agents(either: Serving) -> None:
    usage = (await chat(either, "count")).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (200, 80, 280)


@BOTH
async def test_21_a_system_message_is_the_agents_prompt(either: Serving) -> None:
    messages = [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": "show"}]
    shown = given(said(await chat(either, messages=messages)))
    assert (shown["system"], shown["message"]) == ("You are a pirate.", "show")


@BOTH
async def test_22_two_system_messages_are_both_there(either: Serving) -> None:
    messages = [
        {"role": "system", "content": "One."},
        {"role": "system", "content": "Two."},
        {"role": "user", "content": "show"},
    ]
    assert given(said(await chat(either, messages=messages)))["system"] == "One.\nTwo."


@BOTH
async def test_23_what_came_before_is_history(either: Serving) -> None:
    messages = [*user("first"), {"role": "assistant", "content": "second"}, *user("show third")]
    shown = given(said(await chat(either, messages=messages)))
    assert shown["message"] == "show third"
    assert [(one["role"], one["content"]) for one in shown["history"]] == [("user", "first"), ("assistant", "second")]


@BOTH
async def test_23_parts_of_text_are_one_text(either: Serving) -> None:
    parts = [{"type": "text", "text": "show"}, {"type": "text", "text": "both"}]
    shown = given(said(await chat(either, messages=[{"role": "user", "content": parts}])))
    assert shown["message"] == "show\nboth"


@BOTH
@pytest.mark.parametrize("url", ["https://images.example/cat.png", "data:image/png;base64,iVBORw0KGgo="])
async def test_23_an_image_reaches_the_agent(either: Serving, url: str) -> None:
    parts = [{"type": "text", "text": "show"}, {"type": "image_url", "image_url": {"url": url}}]
    reply = await chat(either, messages=[{"role": "user", "content": parts}])
    assert url in reply.body.decode()


@BOTH
@pytest.mark.parametrize("kind", ["file", "hologram"])
async def test_23_a_part_that_the_agent_cannot_take(either: Serving, kind: str) -> None:
    parts = [{"type": "text", "text": "show"}, {"type": kind, kind: {"file_data": "data:text/plain;base64,aGk="}}]
    reply = await chat(either, messages=[{"role": "user", "content": parts}])
    assert (reply.status, reply.error["code"]) == (400, "unsupported_content_type")


@BOTH
async def test_24_a_conversation_keeps_its_session(either: Serving, names: Names) -> None:
    first = (await chat(either, "hello")).headers[names.session]
    messages = [*user("hello"), {"role": "assistant", "content": "hi"}, *user("and again")]
    assert first.startswith("api-")
    assert len(first) == len("api-") + 16
    assert (await chat(either, messages=messages)).headers[names.session] == first


@BOTH
async def test_25_another_conversation_has_another_session(either: Serving, names: Names) -> None:
    sessions = {
        (await chat(either, messages=messages)).headers[names.session]
        for messages in (
            user("hello"),
            user("good evening"),
            [{"role": "system", "content": "Be brief."}, *user("hello")],
        )
    }
    assert len(sessions) == 3


@BOTH
async def test_26_false_as_a_string_is_false(either: Serving) -> None:
    reply = await chat(either, stream="false")
    assert reply.headers["content-type"].startswith("application/json")
    assert said(reply) == "You said: Hello"


@BOTH
async def test_client_tools_are_never_ignored_in_silence(either: Serving, names: Names) -> None:
    tool = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}
    assert (await chat(either, tools=[])).status == 200
    reply = await chat(either, tools=[tool])
    if names is HERMES:
        assert (reply.status, reply.headers["x-trunkline-ignored"]) == (200, "tools")
    else:
        assert (reply.status, reply.error["param"]) == (400, "tools")


# Chat streams


@BOTH
async def test_27_a_stream_is_one(either: Serving) -> None:
    reply = await chat(either, "pause", stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-accel-buffering"] == "no"
    events = named_events(reply.body)
    assert content_of(events) == "Before. After."
    assert events[-1] == ("", "[DONE]")
    assert events[0][1]["choices"][0]["delta"]["role"] == "assistant"


async def test_27_the_last_chunk_has_the_usage(hermes: Serving) -> None:
    events = named_events((await chat(hermes, "count", stream=True)).body)
    finish = events[-2][1]
    assert (finish["choices"][0]["finish_reason"], finish["choices"][0]["delta"]) == ("stop", {})
    assert finish["usage"] == {"prompt_tokens": 200, "completion_tokens": 80, "total_tokens": 280}


@BOTH
async def test_28_a_silent_stream_is_kept_alive(serve: Serve, names: Names) -> None:
    async with serve(toml(names, server="keepalive_s = 0.05")) as server, held(), server.connect() as wire:
        await wire.send_chat({"messages": user("wait"), "stream": True})
        await wire.head()
        await wire.until(b": keepalive\n\n")
        await chat(server, "go")
        await wire.until(b"[DONE]")


@BOTH
async def test_29_none_does_not_end_a_stream(either: Serving) -> None:
    events = named_events((await chat(either, "pause", stream=True)).body)
    assert content_of(events) == "Before. After."
    assert [data["choices"][0]["finish_reason"] for _, data in events[:-1]][-1] == "stop"


async def test_30_a_tool_is_a_named_event(hermes: Serving) -> None:
    reply = await chat(hermes, "tool", stream=True)
    text = reply.body.decode()
    assert "event: hermes.tool.progress\n" in text
    assert '"tool": "terminal"' in text
    assert '"label":' in text
    events = named_events(reply.body)
    assert content_of(events) == "Looking. Found."
    running = next(data for name, data in events if name)
    assert running.keys() == {"tool", "emoji", "label", "toolCallId", "status"}


async def test_31_inner_tools_stay_inside(hermes: Serving) -> None:
    text = (await chat(hermes, "inner", stream=True)).body.decode()
    assert "_thinking" not in text
    assert "secret" not in text
    assert '"toolCallId": "call_search_1"' in text


async def test_32_a_tool_begins_and_ends_once(hermes: Serving) -> None:
    events = [data for name, data in named_events((await chat(hermes, "tool", stream=True)).body) if name]
    assert [(event["toolCallId"], event["status"]) for event in events] == [
        ("call_123", "running"),
        ("call_123", "completed"),
    ]
    assert events[1] == {"tool": "terminal", "toolCallId": "call_123", "status": "completed"}


async def test_33_what_never_began_does_not_end(hermes: Serving) -> None:
    events = named_events((await chat(hermes, "orphan", stream=True)).body)
    assert [name for name, _ in events if name] == []


async def test_the_default_profile_shows_tools_to_who_asks(serve: Serve) -> None:
    async with serve(toml(DEFAULT)) as server:
        plain = named_events((await chat(server, "tool", stream=True)).body)
        options: dict[str, object] = {"include_tool_events": True}
        asked = named_events((await chat(server, "tool", stream=True, stream_options=options)).body)
        options = {"include_tool_events": "reasoning"}
        told = named_events((await chat(server, "tool", stream=True, stream_options=options)).body)
    assert [name for name, _ in plain if name] == []
    events = [(name, data["tool"], data["status"], data["call_id"]) for name, data in asked if name]
    assert events == [
        ("trunkline.tool.progress", "terminal", "running", "call_123"),
        ("trunkline.tool.progress", "terminal", "completed", "call_123"),
    ]
    assert [name for name, _ in told if name] == []
    thoughts = [
        choice["delta"].get("reasoning_content", "")
        for _, data in told
        if isinstance(data, dict)
        for choice in data["choices"]
    ]
    assert "".join(thoughts).startswith("terminal")
    assert content_of(plain) == content_of(asked) == content_of(told) == "Looking. Found."


async def test_a_server_may_show_tools_as_reasoning_to_everybody(serve: Serve) -> None:
    async with serve(toml(server='tool_events = "reasoning"')) as server:
        reply = await chat(server, "tool", stream=True)
        quiet = await chat(server, "tool", stream=True, stream_options={"include_tool_events": False})
    assert b"event: " not in reply.body
    assert b'"reasoning_content": "terminal' in reply.body
    assert b"reasoning_content" not in quiet.body


# Partial results


@BOTH
async def test_34_a_truncated_answer_says_so(either: Serving, names: Names) -> None:
    reply = await chat(either, "truncate")
    body = reply.json()
    assert (said(reply), body["choices"][0]["finish_reason"]) == ("Half of it", "length")
    own = body[names.own]
    assert (own["partial"], own["completed"], own["failed"]) == (True, False, False)
    assert "truncated" in own["error"]
    assert own["error_code"] == "output_truncated"
    assert reply.headers[f"x-{names.own}-completed"] == "false"
    assert reply.headers[f"x-{names.own}-partial"] == "true"


@BOTH
async def test_34_a_truncated_stream_says_so(either: Serving, names: Names) -> None:
    events = named_events((await chat(either, "truncate", stream=True)).body)
    finish = events[-2][1]
    assert (finish["choices"][0]["finish_reason"], finish[names.own]["partial"]) == ("length", True)


@BOTH
async def test_35_no_text_at_all_is_an_error(either: Serving, names: Names) -> None:
    reply = await chat(either, "give_up")
    error = reply.json()["error"]
    assert (reply.status, error["code"]) == (502, "agent_incomplete")
    assert error[names.own] == {"completed": False, "partial": False, "failed": True}
    assert reply.headers[f"x-{names.own}-completed"] == "false"


async def test_a_stream_that_fails_before_it_has_begun_says_how_the_run_went(serve: Serve) -> None:
    async with serve(toml(DEFAULT)) as server:
        reply = await chat(server, "give_up", stream=True)
    assert (reply.status, reply.headers["x-trunkline-completed"]) == (502, "false")


@BOTH
async def test_36_a_usual_answer_has_none_of_that(either: Serving, names: Names) -> None:
    reply = await chat(either)
    assert names.own not in reply.json()
    assert f"x-{names.own}-completed" not in reply.headers
