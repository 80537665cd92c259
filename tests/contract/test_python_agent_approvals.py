"""`turn.approve`: an agent asks before it acts, waits for the answer, and takes silence for a no."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.serving import eventually, serving
from trunkline.agent import Choice, ToolStarted, Turn
from trunkline.backends.callable import PythonBackend
from trunkline.config.schema import PythonSettings
from trunkline.engine.approvals import ApprovalRegistry, Asker
from trunkline.model import events as ev
from trunkline.model.errors import AgentError, Conflict
from trunkline.ports.backend import BackendSetup, Context
from trunkline.testing.answers import (
    CountingEntropy,
    PinnedClock,
    batches_of,
    pinned_context,
    request_of,
    text_in,
)

SETUP = BackendSetup(name="bot", base_dir=Path(), clock=PinnedClock(), entropy=CountingEntropy())
ASKER = Asker(tenant="alice", turn_id="turn_1", session_id="s1", backend="bot", request_id="req_1", visible=True)


async def asks(turn: Turn) -> AsyncIterator[str]:
    yield "May I? "
    yield await turn.approve("shell", "rm -r build")


async def asks_and_returns(turn: Turn) -> str:
    return await turn.approve("shell", "rm -r build")


def asks_in_a_thread(turn: Turn) -> Iterator[str]:
    yield "May I? "
    yield turn.approve("shell", "rm -r build")


def asks_in_a_thread_and_returns(turn: Turn) -> str:
    return turn.approve("shell", "rm -r build")


async def asks_from_a_thread_of_its_own(turn: Turn) -> str:
    return await asyncio.to_thread(turn.approve, "shell", "rm -r build")


FORMS = [asks, asks_and_returns, asks_in_a_thread, asks_in_a_thread_and_returns, asks_from_a_thread_of_its_own]


class Asking:
    """An agent's backend, with the engine's registry behind it."""

    def __init__(self, backend: PythonBackend, registry: ApprovalRegistry, *, visible: bool = True) -> None:
        self.backend, self.registry = backend, registry
        asker = msgspec.structs.replace(ASKER, visible=visible)
        self.context: Context = msgspec.structs.replace(
            pinned_context(session_id="s1"), tenant="alice", approvals=registry.of_turn(asker)
        )

    async def events(self, choice: str | None = None) -> list[ev.Event]:
        """The answer, where each question gets this choice as soon as it is seen."""
        events: list[ev.Event] = []
        async for batch in batches_of(self.backend, request_of("x"), self.context):
            events += batch
            for event in batch:
                if isinstance(event, ev.ApprovalRequested) and choice is not None:
                    self.registry.resolve("alice", "turn_1", choice, call_id=event.call_id)
        return events


async def asking(agent: object, *, visible: bool = True, **settings: object) -> Asking:
    table = {"target": "bot", "max_concurrency": 4, **settings}
    backend = PythonBackend(
        msgspec.convert(table, PythonSettings), SETUP, agent=agent, stop_within_s=0.2, lost_after_s=10.0
    )
    await backend.start()
    return Asking(backend, ApprovalRegistry(), visible=visible)


def questions_in(events: Sequence[ev.Event]) -> list[ev.Event]:
    return [event for event in events if isinstance(event, ev.ApprovalRequested | ev.ApprovalResolved)]


@pytest.mark.parametrize("agent", FORMS)
async def test_an_agent_asks_waits_and_gets_the_choice(agent: Callable[[Turn], object]) -> None:
    bot = await asking(agent)
    events = await bot.events("once")
    assert text_in(events).removeprefix("May I? ") == "once"
    requested, resolved = questions_in(events)
    assert isinstance(requested, ev.ApprovalRequested)
    assert (requested.tool, requested.text) == ("shell", "rm -r build")
    assert requested.choices == ("once", "session", "always", "deny")
    assert resolved == ev.ApprovalResolved(requested.call_id, "once")
    await bot.backend.close()


@pytest.mark.parametrize("agent", FORMS)
async def test_nobody_who_could_see_the_question_is_a_no_at_once(agent: Callable[[Turn], object]) -> None:
    bot = await asking(agent, visible=False)
    events = await bot.events()
    assert text_in(events).removeprefix("May I? ") == "deny"
    assert questions_in(events) == []
    await bot.backend.close()


@pytest.mark.parametrize("agent", FORMS)
async def test_time_is_a_no(agent: Callable[[Turn], object]) -> None:
    bot = await asking(agent, approval_timeout_s=0.001)
    events = await bot.events()
    assert text_in(events).removeprefix("May I? ") == "deny"
    assert [type(event) for event in questions_in(events)] == [ev.ApprovalRequested, ev.ApprovalResolved]
    await bot.backend.close()


@pytest.mark.parametrize("agent", FORMS)
async def test_a_client_that_leaves_closes_the_question(agent: Callable[[Turn], object]) -> None:
    bot = await asking(agent)
    batches = batches_of(bot.backend, request_of("x"), bot.context)
    async for batch in batches:
        if questions_in(batch):
            break
    await batches.aclose()
    await asyncio.sleep(0)
    assert bot.registry.pending("alice", "turn_1") == ()
    await bot.backend.close()  # would warn of a thread that is still waiting


async def test_what_was_answered_for_always_is_not_asked_again() -> None:
    async def agent(turn: Turn) -> str:
        return " ".join([await turn.approve("shell", f"rm {number}") for number in range(3)])

    bot = await asking(agent)
    events = await bot.events("always")
    assert text_in(events) == "always always always"
    assert len(questions_in(events)) == 2
    await bot.backend.close()


async def test_questions_from_several_threads_are_open_side_by_side() -> None:
    def agent(turn: Turn) -> str:
        said: list[str] = []
        threads = [
            threading.Thread(target=lambda tool: said.append(str(turn.approve(tool))), args=(f"t{number}",))
            for number in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return " ".join(said)

    bot = await asking(agent)
    events: list[ev.Event] = []
    async for batch in batches_of(bot.backend, request_of("x"), bot.context):
        events += batch
        if len(bot.registry.pending("alice", "turn_1")) == 3:
            bot.registry.resolve("alice", "turn_1", "session", all=True)
    assert text_in(events) == "session session session"
    await bot.backend.close()


async def test_a_question_that_outlives_its_turn_is_a_no() -> None:
    told: list[str] = []
    asked, over = threading.Event(), threading.Event()

    async def agent(turn: Turn) -> AsyncIterator[object]:
        def ask() -> None:
            told.append(turn.approve("shell"))
            told.append(turn.approve("shell"))
            over.set()

        threading.Thread(target=ask).start()
        yield ToolStarted("c1", "shell")
        while not bot.registry.pending("alice", "turn_1"):  # noqa: ASYNC110 - the thread has no event of ours
            await asyncio.sleep(0)
        asked.set()

    bot = await asking(agent)
    await bot.events()
    await asyncio.to_thread(over.wait)
    assert told == ["deny", "deny"]
    await bot.backend.close()


async def test_a_process_that_stops_while_a_thread_asks_is_a_no() -> None:
    told: list[str] = []
    over = threading.Event()

    async def agent(turn: Turn) -> AsyncIterator[str]:
        def ask() -> None:
            told.append(turn.approve("shell"))
            over.set()

        threading.Thread(target=ask).start()
        yield "asked"
        await asyncio.Event().wait()

    bot = await asking(agent)
    batches = batches_of(bot.backend, request_of("x"), bot.context)
    async for batch in batches:
        if questions_in(batch):
            break
    (asked,) = [task for task in asyncio.all_tasks() if "Questions._asked" in repr(task)]
    asked.cancel()  # as a loop does with what is left when it ends
    await asyncio.to_thread(over.wait)
    assert told == ["deny"]
    await batches.aclose()
    await bot.backend.close()


async def test_choices_may_be_the_agents_own_and_deny_is_always_one() -> None:
    async def agent(turn: Turn) -> str:
        return await turn.approve("colour", "Which?", choices=["red", "blue"])

    bot = await asking(agent)
    assert text_in(await bot.events("blue")) == "blue"
    assert text_in(await bot.events("deny")) == "deny"
    await bot.backend.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "needs the name of a tool"),
        (("shell", 3), "needs a text"),
        (("shell", "x", ()), "needs choices"),
        (("shell", "x", ("once", 3)), "needs choices"),
    ],
)
async def test_what_is_no_question_is_named(arguments: tuple[object, ...], message: str) -> None:
    async def agent(turn: Turn) -> str:
        tool, text, choices = (arguments + ("", "", ("once",))[len(arguments) :])[:3]
        return await turn.approve(tool, text, choices=choices)  # type: ignore[arg-type]

    bot = await asking(agent)
    with pytest.raises(AgentError, match=message):
        await bot.events()
    await bot.backend.close()


async def test_an_answer_that_is_not_awaited_is_never_taken_for_a_yes() -> None:
    async def agent(turn: Turn) -> str:
        choice = turn.approve("shell", "rm -r build")
        try:
            return "denied" if choice == "deny" else "done"
        finally:
            await choice

    bot = await asking(agent)
    with pytest.raises(AgentError, match=r"turn.approve\(...\) has to be awaited"):
        await bot.events("deny")
    await bot.backend.close()


async def test_an_agent_is_tested_without_a_server() -> None:
    assert await asks_and_returns(Turn(ask=lambda tool, text, choices: "once")) == "once"
    assert asks_in_a_thread_and_returns(Turn(ask=lambda tool, text, choices: "session")) == "session"
    assert await asks_and_returns(Turn()) == "deny"
    assert isinstance(Turn().approve("x"), Choice)


# Through a server

AGENT = """
async def agent(turn):
    yield "May I? "
    yield await turn.approve("shell", "rm -r build")
"""
SEEN: dict[str, Any] = {"stream_options": {"include_tool_events": True}}
CONFIG = '[backends.bot]\ntype = "python"\ntarget = "asking.py:agent"\n'


async def test_a_stream_shows_the_question_and_goes_on_when_it_is_answered(tmp_path: Path) -> None:
    async with serving(CONFIG, base_dir=tmp_path, scripts={"asking.py": AGENT}) as served:
        approvals = served.application.runtime.approvals
        async with served.stream(model="asking", **SEEN) as wire:
            await wire.head()
            shown = await wire.until(b"rm -r build")
            turn_id = msgspec.json.decode(shown.split(b"data: ")[1].split(b"\n\n")[0])["id"]
            (question,) = approvals.pending("default", turn_id)
            assert question.tool == "shell"
            with pytest.raises(Conflict, match="no approval is waited for"):
                approvals.resolve("mallory", turn_id, "once")
            path = f"/v1/runs/{turn_id}/approval"
            wrong = await served.request("POST", path, b'{"choice": "perhaps"}')
            assert (wrong.status, wrong.error["code"]) == (400, "invalid_approval_choice")
            assert (await served.request("POST", path, b'{"choice": "once"}')).status == 200
            assert b'"once"' in await wire.until(b"[DONE]")


async def test_a_whole_answer_is_not_asked_for(tmp_path: Path) -> None:
    async with serving(CONFIG, base_dir=tmp_path, scripts={"asking.py": AGENT}) as served:
        reply = await served.chat(model="asking")
        assert reply.json()["choices"][0]["message"]["content"] == "May I? deny"


async def test_a_server_that_leaves_denies_what_is_open(tmp_path: Path) -> None:
    async with (
        serving(CONFIG, base_dir=tmp_path, scripts={"asking.py": AGENT}) as served,
        served.stream(model="asking", **SEEN) as wire,
    ):
        await wire.head()
        await wire.until(b"rm -r build")
        served.application.drain()
        assert b'"deny"' in await wire.until(b"[DONE]")


async def test_an_answer_in_the_background_can_be_asked_for(tmp_path: Path) -> None:
    body = b'{"model": "asking", "input": "x", "background": true}'
    async with serving(CONFIG, base_dir=tmp_path, scripts={"asking.py": AGENT}) as served:
        begun = (await served.request("POST", "/v1/responses", body)).json()
        approvals = served.application.runtime.approvals
        await eventually(lambda: bool(approvals.pending("default", begun["id"])))
        path = f"/v1/runs/{begun['id']}/approval"
        assert (await served.request("POST", path, b'{"choice": "always"}')).status == 200
        again = await served.request("POST", path, b'{"choice": "always"}')
        assert (again.status, again.error["code"]) == (409, "approval_not_pending")
        # What was answered with `always` is not asked again, and then needs nobody to see it.
        assert (await served.chat(model="asking")).json()["choices"][0]["message"]["content"] == "May I? always"
