"""What the log says of an agent: its writer looks there first."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import Context
from typing import Any, TypeVarTuple

import pytest

from tests.contract.test_python_agent import answer, started
from trunkline.agent import FunctionCall, Reasoning, ToolFinished, ToolStarted, Turn
from trunkline.model.errors import TrunklineError
from trunkline.testing.answers import batches_of, request_of, text_in


async def yields_a_dict(turn: Turn) -> AsyncIterator[Any]:
    yield {"text": "x"}


def yields_a_dict_in_a_thread(turn: Turn) -> Iterator[Any]:
    yield "piece"
    yield {"text": "x"}


async def returns_none(turn: Turn) -> None:
    return None


async def starts_no_name(turn: Turn) -> AsyncIterator[Any]:
    yield ToolStarted("c1", {})  # type: ignore[arg-type]


async def calls_nobodys_tool(turn: Turn) -> AsyncIterator[Any]:
    yield FunctionCall("clock")


async def fails_without_an_answer(turn: Turn) -> object:
    return {"failed": True, "error": "quota of sk-abcdef123456"}


async def fails_with_an_answer(turn: Turn) -> object:
    return {"failed": True, "error": "quota", "final_response": "Sorry."}


WRONG: list[tuple[Callable[[Turn], object], str]] = [
    (yields_a_dict, "agent yielded dict; expected str"),
    (yields_a_dict_in_a_thread, "agent yielded dict; expected str"),
    (returns_none, "agent returned None; expected str"),
    (starts_no_name, "agent yielded ToolStarted.name of dict; expected str"),
    (calls_nobodys_tool, 'has to be made with create_app(…, backend={"client_tools": True})'),
    (fails_without_an_answer, "quota of [redacted]"),
    (fails_with_an_answer, "quota"),
]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "trunkline.agent"]


@pytest.mark.parametrize(("agent", "text"), WRONG)
async def test_what_an_agent_did_wrong_is_logged(
    agent: Callable[[Turn], object], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.suppress(TrunklineError):
        await answer(agent)
    (said,) = messages(caplog)
    assert said.startswith("agent failed: agent=bot request_id=")
    assert text in said
    assert caplog.records[0].levelno == logging.ERROR


async def says_nothing(turn: Turn) -> AsyncIterator[str]:
    yield ""


def says_nothing_in_a_thread(turn: Turn) -> Iterator[str]:
    yield ""


async def only_thinks(turn: Turn) -> AsyncIterator[Any]:
    yield Reasoning("hm")
    yield ToolStarted("c1", "search")
    yield ToolFinished("c1")


async def has_no_answer(turn: Turn) -> object:
    return {"final_response": None}


async def returns_an_empty_text(turn: Turn) -> str:
    return ""


SILENT = [says_nothing, says_nothing_in_a_thread, only_thinks, has_no_answer, returns_an_empty_text]


@pytest.mark.parametrize("agent", SILENT)
async def test_an_answer_without_a_word_is_logged(
    agent: Callable[[Turn], object], caplog: pytest.LogCaptureFixture
) -> None:
    assert text_in(await answer(agent)) == ""
    (said,) = messages(caplog)
    assert said.startswith("agent ended without any text: agent=bot request_id=")


async def test_a_client_that_leaves_is_no_answer_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield Reasoning("hm")
        await asyncio.Event().wait()

    backend = await started(agent)
    batches = batches_of(backend, request_of("x"))
    await anext(batches)
    await batches.aclose()
    await backend.close()
    assert messages(caplog) == []


async def test_a_tool_that_ends_and_did_not_begin_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield ToolStarted("c1", "search")
        yield ToolStarted("c2", "_internal")
        yield ToolFinished("c1")
        yield ToolFinished("c2")
        yield ToolFinished("c9", "lost\n")
        yield ToolFinished("c1")
        yield "Done."

    await answer(agent)
    (said,) = messages(caplog)
    assert said.startswith("agent finished a tool that is not running: agent=bot request_id=")
    assert "call_id='c9'" in said


@pytest.mark.parametrize(
    ("code", "text"), [(1, "SystemExit: 1"), (None, "SystemExit"), ("no key", "SystemExit: no key")]
)
async def test_an_agent_that_calls_sys_exit_is_told_so(code: object, text: str) -> None:
    async def agent(turn: Turn) -> str:
        raise SystemExit(code)

    with pytest.raises(TrunklineError) as caught:
        await answer(agent)
    assert caught.value.message == f"the agent called sys.exit ({text})"


Handed = TypeVarTuple("Handed")


class HandedLoop(asyncio.SelectorEventLoop):
    """Counts what other threads hand over to it."""

    def __init__(self) -> None:
        super().__init__()
        self.handed = threading.Semaphore(0)

    def call_soon_threadsafe(
        self, callback: Callable[[*Handed], object], *args: *Handed, context: Context | None = None
    ) -> asyncio.Handle:
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self.handed.release()
        return handle


def test_what_an_agent_raises_just_as_its_client_leaves_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What it raised is on the loop already, but its turn has not come to see that."""

    async def main(loop: HandedLoop) -> None:
        def leave() -> None:
            for _ in ("this", "what the agent raised"):
                loop.handed.acquire()
            reading.cancel()

        def agent(turn: Turn) -> str:
            loop.call_soon_threadsafe(leave)
            raise ValueError("too late")

        reading = asyncio.create_task(answer(agent))
        with contextlib.suppress(asyncio.CancelledError):
            await reading

    loop = HandedLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main(loop))
    (said,) = messages(caplog)
    assert said.startswith("agent raised: agent=bot request_id=")
