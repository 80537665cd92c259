"""`tool_items = "mcp_call"`: an agent's own tools as items that no client takes for calls of its own."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.responses_upstream import FakeResponses, fake_responses
from tests.fakes.upstream import COMPLETION, FakeUpstream, json_answer
from tests.responses import ITEM, Asking, call_output, check_object, check_stream, events_in, said
from tests.serving import Serving
from tests.sockets import socket, streamed

AGENT = """
import json
from trunkline.agent import FunctionCall, ToolFinished, ToolStarted

async def agent(turn):
    if turn.input == "history":
        yield json.dumps(turn.messages)
        return
    if turn.input == "call":
        yield ToolStarted("c1", "look", {})
        yield ToolFinished("c1", "sunny")
        if turn.messages[-1]["role"] == "tool":
            yield "told " + turn.messages[-1]["content"]
        else:
            yield FunctionCall("get_weather", {"city": "Paris"}, call_id="c2")
        return
    yield "Looking. "
    yield ToolStarted("c1", "search", {"q": "cats"}, label="cats")
    yield ToolStarted("c2", "_secret", {})
    if turn.input == "parallel":
        yield ToolStarted("c3", "shell")
        yield "One moment. "
        yield ToolFinished("c3", "no shell", failed=True)
    yield ToolFinished("c2", "hidden")
    yield ToolFinished("c1", "10 results")
    if turn.input == "unfinished":
        yield ToolStarted("c4", "sleep", {})
    yield "Done."
"""
SETTING = '[server]\ntool_items = "mcp_call"\n'
BOT = '[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\nclient_tools = true\nsessions = true\n'
SCRIPTS = {"bot.py": AGENT}
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Serving]:
    async with serve(SETTING + BOT, scripts=SCRIPTS) as served:
        yield served


@pytest.fixture
def client(server: Serving) -> Asking:
    return Asking(server, model="bot")


def run(item: Any) -> tuple[str, str, str, str | None]:
    return item["name"], item["status"], item["arguments"], item["output"]


def kinds(items: list[Any]) -> list[str]:
    return [item["type"] for item in items]


def without_ids(value: Any, response_id: str) -> Any:
    return json.loads(json.dumps(value).replace(response_id.removeprefix("resp_"), ""))


def without_id(item: Any) -> Any:
    return {key: value for key, value in item.items() if key != "id"}


async def test_a_tool_that_the_agent_ran_is_one_item(client: Asking) -> None:
    response = await client.create("go")
    check_object(response)
    assert kinds(response["output"]) == ["message", "mcp_call", "message"]
    item = response["output"][1]
    ITEM.validate_json(json.dumps(item), strict=True)
    assert run(item) == ("search", "completed", '{"q":"cats"}', "10 results")
    assert item == {
        **item,
        "id": f"mcp_{response['id'].removeprefix('resp_')}_1",
        "server_label": "agent",
        "error": None,
        "approval_request_id": None,
    }
    assert (await client.get(response["id"])).json() == response


async def test_whole_and_streamed_are_the_same(client: Asking) -> None:
    for text in ("go", "parallel", "unfinished"):
        whole = await client.create(text)
        final = check_stream(await client.stream(text))
        assert without_ids(whole["output"], whole["id"]) == without_ids(final["output"], final["id"])


async def test_an_item_stays_open_while_the_agent_speaks(client: Asking) -> None:
    events = await client.stream("parallel")
    final = check_stream(events)
    assert kinds(final["output"]) == ["message", "mcp_call", "mcp_call", "message", "message"]
    told = [
        (event.kind.removeprefix("response."), event.json["output_index"])
        for event in events
        if "mcp_call" in event.kind or event.kind.endswith("output_text.delta") or ".output_item." in event.kind
    ]
    assert told == [
        ("output_item.added", 0),
        ("output_text.delta", 0),
        ("output_item.done", 0),
        ("output_item.added", 1),
        ("mcp_call.in_progress", 1),
        ("mcp_call_arguments.delta", 1),
        ("mcp_call_arguments.done", 1),
        ("output_item.added", 2),
        ("mcp_call.in_progress", 2),
        ("mcp_call_arguments.delta", 2),
        ("mcp_call_arguments.done", 2),
        ("output_item.added", 3),
        ("output_text.delta", 3),
        ("output_item.done", 3),
        ("mcp_call.failed", 2),
        ("output_item.done", 2),
        ("mcp_call.completed", 1),
        ("output_item.done", 1),
        ("output_item.added", 4),
        ("output_text.delta", 4),
        ("output_item.done", 4),
    ]
    progress = [event.json["progress"] for event in events if "progress" in event.json]
    assert [(one["tool"], one["status"], one.get("failed")) for one in progress] == [
        ("search", "running", None),
        ("shell", "running", None),
        ("shell", "completed", True),
        ("search", "completed", False),
    ]
    assert progress[0]["label"] == "cats"


async def test_a_tool_that_failed_says_why(client: Asking) -> None:
    response = await client.create("parallel")
    failed = response["output"][2]
    assert run(failed) == ("shell", "failed", "{}", None)
    assert failed["error"] == {
        "type": "mcp_tool_execution_error",
        "content": [{"type": "text", "text": "no shell"}],
    }
    again = await client.create("history", previous_response_id=response["id"])
    told = [one["content"] for one in json.loads(again["output_text"]) if one["role"] == "tool"]
    assert told == ["10 results", "no shell"]


async def test_a_tool_that_never_ended_is_incomplete(client: Asking) -> None:
    response = await client.create("unfinished")
    assert run(response["output"][2]) == ("sleep", "incomplete", "{}", "")
    assert response["output"][2]["error"] is None


async def test_calls_for_the_client_stay_calls(client: Asking) -> None:
    response = await client.create("call", tools=[WEATHER])
    assert kinds(response["output"]) == ["mcp_call", "function_call"]
    again = await client.create(
        [call_output("c2", "rain")], previous_response_id=response["id"], tools=[WEATHER], stream=False
    )
    assert again["output_text"] == "told rain"


async def test_a_background_run_replays_them(client: Asking) -> None:
    queued = await client.create("parallel", background=True)
    ended = await client.ended(queued["id"])
    events = await client.resume(queued["id"])
    assert check_stream(events)["output"] == ended["output"]
    assert kinds(ended["output"]) == ["message", "mcp_call", "mcp_call", "message", "message"]
    assert await client.resume(queued["id"], 9) == events[10:]


@pytest.mark.parametrize("store", [True, False])
async def test_over_a_websocket(server: Serving, store: bool) -> None:
    async with socket(server, model="bot") as ws:
        final = check_stream(streamed(await ws.turn("parallel", store=store)))
        assert kinds(final["output"]) == ["message", "mcp_call", "mcp_call", "message", "message"]
        history = json.loads((await ws.answer("history", previous_response_id=final["id"]))["output_text"])
    assert [one["role"] for one in history].count("tool") == 2


async def history_of(client: Asking, **body: Any) -> Any:
    return json.loads((await client.create("history", **body))["output_text"])


async def test_the_agent_is_told_the_same_history_either_way(serve: Serve) -> None:
    told = []
    for setting in ("", SETTING):
        async with serve(setting + BOT, scripts=SCRIPTS) as server:
            client = Asking(server, model="bot")
            first = await client.create("go")
            chained = await history_of(client, previous_response_id=first["id"])
            told.append(chained)
            await client.create("go", conversation="chat")
            assert await history_of(client, conversation="chat") == chained
            given = [said("go"), *first["output"], said("history")]
            asked = await client.create(given)
            assert json.loads(asked["output_text"]) == chained
            assert await sessions_history(server) == chained
    assert told[0] == told[1]
    assert [one["role"] for one in told[0]] == ["user", "assistant", "tool", "assistant", "user"]


async def sessions_history(server: Serving) -> Any:
    named = {"x-session-id": "s"}
    await server.request("POST", "/v1/responses", b'{"model": "bot", "input": "go"}', headers=named)
    reply = await server.request("POST", "/v1/responses", b'{"model": "bot", "input": "history"}', headers=named)
    return json.loads(reply.json()["output_text"])


async def test_what_a_client_sends_back_is_listed_as_it_was_sent(client: Asking) -> None:
    first = await client.create("go")
    second = await client.create([said("go"), *first["output"], said("history")])
    listed = (await client.input_items(second["id"], "?order=asc"))["data"]
    assert listed[2] == first["output"][1]
    third = await client.create([{"type": "item_reference", "id": first["output"][1]["id"]}, said("history")])
    assert [one["role"] for one in json.loads(third["output_text"])] == ["assistant", "tool", "user"]


BARE = {"type": "mcp_call", "id": "mcp_1", "server_label": "wiki", "name": "look", "arguments": "{}"}


@pytest.mark.parametrize(
    ("more", "output"),
    [
        ({"output": "found"}, "found"),
        ({}, ""),
        ({"error": {"type": "http_error", "code": 500, "message": "gone"}}, "gone"),
        ({"error": {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": "no"}]}}, "no"),
        ({"error": {"type": "mcp_tool_execution_error", "content": {"why": 1}}}, '{"why":1}'),
        ({"error": "broken"}, "broken"),
    ],
)
async def test_another_server_s_run_is_a_call_and_its_output(client: Asking, more: Any, output: str) -> None:
    response = await client.create([said("hi"), {**BARE, **more}, said("history")])
    history = json.loads(response["output_text"])
    assert history[1]["tool_calls"] == [
        {"id": "mcp_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    ]
    assert history[2] == {"role": "tool", "tool_call_id": "mcp_1", "content": output}


@pytest.mark.parametrize("key", ["id", "name", "arguments"])
async def test_a_run_that_does_not_say_what_was_called_is_refused(client: Asking, key: str) -> None:
    reply = await client.post([said("hi"), {name: value for name, value in BARE.items() if name != key}])
    assert (reply.status, reply.error["param"]) == (400, f"input[1].{key}")


async def test_a_chat_upstream_gets_calls_and_outputs(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan([json_answer(COMPLETION)])
    more = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n'
    async with serve(SETTING + BOT + more, scripts=SCRIPTS) as server:
        first = await Asking(server, model="bot").create("parallel")
        await Asking(server, model="up-model").create("and?", previous_response_id=first["id"])
    messages = upstream.posts[0].json()["messages"]
    assert [one["role"] for one in messages] == ["user", *["assistant", "tool"] * 2, "assistant", "assistant", "user"]
    assert [one["content"] for one in messages if one["role"] == "tool"] == ["10 results", "no shell"]


@pytest.fixture
async def native() -> AsyncIterator[FakeResponses]:
    async with fake_responses() as upstream:
        yield upstream


async def test_an_upstream_of_the_same_dialect_gets_ours_as_calls_and_its_own_as_they_are(
    serve: Serve, native: FakeResponses
) -> None:
    more = f'[backends.up]\ntype = "http"\ndialect = "openai_responses"\nendpoints = ["{native.url}"]\n'
    theirs = {**BARE, "output": "found", "status": "completed", "error": None, "approval_request_id": None}
    async with serve(SETTING + BOT + more, scripts=SCRIPTS) as server:
        first = await Asking(server, model="bot").create("go")
        await Asking(server, model="up-model").create([theirs, said("and?")], previous_response_id=first["id"])
        await Asking(server, model="up-model").create([said("go"), *first["output"], theirs, said("and?")])
    for post in native.posts:
        items = post.json()["input"]
        assert [item.get("type", "message") for item in items] == [
            *("message", "message", "function_call", "function_call_output", "message"),
            *("mcp_call", "message"),
        ]
        assert items[2]["call_id"] == items[3]["call_id"] == "c1"
        assert items[5] == theirs


async def test_a_run_tells_of_its_tools_as_ever(serve: Serve) -> None:
    seen = []
    for setting in ("", SETTING):
        async with serve(setting + BOT, scripts=SCRIPTS) as server:
            started = await server.request("POST", "/v1/runs", b'{"model": "bot", "input": "go"}')
            reply = await server.get(f"/v1/runs/{started.json()['run_id']}/events")
            frames = [line for line in reply.body.split(b"\n") if line.startswith(b"data: ")]
            events = [json.loads(frame.removeprefix(b"data: ")) for frame in frames]
            tools = [(one["event"], one["tool"]) for one in events if one["event"].startswith("tool.")]
            seen.append((tools, events[-1]["messages"]))
    assert seen[0] == seen[1]
    assert seen[0][0] == [("tool.started", "search"), ("tool.completed", "search")]


async def test_clients_of_a_profile_that_wants_outputs_as_lists_read_text(serve: Serve) -> None:
    async with serve(f'{SETTING}profile = "hermes"\napi_keys = ["k"]\n{BOT}', scripts=SCRIPTS) as server:
        client = Asking(server, model="bot", key="k")
        reply = await client.post("go", stream=True)
    assert b'"output": "10 results"' in reply.body
    assert b"input_text" not in reply.body


HANGS = """
import asyncio
from trunkline.agent import ToolFinished, ToolStarted

async def agent(turn):
    if turn.input == "history":
        yield str([message["role"] for message in turn.messages])
        return
    yield "Looking. "
    yield ToolStarted("c1", "search", {})
    await asyncio.Event().wait()
"""


async def test_what_a_cut_left_behind_is_no_part_of_the_next_turn_s_history(serve: Serve) -> None:
    told, outputs = [], []
    for setting in ("", SETTING):
        async with serve(setting + BOT, scripts={"bot.py": HANGS}) as server:
            client = Asking(server, model="bot")
            queued = await client.create("go", background=True)
            async with server.connect() as wire:
                await wire.send(b"GET /v1/responses/%b?stream=true HTTP/1.1\r\nHost: x\r\n\r\n" % queued["id"].encode())
                await wire.head()
                await wire.until(b"arguments.done")
            assert (await client.cancel(queued["id"])).json()["status"] == "cancelled"
            outputs.append((await client.ended(queued["id"]))["output"])
            assert check_stream(await client.resume(queued["id"]))["output"] == outputs[-1]
            told.append((await client.create("history", previous_response_id=queued["id"]))["output_text"])
    assert kinds(outputs[1]) == ["message", "mcp_call"]
    assert run(outputs[1][1]) == ("search", "incomplete", "{}", None)
    assert told == ["['user', 'assistant', 'user']"] * 2


async def test_a_kept_answer_has_them_under_ids_of_its_own(serve: Serve) -> None:
    script = """[[rules]]
match = ""
steps = [
    { run = "search", arguments = "{}", output = "10 results", label = "cats" },
    { run = "shell", arguments = "{}", output = "no shell", failed = true },
    { text = "Ten." },
]
"""
    talk = '[backends.talk]\ntype = "scripted"\nscript = "s.toml"\n[[models]]\nname = "m"\ncache = true\nroutes = ["talk"]\n'
    async with serve(
        SETTING + talk.replace('["talk"]', '[{ backend = "talk" }]'), scripts={"s.toml": script}
    ) as server:
        client = Asking(server, model="m")
        made, given = await client.post("go"), await client.post("go", stream=True)
        assert given.headers["x-trunkline-cache"] == "hit"
        final = check_stream(events_in(given.body))
    assert [run(item)[1:] for item in final["output"][:2]] == [
        ("completed", "{}", "10 results"),
        ("failed", "{}", None),
    ]
    first = made.json()
    assert without_ids(final["output"], final["id"]) != final["output"] != first["output"]
    given_ids = [item["call_id"] for item in final["output"][:2]]
    assert json.dumps(given_ids) != json.dumps([item["call_id"] for item in first["output"][:2]])


async def test_a_conversation_with_them_can_be_compacted(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan([json_answer(COMPLETION)])
    more = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n'
    async with serve(SETTING + BOT + more, scripts=SCRIPTS) as server:
        first = await Asking(server, model="bot").create("go")
        asked = {"model": "up-model", "input": [said("go"), *first["output"], BARE]}
        reply = await server.request("POST", "/v1/responses/compact", json.dumps(asked).encode())
        assert reply.status == 200, reply
    told = upstream.posts[0].json()["messages"][0]["content"]
    assert 'Assistant called search with {"q":"cats"}\n\nsearch returned: 10 results' in told
    assert "Assistant called look with {}" in told


@pytest.mark.parametrize(("behind", "texts"), [("", ["go"]), (SETTING, ["parallel", "go"])])
async def test_behind_another_trunkline_they_are_the_same(
    serve: Serve, server: Serving, behind: str, texts: list[str]
) -> None:
    """A `function_call_output` does not say that its tool failed."""
    async with serve(behind + BOT, scripts=SCRIPTS) as back:
        up = f'[backends.up]\ntype = "http"\ndialect = "openai_responses"\nendpoints = ["{back.url}/v1"]\n'
        async with serve(SETTING + up) as front:
            client = Asking(front, model="bot")
            finals = [check_stream(await client.stream(text)) for text in texts]
            for text, final in zip(texts, finals, strict=True):
                own = await Asking(server, model="bot").create(text)
                assert [without_id(item) for item in final["output"]] == [without_id(item) for item in own["output"]]
            chained = await history_of(client, previous_response_id=finals[-1]["id"])
    assert [one["role"] for one in chained] == ["user", "assistant", "tool", "assistant", "user"]


@pytest.mark.parametrize("setting", ["", SETTING])
async def test_two_chains_of_the_same_runs_are_the_same_to_the_cache(serve: Serve, setting: str) -> None:
    cached = '[[models]]\nname = "m"\ncache = true\nroutes = [{ backend = "bot" }]\n'
    async with serve(setting + BOT + cached, scripts=SCRIPTS) as server:
        client = Asking(server, model="m")
        chains = [(await client.create("go"))["id"] for _ in range(2)]
        replies = [await client.post("history", previous_response_id=one) for one in chains]
    assert [reply.headers["x-trunkline-cache"] for reply in replies] == ["miss", "hit"]
