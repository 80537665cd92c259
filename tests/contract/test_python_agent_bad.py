"""Agents that do not keep to anything: what they do is bounded, reported, and nobody else's problem."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.serving import serving
from tests.surfaces.test_runs import Running
from trunkline.agent import ToolFinished, ToolStarted, Turn
from trunkline.backends.callable import PythonBackend
from trunkline.backends.callable.channel import LIMIT
from trunkline.config.schema import PythonSettings
from trunkline.model import events as ev
from trunkline.model.errors import AgentError, AgentIncomplete
from trunkline.model.items import FunctionCallOutput
from trunkline.model.turn import fold
from trunkline.ports.backend import BackendSetup
from trunkline.testing.answers import (
    CountingEntropy,
    PinnedClock,
    batches_of,
    events_of,
    request_of,
    text_in,
)

SETUP = BackendSetup(name="bot", base_dir=Path(), clock=PinnedClock(), entropy=CountingEntropy())
BIG = 50_000_000
MANY = 20_000


async def started(agent: object, **settings: object) -> PythonBackend:
    table = {"target": "bot", "max_concurrency": 2, **settings}
    backend = PythonBackend(
        msgspec.convert(table, PythonSettings), SETUP, agent=agent, stop_within_s=0.05, lost_after_s=0.0
    )
    await backend.start()
    return backend


async def read_one(backend: PythonBackend) -> None:
    """Reads the first batch of an answer and leaves."""
    batches = batches_of(backend, request_of("x"))
    await anext(batches)
    await batches.aclose()


def ignoring(turn: Turn) -> Generator[str, None, None]:
    while True:
        try:
            yield "x"
        except GeneratorExit:
            yield "still here"
            return


async def async_ignoring(turn: Turn) -> AsyncIterator[str]:
    for _ in range(10 * LIMIT):
        try:
            yield "x"
            await asyncio.sleep(0)
        except (GeneratorExit, asyncio.CancelledError):
            yield "still here"


@pytest.mark.parametrize("agent", [ignoring, async_ignoring])
async def test_a_generator_that_ignores_its_end_is_left_alone(agent: Callable[[Turn], object]) -> None:
    backend = await started(agent)
    for _ in range(4):  # more than it has threads
        await read_one(backend)
    await backend.close()


async def test_threads_that_never_come_back_leave_room_for_others(caplog: pytest.LogCaptureFixture) -> None:
    stuck, release = threading.Semaphore(0), threading.Event()

    def agent(turn: Turn) -> Iterator[str]:
        yield "one"
        if turn.input == "x":
            stuck.release()
            release.wait()

    backend = await started(agent)
    for _ in range(6):
        batches = batches_of(backend, request_of("x"))
        await anext(batches)
        await asyncio.to_thread(stuck.acquire)  # a thread that sees its client leave at the yield comes back
        await batches.aclose()
    assert text_in(await events_of(backend, request_of("y"))) == "one"
    while caplog.text.count("agent thread lost") < 6:  # noqa: ASYNC110 - the log has no event for tests
        await asyncio.sleep(0)
    release.set()
    await backend.close()


async def test_an_object_that_awaits_itself_is_no_answer() -> None:
    class Itself:
        def __await__(self) -> Generator[None, None, "Itself"]:
            yield
            return self

    backend = await started(lambda turn: Itself())
    with pytest.raises(AgentError, match="agent returned Itself"):
        await events_of(backend, request_of("x"))
    await backend.close()


def many_in_thread(turn: Turn) -> Iterator[str]:
    for _ in range(MANY):
        yield "x"


async def many_on_loop(turn: Turn) -> AsyncIterator[str]:
    for _ in range(MANY):
        yield "x"


@pytest.mark.parametrize("agent", [many_in_thread, many_on_loop])
async def test_very_many_small_yields_arrive_in_bounded_batches(agent: Callable[[Turn], object]) -> None:
    backend = await started(agent)
    batches = [batch async for batch in batches_of(backend, request_of("x"))]
    assert sum([len(text_in(list(batch))) for batch in batches]) == MANY
    assert max([len(batch) for batch in batches]) <= LIMIT + 3  # with the events around the text
    await backend.close()


async def test_a_huge_piece_arrives_whole() -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "x" * BIG

    backend = await started(agent)
    assert len(text_in(await events_of(backend, request_of("x")))) == BIG
    await backend.close()


@pytest.mark.parametrize("form", ["async", "thread"])
@pytest.mark.parametrize("ending", ["ends", "raises"])
async def test_tools_that_never_finish_end_with_the_turn(form: str, ending: str) -> None:
    def values() -> Iterator[object]:
        yield ToolStarted("c1", "search")
        yield ToolStarted("c2", "shell")
        yield ToolFinished("c1", "ten")
        yield "Found"
        if ending == "raises":
            raise RuntimeError("broke")

    async def on_loop(turn: Turn) -> AsyncIterator[object]:
        for value in values():
            yield value

    backend = await started(on_loop if form == "async" else lambda turn: values())
    events: list[ev.Event] = []
    raised: list[str] = []
    try:
        async for batch in batches_of(backend, request_of("x")):
            events += batch
    except AgentError as error:
        raised.append(error.message)
    assert raised == ([] if ending == "ends" else ["broke"])
    ended = [event for event in events if isinstance(event, ev.ToolProgress) and event.status == "completed"]
    assert [(event.call_id, event.failed) for event in ended] == [("c1", False), ("c2", True)]
    if ending == "ends":
        outputs = [item.item for item in fold(events).items if isinstance(item.item, FunctionCallOutput)]
        assert [item.call_id for item in outputs] == ["c1", "c2"]
    await backend.close()


async def test_a_failed_result_ends_the_tools_before_it_fails() -> None:
    class Agent:
        def run_conversation(self, user_message: str, tool_start_callback: Callable[..., object]) -> object:
            tool_start_callback("c1", "shell", {})
            return {"final_response": None, "failed": True, "error": "no quota"}

    backend = await started(Agent())
    events: list[ev.Event] = []

    async def read() -> None:
        async for batch in batches_of(backend, request_of("x")):
            events.extend(batch)

    with pytest.raises(AgentIncomplete, match="no quota"):
        await read()
    assert [event.failed for event in events if isinstance(event, ev.ToolProgress)] == [False, True]
    await backend.close()


# Through a server

BAD = """
import asyncio, sys, threading

def exits(turn):
    sys.exit(3)

async def exits_on_loop(turn):
    yield "a"
    sys.exit(3)

async def nothing(turn):
    return
    yield

async def big(turn):
    yield "x" * 5_000_000

async def asks_badly(turn):
    yield await turn.approve("rm \\udc80", "of \\udc80", choices=("yes \\udc80", "no"))

async def fine(turn):
    yield "fine"
"""
CONFIG = "".join(
    f'[backends.{name}]\ntype = "python"\ntarget = "bad.py:{name}"\n'
    for name in ("exits", "exits_on_loop", "nothing", "big", "asks_badly", "fine")
)


async def test_a_server_outlives_its_agents(tmp_path: Path) -> None:
    async with serving(CONFIG, base_dir=tmp_path, scripts={"bad.py": BAD}) as served:
        assert (await served.chat(model="exits")).status == 500
        late = await served.chat(model="exits_on_loop", stream=True)
        assert (late.status, late.text, late.frames[-1]["error"]["code"]) == (200, "a", "agent_error")
        empty = await served.chat(model="nothing")
        assert (empty.status, empty.json()["choices"][0]["message"]["content"]) == (200, "")
        assert len((await served.chat(model="big", stream=True)).text) == 5_000_000
        assert (await served.chat(model="fine")).json()["choices"][0]["message"]["content"] == "fine"


async def test_a_question_about_a_file_whose_name_is_no_utf8_is_asked(tmp_path: Path) -> None:
    async with serving(CONFIG, base_dir=tmp_path, scripts={"bad.py": BAD}) as served:
        client = Running(served)
        run_id = (await client.create("x", model="asks_badly"))["run_id"]
        asked = (await client.until(run_id, "approval.request"))[-1]
        assert (asked["tool"], asked["text"]) == ("rm \ufffd", "of \ufffd")
        assert asked["choices"] == ["yes \ufffd", "no"]
        assert (await client.post(f"/{run_id}/approval", choice="yes \ufffd")).status == 200
        assert (await client.events(run_id))[-1]["output"] == "yes \ufffd"


async def cancels_itself(turn: Turn) -> AsyncIterator[str]:
    yield "a"
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)
    yield "b"


async def cancels_itself_and_returns(turn: Turn) -> str:
    async for _ in cancels_itself(turn):
        pass
    return "never"


@pytest.mark.parametrize("agent", [cancels_itself, cancels_itself_and_returns])
async def test_an_agent_that_cancels_its_own_task_has_failed(agent: object, caplog: pytest.LogCaptureFixture) -> None:
    backend = await started(agent)
    with pytest.raises(AgentError, match="CancelledError"):
        await events_of(backend, request_of("x"))
    assert "agent raised" in caplog.text
    await backend.close()


async def test_an_agent_that_cancels_its_own_task_too_late_has_answered() -> None:
    async def agent(turn: Turn) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "done"

    backend = await started(agent)
    assert text_in(await events_of(backend, request_of("x"))) == "done"
    await backend.close()
