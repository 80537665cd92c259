"""An agent of openai-agents as an agent: `agent = as_agent(Agent(name="support", …))`.

It runs with the conversation as the turn has it; the framework's own sessions are left out. Text, reasoning and tool runs are
what its stream says of them. A tool that `needs_approval` asks through the turn, and the run goes on with the answer. Handoffs
stay among the agents.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from functools import partial
from typing import cast

from agents import (
    Agent,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    RunResultStreaming,
    RunState,
    StreamEvent,
    ToolCallItem,
    ToolCallOutputItem,
    TResponseInputItem,
)
from agents import Usage as TheirUsage

from trunkline.adapters.attachments import unreadable
from trunkline.adapters.given import wrong_agent
from trunkline.adapters.written import as_text
from trunkline.agent import (
    Attachment,
    AudioPart,
    ChatMessage,
    FilePart,
    ImagePart,
    Output,
    Reasoning,
    ToolFinished,
    ToolStarted,
    Turn,
    Usage,
)
from trunkline.model.errors import AgentError, AgentIncomplete

__all__ = ["as_agent"]

_TEXT = frozenset({"response.output_text.delta", "response.refusal.delta"})
_THOUGHT = frozenset({"response.reasoning_text.delta", "response.reasoning_summary_text.delta"})
_RUN_ELSEWHERE = frozenset(
    {"code_interpreter_call", "file_search_call", "image_generation_call", "mcp_call", "web_search_call"}
)
"""Calls that come with their result: nothing follows them."""


def as_agent(
    starting_agent: Agent,
    *,
    context: Callable[[Turn], object] | None = None,
    run_config: RunConfig | None = None,
    max_turns: int = 10,
) -> Callable[[Turn], AsyncIterator[Output]]:
    """The agent that runs this one, and those it hands over to.

    Args:
        context: makes what its tools and guardrails get as their context; by default that is the turn.
        run_config: settings of each run.
        max_turns: how often a model is asked in one run; one that needs more ends without an answer.
    """
    _check(starting_agent)

    async def agent(turn: Turn) -> AsyncIterator[Output]:
        answer = _Answer()
        start = partial(Runner.run_streamed, starting_agent, max_turns=max_turns, run_config=run_config)
        run = start(_input(turn), context=turn if context is None else context(turn))
        while True:
            async with aclosing(_streamed(run, answer)) as outputs:
                async for output in outputs:
                    yield output
            if not run.interruptions:
                break
            run = start(await _decided(run, turn))
        for output in answer.final(run.final_output):
            yield output
        counted = run.context_wrapper.usage
        if counted.total_tokens:  # a model that is not asked for its usage streams none
            yield _usage(counted)

    return agent


async def _streamed(run: RunResultStreaming, answer: "_Answer") -> AsyncGenerator[Output, None]:
    """What one run says. Closed early: the run is cancelled."""
    try:
        async for event in run.stream_events():
            for output in answer.event(event):
                yield output
    except MaxTurnsExceeded as error:
        raise AgentIncomplete(str(error)) from error
    except (InputGuardrailTripwireTriggered, OutputGuardrailTripwireTriggered) as error:
        name = error.guardrail_result.guardrail.get_name()
        raise AgentError(f"the guardrail {name!r} refused this", code="guardrail_tripped") from error
    finally:
        run.cancel()


async def _decided(run: RunResultStreaming, turn: Turn) -> RunState:
    """The run's state after each of its questions has been answered."""
    state = run.to_state()
    for asked in run.interruptions:
        if await turn.approve(asked.name or "tool", asked.arguments or "") == "deny":
            state.reject(asked)
        else:
            state.approve(asked)
    return state


def _check(given: object) -> None:
    if not isinstance(given, Agent):
        raise wrong_agent(given, adapter=__name__, takes="an Agent of openai-agents")


class _Answer:
    """From what the framework streams to what an agent yields."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._said = False

    def event(self, event: StreamEvent) -> Iterator[Output]:
        if event.type == "raw_response_event":
            if event.data.type in _TEXT:
                self._said = True
                yield _field(event.data, "delta")
            elif event.data.type in _THOUGHT:
                yield Reasoning(_field(event.data, "delta"))
        elif event.type == "run_item_stream_event":
            match event.item:
                case ToolCallItem() as call:
                    yield from self._called(call)
                case ToolCallOutputItem(call_id=call_id, output=output) if call_id in self._running:
                    self._running.remove(call_id)  # some models use an id again
                    self._said = False
                    yield ToolFinished(call_id, as_text(output))

    def _called(self, call: ToolCallItem) -> Iterator[Output]:
        call_id, kind = call.call_id, _field(call.raw_item, "type")
        if call_id is None or call_id in self._running:
            return
        self._said = False
        name = call.tool_name or kind.removesuffix("_call")
        yield ToolStarted(call_id, name, _field(call.raw_item, "arguments"), label=call.title)
        if kind in _RUN_ELSEWHERE:
            yield ToolFinished(call_id)
        else:
            self._running.add(call_id)

    def final(self, output: object) -> Iterator[Output]:
        """The final output where it has not been streamed: what a tool gave that ends the run."""
        if not self._said and output is not None:
            yield as_text(output)


def _field(item: object, name: str) -> str:
    found = item.get(name) if isinstance(item, dict) else getattr(item, name, None)
    return found if isinstance(found, str) else ""


def _usage(counted: TheirUsage) -> Usage:
    return Usage(
        input_tokens=counted.input_tokens,
        output_tokens=counted.output_tokens,
        cached_tokens=counted.input_tokens_details.cached_tokens,
        reasoning_tokens=counted.output_tokens_details.reasoning_tokens,
    )


def _input(turn: Turn) -> list[TResponseInputItem]:
    """The conversation as items of the Responses API."""
    items: list[object] = [{"role": "system", "content": turn.instructions}] if turn.instructions else []
    for message in turn.messages:
        items += _items(message)
    if turn.attachments:
        last = max(index for index, item in enumerate(items) if isinstance(item, dict) and item.get("role") == "user")
        content = [{"type": "input_text", "text": turn.input}, *map(_part, turn.attachments)]
        items[last] = {"role": "user", "content": content}
    return cast("list[TResponseInputItem]", items)


def _items(message: ChatMessage) -> Iterator[dict[str, object]]:
    if message["role"] == "tool":
        yield {
            "type": "function_call_output",
            "call_id": message.get("tool_call_id", ""),
            "output": message["content"],
        }
        return
    if message["content"]:
        yield {"role": message["role"], "content": message["content"]}
    for call in message.get("tool_calls", ()):
        yield {"type": "function_call", "call_id": call["id"], **call["function"]}


def _part(part: Attachment) -> dict[str, object]:
    match part:
        case ImagePart(url=str(url)):
            return {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}
        case ImagePart(file_id=str(file_id)):
            return {"type": "input_image", "file_id": file_id, "detail": part.detail or "auto"}
        case AudioPart():
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
        case FilePart(data=str(data)):
            return {"type": "input_file", "filename": part.filename or "file", "file_data": data}
        case FilePart(file_id=str(file_id)):
            return {"type": "input_file", "file_id": file_id}
        case FilePart(url=str(url)):
            return {"type": "input_file", "file_url": url}
        case _:
            raise unreadable(part)
