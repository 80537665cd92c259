"""Responses over every kind of backend: what a stream keeps, what is stored, and how one turn continues another."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.upstream import DONE, Do, FakeUpstream, frame, streamed, text_frame, usage_frame
from tests.responses import GET_WEATHER, Asking, call_output, check_object, check_stream, final_of, said
from tests.serving import Serving, eventually, serving

SCRIPT = r"""
[[rules]]
match = "weather"
steps = [
  { reasoning = "I need the tool. " },
  { text = "Let me " }, { text = "look. " },
  { call = "get_weather", arguments = ['{"city": ', '"Paris"}'], call_id = "call_a" },
]
[[rules]]
match = "two calls"
steps = [
  { call = "get_weather", call_id = "call_a", arguments = ["{}"] },
  { call = "get_weather", call_id = "call_b", arguments = ["{}"] },
]
[[rules]]
match = "refuse"
steps = [{ refusal = "I will " }, { refusal = "not." }]
[[rules]]
match = "summary"
steps = [{ summary = "Thinking" }, { text = "Done." }]
[[rules]]
match = "long"
steps = [{ text = "word ", repeat = 20 }]
[[rules]]
match = "fail midway"
steps = [{ text = "part" }, { error = "unavailable", message = "gone" }]
[[rules]]
match = "fail at once"
steps = [{ error = "rate_limited", message = "slow down", retry_after_s = 7 }]
[[rules]]
match = "hang"
steps = [{ text = "so far " }, { hang = true }]
"""
TOML = '[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n'
AGENT = """
import asyncio

from trunkline.agent import FunctionCall, Reasoning, ToolFinished, ToolStarted, Usage


async def agent(turn):
    if "weather" in turn.input and turn.tools:
        yield Reasoning("I need the tool. ")
        yield "Let me "
        yield "look. "
        yield FunctionCall("get_weather", {"city": "Paris"}, call_id="call_a")
    elif "hang in a tool" in turn.input:
        yield ToolStarted("call_1", "search", {"q": "cats"})
        await asyncio.Event().wait()
    elif "search" in turn.input:
        yield Reasoning("Cats.")
        yield "Looking. "
        yield ToolStarted("call_1", "search", {"q": "cats"}, label="cats")
        yield ToolFinished("call_1", output={"hits": 10})
        yield "Found ten."
    else:
        yield " | ".join(str(message["content"]) for message in turn.messages)
"""
PYTHON = '[backends.mine]\ntype = "python"\ntarget = "bot.py:agent"\n'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"script.toml": SCRIPT}) as served:
        yield served


@pytest.fixture
def client(server: Serving) -> Asking:
    return Asking(server)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("hello there", {}),
    ("the weather", {"tools": [GET_WEATHER]}),
    ("two calls", {"tools": [GET_WEATHER]}),
    ("refuse", {}),
    ("summary", {}),
    ("long", {"max_output_tokens": 3}),
    ("", {}),
]


@pytest.mark.parametrize(("text", "body"), CASES)
async def test_a_streamed_answer_is_what_is_stored_and_what_is_answered_whole(
    client: Asking, text: str, body: dict[str, Any]
) -> None:
    events = await client.stream(text, **body)
    final = check_stream(events)
    assert (await client.get(final["id"])).body == final_of(events)
    whole = await client.create(text, **body)
    assert (await client.get(whole["id"])).json() == whole
    assert _without_ids(whole) == _without_ids(final)


def _without_ids(response: dict[str, Any]) -> dict[str, Any]:
    output = [{key: value for key, value in item.items() if key != "id"} for item in response["output"]]
    left_out = {"id", "created_at", "completed_at"}
    return {**{key: value for key, value in response.items() if key not in left_out}, "output": output}


async def test_an_answer_cut_by_a_limit_says_so(client: Asking) -> None:
    cut = check_stream(await client.stream("long", max_output_tokens=3))
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_an_item_cut_by_an_upstreams_limit_says_so_where_it_ends(
    serve: Serve, upstream: FakeUpstream, reason: str
) -> None:
    call = {"index": 0, "id": "up_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"ci'}}
    begun = text_frame("Let me ") + text_frame("look.") + _delta({"tool_calls": [call]})
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        client = Asking(server, model="up-model")
        for answer, statuses in (
            (text_frame("So"), ["incomplete"]),
            (begun, ["completed", "incomplete"]),
            (begun + _delta({"tool_calls": [{"index": 0, "function": {"arguments": 'ty":1}'}}]}), ["completed"] * 2),
        ):
            upstream.plan(streamed(answer + text_frame(finish=reason) + usage_frame() + DONE))
            events = await client.stream(tools=[GET_WEATHER])
            final = check_stream(events)
            ended = [event.json["item"] for event in events if event.kind == "response.output_item.done"]
            assert [item["status"] for item in ended] == [item["status"] for item in final["output"]] == statuses
            assert final["status"] == "incomplete"


async def test_a_failure_in_a_stream_is_stored_as_it_was_said(client: Asking) -> None:
    events = await client.stream("fail midway")
    final = check_stream(events)
    assert final["status"] == "failed"
    assert final["error"]["message"] == "gone"
    assert final["output"][0]["status"] == "incomplete"
    assert (await client.get(final["id"])).body == final_of(events)
    refused = await client.post("fail at once", stream=True)
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")


# Chains


def _delta(delta: dict[str, Any]) -> bytes:
    return frame(
        {
            "id": "chatcmpl-up",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "up-model",
            "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
        }
    )


async def test_a_python_agent(serve: Serve) -> None:
    async with serve(PYTHON, scripts={"bot.py": AGENT}) as server:
        client = Asking(server, model="bot")
        events = await client.stream("search cats")
        searched = check_stream(events)
        kinds = [item["type"] for item in searched["output"]]
        assert kinds == ["reasoning", "message", "function_call", "function_call_output", "message"]
        assert searched["output"][2]["name"] == "search"
        assert searched["output"][3]["output"] == '{"hits":10}'
        assert (await client.get(searched["id"])).body == final_of(events)
        first = await client.create("one", previous_response_id=searched["id"])
        assert first["output_text"].startswith("search cats | Looking. ")
        second = await client.create("two", previous_response_id=first["id"])
        assert second["output_text"].endswith("| two")
        asked = await client.create("search cats")
        assert _without_ids(asked) == _without_ids(searched)


async def test_a_chain_and_a_deletion_in_it(serve: Serve) -> None:
    async with serve(PYTHON, scripts={"bot.py": AGENT}) as server:
        client = Asking(server, model="bot")
        first = await client.create("one")
        second = await client.create("two", previous_response_id=first["id"])
        assert second["output_text"] == "one | one | two"
        deleted = await client.delete(first["id"])
        assert deleted.json() == {"id": first["id"], "object": "response", "deleted": True}
        assert (await client.get(first["id"])).status == 404
        assert (await client.delete(first["id"])).status == 404
        third = await client.create("three", previous_response_id=second["id"])
        assert third["output_text"] == "one | one | two | one | one | two | three"
        gone = await client.post("x", previous_response_id=first["id"])
        assert gone.error["code"] == "previous_response_not_found"


async def test_a_conversation_that_is_only_a_name(serve: Serve) -> None:
    async with serve(PYTHON, scripts={"bot.py": AGENT}) as server:
        client = Asking(server, model="bot")
        first = await client.create("one", conversation="chat-1")
        assert first["conversation"] == {"id": "chat-1"}
        assert (await client.create("two", conversation={"id": "chat-1"}))["output_text"] == "one | one | two"
        assert (await client.create("two", conversation="chat-2"))["output_text"] == "two"
        both = await client.post("x", conversation="chat-1", previous_response_id=first["id"])
        assert (both.status, both.error["type"]) == (400, "invalid_request_error")
        unknown = await client.post("x", conversation="conv_nobody")
        assert (unknown.status, unknown.error["code"]) == (404, "conversation_not_found")


async def test_references_to_items(serve: Serve) -> None:
    """As clients send them that keep only ids of what the server has stored."""
    async with serve(PYTHON, scripts={"bot.py": AGENT}) as server:
        client = Asking(server, model="bot")
        first = await client.create("one")
        (message,) = first["output"]
        reference = {"type": "item_reference", "id": message["id"]}
        second = await client.create([said("one"), reference, said("two")])
        assert second["output_text"] == "one | one | two"
        listed = (await client.input_items(second["id"], "?order=asc"))["data"]
        assert [item["type"] for item in listed] == ["message", "message", "message"]
        assert listed[1] == message
        third = await client.create("three", previous_response_id=second["id"])
        assert third["output_text"] == "one | one | two | one | one | two | three"
        twice = await client.create([reference, said("two")], previous_response_id=first["id"])
        assert twice["output_text"] == "one | one | two"
        for unknown in ("msg_nobody_0", "msg", "rs_1"):
            refused = await client.post([{"type": "item_reference", "id": unknown}, said("x")])
            assert (refused.status, refused.error["code"]) == (400, "item_not_found")


async def test_every_item_of_a_long_turn_can_be_referred_to(serve: Serve) -> None:
    """A response that many references name is read once."""
    async with serve() as server:
        client = Asking(server)
        long = await client.create([said("hi") for _ in range(3000)])
        turn = long["id"].removeprefix("resp_")
        references = [{"type": "item_reference", "id": f"msg_{turn}_in{number}"} for number in range(3000)]
        assert (await client.create([*references, said("and?")]))["usage"]["input_tokens"] == 3001


async def test_an_own_tool_that_was_cut_does_not_block_what_follows(serve: Serve) -> None:
    async with serve(PYTHON, scripts={"bot.py": AGENT}) as server:
        client = Asking(server, model="bot")
        async with _leaving(
            client, "hang in a tool", b"output_item.done", model="bot", conversation="chat"
        ) as response_id:
            pass
        stored = await _stored(client, response_id)
        assert stored["status"] == "incomplete"
        assert [item["type"] for item in stored["output"]] == ["function_call"]
        assert (await client.create("hello", conversation="chat"))["output_text"] == "hang in a tool | hello"


async def test_a_call_that_was_cut_does_not_block_what_follows(serve: Serve, upstream: FakeUpstream) -> None:
    call = {"index": 0, "id": "up_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":'}}
    begun = streamed(text_frame("Let me ") + _delta({"tool_calls": [call]}))[:-1]
    upstream.plan([*begun, Do.HOLD], streamed(text_frame("Hello.") + text_frame(finish="stop") + usage_frame() + DONE))
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        client = Asking(server, model="up-model")
        told = {"model": "up-model", "conversation": "chat", "tools": [GET_WEATHER]}
        async with _leaving(client, "weather?", b"arguments.delta", **told) as response_id:
            pass
        await upstream.left.wait()
        stored = await _stored(client, response_id)
        assert [item["status"] for item in stored["output"]] == ["completed", "incomplete"]
        await client.create("hello", conversation="chat")
    assert [message["content"] for message in upstream.posts[1].json()["messages"]] == ["weather?", "Let me ", "hello"]


# What is kept


async def test_store_false_keeps_nothing(client: Asking) -> None:
    for stream in (False, True):
        reply = await client.post("hello", store=False, stream=stream)
        assert reply.status == 200
        response_id = reply.body.decode().split('"resp_')[1].split('"')[0]
        assert (await client.get(f"resp_{response_id}")).status == 404
        chained = await client.post("x", previous_response_id=f"resp_{response_id}")
        assert chained.error["code"] == "previous_response_not_found"


async def test_input_items_are_listed_in_pages(client: Asking) -> None:
    created = await client.create([said(f"message {n}") for n in range(5)])
    newest = await client.input_items(created["id"], "?limit=2")
    assert [item["content"][0]["text"] for item in newest["data"]] == ["message 4", "message 3"]
    assert newest["has_more"] is True
    assert newest["last_id"] == newest["data"][-1]["id"]
    texts, after = [], ""
    while True:
        page = await client.input_items(created["id"], f"?order=asc&limit=2{after}")
        texts += [item["content"][0]["text"] for item in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert texts == [f"message {n}" for n in range(5)]
    continued = await client.create("more", previous_response_id=created["id"])
    assert len((await client.input_items(continued["id"]))["data"]) == 1
    for query in ("?limit=0", "?limit=101", "?limit=x", "?order=up", "?after=msg_nobody"):
        assert (await client.get(created["id"], f"/input_items{query}")).status == 400


@contextlib.asynccontextmanager
async def _leaving(client: Asking, text: str, seen: bytes, **body: Any) -> AsyncIterator[str]:
    """A streamed response whose client reads until it has seen this much, and leaves at the block's end."""
    data = json.dumps({"model": "scripted", "input": text, "stream": True, **body}).encode()
    async with client.server.connect() as wire:
        await wire.send(b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        await wire.head()
        text_seen = await wire.until(seen)
        yield "resp_" + text_seen.decode().split('"resp_')[1].split('"')[0]


async def _stored(client: Asking, response_id: str) -> Any:
    """What is kept of a response whose client left; it is written after the backend has been stopped."""
    while (reply := await client.get(response_id)).status == 404 or reply.json()["status"] == "in_progress":
        pass
    return reply.json()


async def test_a_client_that_leaves_stops_the_work_and_finds_what_had_been_said(
    client: Asking, server: Serving
) -> None:
    async with _leaving(client, "hang", b"so far") as response_id:
        assert server.backend().active == 1
    await eventually(lambda: server.backend().active == 0)
    stored = await _stored(client, response_id)
    assert stored["status"] == "incomplete"
    assert stored["output_text"] == "so far "
    assert stored["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("setting", ['"finish"', "60"])
async def test_work_that_may_end_without_its_client(serve: Serve, upstream: FakeUpstream, setting: str) -> None:
    go_on = asyncio.Event()
    first, rest = text_frame("so far "), text_frame("and on") + text_frame(finish="stop") + usage_frame() + DONE
    begun = streamed(first)[:-1]
    upstream.plan([*begun, go_on, *streamed(rest)[1:]])
    toml = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\non_disconnect = {setting}\n'
    async with serve(toml) as server:
        client = Asking(server, model="up-model")
        async with _leaving(client, "x", b"so far", model="up-model") as response_id:
            pass
        while (reply := await client.get(response_id)).status == 404:
            pass  # until it has been noticed that the client has left
        check_object(reply.json())
        assert (reply.json()["id"], reply.json()["status"]) == (response_id, "in_progress")
        assert (await client.get(response_id, "?stream=true")).status == 404
        go_on.set()
        stored = await _stored(client, response_id)
        assert (stored["status"], stored["output_text"]) == ("completed", "so far and on")


# Tenants


async def test_tenants_do_not_see_each_other(serve: Serve) -> None:
    toml = '[server]\nkeys = [{ key = "sk-a", name = "a" }, { key = "sk-b", name = "b" }]\n' + TOML
    async with serve(toml, scripts={"script.toml": SCRIPT}) as server:
        mine, theirs = Asking(server, key="sk-a"), Asking(server, key="sk-b")
        created = await mine.create("hello", conversation="chat")
        running = await mine.create("hang", background=True)
        for response_id in (created["id"], running["id"]):
            unknown = (await theirs.get("resp_nobody")).body.replace(b"resp_nobody", response_id.encode())
            for suffix in ("", "?stream=true", "/input_items"):
                assert (await theirs.get(response_id, suffix)).status == 404
            assert (await theirs.get(response_id)).body == unknown
            assert (await theirs.cancel(response_id)).status == 404
            assert (await theirs.delete(response_id)).status == 404
            chained = await theirs.post("x", previous_response_id=response_id)
            assert chained.error["code"] == "previous_response_not_found"
        reference = [{"type": "item_reference", "id": created["output"][0]["id"]}, said("x")]
        assert (await theirs.post(reference)).error["code"] == "item_not_found"
        assert (await theirs.create("two", conversation="chat"))["output_text"] == "two"
        assert server.backend().active == 1
        assert (await mine.cancel(running["id"])).json()["status"] == "cancelled"


# Errors

Body = dict[str, Any]
USER = said("x")
ERRORS: list[tuple[Body, int, str | None, str | None, str]] = [
    (
        {"previous_response_id": "resp_nobody"},
        400,
        "previous_response_not_found",
        "previous_response_id",
        "Previous response",
    ),
    (
        {"input": [call_output("call_x")]},
        400,
        None,
        "input",
        "No tool call found for function call output with call_id",
    ),
    (
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]},
        400,
        None,
        "input",
        "No tool output found for function call",
    ),
    (
        {"input": [USER, {"type": "reasoning", "summary": [{"text": "x"}]}]},
        400,
        "missing_required_parameter",
        "input[1].summary[0].type",
        "",
    ),
    ({"input": [{"role": "user", "content": 5}]}, 400, "invalid_type", "input[0].content", "expected a string"),
    ({"input": 5}, 400, "invalid_type", "input", "expected"),
    ({"input": []}, 400, "empty_array", "input", ""),
    ({"truncation": "some"}, 400, "invalid_value", "truncation", ""),
    ({"max_output_tokens": 0}, 400, "integer_below_min_value", "max_output_tokens", ""),
    ({"top_p": 3}, 400, "decimal_above_max_value", "top_p", ""),
    (
        {"tools": [{"type": "function", "name": "f", "parameters": 5}]},
        400,
        None,
        "tools[0].parameters",
        "",
    ),
    ({"background": True, "store": False}, 400, None, "background", "store"),
    ({"model": "nobody"}, 400, "model_not_found", "model", "nobody"),
    ({"model": "nobody", "background": True}, 400, "model_not_found", "model", "nobody"),
    ({"stream": "maybe"}, 400, None, "stream", ""),
    ({"conversation": "c", "previous_response_id": "resp_x"}, 400, None, None, ""),
    ({"prompt": {"id": "p"}}, 400, None, "prompt", ""),
]


@pytest.mark.parametrize(("body", "status", "code", "param", "message"), ERRORS)
async def test_errors(
    client: Asking, body: Body, status: int, code: str | None, param: str | None, message: str
) -> None:
    for stream in (False, True):
        reply = await client.post(**{"text": "hello", "stream": stream, **_as_arguments(body)})
        assert reply.status == status, reply
        assert reply.error["type"] == "invalid_request_error"
        assert code is None or reply.error["code"] == code, reply.error
        assert param is None or reply.error["param"] == param, reply.error
        assert message in reply.error["message"]


def _as_arguments(body: Body) -> Body:
    return {"text" if key == "input" else key: value for key, value in body.items()}


@pytest.mark.parametrize("path", ["", "?stream=true", "/input_items"])
async def test_what_is_unknown_is_a_404(client: Asking, path: str) -> None:
    for response_id in ("resp_nobody", "x", "resp_" + "a" * 3000, "%00", "%F0%9F%98%80"):
        reply = await client.get(response_id, path)
        assert reply.status == 404, reply
        assert len(reply.error["message"]) < 400


async def test_what_was_not_in_the_background_can_be_neither_resumed_nor_cancelled(client: Asking) -> None:
    created = await client.create("hello")
    assert (await client.get(created["id"], "?stream=true&starting_after=1")).status == 400
    assert (await client.cancel(created["id"])).status == 400
    assert (await client.cancel("resp_nobody")).status == 404


async def test_a_failure_after_the_head_and_before_the_answer_is_whole_and_stored(serve: Serve) -> None:
    script = '[[rules]]\nsteps = [{ pause_s = 1.2 }, { error = "unavailable", message = "too late" }]\n'
    async with serve(TOML, scripts={"script.toml": script}) as server:  # the head leaves after a second
        client = Asking(server)
        events = await client.stream("x")
        final = check_stream(events)
        assert (final["status"], final["error"]["message"]) == ("failed", "too late")
        assert (await client.get(final["id"])).body == final_of(events)
