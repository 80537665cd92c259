"""Runs: background work with events that say what happens, followed from anywhere, stopped, and asked what it may do."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.stores import HandClock
from tests.responses import Asking, events_in
from tests.serving import Reply, Serving, eventually, serving

AGENT = """
import asyncio
from pathlib import Path
from trunkline.agent import Reasoning, ToolFinished, ToolStarted, Usage

GATES = Path(__file__).parent

async def agent(turn):
    if turn.input.startswith("wait"):
        yield "so far "
        while not (GATES / turn.input).exists():
            await asyncio.sleep(0.001)
        yield "so good"
        return
    if turn.input == "fail":
        yield "part"
        raise RuntimeError("the tool shed burned down")
    if turn.input == "ask":
        choice = await turn.approve("shell", "rm -r build")
        yield f"chosen: {choice}"
        return
    if turn.input == "ask twice":
        async def ask(text):
            return await turn.approve("shell", text)
        one, two = await asyncio.gather(ask("one"), ask("two"))
        yield f"{one} {two}"
        return
    yield Reasoning("Hm. ")
    yield "Looking. "
    yield ToolStarted("call_1", "search", {"q": "cats"}, label="cats")
    yield ToolFinished("call_1", output="10 results")
    yield ToolStarted("call_2", "shell", {"command": "false"})
    yield ToolFinished("call_2", output="exit 1", failed=True)
    yield f"Found ten, {turn.session_id}."
    yield Usage(input_tokens=12, output_tokens=7)
"""
TOML = '[server]\ndefault_model = "bot"\n[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\n'


class Running:
    """A client of /v1/runs."""

    def __init__(self, server: Serving, *, key: str | None = None) -> None:
        self.server = server
        self.headers = {} if key is None else {"authorization": f"Bearer {key}"}

    async def post(self, path: str = "", *, headers: dict[str, str] | None = None, **body: Any) -> Reply:
        data = json.dumps(body).encode()
        return await self.server.request("POST", f"/v1/runs{path}", data, headers={**self.headers, **(headers or {})})

    async def create(self, text: object = "hello", **body: Any) -> Any:
        reply = await self.post(input=text, **body)
        assert reply.status == 202, reply
        return reply.json()

    async def get(self, path: str, *, headers: dict[str, str] | None = None) -> Reply:
        return await self.server.get(f"/v1/runs{path}", headers={**self.headers, **(headers or {})})

    async def run(self, run_id: str) -> Any:
        reply = await self.get(f"/{run_id}")
        assert reply.status == 200, reply
        return reply.json()

    async def events(self, run_id: str, query: str = "", *, headers: dict[str, str] | None = None) -> list[Any]:
        reply = await self.get(f"/{run_id}/events{query}", headers=headers)
        assert reply.status == 200, reply
        assert reply.headers["content-type"] == "text/event-stream"
        return run_events(reply.body)

    async def until(self, run_id: str, name: str) -> list[Any]:
        """The events up to and with the first of that name; the run may go on."""
        async with self.server.connect() as wire:
            authorization = "".join(f"{key}: {value}\r\n" for key, value in self.headers.items())
            await wire.send(f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: x\r\n{authorization}\r\n".encode())
            await wire.head()
            return run_events(await wire.until(f'"event":"{name}"'.encode()))


def run_events(body: bytes) -> list[Any]:
    """Events as `data:` alone says them; each has its number as its id."""
    events = []
    for frame in body.split(b"\n\n")[:-1]:
        if frame.startswith(b":"):
            continue
        number, data = frame.split(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert number == b"id: %d" % event["seq"]
        assert event["run_id"].startswith("run_")
        assert event["timestamp"] > 1_700_000_000
        events.append(event)
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    return events


def names(events: list[Any]) -> list[str]:
    return [event["event"] for event in events]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"bot.py": AGENT}, grace_s=0.0) as served:
        yield served


@pytest.fixture
def client(server: Serving) -> Running:
    return Running(server)


async def test_a_run_says_what_happens_in_order_and_ends_with_the_whole_turn(client: Running) -> None:
    created = await client.create(session_id="s-1", metadata={"k": "v"})
    assert created["run_id"].startswith("run_")
    assert created["object"] == "run"
    assert created["status"] == "queued"
    events = await client.events(created["run_id"])
    assert names(events) == [
        "reasoning.available",
        "message.delta",
        "tool.started",
        "tool.completed",
        "tool.started",
        "tool.completed",
        "message.delta",
        "run.completed",
    ]
    by_name = {event["event"]: event for event in reversed(events)}
    assert by_name["reasoning.available"]["text"] == "Hm. "
    assert by_name["message.delta"]["delta"] == "Looking. "
    started = by_name["tool.started"]
    assert (started["tool"], started["preview"], started["call_id"]) == ("search", "cats", "call_1")
    ended = [event for event in events if event["event"] == "tool.completed"]
    assert [(one["tool"], one["error"], one["call_id"]) for one in ended] == [
        ("search", False, "call_1"),
        ("shell", True, "call_2"),
    ]
    assert all(one["duration"] >= 0 for one in ended)
    end = events[-1]
    assert end["output"] == "Looking. Found ten, s-1."
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"]) == (12, 7)
    assert [(one["role"], one["content"]) for one in end["messages"]] == [
        ("assistant", "Looking. "),
        ("tool", "10 results"),
        ("assistant", ""),
        ("tool", "exit 1"),
        ("assistant", "Found ten, s-1."),
    ]
    run = await client.run(created["run_id"])
    assert (run["status"], run["output"], run["usage"]) == ("completed", end["output"], end["usage"])
    assert (run["last_event"], run["session_id"], run["metadata"]) == ("run.completed", "s-1", {"k": "v"})
    assert run["created_at"] <= run["updated_at"]
    assert [type(run[name]) for name in ("created_at", "updated_at")] == [int, int]
    assert (run["id"], run["model"]) == (run["run_id"], created["model"])


async def test_a_failed_run_says_so_in_its_event_and_its_object(client: Running) -> None:
    created = await client.create("fail")
    events = await client.events(created["run_id"])
    assert names(events) == ["message.delta", "run.failed"]
    assert "the tool shed burned down" in events[-1]["error"]
    run = await client.run(created["run_id"])
    assert (run["status"], run["error"], run["code"]) == ("failed", events[-1]["error"], events[-1]["code"])
    assert run["code"] == "agent_error"  # as a chat completion would say
    assert run["last_event"] == "run.failed"


UNUSED = "temperature, temprature, priority"


async def test_what_nothing_uses_is_named_where_the_work_is_taken_on(client: Running, server: Serving) -> None:
    unused = {"temprature": 1, "temperature": 0.3, "priority": True}
    keyed = {"idempotency-key": "k1"}
    for path, background in (("/v1/responses", {}), ("/v1/responses", {"background": True}), ("/v1/runs", {})):
        reply = await server.request(
            "POST",
            path,
            json.dumps({"input": "x", **unused, **background}).encode(),
            headers=keyed if background else None,
        )
        assert reply.headers["x-trunkline-ignored"] == UNUSED, path
    again = await server.request(
        "POST", "/v1/responses", json.dumps({"input": "x", **unused, "background": True}).encode(), headers=keyed
    )
    assert again.headers["x-trunkline-idempotent"] == "replayed"
    assert again.headers["x-trunkline-ignored"] == UNUSED
    assert (
        "x-trunkline-ignored" not in (await client.post(input="x", session_id="s-1", conversation_history=[])).headers
    )
    body = json.dumps({"input": "x", **unused, "background": True, "stream": True}).encode()
    streamed = await server.request("POST", "/v1/responses", body)
    assert streamed.headers["x-trunkline-ignored"] == UNUSED


async def test_of_several_that_may_answer_what_none_of_them_uses_is_named(serve: Serve) -> None:
    either = (
        '[backends.bot]\ntype = "python"\ntarget = "scripted.py:agent"\n'
        '[backends.talk]\ntype = "scripted"\n'  # has a use for `max_output_tokens`
    )
    async with serve(either, scripts={"scripted.py": AGENT}) as server:
        reply = await Running(server).post(input="x", model="scripted", max_output_tokens=9, temperature=0.3, mine=True)
        assert reply.headers["x-trunkline-ignored"] == "temperature, mine"


# One thing with two names


async def test_a_run_is_its_response_under_either_name(client: Running, server: Serving) -> None:
    created = await client.create()
    await client.events(created["run_id"])
    response_id = created["response_id"]
    response = (await server.get(f"/v1/responses/{response_id}")).json()
    assert (response["id"], response["background"], response["status"]) == (response_id, True, "completed")
    assert (await server.get(f"/v1/responses/{created['run_id']}")).json() == response
    assert await client.run(response_id) == await client.run(created["run_id"])
    assert await client.events(response_id) == await client.events(created["run_id"])
    log = events_in((await server.get(f"/v1/responses/{created['run_id']}?stream=true")).body)
    progress = [event.json["progress"] for event in log if "progress" in event.json]
    assert [(one["tool"], one["status"]) for one in progress] == [
        ("search", "running"),
        ("search", "completed"),
        ("shell", "running"),
        ("shell", "completed"),
    ]
    assert (progress[0]["label"], progress[1]["failed"], progress[3]["failed"]) == ("cats", False, True)
    assert (await server.get(f"/v1/responses/{created['run_id']}/input_items")).json()["data"]
    gone = await server.request("DELETE", f"/v1/responses/{created['run_id']}")
    assert gone.json()["id"] == response_id
    assert (await client.get(f"/{created['run_id']}")).status == 404


async def test_a_background_response_is_a_run(client: Running, server: Serving) -> None:
    background = await Asking(server, model="bot").create("hello", background=True)
    events = await client.events(background["id"])
    assert names(events)[-1] == "run.completed"
    assert (await client.run(background["id"]))["response_id"] == background["id"]
    foreground = await Asking(server, model="bot").create("hello")
    assert (await client.get(f"/{foreground['id']}")).error["code"] == "run_not_found"


async def test_a_run_goes_on_from_another_under_either_name(client: Running, server: Serving) -> None:
    first = await client.create()
    await client.events(first["run_id"])
    for name in (first["run_id"], first["response_id"]):
        second = await client.create("and dogs?", previous_response_id=name)
        await client.events(second["run_id"])
        response = (await server.get(f"/v1/responses/{second['run_id']}")).json()
        assert response["previous_response_id"] == first["response_id"]
        assert (await client.run(second["run_id"]))["session_id"] == (await client.run(first["run_id"]))["session_id"]


# Reading


async def test_events_are_read_again_from_any_point(client: Running) -> None:
    created = await client.create()
    run_id = created["run_id"]
    events = await client.events(run_id)
    for position, event in enumerate(events):
        assert await client.events(run_id, f"?after={event['seq']}") == events[position + 1 :]
        if position < len(events) - 1:
            assert await client.events(run_id, headers={"last-event-id": str(event["seq"])}) == events[position + 1 :]
    some, more = events[1]["seq"], events[2]["seq"]
    for after, seen in ((some, more), (more, some)):
        assert await client.events(run_id, f"?after={after}", headers={"last-event-id": str(seen)}) == events[3:]
    assert await client.events(run_id, "?after=100000") == []
    for wrong in ("x", "-2", "1.5", "9" * 30):
        assert (await client.get(f"/{run_id}/events?after={wrong}")).error["param"] == "after"
        if wrong != "-2":
            refused = await client.get(f"/{run_id}/events", headers={"last-event-id": wrong})
            assert refused.error["param"] == "Last-Event-ID"


async def test_the_end_of_the_events_is_said_in_a_comment(client: Running) -> None:
    created = await client.create()
    reply = await client.get(f"/{created['run_id']}/events")
    assert reply.body.endswith(b"\n\n: stream closed\n\n")
    assert reply.headers["x-accel-buffering"] == "no"
    assert b"event:" not in reply.body.replace(b'"event":', b"")
    last = run_events(reply.body)[-1]["seq"]
    for after in (last, last + 1, 100_000):  # also to who has read it all
        reply = await client.get(f"/{created['run_id']}/events?after={after}")
        assert (reply.status, reply.body) == (200, b": stream closed\n\n")


@pytest.mark.parametrize("query", ["", "?after=-1", "?after=5"])
async def test_an_event_source_that_comes_again_after_the_end_is_told_to_stop(client: Running, query: str) -> None:
    """As a browser does by itself: at the same address, with the id of the last event it has seen."""
    created = await client.create()
    first = await client.get(f"/{created['run_id']}/events{query}")
    ids = [line[4:] for line in first.body.decode().split("\n") if line.startswith("id: ")]
    again = await client.get(f"/{created['run_id']}/events{query}", headers={"last-event-id": ids[-1]})
    assert (again.status, again.body) == (204, b"")
    not_yet = await client.get(f"/{created['run_id']}/events{query}", headers={"last-event-id": ids[-2]})
    assert (not_yet.status, len(run_events(not_yet.body))) == (200, 1)


async def test_who_is_ahead_of_a_run_hears_of_its_end(client: Running, tmp_path: Path) -> None:
    created = await client.create("wait here")
    ahead = asyncio.create_task(client.get(f"/{created['run_id']}/events?after=100000"))
    await client.until(created["run_id"], "message.delta")
    (tmp_path / "wait here").touch()
    assert (await ahead).body == b": stream closed\n\n"


async def test_readers_see_the_same_and_leave_when_they_like(client: Running, tmp_path: Path) -> None:
    created = await client.create("wait here")
    run_id = created["run_id"]
    before = await client.until(run_id, "message.delta")  # that reader leaves
    reading = [asyncio.create_task(client.events(run_id)) for _ in range(3)]
    run = await client.run(run_id)
    assert (run["status"], run["output"], run["last_event"]) == ("in_progress", None, "message.delta")
    (tmp_path / "wait here").touch()
    seen = [await one for one in reading]
    assert seen[0] == seen[1] == seen[2] == await client.events(run_id)
    assert seen[0][: len(before)] == before
    assert seen[0][-1]["output"] == "so far so good"


# Stopping


async def test_a_run_that_is_stopped_is_cancelled(client: Running, server: Serving) -> None:
    created = await client.create("wait for ever")
    run_id = created["run_id"]
    await client.until(run_id, "message.delta")
    stopped = await client.post(f"/{run_id}/stop")
    assert (stopped.status, stopped.json()["status"], stopped.json()["run_id"]) == (200, "stopping", run_id)
    events = await client.events(run_id)
    assert names(events) == ["message.delta", "run.cancelled"]
    run = await client.run(run_id)
    assert (run["status"], run["last_event"]) == ("cancelled", "run.cancelled")
    again = await client.post(f"/{run_id}/stop")
    assert (again.status, again.json()["status"]) == (200, "cancelled")
    await eventually(lambda: server.application.runtime.endpoints[0].active == 0)


# Questions


async def test_a_run_asks_waits_and_goes_on_with_the_answer(client: Running, server: Serving) -> None:
    created = await client.create("ask")
    run_id = created["run_id"]
    (question,) = await client.until(run_id, "approval.request")
    assert (question["tool"], question["text"], question["command"]) == ("shell", "rm -r build", "rm -r build")
    assert question["choices"] == ["once", "session", "always", "deny"]
    run = await client.run(run_id)
    assert (run["status"], run["last_event"]) == ("requires_action", "approval.request")
    (pending,) = run["approvals"]
    assert (pending["call_id"], pending["text"]) == (question["call_id"], "rm -r build")
    assert (await server.get(f"/v1/responses/{run_id}")).json()["status"] == "in_progress"
    wrong = await client.post(f"/{run_id}/approval", choice="perhaps")
    assert (wrong.status, wrong.error["code"], wrong.error["param"]) == (400, "invalid_approval_choice", "choice")
    settled = await client.post(f"/{run_id}/approval", choice="once", call_id=question["call_id"])
    assert settled.status == 200
    assert settled.json() == {
        "object": "run.approval_response",
        "run_id": run_id,
        "choice": "once",
        "resolved": 1,
        "call_ids": [question["call_id"]],
    }
    events = await client.events(run_id)
    assert names(events) == ["approval.request", "approval.responded", "message.delta", "run.completed"]
    assert (events[1]["choice"], events[1]["resolved"]) == ("once", 1)
    assert events[-1]["output"] == "chosen: once"
    late = await client.post(f"/{run_id}/approval", choice="once")
    assert (late.status, late.error["code"]) == (409, "approval_not_pending")


async def test_several_questions_are_answered_one_by_one_or_together(client: Running) -> None:
    for together in (None, "all", "resolve_all"):  # the second as clients of the hermes server say it
        every: dict[str, Any] = {together: True} if together else {}
        created = await client.create("ask twice")
        run_id = created["run_id"]
        await client.until(run_id, "approval.request")
        await eventually_asked(client, run_id, 2)
        if together:
            assert (await client.post(f"/{run_id}/approval", choice="once", **every)).json()["resolved"] == 2
        else:
            assert (await client.post(f"/{run_id}/approval", choice="once")).json()["resolved"] == 1
            assert (await client.post(f"/{run_id}/approval", choice="deny")).json()["resolved"] == 1
        end = (await client.events(run_id))[-1]
        assert end["output"] == ("once once" if together else "once deny")


async def eventually_asked(client: Running, run_id: str, count: int) -> None:
    approvals = client.server.application.runtime.approvals
    response_id = "resp_" + run_id.removeprefix("run_")
    await eventually(lambda: len(approvals.pending("default", response_id)) == count)


async def test_a_run_that_asks_nothing_has_nothing_to_answer(client: Running, tmp_path: Path) -> None:
    created = await client.create("wait a bit")
    await client.until(created["run_id"], "message.delta")
    refused = await client.post(f"/{created['run_id']}/approval", choice="once")
    assert (refused.status, refused.error["code"]) == (409, "approval_not_active")
    (tmp_path / "wait a bit").touch()
    await client.events(created["run_id"])
    refused = await client.post(f"/{created['run_id']}/approval", choice="once")
    assert (refused.status, refused.error["code"]) == (409, "approval_not_active")


async def test_a_run_is_stopped_while_it_waits_for_an_answer(client: Running, server: Serving) -> None:
    created = await client.create("ask")
    run_id = created["run_id"]
    await client.until(run_id, "approval.request")
    await client.post(f"/{run_id}/stop")
    assert names(await client.events(run_id))[-1] == "run.cancelled"
    late = await client.post(f"/{run_id}/approval", choice="once")
    assert (late.status, late.error["code"]) == (409, "approval_not_pending")
    await eventually(lambda: server.application.runtime.endpoints[0].active == 0)


async def test_a_question_that_nobody_answers_is_denied(serve: Serve) -> None:
    async with serve(TOML + "approval_timeout_s = 0.01\n", scripts={"bot.py": AGENT}, grace_s=0.0) as server:
        client = Running(server)
        created = await client.create("ask")
        events = await client.events(created["run_id"])
        assert events[-1]["output"] == "chosen: deny"
        assert [one["choice"] for one in events if one["event"] == "approval.responded"] == ["deny"]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_the_question_of_a_streamed_answer_is_answered_here(client: Running, server: Serving, path: str) -> None:
    said = {"input": "ask"} if "responses" in path else {"messages": [{"role": "user", "content": "ask"}]}
    shown = {"stream_options": {"include_tool_events": True}}
    data = json.dumps({"model": "bot", "stream": True, **shown, **said}).encode()
    async with server.connect() as wire:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        await wire.send(head.encode() + data)
        await wire.head()
        frame = (await wire.until(b"approval.requested\ndata: {")).rpartition(b"data: ")[2]
        while not frame.endswith(b"\n\n"):
            frame += await wire.chunk()
        asked = json.loads(frame)
        turn_id = asked.get("response_id") or asked["id"]
        assert asked["approval"]["text"] == "rm -r build"
        foreign = await client.post("/run_0123/approval", choice="once")
        assert (foreign.status, foreign.error["code"]) == (404, "run_not_found")
        settled = await client.post(f"/{turn_id}/approval", choice="session", call_id=asked["approval"]["call_id"])
        assert settled.json()["resolved"] == 1
        assert settled.json()["run_id"] == turn_id.replace("resp_", "run_")
        rest = await wire.until(b"chosen: ")
        assert b"approval.resolved" in rest


# Sessions and what came before


async def test_runs_of_one_session_know_each_other(client: Running, server: Serving) -> None:
    reply = await client.post(input="hello", headers={"x-session-id": "mine"})
    assert reply.headers["x-session-id"] == "mine"
    first = reply.json()
    await client.events(first["run_id"])
    second = await client.create("more", session_id="mine")
    await client.events(second["run_id"])
    assert (await client.run(second["run_id"]))["session_id"] == "mine"
    listed = (await client.get("?session_id=mine&order=asc")).json()
    assert [run["run_id"] for run in listed["data"]] == [first["run_id"], second["run_id"]]
    derived = await client.create("hello")
    assert (await client.run(derived["run_id"]))["session_id"].startswith("api-")


HISTORY_AGENT = """
async def agent(turn):
    yield " | ".join(f"{m['role']}: {m['content']}" for m in turn.messages)
"""


async def test_a_run_may_bring_the_conversation_before_it(serve: Serve) -> None:
    async with serve(TOML, scripts={"bot.py": HISTORY_AGENT}) as server:
        client = Running(server)
        history = [
            {"role": "user", "content": "Is it raining?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "yes"},
            {"role": "assistant", "content": "It is."},
        ]
        created = await client.create("Still?", conversation_history=history)
        end = (await client.events(created["run_id"]))[-1]
        said = "user: Is it raining? | assistant:  | tool: yes | assistant: It is. | user: Still?"
        assert end["output"] == said
        assert end["messages"] == [{"role": "assistant", "content": said}]
        items = [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "3"},
        ]
        created = await client.create(items)
        assert (await client.events(created["run_id"]))[-1]["output"] == "user: one | assistant: two | user: 3"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": 42}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "nobody", "content": "x"}]}, "input[0].role"),
        ({"input": "x", "stream": True}, "stream"),
        ({"input": "x", "store": False}, "store"),
        ({"input": "x", "metadata": 5}, "metadata"),
        ({"input": "x", "model": 5}, "model"),
        ({"input": "x", "session_id": "../x"}, "session_id"),
        ({"input": "x", "conversation_history": "x"}, "conversation_history"),
        ({"input": "x", "conversation_history": [5]}, "conversation_history[0]"),
        ({"input": "x", "conversation_history": [{"role": "king", "content": "x"}]}, "conversation_history[0].role"),
        ({"input": "x", "conversation_history": [{"role": "user"}]}, "conversation_history[0].content"),
        (
            {"input": "x", "conversation_history": [{"role": "tool", "tool_call_id": "call_1", "content": "x"}]},
            "conversation_history[0].tool_call_id",
        ),
        (
            {"input": "x", "conversation_history": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "conversation_history[0].content[0].text",
        ),
        (
            {"input": [{"role": "nobody", "content": "x"}], "conversation_history": [{"role": "user", "content": "x"}]},
            "input[0].role",
        ),
    ],
)
async def test_a_mistake_is_named_by_the_member_it_is_in(client: Running, body: dict[str, Any], param: str) -> None:
    reply = await client.post(**body)
    assert reply.status == 400, reply
    assert reply.error["param"] == param


async def test_what_is_no_run_is_refused(client: Running, server: Serving) -> None:
    for method, path in (
        ("GET", "/run_none"),
        ("GET", "/run_none/events"),
        ("POST", "/run_none/stop"),
    ):
        reply = await server.request(method, f"/v1/runs{path}")
        assert (reply.status, reply.error["code"]) == (404, "run_not_found"), path
    for body in (b"not json", b"[]", b"5", b""):
        reply = await server.request("POST", "/v1/runs", body)
        assert reply.status == 400
        assert "Invalid JSON" in reply.error["message"]
        assert (await server.request("POST", "/v1/runs/run_none/approval", body)).status == 400
    assert (await client.post("/run_none/approval")).error["param"] == "choice"
    assert (await client.post("/run_none/approval", choice=5)).error["param"] == "choice"
    assert (await client.post("/run_none/approval", choice="once")).error["code"] == "run_not_found"
    unknown = await client.post(input="x", model="nobody")
    assert (unknown.status, unknown.error["code"]) == (400, "model_not_found")
    unknown = await client.post(input="x", previous_response_id="run_none")
    assert unknown.error["code"] == "previous_response_not_found"
    assert (await server.request("PUT", "/v1/runs")).status == 405


# Lists


async def test_runs_are_listed_page_by_page_and_chosen_by_their_status(client: Running, server: Serving) -> None:
    done = [await client.create(f"hello {number}") for number in range(3)]
    for one in done:
        await client.events(one["run_id"])
    failed, asking, waiting = [await client.create(text) for text in ("fail", "ask", "wait list")]
    await client.events(failed["run_id"])
    await client.until(asking["run_id"], "approval.request")
    await client.until(waiting["run_id"], "message.delta")
    ids = [one["run_id"] for one in (*done, failed, asking, waiting)]

    async def listed(query: str) -> list[str]:
        reply = (await client.get(query)).json()
        assert reply["object"] == "list"
        return [run["run_id"] for run in reply["data"]]

    assert await listed("") == ids[::-1]
    assert await listed("?order=asc&limit=4") == ids[:4]
    assert await listed(f"?order=asc&after={ids[3]}") == ids[4:]
    assert await listed(f"?limit=2&after={ids[3]}") == [ids[2], ids[1]]
    assert (await client.get("?limit=2")).json()["has_more"] is True
    assert await listed("?status=completed&order=asc") == ids[:3]
    assert await listed("?status=failed") == [failed["run_id"]]
    assert await listed("?status=requires_action") == [asking["run_id"]]
    assert set(await listed("?status=in_progress")) == {asking["run_id"], waiting["run_id"]}
    assert await listed("?status=queued") == []
    assert "output" not in (await client.get("")).json()["data"][0]
    wrong = await client.get("?status=odd")
    assert (wrong.status, wrong.error["param"]) == (400, "status")
    assert "'requires_action'" in wrong.error["message"]
    assert (await client.get("?after=run_none")).error["param"] == "after"
    assert (await client.get("?session_id=../x")).error["param"] == "session_id"


KEYS = '[[server.keys]]\nname = "ann"\nkey = "key-ann"\n[[server.keys]]\nname = "bob"\nkey = "key-bob"\n'


async def test_another_tenant_sees_nothing_and_cannot_answer(serve: Serve) -> None:
    toml = TOML.replace("[backends", KEYS + "[backends", 1)
    async with serve(toml, scripts={"bot.py": AGENT}, grace_s=0.0) as server:
        ann, bob = Running(server, key="key-ann"), Running(server, key="key-bob")
        created = await ann.create("ask")
        run_id = created["run_id"]
        await ann.until(run_id, "approval.request")
        assert (await bob.get("")).json()["data"] == []
        for reply in (
            await bob.get(f"/{run_id}"),
            await bob.get(f"/{run_id}/events"),
            await bob.post(f"/{run_id}/stop"),
            await bob.post(f"/{run_id}/approval", choice="once"),
        ):
            assert (reply.status, reply.error["code"]) == (404, "run_not_found")
        assert (await ann.run(run_id))["status"] == "requires_action"


# Limits


async def test_each_tenant_has_its_own_share_of_runs(serve: Serve) -> None:
    toml = TOML.replace("[backends", KEYS + "[runs]\nmax_runs = 2\n[backends", 1)
    async with serve(toml, scripts={"bot.py": AGENT}, grace_s=0.0) as server:
        ann, bob = Running(server, key="key-ann"), Running(server, key="key-bob")
        first, _ = [await ann.create("wait here") for _ in range(2)]
        refused = await ann.post(input="one more")
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) > 0
        assert (await Asking(server, model="bot", key="key-ann").post("too", background=True)).status == 429
        assert (await bob.post(input="wait here")).status == 202
        await ann.post(f"/{first['run_id']}/stop")
        await ann.events(first["run_id"])
        assert (await ann.post(input="one more")).status == 202


async def test_a_run_is_kept_for_its_time_and_its_response_longer(tmp_path: Path) -> None:
    clock = HandClock()
    toml = TOML.replace("[backends", "[runs]\nkeep_s = 60\n[backends", 1)
    async with serving(toml, base_dir=tmp_path, scripts={"bot.py": AGENT}, clock=clock, grace_s=0.0) as server:
        client = Running(server)
        created = await client.create()
        run_id = created["run_id"]
        await client.events(run_id)
        clock.now += 59
        assert (await client.get(f"/{run_id}")).status == 200
        clock.now += 2
        assert (await client.get(f"/{run_id}")).error["code"] == "run_not_found"
        assert (await client.get(f"/{run_id}/events")).error["code"] == "run_not_found"
        assert (await client.get("")).json()["data"] == []
        store = server.application._store
        store._sweep()  # type: ignore[attr-defined]  # as its timer does
        await store.add_items("default", "none", [])  # whatever is written later is written after it
        assert (await server.get(f"/v1/responses/{run_id}")).status == 200
        gone = await server.get(f"/v1/responses/{run_id}?stream=true")
        assert (gone.status, gone.error["code"]) == (404, "events_not_found")


# The hermes server's clients


async def test_under_its_profile_a_run_speaks_as_the_hermes_server_does(serve: Serve) -> None:
    toml = TOML.replace("[server]", '[server]\nprofile = "hermes"', 1)
    async with serve(toml, scripts={"bot.py": AGENT}, grace_s=0.0) as server:
        client = Running(server)
        created = await client.create()
        assert (created["status"], created["object"]) == ("started", "hermes.run")
        reply = await client.get(f"/{created['run_id']}/events")
        assert b'"event": "message.delta"' in reply.body
        assert reply.body.endswith(b": stream closed\n\n")
        assert (await client.run(created["run_id"]))["status"] == "completed"
        asking = await client.create("ask")
        async with server.connect() as wire:
            await wire.send(f"GET /v1/runs/{asking['run_id']}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await wire.head()
            await wire.until(b"approval.request")
        assert (await client.run(asking["run_id"]))["status"] == "waiting_for_approval"
        assert len((await client.get("?status=waiting_for_approval")).json()["data"]) == 1
        settled = await client.post(f"/{asking['run_id']}/approval", choice="deny")
        assert settled.json()["object"] == "hermes.run.approval_response"
        waiting = [await client.create("wait here") for _ in range(9)]
        for one in waiting:
            await client.post(f"/{one['run_id']}/stop")
        running = [await client.create(f"wait {number}") for number in range(10)]
        async with server.connect() as wire:
            await wire.send(f"GET /v1/runs/{running[0]['run_id']}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await wire.head()
            await wire.until(b"so far")
        assert (await client.run(running[0]["run_id"]))["status"] == "running"
        refused = await client.post(input="the eleventh")
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
