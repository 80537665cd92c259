"""What `turn.approve` gives on the event loop: something to await in every way asyncio knows, and a choice in no other way."""

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest

from tests.contract.test_python_agent_approvals import asking, questions_in
from trunkline.agent import Turn
from trunkline.model import events as ev
from trunkline.model.errors import AgentError
from trunkline.testing.answers import text_in


async def gathered(turn: Turn) -> str:
    return " ".join(await asyncio.gather(turn.approve("a", "1"), turn.approve("b", "2")))


async def a_task(turn: Turn) -> str:
    return await asyncio.create_task(turn.approve("a", "1"))


async def a_future(turn: Turn) -> str:
    return await asyncio.ensure_future(turn.approve("a", "1"))


async def a_group(turn: Turn) -> str:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(turn.approve(tool)) for tool in "ab"]
    return " ".join([task.result() for task in tasks])


async def within_a_minute(turn: Turn) -> str:
    return await asyncio.wait_for(turn.approve("a", "1"), 60)


AWAITED: list[Callable[[Turn], object]] = [gathered, a_task, a_future, a_group, within_a_minute]


@pytest.mark.parametrize("agent", AWAITED)
async def test_a_question_is_awaited_in_every_way_asyncio_knows(agent: Callable[[Turn], object]) -> None:
    bot = await asking(agent)
    assert set(text_in(await bot.events("once")).split()) == {"once"}
    await bot.backend.close()


@pytest.mark.parametrize("agent", AWAITED)
async def test_the_same_agent_is_tested_without_a_server(agent: Callable[[Turn], object]) -> None:
    async def later(tool: str, text: str, choices: tuple[str, ...]) -> str:
        return "once"

    for turn in (Turn(ask=lambda tool, text, choices: "once"), Turn(ask=later)):
        answer = agent(turn)
        assert asyncio.iscoroutine(answer)
        assert set(str(await answer).split()) == {"once"}


async def test_a_choice_given_at_once_can_be_cancelled_like_any_other() -> None:
    for turn in (Turn(), Turn(ask=lambda tool, text, choices: "once")):
        task = asyncio.create_task(turn.approve("shell"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        turn.approve("shell").close()


def switch(choice: object) -> object:
    match choice:
        case "deny":
            return True
        case _:
            return False


USES: dict[str, Callable[[str], object]] = {
    "==": lambda choice: choice == "deny",
    "reflected ==": lambda choice: "deny" == choice,  # noqa: SIM300
    "!=": lambda choice: choice != "deny",
    "<": lambda choice: choice < "e",
    "in a tuple": lambda choice: choice in ("deny",),
    "in a set": lambda choice: choice in {"deny"},
    "in a dict": lambda choice: {"deny": False}.get(choice, True),
    "in a string": lambda choice: choice in "deny, no",
    "match": switch,
    "if": bool,
    "not": lambda choice: not choice,
    "str": str,
    "f-string": lambda choice: f"{choice}",
    "percent": lambda choice: "%s" % choice,  # noqa: UP031
    "format": "{}".format,
    "lower": lambda choice: choice.lower() == "deny",
    "strip": lambda choice: choice.strip(),
    "startswith": lambda choice: choice.startswith("deny"),
    "join": lambda choice: "".join([choice]),  # noqa: FLY002
    "+": lambda choice: choice + "x",
    "reflected +": lambda choice: "x" + choice,
    "len": len,
    "index": lambda choice: choice[0],
    "iterate": list,
    "json": json.dumps,
}


@pytest.mark.parametrize("use", USES)
async def test_a_question_that_is_not_awaited_is_no_answer_whatever_is_done_with_it(use: str) -> None:
    asked: list[object] = []

    async def agent(turn: Turn) -> str:
        choice = turn.approve("shell", "rm -r build")
        asked.append(choice)
        try:
            return str(USES[use](choice))
        finally:
            await choice

    bot = await asking(agent)
    with pytest.raises(AgentError):
        await bot.events("deny")
    assert not isinstance(asked[0], str)
    await bot.backend.close()


async def test_what_was_forgotten_is_said() -> None:
    async def agent(turn: Turn) -> str:
        choice = turn.approve("shell", "rm -r build")
        try:
            return choice.lower()
        finally:
            await choice

    bot = await asking(agent)
    with pytest.raises(AgentError, match=r"turn.approve\(...\) has to be awaited: nobody has answered yet"):
        await bot.events("deny")
    await bot.backend.close()


async def test_choices_in_one_string_are_no_choices() -> None:
    async def agent(turn: Turn) -> str:
        return await turn.approve("shell", "x", choices="yes")

    bot = await asking(agent)
    with pytest.raises(AgentError, match="needs choices as a list of strings, got 'yes'"):
        await bot.events("deny")
    await bot.backend.close()
    with pytest.raises(TypeError, match="needs choices as a list of strings, got 'yes'"):
        await Turn().approve("shell", choices="yes")


def resolved_in(events: Sequence[ev.Event]) -> list[str]:
    return [event.choice for event in questions_in(events) if isinstance(event, ev.ApprovalResolved)]


async def test_a_question_that_the_agent_gives_up_is_shown_as_denied() -> None:
    async def agent(turn: Turn) -> str:
        try:
            async with asyncio.timeout(0):
                return await turn.approve("shell", "rm -r build")
        except TimeoutError:
            return "given up"

    bot = await asking(agent)
    events = await bot.events()
    assert text_in(events) == "given up"
    assert resolved_in(events) == ["deny"]
    assert bot.registry.pending("alice", "turn_1") == ()
    await bot.backend.close()


async def test_a_task_that_asks_and_is_cancelled_has_its_question_shown_as_denied() -> None:
    async def agent(turn: Turn) -> str:
        task = asyncio.create_task(turn.approve("shell", "rm -r build"))
        while not bot.registry.pending("alice", "turn_1"):  # noqa: ASYNC110 - the registry has no event of ours
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        return "cancelled"

    bot = await asking(agent)
    assert resolved_in(await bot.events()) == ["deny"]
    await bot.backend.close()
