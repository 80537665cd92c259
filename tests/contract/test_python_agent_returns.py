"""What a generator returns at its end."""

from collections.abc import Callable, Generator
from typing import Any

import pytest

from tests.contract.test_python_agent import answer
from tests.contract.test_python_agent_approvals import asking
from trunkline.agent import Reasoning, ToolFinished, ToolStarted, Turn, Usage
from trunkline.model import events as ev
from trunkline.model.errors import AgentError, AgentIncomplete
from trunkline.testing.answers import text_in


def sometimes_yields(turn: Turn) -> Generator[str, None, str | None]:
    if turn.input == "stream":
        yield "piece"
        return None
    yield ""
    return "The answer."


async def in_a_coroutine(turn: Turn) -> object:
    return sometimes_yields(turn)


def in_a_function(turn: Turn) -> object:
    return sometimes_yields(turn)


@pytest.mark.parametrize("agent", [sometimes_yields, in_a_coroutine, in_a_function])
async def test_what_a_generator_returns_that_has_said_nothing_is_its_answer(agent: Callable[[Turn], object]) -> None:
    events = await answer(agent, "whole")
    assert text_in(events) == "The answer."
    assert isinstance(events[-1], ev.TurnCompleted)
    assert text_in(await answer(agent, "stream")) == "piece"


async def test_a_question_and_usage_are_nothing_said() -> None:
    def agent(turn: Turn) -> Generator[object, None, str]:
        yield Usage(input_tokens=1, output_tokens=2)
        if not turn.approve("shell"):
            return "No."
        yield "piece"
        return "unreached"

    bot = await asking(agent)
    assert text_in(await bot.events("deny")) == "No."
    await bot.backend.close()


async def test_it_may_be_a_result() -> None:
    def agent(turn: Turn) -> Generator[str, None, object]:
        if turn.input == "never":
            yield "piece"
        return {"failed": True, "error": "quota"}

    with pytest.raises(AgentIncomplete, match="quota"):
        await answer(agent)


async def test_what_means_nothing_is_named() -> None:
    def agent(turn: Turn) -> Generator[str, None, int]:
        if turn.input == "never":
            yield "piece"
        return 42

    with pytest.raises(AgentError, match="agent returned int; expected str"):
        await answer(agent)


SAID: dict[str, list[Any]] = {
    "text": ["piece"],
    "thoughts": [Reasoning("hm")],
    "tools": [ToolStarted("c1", "search"), ToolFinished("c1")],
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID.keys())
async def test_what_is_returned_after_something_was_said_is_an_error_that_says_yield(said: list[Any]) -> None:
    def agent(turn: Turn) -> Generator[Any, None, str]:
        yield from said
        return "The answer."

    with pytest.raises(AgentError, match=r"agent returned str after it had yielded.*yield it"):
        await answer(agent)
