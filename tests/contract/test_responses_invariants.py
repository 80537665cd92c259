"""What every streamed response keeps, over every kind of backend: S1 to S11, R1 to R4, B1 to B4, and what follows from them.

The hard case is one turn that thinks, speaks and calls a tool. A real model cannot be made to say that, so the embedded one speaks
in one turn and calls in another. One server of each kind serves the whole module.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from tests.fakes.responses_upstream import FakeResponses, events_of, fake_responses, frames_of, message
from tests.fakes.upstream import Do, streamed
from tests.responses import (
    GET_WEATHER,
    INVARIANTS,
    ITEM,
    Asking,
    Streamed,
    call_output,
    check_object,
    check_stream,
    events_in,
    final_of,
)
from tests.serving import Serving, eventually, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

AGENT = """
import asyncio

from trunkline.agent import FunctionCall, Reasoning


async def agent(turn):
    if turn.input == "hang":
        yield "so far "
        await asyncio.Event().wait()
    elif "weather" in turn.input and turn.messages[-1]["role"] == "user":
        yield Reasoning("I need the tool. ")
        yield "Let me "
        yield "look. "
        yield FunctionCall("get_weather", {"city": "Paris"}, call_id="call_a")
    else:
        for message in turn.messages:
            yield message["role"] + " "
            yield str(message["content"]) + " | "
            for call in message.get("tool_calls") or ():
                yield call["function"]["name"] + " " + call["function"]["arguments"] + " | "
"""
SCRIPT = r"""
[[rules]]
match = "weather"
steps = [
  { reasoning = "I need the tool. " },
  { text = "Let me " }, { text = "look. " },
  { call = "get_weather", arguments = ['{"city": ', '"Paris"}'], call_id = "call_a" },
]
[[rules]]
match = "hang"
steps = [{ text = "so far " }, { hang = true }]
"""
PYTHON = '[backends.it]\ntype = "python"\ntarget = "bot.py:agent"\nclient_tools = true\n'
SCRIPTED = '[backends.it]\ntype = "scripted"\nscript = "script.toml"\n'
EMBEDDED = '[backends.it]\ntype = "embedded"\nslots = 2\ncontext_tokens = 1024\nthreads = 2\n'
HTTP = '[backends.it]\ntype = "http"\ndialect = "{dialect}"\nendpoints = ["{url}"]\n'
KINDS = ("scripted", "python", "http chat", "http native", "openai", "embedded")
HARD = ["reasoning", "message", "function_call"]
CALLING = {"tools": [GET_WEATHER]}


class Subject(msgspec.Struct, frozen=True):
    """A server over one kind of backend.

    Attributes:
        turns: requests that together think, speak and call; the last one calls.
        history: the roles and texts that the backend was last told, from its answer; None where nobody can look.
        hang: lets the next answer hang after its first words. Gives the input that does so.
    """

    kind: str
    client: Asking
    turns: list[dict[str, Any]]
    history: Callable[[Any], str] | None
    hang: Callable[[], str]

    @property
    def hard(self) -> dict[str, Any]:
        return self.turns[-1]


@contextlib.asynccontextmanager
async def subject_of(kind: str, folder: Path) -> AsyncIterator[Subject]:
    files = {"bot.py": AGENT, "script.toml": SCRIPT}
    hard = [{"text": "the weather in Paris?", **CALLING}]
    async with contextlib.AsyncExitStack() as stack:
        native: FakeResponses | None = None
        match kind:
            case "scripted":
                toml = SCRIPTED
            case "python":
                toml = PYTHON
            case "embedded":
                toml = EMBEDDED
            case "openai":
                native = await stack.enter_async_context(fake_responses())
                toml = HTTP.format(dialect="openai_responses", url=native.url)
            case _:
                (folder / "behind").mkdir()
                behind = await stack.enter_async_context(serving(PYTHON, base_dir=folder / "behind", scripts=files))
                dialect = "openai_chat" if kind == "http chat" else "openai_responses"
                toml = HTTP.format(dialect=dialect, url=f"{behind.url}/v1")
        server = await stack.enter_async_context(serving(toml, base_dir=folder, scripts=files))
        model = (await server.get("/v1/models")).json()["data"][0]["id"]
        client = Asking(server, model=model)
        if kind == "embedded":
            short = {"max_output_tokens": 24, "temperature": 0}
            choice = {"tool_choice": {"type": "function", "name": "get_weather"}}
            turns = [{"text": "Say one word.", **short}, {"text": "The weather?", **CALLING, **choice, **short}]
            yield Subject(kind, client, turns, None, lambda: "Tell a very long story of a ship and its crew.")
        elif native is not None:
            yield Subject(kind, client, hard, lambda _: _told(native), lambda: _hanging(native))
        else:
            said = None if kind == "scripted" else lambda final: final["output_text"]
            yield Subject(kind, client, hard, said, lambda: "hang")


def _told(native: FakeResponses) -> str:
    """What the fake was told last, in the words in which the agent repeats it."""
    told = ""
    for item in native.posts[-1].json()["input"]:
        match item.get("type", "message"):
            case "message":
                content = item["content"]
                text = content if isinstance(content, str) else "".join(part["text"] for part in content)
                told += f"{item['role']} {text} | "
            case "function_call":
                told += f"{item['name']} {item['arguments']} | "
            case "function_call_output":
                told += f"tool {item['output']} | "
            case _:
                pass
    return told


def _hanging(native: FakeResponses) -> str:
    begun = frames_of(events_of([message("so far and on")]))[:5]
    native.plan([*streamed(b"".join(begun))[:-1], Do.HOLD])
    return "hang"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Subject]:
    async with subject_of(request.param, tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def streams(subject: Subject) -> list[list[Streamed]]:
    """The hard case, streamed."""
    return [await subject.client.stream(**turn) for turn in subject.turns]


async def test_the_hard_case_is_the_hard_case(subject: Subject, streams: list[list[Streamed]]) -> None:
    output = [item for stream in streams for item in json.loads(final_of(stream))["output"]]
    kinds = ["message", "function_call"] if subject.kind == "embedded" else HARD
    assert [item["type"] for item in output] == kinds
    assert output[-1]["name"] == "get_weather"
    assert json.loads(output[-1]["arguments"]) == ({} if subject.kind == "embedded" else {"city": "Paris"})
    if subject.kind != "embedded":
        assert json.loads(final_of(streams[0]))["output_text"] == "Let me look. "
        assert any(event.kind == "response.output_text.delta" for event in streams[0])
        assert any(event.kind == "response.function_call_arguments.delta" for event in streams[0])


@pytest.mark.parametrize("name", INVARIANTS)
async def test_every_stream_keeps(subject: Subject, streams: list[list[Streamed]], name: str) -> None:
    """S1 to S11."""
    for stream in streams:
        INVARIANTS[name](stream)


async def test_what_is_retrieved_is_what_was_said_last(subject: Subject, streams: list[list[Streamed]]) -> None:
    """R1 and R3: byte for byte, and valid."""
    for stream in streams:
        final = json.loads(final_of(stream))
        reply = await subject.client.get(final["id"])
        assert reply.body == final_of(stream)
        check_object(reply.json())


async def test_an_answer_without_a_stream_is_the_same(subject: Subject, streams: list[list[Streamed]]) -> None:
    for turn, stream in zip(subject.turns, streams, strict=True):
        whole = await subject.client.create(**turn)
        assert (await subject.client.get(whole["id"])).json() == whole
        assert _nameless(whole) == _nameless(json.loads(final_of(stream)))


def _nameless(response: Mapping[str, Any]) -> str:
    """But for what differs between any two answers: ids, times, and how much of a prompt was cached."""
    output = [
        {key: value for key, value in item.items() if key not in ("id", "call_id")} for item in response["output"]
    ]
    left_out = ("id", "created_at", "completed_at", "usage")
    return json.dumps({**{key: value for key, value in response.items() if key not in left_out}, "output": output})


async def test_a_chained_tool_turn_reaches_the_backend_whole(subject: Subject, streams: list[list[Streamed]]) -> None:
    """R2: user, the assistant's text and call, the tool's result."""
    first = json.loads(final_of(streams[-1]))
    call = first["output"][-1]
    more = {"max_output_tokens": 8} if subject.kind == "embedded" else CALLING
    output = [call_output(call["call_id"], "sunny")]
    events = await subject.client.stream(output, previous_response_id=first["id"], **more)
    second = check_stream(events)
    assert second["previous_response_id"] == first["id"]
    items = (await subject.client.input_items(second["id"]))["data"]
    assert [item["type"] for item in items] == ["function_call_output"]
    for item in items:
        ITEM.validate_json(json.dumps(item), strict=True)
    if subject.history is not None:
        told = subject.history(second)
        arguments = call["arguments"]
        order = [subject.hard["text"], "Let me look. ", f"get_weather {arguments}", "sunny"]
        places = [told.find(text) for text in order]
        assert -1 not in places, told
        assert places == sorted(places)
    else:
        assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]


async def test_a_call_cannot_be_left_unanswered(subject: Subject, streams: list[list[Streamed]]) -> None:
    first = json.loads(final_of(streams[-1]))
    reply = await subject.client.post("and?", previous_response_id=first["id"])
    assert (reply.status, reply.error["param"]) == (400, "input")


async def test_what_is_not_there_cannot_be_continued(subject: Subject) -> None:
    """R4."""
    for stream in (False, True):
        reply = await subject.client.post("x", previous_response_id="resp_nobody", stream=stream)
        assert (reply.status, reply.error["code"]) == (400, "previous_response_not_found")


async def test_a_conversation_goes_on(subject: Subject) -> None:
    more = {"max_output_tokens": 8, "temperature": 0} if subject.kind == "embedded" else {}
    one = await subject.client.create("one", conversation="chat", **more)
    two = await subject.client.create("two", conversation="chat", **more)
    assert two["conversation"] == {"id": "chat"}
    if subject.history is not None:
        assert subject.history(two).find("user one") < subject.history(two).find("user two")
    else:
        assert two["usage"]["input_tokens"] > one["usage"]["input_tokens"]


async def test_background_work_returns_at_once_and_ends_as_any_other_answer(
    subject: Subject, streams: list[list[Streamed]]
) -> None:
    """B1, and R1 for it."""
    queued = await subject.client.create(**subject.hard, background=True)
    assert queued["status"] in ("queued", "in_progress")
    assert queued["output"] == []
    ended = await subject.client.ended(queued["id"])
    check_object(ended)
    assert ended["background"] is True
    assert _nameless({**ended, "background": False}) == _nameless(json.loads(final_of(streams[-1])))


async def test_background_work_is_followed_resumed_and_read_by_many(subject: Subject) -> None:
    """B3 and B4: whatever was missed comes, once; two readers see the same."""
    events = await subject.client.stream(**subject.hard, background=True)
    final = check_stream(events)
    assert (await subject.client.get(final["id"])).body == final_of(events)
    for number in (0, len(events) // 2, len(events) - 2, len(events) - 1):
        assert await subject.client.resume(final["id"], number) == events[number + 1 :]
    one, other = await asyncio.gather(subject.client.resume(final["id"]), subject.client.resume(final["id"]))
    assert one == other == events


async def test_background_work_is_cancelled_while_readers_read(subject: Subject) -> None:
    """B2: the work stops, every reader is told, and a second cancel changes nothing."""
    server: Serving = subject.client.server
    queued = await subject.client.create(subject.hang(), background=True)
    async with server.connect() as one, server.connect() as other:
        for wire in (one, other):
            await wire.send(f"GET /v1/responses/{queued['id']}?stream=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await one.head()
        seen = await one.until(b"output_text.delta")
        cancelled = await subject.client.cancel(queued["id"])
        assert cancelled.json()["status"] == "cancelled"
        while piece := await one.chunk():
            seen += piece
        events = events_in(seen)
        assert events_in((await other.reply()).body) == events
    check_stream(events)
    assert final_of(events) == cancelled.body == (await subject.client.cancel(queued["id"])).body
    endpoint = server.application.runtime.endpoints[0]
    await eventually(lambda: endpoint.active == 0)
    assert await subject.client.resume(queued["id"]) == events


async def test_background_work_that_is_deleted_stops(subject: Subject) -> None:
    server: Serving = subject.client.server
    queued = await subject.client.create(subject.hang(), background=True)
    async with server.connect() as wire:
        await wire.send(f"GET /v1/responses/{queued['id']}?stream=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await wire.head()
        await wire.until(b"output_text.delta")
        assert (await subject.client.delete(queued["id"])).status == 200
    endpoint = server.application.runtime.endpoints[0]
    await eventually(lambda: endpoint.active == 0)
    assert (await subject.client.get(queued["id"])).status == 404


async def test_only_background_work_can_be_resumed_or_cancelled(
    subject: Subject, streams: list[list[Streamed]]
) -> None:
    response_id = json.loads(final_of(streams[-1]))["id"]
    assert (await subject.client.get(response_id, "?stream=true&starting_after=0")).status == 400
    assert (await subject.client.cancel(response_id)).status == 400


async def test_nothing_of_a_turn_is_kept_that_was_not_to_be(subject: Subject) -> None:
    final = check_stream(await subject.client.stream(**subject.hard, store=False))
    assert (await subject.client.get(final["id"])).status == 404
