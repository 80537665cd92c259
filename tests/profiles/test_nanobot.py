"""`profile = "nanobot"`: what clients of nanobot's API server pin, as they would check it from outside.

The numbered tests are the black-box checks of that contract, in its order. The agent is real: an object with the method and the
callbacks that server's agent has.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes import nanobot_agent
from tests.profiles.hermes import content_of, named_events
from tests.serving import Reply, Serving, eventually, user

MODEL = "test-model"
BOUNDARY = "xxboundaryxx"
PIXEL = b"\x89PNG\r\n\x1a\n"


def toml(server: str = "", backend: str = "") -> str:
    return (
        f'[server]\nprofile = "nanobot"\nmodel_name = "{MODEL}"\n{server}\n'
        f'[backends.agent]\ntype = "python"\ntarget = "tests.fakes.nanobot_agent:Agent"\n{backend}'
    )


@pytest.fixture
async def nanobot(serve: Serve) -> AsyncIterator[Serving]:
    async with serve(toml()) as server:
        yield server


@pytest.fixture(params=["nanobot", "openai"])
async def either(request: pytest.FixtureRequest, serve: Serve) -> AsyncIterator[Serving]:
    """Under the profile, and under the default."""
    async with serve(toml().replace('"nanobot"', json.dumps(request.param))) as server:
        yield server


async def chat(
    server: Serving, text: str = "say hello", *, headers: Mapping[str, str] | None = None, **body: Any
) -> Reply:
    whole = {"model": MODEL, "messages": user(text), **body}
    return await server.request("POST", "/v1/chat/completions", json.dumps(whole).encode(), headers=headers)


def said(reply: Reply) -> str:
    assert reply.status == 200, reply
    text = reply.json()["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


async def shown(server: Serving, **body: Any) -> Any:
    return json.loads(said(await chat(server, "show", **body)))


def chunks(reply: Reply) -> list[Any]:
    assert reply.status == 200, reply
    read = [data for _, data in named_events(reply.body)]
    assert read.pop() == "[DONE]"
    return read


async def test_1_a_stream_begins_with_its_first_word(either: Serving) -> None:
    reply = await chat(either, stream=True)
    assert reply.headers["content-type"] == "text/event-stream"
    read = chunks(reply)
    assert {chunk["object"] for chunk in read} == {"chat.completion.chunk"}
    assert [chunk["choices"][0]["delta"].get("content") for chunk in read] == ["Hello", " world", None]
    assert read[-1]["choices"][0]["finish_reason"] == "stop"
    assert reply.headers["x-accel-buffering"] == "no"


async def test_2_and_3_a_whole_answer_is_json(nanobot: Serving) -> None:
    for body in ({"stream": False}, {}, {"stream": "false"}):
        reply = await chat(nanobot, "hi", **body)
        assert (said(reply), reply.json()["object"]) == ("You said: hi", "chat.completion")
        assert reply.json()["id"].startswith("chatcmpl-")
        assert reply.json()["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


async def test_4_the_chunks_of_a_stream_have_one_id(either: Serving) -> None:
    ids = {chunk["id"] for chunk in chunks(await chat(either, stream=True))}
    assert len(ids) == 1
    assert ids.pop().startswith("chatcmpl-")


async def test_5_the_agent_gets_both_callbacks(either: Serving) -> None:
    read = content_of(named_events((await chat(either, "show", stream=True)).body))
    assert json.loads(read)["callbacks"] == [True, True]


async def test_6_a_session_is_the_apis(nanobot: Serving) -> None:
    assert (await shown(nanobot, session_id="my-session"))["session"] == "api:my-session"
    assert (await shown(nanobot))["session"] == "api:default"


async def test_7_a_stream_that_fails_has_no_good_end(nanobot: Serving) -> None:
    reply = await chat(nanobot, "fail", stream=True)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream")
    assert b'"finish_reason": "stop"' not in reply.body
    assert b"[DONE]" not in reply.body
    ((_, error),) = named_events(reply.body)
    assert "Provider failed" in error["error"]["message"]


async def test_8_the_shapes_of_the_frames(nanobot: Serving) -> None:
    reply = await chat(nanobot, stream=True)
    read = chunks(reply)
    assert [chunk["choices"][0]["finish_reason"] for chunk in read] == [None, None, "stop"]
    assert read[-1]["choices"][0]["delta"] == {}
    assert reply.body.endswith(b"\n\ndata: [DONE]\n\n")
    assert b'"content": "Hello"' in reply.body


# What is wrong or missing there


async def test_a_silent_stream_is_kept_alive(serve: Serve) -> None:
    one_for_all = toml("keepalive_s = 0.05").replace(":Agent", ":agent")
    nanobot_agent.agent.__init__()  # type: ignore[misc]
    async with serve(one_for_all) as server, server.connect() as wire:
        await wire.send_chat({"messages": user("wait"), "stream": True})
        await wire.head()
        await wire.until(b": keepalive\n\n")
        nanobot_agent.agent.opened.set()
        await wire.until(b"[DONE]")


async def test_tools_show_to_who_asks(nanobot: Serving) -> None:
    plain = chunks(await chat(nanobot, "tool", stream=True))
    asked = chunks(await chat(nanobot, "tool", stream=True, stream_options={"include_tool_events": True}))
    assert [chunk for chunk in plain if "tool" in chunk] == []
    tools = [
        (chunk["tool"], chunk["call_id"], chunk["status"], chunk.get("label")) for chunk in asked if "tool" in chunk
    ]
    assert tools == [("read_file", "call_1", "running", "notes.txt"), ("read_file", "call_1", "completed", None)]


async def test_usage_is_streamed_to_who_asks(nanobot: Serving) -> None:
    *_, finish, last = chunks(await chat(nanobot, stream=True, stream_options={"include_usage": True}))
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 0)


async def test_usage_is_the_turns_own(serve: Serve) -> None:
    """Two turns at once on one object, which has one place for its last usage: neither gets the other's."""
    nanobot_agent.agent.__init__()  # type: ignore[misc]
    agent = nanobot_agent.agent
    async with serve(toml().replace(":Agent", ":agent")) as server:
        waiting = asyncio.create_task(chat(server, "wait", session_id="a"))
        await eventually(lambda: agent.active == 1)
        counted = await chat(server, "count", session_id="b")
        agent.opened.set()
        waited = await waiting
        alone = await chat(server, "count")
    assert [reply.json()["usage"]["total_tokens"] for reply in (waited, counted, alone)] == [0, 0, 7]


async def test_by_default_a_conversation_goes_on(serve: Serve) -> None:
    """A client that sends it whole: the agent keeps it itself, and is asked the last message."""
    async with serve(toml().replace('"nanobot"', '"openai"')) as server:
        messages = [
            {"role": "system", "content": "Be brief."},
            *user("hi"),
            {"role": "assistant", "content": "You said: hi"},
            *user("again"),
        ]
        assert said(await chat(server, messages=messages)) == "You said: again"


# What else clients rely on


async def test_a_text_that_was_not_streamed_is_one_piece(nanobot: Serving) -> None:
    first, last = chunks(await chat(nanobot, "hi", stream=True))
    assert first["choices"][0]["delta"]["content"] == "You said: hi"
    assert last["choices"][0]["finish_reason"] == "stop"


async def test_no_answer_is_said_to_be_none(nanobot: Serving) -> None:
    whole = said(await chat(nanobot, "nothing"))
    assert whole == content_of(named_events((await chat(nanobot, "nothing", stream=True)).body)) != ""


@pytest.mark.parametrize(
    "messages",
    [
        [*user("a"), *user("b")],
        [{"role": "system", "content": "Be brief."}, *user("a")],
        [{"role": "assistant", "content": "a"}],
    ],
)
async def test_there_is_one_message_of_the_user(nanobot: Serving, messages: object) -> None:
    reply = await chat(nanobot, messages=messages)
    assert (reply.status, reply.error["param"]) == (400, "messages")
    assert "Only a single user message is supported" in reply.error["message"]


async def test_the_model_is_the_one_there_is_or_none(nanobot: Serving) -> None:
    assert (await chat(nanobot, model=None)).json()["model"] == MODEL
    reply = await chat(nanobot, model="gpt-9")
    assert (reply.status, reply.error["code"]) == (400, "model_not_found")
    reply = await chat(nanobot, model="gpt-9", stream=True)
    assert reply.status == 400


async def test_an_agent_that_raises(nanobot: Serving) -> None:
    reply = await chat(nanobot, "fail")
    assert (reply.status, reply.error["type"]) == (500, "server_error")


async def test_a_turn_has_its_time(serve: Serve) -> None:
    async with serve(toml(backend="timeout_s = 0.01\n")) as server:
        assert (await chat(server, "wait")).status == 504


async def test_what_is_not_there_is_refused_in_json(nanobot: Serving) -> None:
    assert (await nanobot.get("/v1/none")).error["type"] == "invalid_request_error"
    reply = await nanobot.request("POST", "/v1/chat/completions", b"[]")
    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")


async def test_models_and_health(nanobot: Serving) -> None:
    (model,) = (await nanobot.get("/v1/models")).json()["data"]
    assert model == {"id": MODEL, "object": "model", "created": 0, "owned_by": "nanobot"}
    assert (await nanobot.get("/health")).json()["status"] == "ok"


async def test_a_key_protects_all_but_health(serve: Serve) -> None:
    async with serve(toml('api_keys = ["k"]')) as server:
        assert (await server.get("/health")).status == 200
        assert (await server.get("/v1/models")).status == 401
        assert (await chat(server)).status == 401
        assert (await chat(server, headers={"authorization": "Bearer k"})).status == 200


# Images and forms


def image(url: str) -> list[dict[str, object]]:
    parts = [{"type": "text", "text": "show"}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


async def test_an_image_comes_with_the_request(nanobot: Serving) -> None:
    told = json.loads(said(await chat(nanobot, messages=image("data:image/png;base64,iVBORw0KGgo="))))
    assert told["files"] == [["png", len(PIXEL)]]
    reply = await chat(nanobot, messages=image("https://images.example/cat.png"))
    assert (reply.status, reply.error["param"]) == (400, "messages[0].content[1].image_url.url")
    assert "Remote image URLs are not supported" in reply.error["message"]


def form(*fields: tuple[str, str | None, bytes]) -> bytes:
    """Name, file name and content of each field."""
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        % (BOUNDARY.encode(), name.encode(), b'; filename="%b"' % filename.encode() if filename else b"", data)
        for name, filename, data in fields
    ]
    return b"".join([*parts, b"--%b--\r\n" % BOUNDARY.encode()])


async def post_form(
    server: Serving,
    *fields: tuple[str, str | None, bytes],
    boundary: str = BOUNDARY,
    media_type: str = "multipart/form-data",
) -> Reply:
    headers = {"content-type": f"{media_type}; boundary={boundary}"}
    return await server.request("POST", "/v1/chat/completions", form(*fields), headers=headers)


async def test_a_form_brings_files(nanobot: Serving) -> None:
    reply = await post_form(
        nanobot,
        ("message", None, b"show these"),
        ("session_id", None, b"mine"),
        ("model", None, MODEL.encode()),
        ("files", "cat.png", PIXEL),
        ("files[]", "notes.txt", b"some notes"),
    )
    told = json.loads(said(reply))
    assert (told["session"], told["content"]) == ("api:mine", "show these")
    assert told["files"] == [["png", len(PIXEL)], ["txt", 10]]


async def test_a_form_needs_no_message_where_it_has_files(nanobot: Serving) -> None:
    assert (await post_form(nanobot, ("files", "cat.png", PIXEL))).status == 200
    assert (await post_form(nanobot, ("files", "cat.png", PIXEL), media_type="Multipart/Form-Data")).status == 200
    reply = await post_form(nanobot, ("session_id", None, b"mine"))
    assert (reply.status, reply.error["param"]) == (400, "message")


async def test_a_form_that_is_broken_is_said_to_be(nanobot: Serving) -> None:
    reply = await post_form(nanobot, ("message", None, b"hi"), boundary="other")
    assert (reply.status, reply.error["code"]) == (400, "invalid_form")
    headers = {"content-type": "multipart/form-data"}
    reply = await nanobot.request("POST", "/v1/chat/completions", b"x", headers=headers)
    assert (reply.status, reply.error["code"]) == (400, "invalid_form")
    reply = await post_form(nanobot, ("message", None, b"\xff"))
    assert (reply.status, reply.error["param"]) == (400, "message")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}},
        {"type": "image_url", "image_url": {"url": "data:image/png"}},
        {"type": "image_url", "image_url": 5},
        {"type": "image_url"},
        {"type": "text", "text": 5},
        5,
    ],
)
async def test_a_part_that_is_broken_is_not_called_too_large(nanobot: Serving, part: object) -> None:
    reply = await chat(nanobot, messages=[{"role": "user", "content": [{"type": "text", "text": "show"}, part]}])
    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
    assert reply.error["param"].startswith("messages")


async def test_a_body_has_a_bound(nanobot: Serving) -> None:
    reply = await post_form(nanobot, *[("files", f"{n}.bin", bytes(7_000_000)) for n in range(3)])
    assert reply.status == 413


async def test_a_file_of_a_form_has_a_bound(nanobot: Serving) -> None:
    reply = await post_form(nanobot, ("message", None, b"hi"), ("files", "big.bin", bytes(10 * 1024 * 1024 + 1)))
    assert (reply.status, reply.error["param"]) == (413, "files[0]")


async def test_turns_of_one_session_come_one_after_another(serve: Serve) -> None:
    one_for_all = toml().replace(":Agent", ":agent")
    nanobot_agent.agent.__init__()  # type: ignore[misc]
    agent = nanobot_agent.agent
    async with serve(one_for_all) as server:
        asked = [asyncio.create_task(chat(server, "wait", session_id=name)) for name in ("a", "a", "b")]
        await eventually(lambda: agent.active == 2)
        assert server.application.runtime.sessions.busy == 2
        agent.opened.set()
        assert [said(await one) for one in asked] == ["waited"] * 3
        await eventually(
            lambda: server.application.runtime.sessions.busy == 0
        )  # nothing is left of a session that rests
    assert agent.most_active == 2
