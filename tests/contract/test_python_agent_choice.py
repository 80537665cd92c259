"""What `turn.approve` gives: a string, whose truth is a yes."""

import asyncio
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.test_python_agent_approvals import asking
from trunkline.agent import CHOICES, ToolFinished, ToolStarted, Turn
from trunkline.model import events as ev
from trunkline.model.errors import AgentError
from trunkline.testing.answers import text_in


async def awaits(turn: Turn) -> str:
    if await turn.approve("shell", "rm -rf /"):
        return "dangerous"
    return "safe"


async def negates(turn: Turn) -> str:
    return "safe" if not await turn.approve("shell", "rm -rf /") else "dangerous"


async def gathers(turn: Turn) -> str:
    return "dangerous" if all(await asyncio.gather(turn.approve("shell"), turn.approve("shell"))) else "safe"


async def as_a_task(turn: Turn) -> str:
    return "dangerous" if await asyncio.create_task(turn.approve("shell")) else "safe"


def waits(turn: Turn) -> str:
    return "dangerous" if turn.approve("shell", "rm -rf /") else "safe"


async def in_a_thread(turn: Turn) -> str:
    return "dangerous" if await asyncio.to_thread(turn.approve, "shell") else "safe"


async def of_fewer(turn: Turn) -> str:
    return "dangerous" if await turn.approve("shell", choices=("once", "deny")) else "safe"


FORMS: list[Callable[[Turn], Any]] = [awaits, negates, gathers, as_a_task, waits, in_a_thread, of_fewer]


@pytest.mark.parametrize("choice", ["once", "deny"])
@pytest.mark.parametrize("agent", FORMS)
async def test_a_choice_is_true_where_it_is_a_yes(agent: Callable[[Turn], Any], choice: str) -> None:
    bot = await asking(agent)
    assert text_in(await bot.events(choice)) == ("safe" if choice == "deny" else "dangerous")
    await bot.backend.close()


@pytest.mark.parametrize("choice", CHOICES)
async def test_the_same_is_true_without_a_server(choice: str) -> None:
    async def later(*_: object) -> str:
        return choice

    def given() -> asyncio.Future[str]:
        answered = asyncio.get_running_loop().create_future()
        answered.set_result(choice)
        return answered

    expected = "safe" if choice == "deny" else "dangerous"
    for ask in (lambda *_: choice, later, lambda *_: given()):
        assert await awaits(Turn(ask=ask)) == expected
        assert await as_a_task(Turn(ask=ask)) == expected
    assert waits(Turn(ask=lambda *_: choice)) == expected
    assert waits(Turn()) == "safe"


async def choose(turn: Turn) -> str:
    return "sent" if await turn.approve("mail", choices=("send", "deny")) else "kept"


def choose_in_a_thread(turn: Turn) -> str:
    return "sent" if turn.approve("mail", choices=("send", "deny")) else "kept"


@pytest.mark.parametrize("choice", ["send", "deny"])
@pytest.mark.parametrize("agent", [choose, choose_in_a_thread])
async def test_a_choice_of_ones_own_has_to_be_compared(agent: Callable[[Turn], object], choice: str) -> None:
    bot = await asking(agent)
    with pytest.raises(AgentError, match=r"choices=\['send', 'deny'\].*compare it, as in `if choice == 'send'`"):
        await bot.events(choice)
    await bot.backend.close()


async def test_an_answer_that_is_no_choice_is_no_yes() -> None:
    with pytest.raises(TypeError, match=r"gave 'no'.*compare it"):
        await awaits(Turn(ask=lambda *_: "no"))


async def says(turn: Turn) -> Any:
    yield await turn.approve("shell")


def returns(turn: Turn) -> str:
    return turn.approve("shell")


async def awaited_and_returned(turn: Turn) -> str:
    return await turn.approve("shell", choices=("deny", "never"))


async def as_a_result(turn: Turn) -> object:
    return {"final_response": await turn.approve("shell")}


@pytest.mark.parametrize("agent", [says, returns, awaited_and_returned, as_a_result])
async def test_a_no_is_text_like_any_other(agent: Callable[[Turn], object]) -> None:
    bot = await asking(agent)
    assert text_in(await bot.events("deny")) == "deny"
    await bot.backend.close()


async def test_a_choice_is_a_string_wherever_one_goes() -> None:
    async def agent(turn: Turn) -> Any:
        choice = await turn.approve("shell")
        assert isinstance(choice, str)
        yield ToolStarted("c1", "shell", {"choice": choice})
        yield ToolFinished("c1", {choice: choice, "all": [choice]})
        yield json.dumps({choice: choice}) + f" {choice} {choice.upper()} {choice in ('deny', 'no')}"

    bot = await asking(agent)
    events = await bot.events("deny")
    assert text_in(events) == '{"deny": "deny"} deny DENY True'
    assert '{"choice":"deny"}' in [event.text for event in events if isinstance(event, ev.ArgumentsDelta)]
    await bot.backend.close()


USES: dict[str, Callable[[Any], object]] = {
    "if": bool,
    "==": lambda choice: choice == "deny",
    "f-string": lambda choice: f"{choice}",
    "lower": lambda choice: choice.lower(),
}


@pytest.mark.parametrize("use", USES)
async def test_a_forgotten_await_is_said_once(use: str) -> None:
    async def agent(turn: Turn) -> str:
        return str(USES[use](turn.approve("shell")))

    bot = await asking(agent)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(AgentError, match="has to be awaited"):
            await bot.events("deny")
        await bot.backend.close()
    assert [str(one.message) for one in warned] == []
