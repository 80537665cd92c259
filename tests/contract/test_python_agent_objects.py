"""Agents of two servers as they are: `process_direct` and `run_conversation`, instances and classes, and their callbacks."""

import asyncio
import base64
import contextlib
import functools
import logging
import tempfile
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trunkline.agent import AudioPart, FilePart, ImagePart, Usage
from trunkline.backends.callable import PythonBackend
from trunkline.backends.callable.channel import LIMIT
from trunkline.config.schema import PythonSettings
from trunkline.model import events as ev
from trunkline.model.errors import AgentError, AgentIncomplete, InvalidParameter, TrunklineError
from trunkline.model.items import FunctionCall, FunctionCallOutput, Item, Message, Part, TextPart, text_of
from trunkline.model.turn import fold
from trunkline.ports.backend import BackendSetup, Context
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
OnStream = Callable[[Any], Awaitable[None]]
DEADLINE_S = 10.0


async def started(agent: object, **settings: object) -> PythonBackend:
    table = {"target": "bot", "max_concurrency": 4, **settings}
    backend = PythonBackend(
        msgspec.convert(table, PythonSettings), SETUP, agent=agent, stop_within_s=0.2, lost_after_s=0.0
    )
    await backend.start()
    return backend


async def answer(
    agent: object, *items: Item | str, context: Context | None = None, instructions: str | None = None
) -> list[ev.Event]:
    backend = await started(agent)
    request = msgspec.structs.replace(request_of(*(items or ("hi",))), instructions=instructions)
    try:
        return await events_of(backend, request, context)
    finally:
        await backend.close()


def tools_in(events: Sequence[ev.Event]) -> list[tuple[str, str, str]]:
    """Calls and outputs with their ids and texts."""
    shown = []
    for turn_item in fold(events).items:
        match turn_item.item:
            case FunctionCall(call_id=call_id, arguments=arguments):
                shown.append(("call", call_id, arguments))
            case FunctionCallOutput(call_id=call_id, content=content):
                shown.append(("output", call_id, text_of(content)))
            case _:
                pass
    return shown


def progress_in(events: Sequence[ev.Event]) -> list[tuple[str, str, str | None, bool]]:
    return [
        (event.call_id, event.status, event.label, event.failed)
        for event in events
        if isinstance(event, ev.ToolProgress)
    ]


class Outbound:
    """A message as a chat channel would get it."""

    def __init__(self, content: object) -> None:
        self.content = content


class Told:
    """An agent that streams what it was told to, and returns the rest."""

    def __init__(self, *tokens: str | None, final: object = None) -> None:
        self.tokens, self.final = tokens, final
        self.calls: list[dict[str, object]] = []

    async def process_direct(
        self,
        content: str,
        session_key: str = "cli:direct",
        channel: str = "cli",
        chat_id: str = "direct",
        media: list[str] | None = None,
        on_progress: Callable[..., Awaitable[None]] | None = None,
        on_stream: OnStream | None = None,
        on_stream_end: Callable[..., Awaitable[None]] | None = None,
    ) -> object:
        self.calls.append({"content": content, "session_key": session_key, "channel": channel, "media": media})
        assert on_stream is not None
        assert on_stream_end is not None
        for token in self.tokens:
            if token is None:
                await on_stream_end(resuming=True)
            else:
                await on_stream(token)
        return self.final


# process_direct


async def test_what_is_streamed_is_not_said_again() -> None:
    agent = Told("Hello", " world", None, final=Outbound("Hello world"))
    events = await answer(agent, "hi", context=pinned_context(session_id="api:my-session"))
    assert [event.text for event in events if isinstance(event, ev.TextDelta)] == ["Hello", " world"]
    assert agent.calls == [{"content": "hi", "session_key": "api:my-session", "channel": "api", "media": None}]
    assert events[-1] == ev.TurnCompleted()


@pytest.mark.parametrize(
    ("tokens", "final", "said"),
    [
        ((), "All of it", "All of it"),
        ((), Outbound("All of it"), "All of it"),
        ((), None, ""),
        ((), Outbound(None), ""),
        (("All ",), "All of it", "All of it"),
        (("Let me look. ", None, "Found"), "Found ten.", "Let me look. Found ten."),
        (("Let me look. ", None), "Found ten.", "Let me look. Found ten."),
        (("Let me look.",), "Found ten.", "Let me look.\n\nFound ten."),
        (("\n\nFound  ten. ",), "Found ten.", "\n\nFound  ten. "),
        (("Let me look. ", None, "Found ten."), "Let me look. Found ten.", "Let me look. Found ten."),
        (("Found ten.",), None, "Found ten."),
        (("I think I know. ", None), "no", "I think I know. no"),
        (("I think I know",), "no", "I think I know\n\nno"),
        (("Look", None, "Found  ten", None, " That was it."), "Found ten", "LookFound  ten That was it."),
        (("Look", None, "Found ten"), "Found ten.", "LookFound ten."),
        (("Found ten.",), {"final_response": "Found ten."}, "Found ten."),
    ],
)
async def test_only_what_is_missing_of_the_final_answer_is_said(
    tokens: tuple[str | None, ...], final: object, said: str
) -> None:
    assert text_in(await answer(Told(*tokens, final=final))) == said


async def test_a_result_that_means_nothing_is_named() -> None:
    with pytest.raises(AgentError, match="agent returned int; expected str, None or a message"):
        await answer(Told(final=7))


async def test_a_synchronous_process_direct_runs_in_a_thread() -> None:
    threads = []

    class Agent:
        def process_direct(self, content: str, on_stream: Callable[[object], object]) -> str:
            threads.append(threading.current_thread().name)
            on_stream("Hel")
            on_stream(None)
            return "Hello"

    assert text_in(await answer(Agent())) == "Hello"
    assert threads == ["agent-bot"]


async def test_an_agent_that_takes_less_gets_less() -> None:
    class Agent:
        async def process_direct(self, content: str) -> str:
            return content.upper()

    assert text_in(await answer(Agent(), "hi")) == "HI"


async def test_tools_and_thinking_told_as_progress_are_shown() -> None:
    class Agent:
        async def process_direct(self, content: str, on_progress: Callable[..., Awaitable[None]]) -> str:
            await on_progress("hm", reasoning=True)
            await on_progress("", reasoning_end=True)
            start = {"phase": "start", "call_id": "c1", "name": "search", "arguments": {"q": "cats"}}
            await on_progress('search("cats")', tool_hint=True, tool_events=[start])
            await on_progress("", tool_events=[{"phase": "end", "call_id": "c1", "name": "search", "result": "10"}])
            await on_progress("x", tool_events=[{"phase": "start", "call_id": "c2", "name": "shell", "arguments": {}}])
            await on_progress("", tool_events=[{"phase": "error", "call_id": "c2", "name": "shell", "error": "no"}])
            return "Ten."

    events = await answer(Agent())
    assert reasoning_in(events) == "hm"
    assert tools_in(events) == [
        ("call", "c1", '{"q":"cats"}'), ("output", "c1", "10"), ("call", "c2", "{}"), ("output", "c2", "no"),
    ]  # fmt: skip
    assert progress_in(events) == [
        ("c1", "running", 'search("cats")', False), ("c1", "completed", None, False),
        ("c2", "running", "x", False), ("c2", "completed", None, True),
    ]  # fmt: skip
    assert text_in(events) == "Ten."


def with_parts(*parts: Part) -> Message:
    return Message(role="user", content=(TextPart("look"), *parts))


PNG = base64.b64encode(b"\x89PNG").decode()


async def test_attachments_are_files_while_the_turn_lasts() -> None:
    seen: list[tuple[str, bytes]] = []
    paths: list[Path] = []

    class Agent:
        async def process_direct(self, content: str, media: list[str] | None = None) -> str:
            paths.extend(Path(path) for path in media or ())
            seen.extend((path.name, path.read_bytes()) for path in paths)
            return "ok"

    await answer(
        Agent(),
        with_parts(
            ImagePart(url=f"data:image/png;base64,{PNG}"),
            AudioPart(data=PNG, format="mp3"),
            FilePart(filename="../../etc/notes.txt", data=base64.b64encode(b"text").decode()),
            FilePart(data=f"data:application/pdf;base64,{PNG}"),
        ),
    )
    assert seen == [
        ("image-0.png", b"\x89PNG"), ("audio-1.mp3", b"\x89PNG"), ("notes.txt", b"text"), ("file-3.pdf", b"\x89PNG"),
    ]  # fmt: skip
    assert not any(path.exists() or path.parent.exists() for path in paths)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (ImagePart(url="https://example.org/cat.png"), "send base64 data"),
        (ImagePart(file_id="file_1"), "send base64 data"),
        (FilePart(url="https://example.org/cat.pdf"), "send base64 data"),
        (ImagePart(url="data:image/png;base64,?"), "expected base64"),
    ],
)
async def test_attachments_that_are_not_in_the_request_are_refused(part: Part, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        await answer(Told(), with_parts(part))


async def test_usage_of_the_last_turn_is_reported_only_where_it_is_certain() -> None:
    both = asyncio.Barrier(2)

    class Agent:
        _last_usage: dict[str, int] | None = None

        async def process_direct(self, content: str) -> str:
            if content == "together":
                await both.wait()
            self._last_usage = {"prompt_tokens": 20, "completion_tokens": 8}
            return "ok"

    backend = await started(Agent())
    alone = await events_of(backend, request_of("alone"))
    assert fold(alone).usage == Usage(input_tokens=20, output_tokens=8)
    together = await asyncio.gather(*[events_of(backend, request_of("together")) for _ in range(2)])
    assert [fold(events).usage for events in together] == [None, None]
    await backend.close()


async def test_usage_told_to_hooks_is_each_turns_own() -> None:
    both = asyncio.Barrier(2)

    class Counted:
        def __init__(self, tokens: int) -> None:
            self.input_tokens, self.output_tokens = tokens, 2
            self.cache_read_tokens, self.cache_write_tokens = 5, None

    class After:
        def __init__(self, tokens: int) -> None:
            self.usage = Counted(tokens)

    class Agent:
        async def process_direct(self, content: str, hooks: list[Any]) -> str:
            (hook,) = hooks
            await both.wait()
            await hook.before_run(None)
            assert hook.wants_streaming() is False
            assert not hasattr(hook, "_private")
            await hook.whatever_comes_later(1, two=2)
            await hook.after_run(After(len(content)))
            return str(hook.finalize_content(None, content))

    backend = await started(Agent())
    answers = await asyncio.gather(*[events_of(backend, request_of(word)) for word in ("one", "three")])
    assert [text_in(events) for events in answers] == ["one", "three"]
    assert [fold(events).usage for events in answers] == [
        Usage(input_tokens=3, output_tokens=2, cached_tokens=5), Usage(input_tokens=5, output_tokens=2, cached_tokens=5),
    ]  # fmt: skip
    await backend.close()


@pytest.mark.parametrize(
    ("reason", "end", "said"),
    [
        ("completed", ev.TurnCompleted, "Error: no quota"),
        ("max_iterations", ev.TurnIncomplete, "Error: no quota"),
        ("error", ev.TurnFailed, ""),
    ],
)
async def test_how_a_run_went_is_told_to_its_hook_and_not_read_from_its_words(
    reason: str, end: type[ev.Event], said: str
) -> None:
    class End:
        stop_reason, error = reason, "Error: no quota"

    class Agent:
        async def process_direct(self, content: str, hooks: list[Any]) -> str:
            await hooks[0].after_run(End())
            return "Error: no quota"

    events = await answer(Agent())
    assert text_in(events) == said
    assert isinstance(events[-1], end)


async def test_a_value_that_is_no_text_fails_the_turn_even_if_the_agent_swallows_it() -> None:
    class Agent:
        async def process_direct(self, content: str, on_stream: OnStream) -> str:
            for token in ("a", 7):
                try:
                    await on_stream(token)
                except Exception:  # noqa: BLE001 - as such agents do
                    logging.getLogger(__name__).debug("swallowed")
            return "a"

    with pytest.raises(AgentError, match="agent yielded int"):
        await answer(Agent())


async def test_a_reader_that_leaves_cancels_it() -> None:
    left = asyncio.Event()

    class Agent:
        async def process_direct(self, content: str, on_stream: OnStream) -> str:
            await on_stream("a")
            try:
                await asyncio.Event().wait()
            finally:
                left.set()
            return "never"

    batches = batches_of(await started(Agent()), request_of("x"))
    await anext(batches)
    await batches.aclose()
    await left.wait()


async def test_a_decorated_process_direct_is_awaited() -> None:
    def traced(method: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        """As decorators do that were written for plain functions: what comes out of it is no coroutine function."""

        @functools.wraps(method)
        def call(*arguments: object, **named: object) -> Awaitable[object]:
            return method(*arguments, **named)

        return call

    class Agent:
        _last_usage: object = None

        @traced
        async def process_direct(self, content: str, on_stream: OnStream) -> Outbound:
            await on_stream("Hello")
            self._last_usage = {"prompt_tokens": 3, "completion_tokens": 1}
            return Outbound("Hello")

    events = await answer(Agent())
    assert text_in(events) == "Hello"
    assert fold(events).usage == Usage(input_tokens=3, output_tokens=1)


async def test_what_comes_after_the_end_is_dropped_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    kept: list[OnStream] = []

    class Agent:
        async def process_direct(self, content: str, on_stream: OnStream) -> str:
            kept.append(on_stream)
            return "all"

    assert text_in(await answer(Agent())) == "all"
    for word in ("too", "late"):
        await kept[0](word)
    assert [record.message for record in caplog.records] == [
        "agent spoke after its end: agent=bot request_id=req_1; ignored"
    ]


async def test_a_thread_that_goes_on_speaking_after_the_answer_is_let_go_when_nobody_reads_it() -> None:
    """It waits for room while the reader is behind; the answer's end does not make any, its reader's leaving does."""
    talking: list[threading.Thread] = []

    class Agent:
        def run_conversation(self, user_message: str, stream_delta_callback: Callable[[str], object]) -> str:
            full = threading.Event()

            def talk() -> None:
                for index in range(2 * LIMIT):
                    if index == LIMIT:
                        full.set()
                    stream_delta_callback("word ")

            talking.append(threading.Thread(target=talk, daemon=True))
            talking[0].start()
            full.wait()
            return "done"

    backend = await started(Agent())
    batches = batches_of(backend, request_of("x"))
    await anext(batches)
    await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name().startswith("agent=bot")])
    await batches.aclose()
    await asyncio.to_thread(talking[0].join, DEADLINE_S)
    assert not talking[0].is_alive()
    await backend.close()


# run_conversation

RESULT = {"final_response": "Hello world", "completed": True}


class Hermes:
    """The constructor's and the method's signatures as the agent's own server uses them."""

    made: "list[Hermes]"

    def __init_subclass__(cls) -> None:
        cls.made = []

    def __init__(
        self,
        model: str = "",
        ephemeral_system_prompt: str | None = None,
        session_id: str | None = None,
        tool_progress_callback: Callable[..., None] | None = None,
        tool_start_callback: Callable[..., None] | None = None,
        tool_complete_callback: Callable[..., None] | None = None,
        reasoning_callback: Callable[..., None] | None = None,
        stream_delta_callback: Callable[..., None] | None = None,
        gateway_session_key: str | None = None,
    ) -> None:
        self.given = (model, ephemeral_system_prompt, session_id, gateway_session_key)
        self.tool_progress_callback = tool_progress_callback
        self.tool_start_callback = tool_start_callback
        self.tool_complete_callback = tool_complete_callback
        self.reasoning_callback = reasoning_callback
        self.stream_delta_callback = stream_delta_callback
        type(self).made.append(self)

    def delta(self, text: str | None) -> None:
        assert self.stream_delta_callback is not None
        self.stream_delta_callback(text)

    def tool(self, call_id: str | None, name: str, result: object = "42", *, failed: bool = False) -> None:
        assert self.tool_progress_callback is not None
        assert self.tool_start_callback is not None
        assert self.tool_complete_callback is not None
        self.tool_progress_callback("tool.started", name, "a preview", {"a": 1})
        self.tool_start_callback(call_id, name, {"a": 1})
        self.tool_progress_callback("tool.completed", name, None, None, duration=0.1, is_error=failed)
        self.tool_complete_callback(call_id, name, {"a": 1}, result)

    def say(self) -> None:
        self.delta("Hello")
        self.delta(None)
        self.delta(" world")

    def run_conversation(
        self,
        user_message: object,
        system_message: str | None = None,
        conversation_history: list[dict[str, object]] | None = None,
        task_id: str | None = None,
    ) -> dict[str, object]:
        self.called = (user_message, system_message, conversation_history, task_id)
        self.say()
        return dict(RESULT)


async def test_a_class_makes_an_object_for_each_turn_from_what_it_accepts() -> None:
    class Agent(Hermes):
        pass

    backend = await started(functools.partial(Agent, "sonnet"))
    context = pinned_context(session_id="s1", memory_key="m1")
    request = request_of("One", Message(role="assistant", content=(TextPart("Uno"),)), "Two")
    for instructions in ("Be brief.", None):
        events = await events_of(backend, msgspec.structs.replace(request, instructions=instructions), context)
        assert text_in(events) == "Hello world"
    history = [{"role": "user", "content": "One"}, {"role": "assistant", "content": "Uno"}]
    assert [(agent.given, agent.called) for agent in Agent.made] == [
        (("sonnet", "Be brief.", "s1", "m1"), ("Two", None, history, "s1")),
        (("sonnet", None, "s1", "m1"), ("Two", None, history, "s1")),
    ]
    await backend.close()


async def test_keys_of_the_agents_memory_are_apart_for_each_tenant() -> None:
    class Agent(Hermes):
        pass

    context = msgspec.structs.replace(pinned_context(session_id="s1", memory_key="m1"), tenant="alice")
    await answer(Agent, context=context)
    assert Agent.made[0].given[2:] == ("@alice:s1", "@alice:m1")
    assert Agent.made[0].called[3] == "@alice:s1"
    direct = Told(final="x")
    await answer(direct, context=context)
    assert direct.calls[0]["session_key"] == "@alice:s1"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("default", "alice:s1"), ("alice", "s1")),
        (("default", "@alice:s1"), ("alice", "s1")),
        (("default", "@default:s1"), ("default", "s1")),
        (("a", "b:c"), ("a:b", "c")),
        (("a%3Ab", "c"), ("a:b", "c")),
        (("a/b", "c"), ("a%2Fb", "c")),
        (("default", None), ("alice", None)),
    ],
)
async def test_no_ids_of_two_tenants_are_the_same_memory(
    one: tuple[str, str | None], other: tuple[str, str | None]
) -> None:
    keys: list[set[object]] = []
    for tenant, key in (one, other):

        class Agent(Hermes):
            pass

        bare = pinned_context(session_id=key, memory_key=key, request_id="req_1")
        context = msgspec.structs.replace(bare, tenant=tenant)
        await answer(Agent, context=context)
        direct = Told(final="x")
        await answer(direct, context=context)
        made = Agent.made[0]
        keys.append({*made.given[2:], made.called[3], direct.calls[0]["session_key"]} - {None})
    assert not keys[0] & keys[1]


async def test_tools_are_shown_with_their_labels_and_failures_and_not_said() -> None:
    class Agent(Hermes):
        def say(self) -> None:
            self.delta("Looking. ")
            self.tool("c1", "terminal")
            self.tool("c2", "read_file", {"path": Path("x")}, failed=True)
            self.tool("c3", "_thinking")
            assert self.tool_complete_callback is not None
            self.tool_complete_callback("c9", "orphan", {}, "x")
            self.tool(None, "nameless")
            self.delta("Hello world")

    events = await answer(Agent)
    assert text_in(events) == "Looking. Hello world"
    assert progress_in(events) == [
        ("c1", "running", "a preview", False), ("c1", "completed", None, False),
        ("c2", "running", "a preview", False), ("c2", "completed", None, True),
    ]  # fmt: skip
    assert tools_in(events) == [
        ("call", "c1", '{"a":1}'), ("output", "c1", "42"), ("call", "c2", '{"a":1}'), ("output", "c2", '{"path":"x"}'),
    ]  # fmt: skip


async def test_tools_told_as_they_ran_are_not_read_from_the_messages_again() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "terminal", "arguments": "{}"}}

    class Agent(Hermes):
        def say(self) -> None:
            if self.given[0] == "tells":
                self.tool("c1", "terminal")

        def run_conversation(self, user_message: object, **_: object) -> dict[str, object]:  # type: ignore[override]
            self.say()
            told = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "4"}]
            return {**RESULT, "messages": [{"role": "user", "content": "x"}, *told]}

    assert [what for what, _, _ in tools_in(await answer(functools.partial(Agent, "tells")))] == ["call", "output"]
    assert [what for what, _, _ in tools_in(await answer(functools.partial(Agent, "is silent")))] == ["call", "output"]


async def test_a_tools_id_may_be_used_again() -> None:
    class Agent(Hermes):
        def say(self) -> None:
            assert self.tool_start_callback is not None
            assert self.tool_complete_callback is not None
            self.tool("c1", "terminal", "1")
            self.tool_start_callback("c1", "terminal", {})
            self.tool_start_callback("c1", "terminal", {})
            self.tool_complete_callback("c1", "terminal", {}, "2")
            self.tool_complete_callback("c1", "terminal", {}, "3")

    tools = tools_in(await answer(Agent))
    assert [call_id for what, call_id, _ in tools if what == "call"] == ["c1", "c1-1", "c1-2"]
    assert [(call_id, output) for what, call_id, output in tools if what == "output"] == [
        ("c1", "1"), ("c1-1", "2"), ("c1-2", "3"),
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["returns", "raises"])
async def test_a_tool_that_never_ends_has_failed_when_the_turn_ends(ending: str) -> None:
    class Agent(Hermes):
        def say(self) -> None:
            assert self.tool_start_callback is not None
            self.tool_start_callback("c1", "terminal", {})
            if ending == "raises":
                raise RuntimeError("broke")

    backend = await started(Agent)
    events: list[ev.Event] = []
    try:
        async for batch in batches_of(backend, request_of("x")):
            events += batch
    except TrunklineError as error:
        assert (ending, error.message) == ("raises", "broke")  # noqa: PT017 - the events before it are the point
    assert progress_in(events) == [("c1", "running", None, False), ("c1", "completed", None, True)]
    await backend.close()


async def test_reasoning_is_apart_from_the_answer() -> None:
    class Agent(Hermes):
        def say(self) -> None:
            assert self.reasoning_callback is not None
            self.reasoning_callback("hm")

    events = await answer(Agent)
    assert (reasoning_in(events), text_in(events)) == ("hm", "Hello world")


def returning(result: object, *deltas: str) -> type[Hermes]:
    class Agent(Hermes):
        def run_conversation(self, user_message: object, **_: object) -> Any:  # type: ignore[override]
            for delta in deltas:
                self.delta(delta)
            return result

    return Agent


async def test_a_cut_answer_says_so_also_where_its_text_was_streamed() -> None:
    result = {"final_response": None, "partial": True, "error": "Response truncated"}
    events = await answer(returning(result, "half of"))
    assert text_in(events) == "half of"
    assert events[-1] == ev.TurnIncomplete("max_output_tokens")
    (extension,) = [event for event in events if isinstance(event, ev.Extension)]
    assert msgspec.json.decode(extension.payload) == {
        "completed": False, "partial": True, "failed": False,
        "error": "Response truncated", "error_code": "output_truncated",
    }  # fmt: skip


async def test_a_failure_after_some_text_is_a_failure() -> None:
    events = await answer(returning({"final_response": None, "failed": True, "error": "no quota"}, "half of"))
    terminal = events[-1]
    assert isinstance(terminal, ev.TurnFailed)
    assert (terminal.error.message, terminal.error.status) == ("no quota", 500)
    assert terminal.error.state == {"completed": False, "partial": False, "failed": True}


@pytest.mark.parametrize("flags", [{"partial": True}, {"failed": True}, {"failed": True, "partial": True}])
async def test_no_text_at_all_is_agent_incomplete_with_its_state(flags: dict[str, object]) -> None:
    with pytest.raises(AgentIncomplete) as caught:
        await answer(returning({"final_response": None, **flags}, "  "))
    assert caught.value.info().state == {"completed": False, "partial": False, "failed": False} | flags


async def test_an_agent_that_counts_over_its_life_reports_its_turn() -> None:
    class Agent:
        stream_delta_callback: Callable[..., None] | None = None
        session_prompt_tokens = 1000
        session_completion_tokens = 100

        def run_conversation(self, user_message: str) -> dict[str, object]:
            self.session_prompt_tokens += 20
            self.session_completion_tokens += 8
            return {"final_response": "x", "input_tokens": 3, "prompt_tokens": self.session_prompt_tokens}

    backend = await started(Agent())
    for _ in range(2):
        events = await events_of(backend, request_of("x"))
        assert fold(events).usage == Usage(input_tokens=20, output_tokens=8)
    await backend.close()


async def test_an_instance_that_takes_callbacks_as_arguments_serves_turns_side_by_side() -> None:
    both = threading.Barrier(2)

    class Agent:
        def run_conversation(
            self, user_message: str, task_id: str, stream_delta_callback: Callable[[str | None], None]
        ) -> dict[str, object]:
            both.wait()
            stream_delta_callback(f"{user_message} in {task_id}")
            return {"completed": True}

        def interrupt(self) -> None:
            raise AssertionError("would stop somebody else's turn")

    backend = await started(Agent())
    answers = await asyncio.gather(
        *[events_of(backend, request_of(word), pinned_context(session_id=word)) for word in ("one", "two")]
    )
    assert [text_in(events) for events in answers] == ["one in one", "two in two"]
    await backend.close()


async def test_an_instance_with_attributes_has_one_turn_at_a_time() -> None:
    first, go_on = threading.Event(), threading.Event()

    class Agent:
        active = 0

        def __init__(self) -> None:
            self.stream_delta_callback: Callable[[str | None], None] | None = None

        def run_conversation(self, user_message: str) -> str:
            self.active += 1
            assert self.active == 1
            assert self.stream_delta_callback is not None
            if user_message == "one":
                first.set()
                go_on.wait()
            self.stream_delta_callback(f"told {user_message}")
            self.active -= 1
            return ""

    agent = Agent()
    backend = await started(agent)
    one = asyncio.create_task(events_of(backend, request_of("one")))
    await asyncio.get_running_loop().run_in_executor(None, first.wait)
    two = asyncio.create_task(events_of(backend, request_of("two")))
    await asyncio.sleep(0)
    go_on.set()
    assert [text_in(await one), text_in(await two)] == ["told one", "told two"]
    assert agent.stream_delta_callback is None
    await backend.close()


async def test_a_client_that_leaves_while_it_waits_for_the_instance_leaves_the_others_alone() -> None:
    first, go_on = threading.Event(), threading.Event()

    class Agent:
        stream_delta_callback: Callable[[str | None], None] | None = None

        def run_conversation(self, user_message: str) -> str:
            if user_message == "one":
                first.set()
                go_on.wait()
            return user_message

    backend = await started(Agent())
    one = asyncio.create_task(events_of(backend, request_of("one")))
    await asyncio.get_running_loop().run_in_executor(None, first.wait)
    two = asyncio.create_task(events_of(backend, request_of("two")))
    three = asyncio.create_task(events_of(backend, request_of("three")))
    await asyncio.sleep(0)
    two.cancel()
    await asyncio.wait({two})
    go_on.set()
    assert [text_in(await one), text_in(await three)] == ["one", "three"]
    await backend.close()


@pytest.mark.parametrize("form", ["class", "instance"])
async def test_a_client_that_leaves_interrupts_the_agent_and_frees_it(form: str) -> None:
    interrupted, cleared = threading.Event(), threading.Event()

    class Agent(Hermes):
        def run_conversation(self, user_message: object, **_: object) -> Any:  # type: ignore[override]
            self.delta("a")
            if user_message == "wait":
                interrupted.wait()
            return RESULT

        def interrupt(self, message: str | None = None) -> None:
            interrupted.set()

        def clear_interrupt(self) -> None:
            cleared.set()

    backend = await started(Agent if form == "class" else Agent())
    batches = batches_of(backend, request_of("wait"))
    await anext(batches)
    await batches.aclose()
    assert text_in(await events_of(backend, request_of("x"))) == "aHello world"[:1] + "\n\nHello world"
    await asyncio.to_thread(cleared.wait)
    await backend.close()


async def test_callbacks_from_many_threads_at_once_keep_the_grammar() -> None:
    class Agent(Hermes):
        def say(self) -> None:
            def work(number: int) -> None:
                for turn in range(20):
                    self.delta(f"<{number}.{turn}>")
                    self.tool(f"c{number}.{turn}", "terminal")

            threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    events = await answer(Agent)
    said = text_in(events)
    assert all(said.count(f"<{number}.{turn}>") == 1 for number in range(8) for turn in range(20))
    assert len(progress_in(events)) == 2 * 160


async def test_an_async_run_conversation_stays_on_the_loop_and_may_be_called_back_from_threads() -> None:
    class Agent:
        async def run_conversation(
            self, user_message: str, stream_delta_callback: Callable[[str | None], Awaitable[None]]
        ) -> dict[str, object]:
            await stream_delta_callback("a")
            _ = await asyncio.get_running_loop().run_in_executor(None, stream_delta_callback, "b")
            return {"final_response": "abc"}

    assert text_in(await answer(Agent())) == "abc"


async def test_images_are_parts_of_the_message() -> None:
    class Agent(Hermes):
        pass

    await answer(Agent, with_parts(ImagePart(url="https://example.org/cat.png", detail="low")))
    assert Agent.made[0].called[0] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "https://example.org/cat.png", "detail": "low"}},
    ]
    with pytest.raises(InvalidParameter, match="not by file id"):
        await answer(Agent, with_parts(ImagePart(file_id="file_1")))


async def test_what_an_agent_cannot_take_is_not_among_its_parts() -> None:
    class Texts:
        async def process_direct(self, content: str) -> str:
            return content

    assert (await started(Told())).capabilities.parts == {"text", "refusal", "image", "audio", "file"}
    assert (await started(Texts())).capabilities.parts == {"text", "refusal"}
    assert (await started(Hermes)).capabilities.parts == {"text", "refusal", "image"}


async def test_instructions_reach_an_instance_where_it_takes_them() -> None:
    class Agent(Hermes):
        pass

    agent = Agent()
    await answer(agent, instructions="Be brief.")
    assert agent.called[1] == "Be brief."


# Classes that are called with a turn


async def test_a_class_with_call_makes_an_agent_for_each_turn() -> None:
    class Counter:
        def __init__(self) -> None:
            self.turns = 0

        async def __call__(self, turn: object) -> str:
            self.turns += 1
            return str(self.turns)

    backend = await started(Counter)
    assert [text_in(await events_of(backend, request_of("x"))) for _ in range(2)] == ["1", "1"]
    await backend.close()


async def test_an_agent_whose_client_leaves_just_before_it_begins_does_not_begin() -> None:
    """An interrupt in between would find nothing to interrupt."""
    attaching, left, let_go, ran = threading.Event(), threading.Event(), threading.Event(), threading.Event()

    class Agent:
        _say: object = None

        @property
        def stream_delta_callback(self) -> object:
            return self._say

        @stream_delta_callback.setter
        def stream_delta_callback(self, say: object) -> None:
            if say is None:
                let_go.set()
            else:
                attaching.set()
                left.wait(DEADLINE_S)

        def run_conversation(self, user_message: str) -> str:
            ran.set()
            return "nobody hears it"

    backend = await started(Agent())
    reading = asyncio.create_task(events_of(backend, request_of("x")))
    await asyncio.to_thread(attaching.wait, DEADLINE_S)
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    left.set()
    assert await asyncio.to_thread(let_go.wait, DEADLINE_S)
    assert not ran.is_set()


def test_an_object_that_takes_one_turn_at_a_time_does_so_on_one_loop_after_another() -> None:
    class Agent:
        stream_delta_callback: object = None

        def run_conversation(self, user_message: str) -> str:
            return "said"

    async def two_at_once(backend: PythonBackend) -> list[str]:
        answers = await asyncio.gather(*[events_of(backend, request_of("x")) for _ in range(2)])
        return [text_in(events) for events in answers]

    backend = asyncio.run(started(Agent()))
    for _ in range(2):
        assert asyncio.run(two_at_once(backend)) == ["said", "said"]


class Blocking(str):
    """Base64 that takes its time to be read."""

    __slots__ = ()
    begun, go_on = threading.Event(), threading.Event()

    def __getitem__(self, key: object) -> str:
        self.begun.set()
        self.go_on.wait(DEADLINE_S)
        return super().__getitem__(key)  # type: ignore[index]


async def test_files_of_a_turn_that_ended_while_they_were_saved_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Agent:
        def process_direct(self, content: str, media: list[str]) -> str:
            return "never"

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    backend = await started(Agent(), max_concurrency=1)
    parts = [FilePart(data=base64.b64encode(b"first").decode()), FilePart(data=Blocking("c2Vjb25k"))]
    reading = asyncio.create_task(
        events_of(backend, request_of(Message(role="user", content=(TextPart("look"), *parts))))
    )
    await asyncio.to_thread(Blocking.begun.wait, DEADLINE_S)
    (folder,) = await asyncio.to_thread(lambda: list(tmp_path.iterdir()))
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    await asyncio.to_thread(folder.mkdir)  # as where a file was written while the folder was being removed
    Blocking.go_on.set()
    await backend.close()
    assert not await asyncio.to_thread(lambda: list(tmp_path.iterdir()))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
