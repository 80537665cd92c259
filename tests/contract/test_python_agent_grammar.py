"""Whatever an agent yields, in whatever order, its answer keeps the event grammar or fails as the agent's error."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.agent import FunctionCall, Reasoning, ToolFinished, ToolStarted, Turn, Usage
from trunkline.backends.callable import PythonBackend
from trunkline.config.schema import PythonSettings
from trunkline.model.errors import AgentError, AgentIncomplete
from trunkline.model.items import Message, text_of
from trunkline.model.request import Tool
from trunkline.model.turn import fold
from trunkline.ports.backend import BackendSetup
from trunkline.testing.answers import CountingEntropy, PinnedClock, events_of, reasoning_in, request_of, text_in

SETUP = BackendSetup(name="bot", base_dir=Path(), clock=PinnedClock(), entropy=CountingEntropy())

call_ids = st.sampled_from(["a", "b", "c"])
names = st.sampled_from(["search", "read", "_plan"])
values = st.one_of(
    st.text(max_size=5),
    st.none(),
    st.builds(Reasoning, st.text(max_size=5)),
    st.builds(ToolStarted, call_ids, names, st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3))),
    st.builds(ToolFinished, call_ids, st.text(max_size=5) | st.lists(st.integers()), st.booleans()),
    st.builds(FunctionCall, st.sampled_from(["weather", "shell"])),
    st.builds(Usage, input_tokens=st.integers(0, 9), output_tokens=st.integers(0, 9)),
    st.sampled_from([3, b"x", object()]),
)
results = st.one_of(
    st.text(max_size=5),
    st.fixed_dictionaries(
        {},
        optional={
            "final_response": st.none() | st.text(max_size=5),
            "failed": st.booleans(),
            "partial": st.booleans(),
            "completed": st.booleans(),
            "error": st.none() | st.text(max_size=5),
            "input_tokens": st.integers(0, 9),
        },
    ),
)


def served(agent: object) -> PythonBackend:
    backend = PythonBackend(PythonSettings(target="bot", client_tools=True), SETUP, agent=agent)
    backend.check()
    return backend


async def check_yields(said: list[object], *, sync: bool) -> None:
    reached: list[object] = []

    async def async_agent(turn: Turn) -> AsyncIterator[object]:
        for value in said:
            reached.append(value)
            yield value

    def sync_agent(turn: Turn) -> Iterator[object]:
        for value in said:
            reached.append(value)
            yield value

    backend = served(sync_agent if sync else async_agent)
    request = request_of("x")
    tools = (Tool(name="weather"),)
    request = type(request)(model="m", items=request.items, tools=tools)
    try:
        events = await events_of(backend, request)  # walks the grammar
    except AgentError:
        assert reached
    else:
        texts = [value for value in said if isinstance(value, str)]
        expected = "".join(texts)
        assert text_in(events) == expected
        assert reasoning_in(events) == "".join([value.text for value in said if isinstance(value, Reasoning)])
        folded = "".join(
            [text_of(entry.item.content) for entry in fold(events).items if isinstance(entry.item, Message)]
        )
        assert folded == expected
    await backend.close()


@given(st.lists(values, max_size=12), st.booleans())
@settings(max_examples=200, deadline=None)
def test_yields_keep_the_grammar(said: list[object], sync: bool) -> None:
    asyncio.run(check_yields(said, sync=sync))


@given(results)
@settings(max_examples=100, deadline=None)
def test_results_keep_the_grammar(result: object) -> None:
    async def agent(turn: Turn) -> object:
        return result

    async def check() -> None:
        try:
            await events_of(served(agent), request_of("x"))
        except (AgentError, AgentIncomplete):
            assert isinstance(result, dict)

    asyncio.run(check())
