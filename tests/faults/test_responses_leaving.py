"""A client of Responses that leaves at any moment: the work stops, what it had read is kept and goes on, nothing stays behind.

Every piece that a backend says is once the last one its client reads. The backend then says nothing more until it is stopped, so
what had been sent is known to the letter: it is put together from the deltas that the client read, and the store must agree.
"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import Serve
from tests.fakes import counter
from tests.fakes.upstream import DONE, Do, FakeUpstream, chunk, frame, streamed, text_frame, usage_frame
from tests.responses import GET_WEATHER, Asking, Streamed, call_output, check_object, events_in, said
from tests.serving import Serving, Wire, eventually

PIECES = [b"hm ", b"ok. ", b"Let ", b"look. ", b"city", b"Paris"]
"""What is said, piece by piece: reasoning, text and a call; each is found in the events that say it."""

STEPS = [
    '{ reasoning = "hm " }',
    '{ reasoning = "ok. " }',
    '{ text = "Let " }',
    '{ text = "look. " }',
    '{ call = "get_weather", arguments = [\'{"city": \', \'"Paris"}\'], call_id = "call_a" }',
]
TALK = '[backends.talk]\ntype = "scripted"\nscript = "script.toml"\nmax_concurrency = 1\nmax_queue = 0\n'
AGENT = """
import asyncio, pathlib
from trunkline.agent import FunctionCall, Reasoning

PIECES = [Reasoning("hm "), Reasoning("ok. "), "Let ", "look. ",
          FunctionCall("get_weather", {"city": "Paris"}, call_id="call_a")]

async def agent(turn):
    if "weather" not in turn.input:
        yield "Going on."
        return
    try:
        for piece in PIECES[:int(turn.metadata["say"])]:
            yield piece
        await asyncio.Event().wait()
    finally:
        pathlib.Path(turn.metadata["mark"]).write_text("stopped")
"""
MINE = '[backends.talk]\ntype = "python"\ntarget = "bot.py:agent"\nclient_tools = true\nmax_concurrency = 1\nmax_queue = 0\n'
UP = '[backends.talk]\ntype = "http"\nendpoints = ["{url}"]\nmax_concurrency = 1\nmax_queue = 0\n'


def _delta(**delta: Any) -> bytes:
    return frame(
        {
            "id": "chatcmpl-up",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "up-model",
            "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
        }
    )


def _call(**function: str) -> bytes:
    begun = {"id": "call_a", "type": "function"} if "name" in function else {}
    return _delta(tool_calls=[{"index": 0, **begun, "function": function}])


FRAMES = [
    _delta(reasoning_content="hm "),
    _delta(reasoning_content="ok. "),
    text_frame("Let "),
    text_frame("look. "),
    _call(name="get_weather", arguments='{"city": '),
    _call(arguments='"Paris"}'),
]
GOING_ON = text_frame("Going on.") + text_frame(finish="stop") + usage_frame() + DONE


class Item(msgspec.Struct):
    """An item as its deltas make it."""

    id: str
    kind: str
    name: str | None = None
    text: str = ""


def told(events: list[Streamed]) -> list[Item]:
    """What a client knows that has read these events."""
    items: list[Item] = []
    for event in events:
        if event.kind == "response.output_item.added":
            item = event.json["item"]
            items.append(Item(item["id"], item["type"], item.get("name")))
        elif event.kind.endswith(".delta"):
            items[-1].text += event.json["delta"]
    return items


def kept(response: dict[str, Any]) -> list[Item]:
    """The same of a Response object."""
    items = []
    for item in response["output"]:
        text = item.get("arguments") or "".join(part["text"] for part in item.get("content") or [])
        items.append(Item(item["id"], item["type"], item.get("name"), text))
    return items


async def ask(wire: Wire, model: str, text: str = "the weather", **body: Any) -> None:
    data = json.dumps({"model": model, "input": text, "tools": [GET_WEATHER], **body}).encode()
    await wire.send(b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)


async def read_until_said(wire: Wire, piece: bytes) -> list[Streamed]:
    """The events up to and with the delta that says this piece."""
    status, _ = await wire.head()
    assert status == 200
    seen = b""
    while not any(event.kind.endswith(".delta") and piece in event.text for event in _whole(seen)):
        more = await wire.chunk()
        assert more, seen
        seen += more
    return _whole(seen)


def _whole(seen: bytes) -> list[Streamed]:
    return events_in(seen[: seen.rfind(b"\n\n") + 2] if b"\n\n" in seen else b"")


async def stored(client: Asking, response_id: str) -> dict[str, Any]:
    """What is kept of a response whose client left; it is written after the backend has been stopped."""
    while (reply := await client.get(response_id)).status == 404:
        pass
    response: dict[str, Any] = reply.json()
    check_object(response)
    return response


def in_use(server: Serving) -> int:
    return int(server.application.runtime.endpoints[0].active)


def held() -> tuple[int, int]:
    """Tasks and open files of this process, which is also the server's."""
    return len(asyncio.all_tasks()), sum(1 for _ in Path("/proc/self/fd").iterdir())


def nothing_more_than(before: tuple[int, int]) -> bool:
    return all(now <= then for now, then in zip(held(), before, strict=True))


async def goes_on(client: Asking, response: dict[str, Any]) -> None:
    """The turn after one that was cut: a call that stands in it whole needs its output, everything else nothing."""
    whole = any(item["type"] == "function_call" and item["status"] == "completed" for item in response["output"])
    if whole:
        refused = await client.post("go on", previous_response_id=response["id"])
        assert (refused.status, refused.error["param"]) == (400, "input")
        assert "No tool output found" in refused.error["message"]
    more = [call_output("call_a"), said("go on")] if whole else "go on"
    assert (await client.create(more, previous_response_id=response["id"]))["status"] == "completed"


async def leave_at(
    server: Serving, model: str, piece: bytes, *, stopped: Callable[[], bool], **body: Any
) -> dict[str, Any]:
    """A client that has read this piece leaves. Gives what is stored, after all that has to hold then."""
    client = Asking(server, model=model)
    async with server.connect() as wire:
        await ask(wire, model, stream=True, **body)
        events = await read_until_said(wire, piece)
        assert in_use(server) == 1
    await eventually(stopped)
    await eventually(lambda: in_use(server) == 0)
    response = await stored(client, events[0].json["response"]["id"])
    assert response["status"] == "incomplete"
    assert kept(response) == told(events)
    assert response["output_text"] == "".join(item.text for item in told(events) if item.kind == "message")
    assert response["output"][-1]["status"] == "incomplete" or response["output"][-1]["type"] == "function_call"
    assert all(item["status"] == "completed" for item in response["output"][:-1])
    await goes_on(client, response)
    return response


@pytest.mark.parametrize("count", range(1, len(STEPS) + 1))
async def test_a_client_leaves_a_script(serve: Serve, count: int) -> None:
    steps = ", ".join([*STEPS[:count], "{ hang = true }", *STEPS[count:]])
    script = f'[[rules]]\nmatch = "weather"\nsteps = [{steps}]\n'
    piece = PIECES[count - 1] if count < len(STEPS) else b"Paris"
    async with serve(TALK, scripts={"script.toml": script}) as server:
        await Asking(server).create("warm")
        before = held()
        for _ in range(3):
            await leave_at(server, "scripted", piece, stopped=lambda: server.backend().active == 0)
        await eventually(lambda: nothing_more_than(before))


@pytest.mark.parametrize("count", range(1, len(STEPS) + 1))
async def test_a_client_leaves_a_python_agent(serve: Serve, tmp_path: Path, count: int) -> None:
    mark = tmp_path / "mark"
    piece = PIECES[count - 1] if count < len(STEPS) else b"Paris"
    async with serve(MINE, scripts={"bot.py": AGENT}) as server:
        await Asking(server, model="bot").create("warm")
        before = held()
        for _ in range(3):
            metadata = {"say": str(count), "mark": str(mark)}
            await leave_at(server, "bot", piece, stopped=mark.exists, metadata=metadata)
            mark.unlink()
        await eventually(lambda: nothing_more_than(before))


@pytest.mark.parametrize("count", range(1, len(FRAMES) + 1))
async def test_a_client_leaves_a_model_server(serve: Serve, upstream: FakeUpstream, count: int) -> None:
    async with serve(UP.format(url=upstream.url)) as server:
        upstream.plan(streamed(GOING_ON))
        await Asking(server, model="up-model").create("warm")
        before = held()
        for _ in range(3):
            upstream.left.clear()
            begun = [chunk(one) for one in FRAMES[:count]]
            upstream.plan([*streamed(b"")[:1], *begun, Do.HOLD], streamed(GOING_ON))
            await leave_at(server, "up-model", PIECES[count - 1], stopped=upstream.left.is_set)
        await eventually(lambda: nothing_more_than(before))


async def test_a_client_leaves_while_the_answer_goes_on(serve: Serve) -> None:
    """No piece is waited for: whatever the client had read is the beginning of what is kept."""
    steps = ", ".join(step.replace(" }", ", delay_s = 0.004 }") for step in STEPS)
    script = f'[[rules]]\nmatch = "weather"\nsteps = [{steps}]\n'
    async with serve(TALK, scripts={"script.toml": script}) as server:
        client = Asking(server)
        whole = await client.stream("the weather", tools=[GET_WEATHER])
        for count in range(1, len(whole)):
            async with server.connect() as wire:
                await ask(wire, "scripted", stream=True)
                await wire.head()
                seen = b""
                while len(_whole(seen)) < count:
                    seen += await wire.chunk()
            await eventually(lambda: in_use(server) == 0)
            events = _whole(seen)
            response = await stored(client, events[0].json["response"]["id"])
            assert response["status"] in ("incomplete", "completed")
            for was_told, is_kept in zip(told(events), kept(response), strict=False):
                assert (was_told.id, was_told.kind) == (is_kept.id, is_kept.kind)
                assert is_kept.text.startswith(was_told.text)
            assert len(told(events)) <= len(kept(response))
            await goes_on(client, response)


# An answer that is not streamed: its client knows no id, the conversation does.


async def in_conversation(server: Serving) -> str:
    made = await server.request("POST", "/v1/conversations", b"{}")
    return str(made.json()["id"])


async def texts_in(server: Serving, conversation_id: str) -> list[str]:
    items = (await server.get(f"/v1/conversations/{conversation_id}/items?order=asc")).json()["data"]
    return [part["text"] for item in items if item["type"] == "message" for part in item["content"]]


async def test_a_client_leaves_before_its_whole_answer(serve: Serve, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    async with serve(MINE, scripts={"bot.py": AGENT}) as server:
        client = Asking(server, model="bot")
        conversation_id = await in_conversation(server)
        for _ in range(2):
            async with server.connect() as wire:
                metadata = {"say": "3", "mark": str(mark)}
                await ask(wire, "bot", conversation=conversation_id, metadata=metadata)
                await eventually(lambda: in_use(server) == 1)
            await eventually(mark.exists)
            mark.unlink()
            await eventually(lambda: in_use(server) == 0)
        while len(texts := await texts_in(server, conversation_id)) < 4:
            pass
        assert texts == ["the weather", "Let ", "the weather", "Let "]
        created = await client.create("go on", conversation=conversation_id)
        assert created["output_text"] == "Going on."


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("setting", ['"finish"', "600"])
async def test_an_answer_that_may_end_without_its_client(
    serve: Serve, upstream: FakeUpstream, setting: str, stream: bool
) -> None:
    go_on = asyncio.Event()
    upstream.plan([*streamed(text_frame("so far "))[:-1], go_on, *streamed(GOING_ON)[1:]])
    async with serve(UP.format(url=upstream.url) + f"on_disconnect = {setting}\n") as server:
        conversation_id = await in_conversation(server)
        async with server.connect() as wire:
            await ask(wire, "up-model", stream=stream, conversation=conversation_id)
            if stream:
                await read_until_said(wire, b"so far ")
            await eventually(lambda: len(upstream.posts) == 1)
        go_on.set()
        await eventually(lambda: in_use(server) == 0)
        while len(texts := await texts_in(server, conversation_id)) < 2:
            pass
        assert texts == ["the weather", "so far Going on."]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_answer_that_may_go_on_for_a_while_ends_after_it(
    serve: Serve, upstream: FakeUpstream, stream: bool
) -> None:
    upstream.plan([*streamed(text_frame("so far "))[:-1], Do.HOLD])
    async with serve(UP.format(url=upstream.url) + "on_disconnect = 0.05\n") as server:
        conversation_id = await in_conversation(server)
        async with server.connect() as wire:
            await ask(wire, "up-model", stream=stream, conversation=conversation_id)
            if stream:
                await read_until_said(wire, b"so far ")
            await eventually(lambda: len(upstream.posts) == 1)
        await upstream.left.wait()
        await eventually(lambda: in_use(server) == 0)
        while len(texts := await texts_in(server, conversation_id)) < 2:
            pass
        assert texts == ["the weather", "so far "]


# A client that does not read

EAGER = """
from tests.fakes import counter
async def agent(turn):
    if "quick" in turn.input:
        yield "quick"
        return
    for _ in range(100_000):
        counter.made += 1
        yield "x" * 1000
"""


async def test_a_slow_reader_holds_back_the_agent_and_nobody_else(serve: Serve) -> None:
    counter.made = 0
    toml = MINE.replace("max_concurrency = 1", "max_concurrency = 2")
    async with serve(toml, scripts={"bot.py": EAGER}) as server, server.connect() as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can
        await ask(wire, "bot", "go", stream=True, tools=[])
        made = -1
        while counter.made != made:  # until it stands still
            made = counter.made
            for _ in range(1000):
                await asyncio.sleep(0)
        assert 0 < made < 20_000
        assert (await Asking(server, model="bot").create("quick"))["output_text"] == "quick"
        wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await wire.head()
        while counter.made == made:
            assert await wire.chunk()


async def test_a_client_that_never_reads_is_let_go_and_what_was_said_is_kept(serve: Serve) -> None:
    counter.made = 0
    toml = "[server]\nkeepalive_s = 0.05\n" + MINE
    async with serve(toml, scripts={"bot.py": EAGER}) as server:
        client = Asking(server, model="bot")
        conversation_id = await in_conversation(server)
        async with server.connect() as wire:
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await ask(wire, "bot", "go", stream=True, tools=[], conversation=conversation_id)
            await eventually(lambda: in_use(server) == 1)
            await eventually(lambda: in_use(server) == 0)
            while len(texts := await texts_in(server, conversation_id)) < 2:
                pass
            assert 0 < len(texts[1]) <= counter.made * 1000
            assert set(texts[1]) == {"x"}
            assert (await client.create("quick"))["output_text"] == "quick"
