"""The `python` backend through its port: every form of agent, what it says, how it fails and how it stops."""

import asyncio
import contextvars
import functools
import gc
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from trunkline.agent import FunctionCall, Output, Reasoning, ToolFinished, ToolStarted, Turn, Usage
from trunkline.backends.callable import PythonBackend
from trunkline.config.schema import PythonSettings
from trunkline.model import events as ev
from trunkline.model.errors import AgentError, AgentIncomplete, BackendUnavailable, ConfigError, InvalidParameter
from trunkline.model.items import FunctionCall as CallItem
from trunkline.model.items import FunctionCallOutput, Message, TextPart, text_of
from trunkline.model.request import NamedTool, Tool
from trunkline.model.turn import fold
from trunkline.ports.backend import BackendSetup
from trunkline.testing.answers import (
    CountingEntropy,
    PinnedClock,
    batches_of,
    events_of,
    pinned_context,
    reasoning_in,
    request_of,
    text_in,
)

SETUP = BackendSetup(name="bot", base_dir=Path(), clock=PinnedClock(), entropy=CountingEntropy())


async def started(agent: object, **settings: object) -> PythonBackend:
    table = {"target": "bot", "max_concurrency": 4, **settings}
    backend = PythonBackend(
        msgspec.convert(table, PythonSettings), SETUP, agent=agent, stop_within_s=0.2, lost_after_s=0.0
    )
    await backend.start()
    return backend


async def answer(agent: object, text: str = "hi there", **settings: object) -> list[ev.Event]:
    backend = await started(agent, **settings)
    try:
        return await events_of(backend, request_of(text))
    finally:
        await backend.close()


async def yielding(*values: object) -> list[ev.Event]:
    async def agent(turn: Turn) -> AsyncIterator[object]:
        for value in values:
            yield value

    return await answer(agent)


async def async_generator(turn: Turn) -> AsyncIterator[str]:
    yield "hi "
    await asyncio.sleep(0)
    yield turn.input


async def coroutine(turn: Turn) -> str:
    await asyncio.sleep(0)
    return "hi " + turn.input


def generator(turn: Turn) -> Iterator[str]:
    yield "hi "
    yield turn.input


def plain(turn: Turn) -> str:
    return "hi " + turn.input


def returns_coroutine(turn: Turn) -> object:
    return coroutine(turn)


def returns_async_generator(turn: Turn) -> object:
    return async_generator(turn)


def returns_generator(turn: Turn) -> object:
    return generator(turn)


async def coroutine_of_generator(turn: Turn) -> object:
    return generator(turn)


async def coroutine_of_async_generator(turn: Turn) -> object:
    return async_generator(turn)


class Instance:
    async def __call__(self, turn: Turn) -> AsyncIterator[str]:
        yield "hi "
        yield turn.input


class PlainInstance:
    def __call__(self, turn: Turn) -> str:
        return "hi " + turn.input


def greeting(greeting: str, turn: Turn) -> str:
    return greeting + turn.input


FORMS = [
    async_generator,
    coroutine,
    generator,
    plain,
    returns_coroutine,
    returns_async_generator,
    returns_generator,
    coroutine_of_generator,
    coroutine_of_async_generator,
    Instance(),
    PlainInstance(),
    functools.partial(greeting, "hi "),
    functools.partial(Instance()),
    lambda turn: "hi " + turn.input,
]


@pytest.mark.parametrize("agent", FORMS, ids=[f"{number}" for number in range(len(FORMS))])
async def test_every_form_of_agent_answers(agent: object) -> None:
    events = await answer(agent, "you")
    assert text_in(events) == "hi you"
    assert events[0] == ev.TurnStarted("turn_1", "model", 1_700_000_000)
    assert events[-2:] == [ev.ChoiceDone(0, "stop"), ev.TurnCompleted()]


async def test_text_and_reasoning_are_items_of_their_own() -> None:
    events = await yielding(Reasoning("hm"), Reasoning("m"), None, "", "a", "b", Reasoning("again"), "c")
    items = [turn_item.item for turn_item in fold(events).items]
    assert [type(item).__name__ for item in items] == ["Reasoning", "Message", "Reasoning", "Message"]
    assert reasoning_in(events) == "hmmagain"
    assert text_in(events) == "abc"


async def test_own_tools_show_as_hosted_items_with_progress() -> None:
    events = await yielding(
        "Looking. ",
        ToolStarted("c1", "search", {"q": "cats"}, label="cats"),
        ToolFinished("c1", output={"hits": 10}),
        ToolStarted("c2", "read", '{"file":1}'),
        ToolFinished("c2", failed=True),
        "Found.",
    )
    items = [turn_item.item for turn_item in fold(events).items]
    assert [type(item).__name__ for item in items] == [
        "Message", "FunctionCall", "FunctionCallOutput", "FunctionCall", "FunctionCallOutput", "Message",
    ]  # fmt: skip
    call, output = items[1], items[2]
    assert isinstance(call, CallItem)
    assert (call.call_id, call.name, call.arguments, call.hosted) == ("c1", "search", '{"q":"cats"}', True)
    assert isinstance(output, FunctionCallOutput)
    assert (output.call_id, output.content, output.hosted) == ("c1", (TextPart('{"hits":10}'),), True)
    assert [event for event in events if isinstance(event, ev.ToolProgress)] == [
        ev.ToolProgress(call_id="c1", name="search", status="running", label="cats"),
        ev.ToolProgress(call_id="c1", name="search", status="completed"),
        ev.ToolProgress(call_id="c2", name="read", status="running"),
        ev.ToolProgress(call_id="c2", name="read", status="completed", failed=True),
    ]
    assert events[-2] == ev.ChoiceDone(0, "stop")


async def test_internal_tools_and_orphan_finishes_leave_no_trace() -> None:
    events = await yielding(ToolStarted("t", "_thinking"), ToolFinished("t"), ToolFinished("nobody"), "done")
    assert not [event for event in events if isinstance(event, ev.ToolProgress)]
    assert len(fold(events).items) == 1


async def test_arguments_are_written_when_they_are_yielded() -> None:
    async def agent(turn: Turn) -> AsyncIterator[Output]:
        arguments = {"q": "cats"}
        yield ToolStarted("c1", "search", arguments)
        arguments["q"] = "dogs"
        yield ToolFinished("c1")

    assert ev.ArgumentsDelta(0, '{"q":"cats"}') in await answer(agent)


async def test_usage_is_the_agents_or_none() -> None:
    usage = Usage(input_tokens=12, output_tokens=7, reasoning_tokens=3, details={"output.audio_tokens": 1})
    assert fold(await yielding("x", usage)).usage == usage
    assert fold(await yielding("x", Usage(12, 7))).usage == Usage(input_tokens=12, output_tokens=7)
    assert fold(await yielding("x")).usage is None


async def test_an_agent_that_says_nothing_gives_an_empty_answer() -> None:
    assert await yielding() == [
        ev.TurnStarted("turn_1", "model", 1_700_000_000),
        ev.ChoiceDone(0, "stop"),
        ev.TurnCompleted(),
    ]


async def test_text_that_utf8_cannot_carry_is_mended() -> None:
    assert text_in(await yielding("a\ud83d\ude00b\udfff", "\udc00")) == "a😀b\ufffd\ufffd"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "agent yielded int; expected str, Reasoning, ToolStarted, ToolFinished, FunctionCall, Usage or None"),
        (b"x", "agent yielded bytes; expected"),
        ({"text": "x"}, "agent yielded dict; expected"),
        (Reasoning(3), "agent yielded Reasoning.text of int; expected str"),  # type: ignore[arg-type]
        (ToolStarted("", "x"), "agent yielded an empty ToolStarted.call_id"),
        (ToolStarted("c", "x", {"a": object()}), "agent gave the arguments of tool 'x' as something that is not JSON"),
        (Usage(input_tokens=-1), "agent gave Usage.input_tokens as -1; expected an integer, 0 or more"),
        (Usage(output_tokens=True), "agent gave Usage.output_tokens as True; expected an integer, 0 or more"),
        (Usage("12", 7), "agent gave Usage.input_tokens as '12'; expected an integer, 0 or more"),  # type: ignore[arg-type]
        (Usage(output_tokens=None), "agent gave Usage.output_tokens as None; expected an integer, 0 or more"),  # type: ignore[arg-type]
        (Usage(cached_tokens=0.5), "agent gave Usage.cached_tokens as 0.5; expected an integer, 0 or more"),  # type: ignore[arg-type]
        (
            Usage(details={"input.audio_tokens": -1}),
            "agent gave Usage.details['input.audio_tokens'] as -1; expected an",
        ),
        (
            Usage(details={"audio_tokens": 1}),
            "agent gave Usage.details as {'audio_tokens': 1}; expected counts by names",
        ),
        (Usage(details=None), "agent gave Usage.details as None; expected counts by names"),  # type: ignore[arg-type]
        (FunctionCall("x"), "agent called the client's tool 'x', but its backend does not handle client tools"),
    ],
)
async def test_a_value_that_means_nothing_is_named(value: object, message: str) -> None:
    with pytest.raises(AgentError) as caught:
        await yielding("before", value)
    assert caught.value.message.startswith(message)
    assert caught.value.status == 500


@pytest.mark.parametrize("form", ["async generator", "generator"])
async def test_an_agent_that_yielded_nonsense_is_closed_before_its_error_is_told(form: str) -> None:
    closed: list[str] = []

    async def async_generator(turn: Turn) -> AsyncIterator[object]:
        try:
            yield 7
        finally:
            await asyncio.sleep(0)
            closed.append(form)

    class Numbers:
        """An iterator that has to be closed: leaving it to the garbage collector is too late."""

        def __iter__(self) -> Iterator[object]:
            return self

        def __next__(self) -> object:
            return 7

        def close(self) -> None:
            closed.append(form)

    numbers = Numbers()
    agent = async_generator if form == "async generator" else lambda turn: numbers
    backend = await started(agent)
    with pytest.raises(AgentError, match="yielded int"):
        await events_of(backend, request_of("x"))
    assert closed == [form]
    await backend.close()


async def test_a_tool_run_needs_a_call_id_of_its_own() -> None:
    with pytest.raises(AgentError, match="'c1' twice"):
        await yielding(ToolStarted("c1", "a"), ToolStarted("c1", "b"))


# What functions return


async def returning(value: object) -> list[ev.Event]:
    async def agent(turn: Turn) -> object:
        return value

    return await answer(agent)


async def test_a_result_mapping_is_an_answer_with_usage() -> None:
    events = await returning(
        {
            "final_response": "42",
            "completed": True,
            "usage": {"prompt_tokens": 200, "completion_tokens": 80},
            "api_calls": 3,
        }
    )
    assert text_in(events) == "42"
    assert fold(events).usage == Usage(input_tokens=200, output_tokens=80)
    assert events[-1] == ev.TurnCompleted()
    assert not [event for event in events if isinstance(event, ev.Extension)]


async def test_counts_beside_the_answer_are_usage() -> None:
    events = await returning({"final_response": "x", "input_tokens": 3, "output_tokens": 4})
    assert fold(events).usage == Usage(input_tokens=3, output_tokens=4)


async def test_partial_text_is_cut_by_length_and_says_so() -> None:
    result = {"final_response": "half", "partial": True, "completed": False, "error": "Response was truncated"}
    events = await returning(result)
    assert text_in(events) == "half"
    assert events[-2:] == [ev.ChoiceDone(0, "length"), ev.TurnIncomplete("max_output_tokens")]
    (extension,) = [event for event in events if isinstance(event, ev.Extension)]
    assert extension.name == "trunkline"
    assert msgspec.json.decode(extension.payload) == {
        "partial": True, "completed": False, "failed": False, "error": "Response was truncated",
        "error_code": "output_truncated",
    }  # fmt: skip


async def test_fields_and_not_words_tell_how_it_ended() -> None:
    events = await returning({"final_response": "the file was truncated", "error": "truncated"})
    assert events[-1] == ev.TurnCompleted()


@pytest.mark.parametrize("flag", ["failed", "partial"])
async def test_nothing_usable_is_agent_incomplete(flag: str) -> None:
    with pytest.raises(AgentIncomplete, match=r"no quota for \[redacted\]") as caught:
        await returning({"final_response": None, flag: True, "error": "no quota for sk-abcdef123456"})
    assert caught.value.status == 502
    assert caught.value.code == "agent_incomplete"


async def test_text_of_a_failed_result_is_never_a_completed_answer() -> None:
    events = await returning({"final_response": "I gave up", "failed": True})
    assert text_in(events) == "I gave up"
    assert events[-2] == ev.ChoiceDone(0, "error")
    terminal = events[-1]
    assert isinstance(terminal, ev.TurnFailed)
    assert (terminal.error.message, terminal.error.status) == ("I gave up", 500)


async def test_tool_runs_of_this_turn_are_read_from_a_results_messages() -> None:
    def call(call_id: str, name: str) -> dict[str, object]:
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": '{"a":1}'}}

    events = await returning(
        {
            "final_response": "42",
            "messages": [
                {"role": "assistant", "content": "", "tool_calls": [call("old", "calc")]},
                {"role": "tool", "tool_call_id": "old", "content": "1"},
                {"role": "user", "content": "and now?"},
                {"role": "assistant", "content": None, "tool_calls": [call("new", "calc"), call("own", "_plan")]},
                {"role": "tool", "tool_call_id": "new", "content": "42"},
                {"role": "assistant", "content": "42"},
            ],
        }
    )
    items = [turn_item.item for turn_item in fold(events).items]
    assert [getattr(item, "call_id", "text") for item in items] == ["new", "new", "text"]


async def test_tool_runs_of_a_result_that_utf8_cannot_carry_are_mended() -> None:
    function = {"name": "calc\ud800", "arguments": "\ud800"}
    called = {"role": "assistant", "tool_calls": [{"id": "c\ud800", "function": function}]}
    output = {"role": "tool", "tool_call_id": "c\ud800", "content": "\ud800"}
    call, given = [
        one.item for one in fold(await returning({"final_response": "", "messages": [called, output]})).items
    ]
    assert isinstance(call, CallItem)
    assert isinstance(given, FunctionCallOutput)
    assert (call.call_id, call.name, call.arguments) == ("c\ufffd", "calc\ufffd", "\ufffd")
    assert (given.call_id, given.name, text_of(given.content)) == ("c\ufffd", "calc\ufffd", "\ufffd")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "agent returned None; expected str"),
        (["a"], "agent returned list; expected str"),
        ({"text": "x"}, "agent returned a mapping without 'final_response'; it has \\['text'\\]"),
        ({"final_response": 3}, "agent returned a final_response of int; expected str"),
        (
            {"final_response": "x", "usage": {"input_tokens": "3"}},
            "agent gave input_tokens as '3'; expected an integer, 0 or more",
        ),
        (
            {"final_response": "x", "usage": Usage("3")},  # type: ignore[arg-type]
            "agent gave Usage.input_tokens as '3'; expected an integer, 0 or more",
        ),
    ],
)
async def test_a_return_value_that_means_nothing_is_named(value: object, message: str) -> None:
    with pytest.raises(AgentError, match=message):
        await returning(value)


# Tools of the client


def with_tools(**changes: object) -> object:
    tool = Tool(name="weather", description="of a city", parameters=msgspec.Raw(b'{"type":"object"}'))
    return msgspec.structs.replace(request_of("Paris?"), tools=(tool, Tool(name="clock")), **changes)


async def test_a_function_call_goes_to_the_client() -> None:
    seen: list[Turn] = []

    async def agent(turn: Turn) -> AsyncIterator[Output]:
        seen.append(turn)
        yield FunctionCall("weather", {"city": "Paris"}, call_id="call_w")
        yield FunctionCall("clock")

    backend = await started(agent, client_tools=True)
    assert {"tools", "tool_choice"} <= backend.capabilities.parameters
    events = await events_of(backend, with_tools())  # type: ignore[arg-type]
    calls = [turn_item.item for turn_item in fold(events).items]
    assert [(call.name, call.arguments, call.hosted) for call in calls if isinstance(call, CallItem)] == [
        ("weather", '{"city":"Paris"}', False), ("clock", "{}", False),
    ]  # fmt: skip
    assert events[-2:] == [ev.ChoiceDone(0, "tool_calls"), ev.TurnCompleted()]
    assert [(tool.name, tool.parameters) for tool in seen[0].tools] == [("weather", {"type": "object"}), ("clock", {})]


async def test_only_tools_of_the_client_can_be_called() -> None:
    async def agent(turn: Turn) -> AsyncIterator[Output]:
        yield FunctionCall("shell")

    backend = await started(agent, client_tools=True)
    with pytest.raises(AgentError, match="'shell', which is no tool of the client; its tools: 'clock', 'weather'"):
        await events_of(backend, with_tools())  # type: ignore[arg-type]
    with pytest.raises(AgentError, match="none in this turn"):
        await events_of(backend, with_tools(tool_choice="none"))  # type: ignore[arg-type]


async def test_tools_are_not_claimed_unless_the_agent_handles_them() -> None:
    seen: list[Turn] = []

    async def agent(turn: Turn) -> str:
        seen.append(turn)
        return "x"

    backend = await started(agent)
    assert backend.capabilities.parameters == frozenset()
    assert "temperature" in backend.capabilities.hints
    await events_of(backend, with_tools(tool_choice=NamedTool("clock")))  # type: ignore[arg-type]
    assert seen[0].tools == ()


# Failing


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("Provider failed"), "Provider failed"),
        (RuntimeError("401 for Bearer abc.def-123 at https://me:pw@host/x"), "401 for Bearer [redacted] at https://[redacted]@host/x"),
        (ValueError(), "ValueError"),
        (KeyError("city"), "KeyError: 'city'"),
        (SystemExit(3), "the agent called sys.exit (SystemExit: 3)"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError"),
        (ExceptionGroup("many", [OSError("disk full")]), "disk full"),
        (StopIteration("over"), "generator raised StopIteration"),
        (InvalidParameter("not yours to raise"), "not yours to raise"),
        (RuntimeError("x" * 2000), "x" * 499 + "…"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["async generator", "coroutine", "generator", "function"])
async def test_what_an_agent_raises_is_told_and_logged(
    error: BaseException, text: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    async def async_generator(turn: Turn) -> AsyncIterator[str]:
        fail()
        yield ""

    async def coroutine(turn: Turn) -> str:
        raise error

    def generator(turn: Turn) -> Iterator[str]:
        fail()
        yield ""

    def function(turn: Turn) -> str:
        raise error

    agents = {"async generator": async_generator, "coroutine": coroutine, "generator": generator, "function": function}
    with pytest.raises(AgentError) as caught:
        await answer(agents[form])
    if isinstance(error, StopIteration):  # Python makes a RuntimeError of it in generators and coroutines
        assert "StopIteration" in caught.value.message or caught.value.message == "over"
    else:
        assert caught.value.message == text
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("trunkline.agent", logging.ERROR)
    assert record.exc_info is not None
    assert "Traceback" not in caught.value.message


async def test_what_was_said_before_a_failure_arrives_before_it() -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "almost"
        raise RuntimeError("broke")

    backend = await started(agent)
    batches = batches_of(backend, request_of("x"))
    first = await anext(batches)
    assert text_in(list(first)) == "almost"
    with pytest.raises(AgentError, match="broke"):
        await anext(batches)


async def test_an_exception_whose_text_fails_is_named_by_its_type() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    def agent(turn: Turn) -> str:
        raise Unspeakable

    with pytest.raises(AgentError, match=r"^Unspeakable$"):
        await answer(agent)


async def test_a_conversation_without_a_user_message_is_refused() -> None:
    backend = await started(plain)
    system = Message(role="system", content=(TextPart("Be nice"),))
    with pytest.raises(InvalidParameter) as caught:
        await events_of(backend, request_of(system))
    assert caught.value.param == "messages"


# Stopping


async def test_a_reader_that_leaves_closes_an_async_agent_at_once() -> None:
    seen: list[object] = []

    async def agent(turn: Turn) -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            seen.append(turn.cancelled)

    backend = await started(agent)
    batches = batches_of(backend, request_of("x"))
    await anext(batches)
    await batches.aclose()
    assert seen == [True]


async def test_a_reader_that_leaves_cancels_a_coroutine() -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def agent(turn: Turn) -> str:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return ""

    backend = await started(agent)
    reading = asyncio.create_task(events_of(backend, request_of("x")))
    await entered.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert cancelled.is_set()


async def test_a_sync_generator_stops_at_its_next_yield() -> None:
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()
    going, go_on = threading.Event(), threading.Event()
    seen: list[object] = []

    def agent(turn: Turn) -> Iterator[str]:
        try:
            yield "one"
            going.set()
            go_on.wait()
            seen.append(turn.cancelled)
            yield "two"
            seen.append("went on")
        finally:
            seen.append("closed")
            loop.call_soon_threadsafe(finished.set)

    backend = await started(agent)
    batches = batches_of(backend, request_of("x"))
    await anext(batches)
    await asyncio.to_thread(going.wait)  # left before that, it would be closed where it said "one"
    await batches.aclose()
    go_on.set()
    await finished.wait()
    assert seen == [True, "closed"]
    await backend.close()


async def test_a_sync_generator_waits_for_a_slow_reader() -> None:
    produced = 0

    def agent(turn: Turn) -> Iterator[str]:
        nonlocal produced
        for _ in range(5000):
            produced += 1
            yield "x"

    backend = await started(agent)
    batches = batches_of(backend, request_of("x"))
    count = len(text_in(list(await anext(batches))))
    largest = 0
    async for batch in batches:
        size = len(text_in(list(batch)))
        largest = max(largest, size)
        assert produced <= count + size + 600  # never further ahead than what the channel holds
        count += size
    assert count == 5000
    assert 1 < largest <= 260
    await backend.close()


async def test_a_thread_that_never_returns_takes_no_place() -> None:
    stuck, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def agent(turn: Turn) -> str:
        if turn.input == "hang":
            loop.call_soon_threadsafe(stuck.set)
            release.wait()
        return "answered"

    backend = await started(agent, max_concurrency=1)
    reading = asyncio.create_task(events_of(backend, request_of("hang")))
    await stuck.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert text_in(await events_of(backend, request_of("next"))) == "answered"
    release.set()
    assert text_in(await events_of(backend, request_of("after"))) == "answered"
    await backend.close()


async def test_closing_does_not_wait_for_ever_and_the_log_says_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    stuck, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def agent(turn: Turn) -> str:
        loop.call_soon_threadsafe(stuck.set)
        release.wait()
        return ""

    backend = await started(agent)
    reading = asyncio.create_task(events_of(backend, request_of("x")))
    await stuck.wait()
    await backend.close()
    with pytest.raises(BackendUnavailable, match="shutting down"):
        await reading
    await backend.close()
    messages = [record.getMessage() for record in caplog.records]
    assert any("agent did not stop" in message and "threads=1" in message for message in messages)
    assert any("agent thread lost" in message and "request_id=req_1" in message for message in messages)
    with pytest.raises(BackendUnavailable, match="shutting down"):
        await events_of(backend, request_of("x"))
    release.set()


async def test_an_async_agent_that_ignores_cancellation_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    release = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "one"
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    backend = await started(agent)
    batches = batches_of(backend, request_of("x"))
    await anext(batches)
    await batches.aclose()
    assert "agent ignores cancellation" in caplog.text
    release.set()
    await backend.close()


async def test_closing_before_starting_and_twice_is_fine() -> None:
    backend = PythonBackend(PythonSettings(target="bot"), SETUP, agent=plain)
    with pytest.raises(BackendUnavailable, match="not started"):
        await events_of(backend, request_of("x"))
    await backend.close()
    await backend.close()


async def test_an_agent_that_blocks_the_loop_between_words_still_streams() -> None:
    clock = PinnedClock()

    async def agent(turn: Turn) -> AsyncIterator[str]:
        for word in ("one", "two", "three"):
            clock.advance(1.0)  # what a blocking call would do
            yield word

    backend = await started(agent)
    context = msgspec.structs.replace(pinned_context(), clock=clock)
    sizes = [len(text_in(list(batch))) async for batch in batches_of(backend, request_of("x"), context)]
    assert len([size for size in sizes if size]) > 1


async def test_words_yielded_without_a_pause_travel_together() -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        for _ in range(100):
            yield "x"

    backend = await started(agent)
    batches = [batch async for batch in batches_of(backend, request_of("x"))]
    assert len(batches) == 1


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


def reads_context(turn: Turn) -> str:
    return tenant.get()


def generates_context(turn: Turn) -> Iterator[str]:
    yield tenant.get()


async def awaits_context(turn: Turn) -> str:
    return tenant.get()


@pytest.mark.parametrize("agent", [reads_context, generates_context, awaits_context])
async def test_context_variables_of_the_caller_reach_the_agent(agent: object) -> None:
    token = tenant.set("alice")
    try:
        assert text_in(await answer(agent)) == "alice"
    finally:
        tenant.reset(token)


async def test_many_sync_agents_run_side_by_side() -> None:
    together = threading.Barrier(16)

    def agent(turn: Turn) -> str:
        together.wait()  # returns only if all sixteen run at once
        return turn.input

    backend = await started(agent, max_concurrency=16)
    answers = await asyncio.gather(*[events_of(backend, request_of(str(number))) for number in range(16)])
    assert [text_in(events) for events in answers] == [str(number) for number in range(16)]
    await backend.close()


def test_a_backend_answers_on_one_loop_after_another() -> None:
    async def answered() -> str:
        return text_in(await events_of(backend, request_of("there")))

    backend = asyncio.run(started(generator))
    assert [asyncio.run(answered()), asyncio.run(answered())] == ["hi there", "hi there"]


async def test_an_answer_dropped_without_closing_ends_its_agent() -> None:
    closed = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            closed.set()

    backend = await started(agent)

    async def read_one_and_forget() -> None:
        async for _ in backend.open(request_of("x"), pinned_context()):
            return

    await read_one_and_forget()
    gc.collect()
    await closed.wait()


# Starting


class NotCallable:
    pass


class Needy:
    def __init__(self, workspace: str) -> None:
        self.workspace = workspace

    def __call__(self, turn: Turn) -> str:
        return self.workspace


class Contentless:
    async def process_direct(self, text: str) -> str:
        return text


class Messageless:
    def run_conversation(self, text: str) -> str:
        return text


class Uncallable:
    run_conversation = "soon"


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (NotCallable, "is a class whose instances cannot be called with a turn"),
        (Needy, "is a class whose instances need 'workspace'; a class is called once for each turn"),
        (Contentless(), "has a process_direct() that does not accept 'content' by name"),
        (Messageless, "has a run_conversation() that does not accept 'user_message' by name"),
        (Uncallable(), "has a run_conversation that cannot be called"),
        (42, "is int; expected a function that takes the turn"),
        (42, "or an object with run_conversation() or process_direct()"),
        (
            type("Compiled", (type("CompiledStateGraph", (), {"__module__": "langgraph.graph.state"}),), {})(),
            "is Compiled of langgraph: from trunkline.adapters.langgraph import as_agent; agent = as_agent(...)",
        ),
        (
            type("Pregel", (), {"__module__": "langgraph.pregel.main"})(),
            "is Pregel of langgraph: from trunkline.adapters.langgraph import as_agent; agent = as_agent(...)",
        ),
        (
            type("StateGraph", (), {"__module__": "langgraph.graph.state"})(),
            "is StateGraph of langgraph: from trunkline.adapters.langgraph import as_agent; agent = as_agent(graph.compile())",
        ),
        (
            type("Agent", (), {"__module__": "agents.agent"})(),
            "is Agent of openai-agents: from trunkline.adapters.openai_agents import as_agent; agent = as_agent(...)",
        ),
        (
            type("Agent", (), {"__module__": "pydantic_ai.agent"})(),
            "is Agent of pydantic-ai: from trunkline.adapters.pydantic_ai import as_agent; agent = as_agent(...)",
        ),
        (
            type("Agent", (), {"__module__": "agents.mine"})(),
            "is Agent; expected a function",
        ),
        (lambda: "x", "takes (); expected a function that takes the turn"),
        (lambda turn, memory: "x", "takes (turn, memory); expected a function that takes the turn"),
    ],
)
async def test_what_cannot_be_an_agent_is_refused_at_the_start(agent: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await started(agent)
    assert message in caught.value.message
    assert caught.value.key == "agent"


async def test_the_model_is_named_after_the_agent() -> None:
    async def name(target: str, model_name: str | None = None) -> str:
        setup = msgspec.structs.replace(SETUP, model_name=model_name)
        (model,) = await PythonBackend(PythonSettings(target=target), setup).models()
        return model.id

    assert await name("bots/my_agent.py:agent") == "my_agent"
    assert await name("bots/my_agent.py:echo") == "echo"
    assert await name("support.bot:agent") == "bot"
    assert await name("support.bot:agent", "helpdesk") == "helpdesk"
