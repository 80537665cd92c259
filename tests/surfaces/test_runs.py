"""Runs: background work with events that say what happens, followed from anywhere, stopped, and asked what it may do."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.responses import Asking, events_in
from tests.serving import Reply, Serving, eventually, serving

AGENT = """
import asyncio
from trunkline.agent import Reasoning, ToolFinished, ToolStarted, Usage

gates = {}

def gate(name):
    return gates.setdefault(name, asyncio.Event())

async def agent(turn):
    if turn.input.startswith("wait"):
        yield "so far "
        await gate(turn.input).wait()
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
        one, two = await asyncio.gather(turn.approve("shell", "one"), turn.approve("shell", "two"))
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
    async with serving(TOML, base_dir=tmp_path, scripts={"bot.py": AGENT}) as served:
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
    assert run["created_at"] <= run["updated_at"] + 1
    assert (run["id"], run["model"]) == (run["run_id"], created["model"])
