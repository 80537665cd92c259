"""An agent of pydantic-ai as an agent: `agent = as_agent(Agent("openai:…"))`.

It runs with the conversation as the turn has it. Text, thinking and tool runs are what its events say of them; an output that
is no text is sent as JSON. A tool that requires approval asks through the turn, and the run goes on with the answer.
"""

import base64
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias

from pydantic_ai import (
    AgentRunResultEvent,
    AgentStreamEvent,
    BinaryContent,
    DeferredToolRequests,
    DeferredToolResults,
    DocumentUrl,
    FinalResultEvent,
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    RunContext,
    RunUsage,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolReturnPart,
    UsageLimitExceeded,
    UsageLimits,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.capabilities import HandleDeferredToolCalls

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
from trunkline.model.errors import AgentIncomplete

__all__ = ["as_agent"]

FrameworkAgent: TypeAlias = AbstractAgent[Any, Any]
"""Of any dependencies and output; without a parameter it would be of text alone."""


def as_agent(
    framework_agent: FrameworkAgent,
    *,
    deps: Callable[[Turn], object] | None = None,
    usage_limits: UsageLimits | None = None,
) -> Callable[[Turn], AsyncIterator[Output]]:
    """The agent that runs this one.

    Args:
        deps: makes the dependencies of one run, where the agent has some.
        usage_limits: what one run may use; by default 50 requests to its model.
    """
    _check(framework_agent)

    async def agent(turn: Turn) -> AsyncIterator[Output]:
        async def approve(_context: RunContext, requests: DeferredToolRequests) -> DeferredToolResults:
            chosen = {
                call.tool_call_id: await turn.approve(call.tool_name, call.args_as_json_str())
                for call in requests.approvals
            }
            return requests.build_results(approvals={call_id: choice != "deny" for call_id, choice in chosen.items()})

        answer = _Answer()
        prompt, past = _conversation(turn)
        run = framework_agent.run_stream_events(
            prompt,
            message_history=past,
            instructions=turn.instructions or None,
            conversation_id=turn.session_id,
            deps=None if deps is None else deps(turn),
            usage_limits=usage_limits,
            capabilities=[HandleDeferredToolCalls(approve)],
        )
        try:
            async with run as events:
                async for event in events:
                    for output in answer.event(event):
                        yield output
        except UsageLimitExceeded as error:
            raise AgentIncomplete(str(error)) from error

    return agent


def _check(given: object) -> None:
    if not isinstance(given, AbstractAgent):
        raise wrong_agent(given, adapter=__name__, takes="an Agent of pydantic-ai")


class _Answer:
    """From the framework's events to what an agent yields."""

    def __init__(self) -> None:
        self._streamed = False  # whether the output is among the text that was said

    def event(self, event: AgentStreamEvent | AgentRunResultEvent) -> Iterator[Output]:
        match event:
            case PartStartEvent(part=TextPart(content=text)) | PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                yield text
            case (
                PartStartEvent(part=ThinkingPart(content=text))
                | PartDeltaEvent(delta=ThinkingPartDelta(content_delta=text))
            ):
                if text:  # a signature alone is for the model
                    yield Reasoning(text)
            case FunctionToolCallEvent(part=call):
                yield ToolStarted(call.tool_call_id, call.tool_name, call.args_as_json_str())
            case FunctionToolResultEvent(part=result):
                failed = result.outcome != "success"
                yield ToolFinished(result.tool_call_id, result.model_response_str(), failed=failed)
            case FinalResultEvent(tool_name=tool_name):
                self._streamed = tool_name is None
            case AgentRunResultEvent(result=result):
                if not self._streamed:
                    yield as_text(result.output)
                yield _usage(result.usage)
            case _:  # what the model is sent, and what it is still making up
                pass


def _usage(counted: RunUsage) -> Usage:
    return Usage(
        input_tokens=counted.input_tokens,
        output_tokens=counted.output_tokens,
        cached_tokens=counted.cache_read_tokens,
        cache_write_tokens=counted.cache_write_tokens,
        reasoning_tokens=counted.output_reasoning_tokens,
    )


def _conversation(turn: Turn) -> tuple[list[UserContent] | None, list[ModelMessage]]:
    """The prompt, and what came before it. Without a prompt the run goes on where the conversation stands."""
    names: dict[str, str] = {}
    past = [_message(message, names) for message in turn.messages]
    if turn.messages[-1]["role"] != "user":
        return None, past
    return [turn.input, *map(_content, turn.attachments)], past[:-1]


def _message(message: ChatMessage, names: dict[str, str]) -> ModelMessage:
    """One message of the past. `names` are those of the tools called so far, by the call's id."""
    match message["role"]:
        case "user":
            return ModelRequest(parts=[UserPromptPart(message["content"])])
        case "tool":
            call_id = message.get("tool_call_id", "")
            part = ToolReturnPart(names.get(call_id, "tool"), message["content"], tool_call_id=call_id)
            return ModelRequest(parts=[part])
        case "assistant":
            parts: list[TextPart | ToolCallPart] = [TextPart(message["content"])] if message["content"] else []
            for call in message.get("tool_calls", ()):
                names[call["id"]] = call["function"]["name"]
                parts.append(ToolCallPart(call["function"]["name"], call["function"]["arguments"], call["id"]))
            return ModelResponse(parts=parts)


def _content(part: Attachment) -> UserContent:
    match part:
        case ImagePart(url=str(data)) | FilePart(data=str(data)) if data.startswith("data:"):
            return BinaryContent.from_data_uri(data)
        case ImagePart(url=str(url)):
            return ImageUrl(url)
        case FilePart(url=str(url)):
            return DocumentUrl(url)
        case FilePart(data=str(data)):
            return BinaryContent(base64.b64decode(data), media_type="application/octet-stream")
        case AudioPart():
            return BinaryContent(base64.b64decode(part.data), media_type=f"audio/{part.format}")
        case _:
            raise unreadable(part)
