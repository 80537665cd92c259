"""Chat completions that are asked to be stored: what is kept, for every way of answering, and what can be asked of it."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.upstream import (
    COMPLETION,
    DONE,
    END,
    HELLO,
    Do,
    FakeUpstream,
    chunk,
    json_answer,
    pieces,
    streamed,
    text_frame,
    usage_frame,
)
from tests.fakes.upstream import STREAM as STREAM_HEAD
from tests.serving import Reply, Serving, eventually, read_frames, user

PATH = "/v1/chat/completions"
TENANTS = """
[[server.keys]]
key = "sk-ada"
name = "ada"
[[server.keys]]
key = "sk-bob"
name = "bob"
[backends.talk]
type = "scripted"
"""
SCRIPT = """
[[rules]]
match = "weather"
steps = [
  { reasoning = "A tool. " }, { text = "Let me look. " },
  { call = "get_weather", arguments = ['{"city": ', '"Paris"}'], call_id = "call_a" },
]
[[rules]]
match = "fail"
steps = [{ text = "part" }, { error = "unavailable", message = "gone" }]
[[rules]]
match = "hang"
steps = [{ text = "on" }, { hang = true }]
"""
SCRIPTED = '[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n'
WEATHER = [{"type": "function", "function": {"name": "get_weather"}}]


async def listed(server: Serving, query: str = "", **headers: str) -> list[Any]:
    reply = await server.get(f"{PATH}?{query}", headers=headers or None)
    assert reply.status == 200, reply.body
    return list(reply.json()["data"])


async def stored(server: Serving, text: str = "hello there", **body: Any) -> Any:
    reply = await server.chat(text, store=True, **body)
    assert reply.status == 200, reply.body
    return reply.json()


async def described(server: Serving, completion_id: str, body: object) -> Reply:
    return await server.request("POST", f"{PATH}/{completion_id}", json.dumps(body).encode())


def http(upstream: FakeUpstream) -> str:
    return f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n'


async def test_what_is_kept_is_what_was_said(echo: Serving) -> None:
    completion = await stored(echo, metadata={"a": "b"})
    kept = (await echo.get(f"{PATH}/{completion['id']}")).json()
    assert kept == {**completion, "metadata": {"a": "b"}}
    assert await listed(echo) == [kept]


async def test_nothing_is_kept_that_was_not_asked_to_be(echo: Serving) -> None:
    for store in ({}, {"store": False}, {"store": None}, {"store": "false"}):
        reply = await echo.chat(**store)
        assert (await echo.get(f"{PATH}/{reply.json()['id']}")).status == 404
    assert await listed(echo) == []
    assert (await stored(echo, n=2))["id"] == (await listed(echo))[0]["id"]


@pytest.mark.parametrize("text", ["hello there", "what is the weather"])
async def test_a_stream_is_kept_as_the_whole_answer_would_be(serve: Serve, text: str) -> None:
    async with serve(SCRIPTED, scripts={"script.toml": SCRIPT}) as server:
        tools: dict[str, Any] = {"tools": WEATHER} if "weather" in text else {}
        whole = await stored(server, text, **tools)
        reply = await server.chat(text, store=True, stream=True, **tools)
        assert reply.frames[-1] == "[DONE]"
        first, second = await listed(server)
        assert second["id"] == reply.frames[0]["id"]
        assert second["choices"] == first["choices"] == whole["choices"]
        assert second["usage"] == whole["usage"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_what_a_model_server_says_is_kept_under_an_id_of_ours(
    serve: Serve, upstream: FakeUpstream, stream: bool
) -> None:
    async with serve(http(upstream)) as server:
        upstream.plan(streamed(HELLO, size=7) if stream else [json_answer(COMPLETION)])
        reply = await server.chat("Hi", model="up-model", store=True, stream=stream)
        assert reply.status == 200
        said = reply.frames[0] if stream else reply.json()
        assert said["id"].startswith("chatcmpl-")
        assert said["id"] != "chatcmpl-up"
        kept = (await server.get(f"{PATH}/{said['id']}")).json()
        assert kept["created"] == said["created"] != COMPLETION["created"]
        assert kept["choices"][0]["message"]["content"] == "Hello"
        assert kept["usage"] == COMPLETION["usage"]
        assert (kept["model"], kept["object"]) == ("up-model", "chat.completion")


async def test_an_answer_that_is_not_kept_is_relayed_as_before(serve: Serve, upstream: FakeUpstream) -> None:
    async with serve(http(upstream)) as server:
        upstream.plan([json_answer(COMPLETION)])
        assert (await server.chat(model="up-model")).json() == COMPLETION


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_failed_answer_is_not_kept(serve: Serve, stream: bool) -> None:
    async with serve(SCRIPTED, scripts={"script.toml": SCRIPT}) as server:
        reply = await server.chat("fail", store=True, stream=stream)
        if stream:
            assert reply.frames[-1]["error"]["message"] == "gone"
        else:
            assert reply.status == 503
        assert await listed(server) == []


async def test_an_answer_cut_off_upstream_is_not_kept(serve: Serve, upstream: FakeUpstream) -> None:
    async with serve(http(upstream)) as server:
        upstream.plan([STREAM_HEAD, *pieces(text_frame("Hel"), 500), Do.CLOSE])
        reply = await server.chat(model="up-model", store=True, stream=True)
        assert "error" in reply.frames[-1]
        assert await listed(server) == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_answer_whose_client_left_is_not_kept(serve: Serve, stream: bool) -> None:
    async with serve(SCRIPTED, scripts={"script.toml": SCRIPT}) as server:
        async with server.connect() as wire:
            await wire.send_chat({"model": "scripted", "messages": user("hang"), "store": True, "stream": stream})
            await eventually(lambda: server.backend().active == 1)
        await eventually(lambda: server.backend().active == 0)
        assert await listed(server) == []


async def test_a_store_that_fails_leaves_no_false_success(echo: Serving) -> None:
    await echo.application._store.close()
    whole = await echo.chat(store=True)
    assert (whole.status, whole.error["type"]) == (503, "server_error")
    frames = (await echo.chat(store=True, stream=True)).frames
    assert frames[-1].keys() == {"error"}
    assert "[DONE]" not in frames
    assert all(choice["finish_reason"] is None for frame in frames[:-1] for choice in frame["choices"])
    assert (await echo.chat()).status == 200


async def test_no_finish_reason_leaves_before_the_completion_is_kept(serve: Serve, upstream: FakeUpstream) -> None:
    """The upstream's finish reason comes long before its end; it must not pass as success when storing then fails."""
    finished = asyncio.Event()
    text, end = text_frame("Hello") + text_frame(finish="stop"), usage_frame() + DONE
    async with serve(http(upstream)) as server:
        upstream.plan([STREAM_HEAD, chunk(text), finished, chunk(end), END])
        async with server.connect() as wire:
            await wire.send_chat({"model": "up-model", "messages": user("x"), "store": True, "stream": True})
            await wire.head()
            seen = await wire.until(b"Hello")
            await server.application._store.close()
            finished.set()
            while piece := await wire.chunk():
                seen += piece
    frames = read_frames(seen)
    assert [frame.keys() == {"error"} for frame in frames] == [False, True]
    assert frames[0]["choices"][0]["finish_reason"] is None


async def test_finish_reasons_of_several_choices_come_before_the_end(echo: Serving) -> None:
    frames = (await echo.chat(store=True, stream=True, n=3, stream_options={"include_usage": True})).frames
    assert frames[-1] == "[DONE]"
    assert frames[-2]["choices"] == []
    ends = [choice["index"] for frame in frames[-5:-2] for choice in frame["choices"] if choice["finish_reason"]]
    assert sorted(ends) == [0, 1, 2]


MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Time?"}], "name": "ada"},
    {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "clock", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c", "content": "noon"},
]


async def test_messages_are_listed_with_ids_and_parts(echo: Serving) -> None:
    completion = await stored(echo, messages=MESSAGES)
    path = f"{PATH}/{completion['id']}/messages"
    listing = (await echo.get(path)).json()
    assert (listing["object"], listing["has_more"]) == ("list", False)
    ids = [message.pop("id") for message in listing["data"]]
    assert ids == [f"{completion['id']}-{number}" for number in range(4)]
    assert (listing["first_id"], listing["last_id"]) == (ids[0], ids[-1])
    assert listing["data"] == [
        {**MESSAGES[0], "content_parts": None},
        {**MESSAGES[1], "content": None, "content_parts": MESSAGES[1]["content"]},
        {**MESSAGES[2], "content": None, "content_parts": None},
        {**MESSAGES[3], "content_parts": None},
    ]
    page = (await echo.get(f"{path}?limit=2&order=desc&after={ids[3]}")).json()
    assert ([message["id"] for message in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
    assert (await echo.get(f"{path}?after=no")).error["param"] == "after"


async def test_the_list_has_pages_order_and_filters(serve: Serve) -> None:
    async with serve('[backends.talk]\ntype = "scripted"\nmodels = ["a", "b"]\n') as server:
        made = [
            (await stored(server, model="ab"[number % 2], metadata={"n": str(number), "half": str(number // 3)}))["id"]
            for number in range(6)
        ]

        async def ids(query: str) -> list[str]:
            return [completion["id"] for completion in await listed(server, query)]

        assert await ids("") == made
        assert await ids("order=desc") == made[::-1]
        assert await ids("model=b") == made[1::2]
        assert await ids("metadata[half]=1") == made[3:]
        assert await ids("metadata%5Bhalf%5D=1&metadata%5Bn%5D=4") == [made[4]]
        assert await ids("metadata[half]=1&model=a&limit=1") == [made[4]]
        assert await ids("metadata[none]=1") == []
        assert await ids(f"limit=2&after={made[1]}") == made[2:4]
        page = (await server.get(f"{PATH}?limit=2&after={made[3]}")).json()
        assert (page["first_id"], page["last_id"], page["has_more"]) == (made[4], made[5], False)
        for query, param in (("limit=0", "limit"), ("order=x", "order"), ("after=no", "after")):
            reply = await server.get(f"{PATH}?{query}")
            assert (reply.status, reply.error["param"]) == (400, param)


async def test_metadata_is_changed_and_found_by(echo: Serving) -> None:
    completion = await stored(echo, metadata={"a": "b"})
    changed = await described(echo, completion["id"], {"metadata": {"c": "d"}})
    assert changed.json() == {**completion, "metadata": {"c": "d"}}
    assert (await echo.get(f"{PATH}/{completion['id']}")).body == changed.body
    assert (await listed(echo, "metadata[a]=b"), len(await listed(echo, "metadata[c]=d"))) == ([], 1)
    assert (await described(echo, completion["id"], {})).error["code"] == "missing_required_parameter"
    assert (await described(echo, completion["id"], {"metadata": {"a": 1}})).error["param"] == "metadata.a"
    assert (await described(echo, completion["id"], {"metadata": None})).json()["metadata"] == {}


async def test_metadata_that_cannot_be_kept_is_refused_before_anything_is_answered(echo: Serving) -> None:
    for metadata, param in (({"a": "x" * 513}, "metadata.a"), ({str(number): "" for number in range(17)}, "metadata")):
        for stream in (False, True):
            reply = await echo.chat(store=True, stream=stream, metadata=metadata)
            assert (reply.status, reply.error["param"]) == (400, param)
    assert await listed(echo) == []


async def test_a_filter_may_ask_for_an_empty_value(echo: Serving) -> None:
    empty = (await stored(echo, metadata={"a": ""}))["id"]
    await stored(echo, metadata={"a": "b"})
    await stored(echo)
    assert [completion["id"] for completion in await listed(echo, "metadata[a]=")] == [empty]


async def test_a_deleted_one_is_gone(echo: Serving) -> None:
    completion = await stored(echo)
    path = f"{PATH}/{completion['id']}"
    gone = await echo.request("DELETE", path)
    assert gone.json() == {"id": completion["id"], "object": "chat.completion.deleted", "deleted": True}
    for method, where, body in (
        ("GET", path, None),
        ("DELETE", path, None),
        ("POST", path, b'{"metadata": {}}'),
        ("GET", f"{path}/messages", None),
    ):
        reply = await echo.request(method, where, body)
        assert (reply.status, reply.error["code"]) == (404, "chat_completion_not_found"), method
    assert await listed(echo) == []


async def test_a_foreign_completion_is_an_unknown_one(serve: Serve) -> None:
    async with serve(TENANTS) as server:
        ada: Mapping[str, str] = {"authorization": "Bearer sk-ada"}
        bob: Mapping[str, str] = {"authorization": "Bearer sk-bob"}
        path = f"{PATH}/{(await server.chat(store=True, headers=ada)).json()['id']}"
        for method, where, body in (
            ("GET", path, None),
            ("DELETE", path, None),
            ("POST", path, b'{"metadata": {}}'),
            ("GET", f"{path}/messages", None),
        ):
            assert (await server.request(method, where, body, headers=bob)).status == 404
        assert await listed(server, **bob) == []
        assert len(await listed(server, **ada)) == 1


async def test_storing_is_honoured_by_every_backend_and_named_by_none(serve: Serve) -> None:
    agent = "async def agent(turn):\n    yield turn.input[::-1]\n"
    async with serve('[backends.py]\ntype = "python"\ntarget = "bot.py:agent"\n', scripts={"bot.py": agent}) as server:
        model = (await server.get("/v1/models")).json()["data"][0]["id"]
        reply = await server.chat("live", model=model, store=True)
        assert "x-trunkline-ignored" not in reply.headers
        assert (await listed(server))[0]["choices"][0]["message"]["content"] == "evil"


async def test_what_an_upstream_adds_is_kept_too(serve: Serve, upstream: FakeUpstream) -> None:
    async with serve(http(upstream)) as server:
        stream = text_frame("Hi", system_fingerprint="fp_1") + text_frame(finish="length") + DONE
        upstream.plan(streamed(stream))
        reply = await server.chat(model="up-model", store=True, stream=True)
        assert reply.frames[-1] == "[DONE]"
        (kept,) = await listed(server)
        assert (kept["system_fingerprint"], kept["choices"][0]["finish_reason"]) == ("fp_1", "length")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_answer_that_may_end_without_its_client_is_kept(
    serve: Serve, upstream: FakeUpstream, stream: bool
) -> None:
    go_on = asyncio.Event()
    async with serve(http(upstream) + 'on_disconnect = "finish"\n') as server:
        upstream.plan([go_on, *streamed(HELLO)] if stream else [go_on, json_answer(COMPLETION)])
        async with server.connect() as wire:
            await wire.send_chat({"model": "up-model", "messages": user("x"), "store": True, "stream": stream})
            await eventually(lambda: len(upstream.posts) == 1)
        go_on.set()
        while not (kept := await listed(server)):
            pass
        assert kept[0]["choices"][0]["message"]["content"] == "Hello"
