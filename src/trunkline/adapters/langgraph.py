"""A LangGraph graph as an agent: `agent = as_agent(graph)`.

The graph's state has `messages`, as with `create_agent` and `MessagesState`. Text is what the chat models in it stream, tool
runs come from the updates of its state, usage is the sum over its model calls. A workflow (`@entrypoint`) is given `messages`
as well; what it returns is said as far as its models have not said it.

A graph without a checkpointer gets the conversation as the turn has it. One with a checkpointer remembers, so it gets only
what is new, in a thread for each tenant and session; where the client went back and said something else, the thread starts over
with what the turn has. What a workflow remembers is its own: nothing of that can be taken back. A session that no client named
has an id derived from the conversation's beginning, which two strangers may share: its turns are run without the checkpointer,
with the whole conversation. A graph that interrupts itself asks the client in words, and goes on with what the session says next.
"""

import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias, cast
from urllib.parse import quote

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    MessageLikeRepresentation,
    RemoveMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphRecursionError
from langgraph.graph.message import REMOVE_ALL_MESSAGES, Messages, add_messages
from langgraph.graph.state import CompiledStateGraph, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Command, Interrupt, Overwrite, StateSnapshot

from trunkline.adapters.attachments import unreadable
from trunkline.adapters.given import wrong_agent
from trunkline.adapters.written import as_text
from trunkline.agent import (
    Attachment,
    AudioPart,
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

Graph: TypeAlias = Pregel[Any, Any, Any, Any]
"""Of any state and context; without a parameter it would be of none. A workflow is one that is no CompiledStateGraph."""
INSTRUCTIONS_ID = "trunkline-instructions"
"""The same in every turn, so that a thread has its instructions once."""

_UNANSWERABLE = "a graph without a checkpointer has asked something, so nobody can answer it: compile it with one"
_UNNAMED = (
    "a graph has asked something in a turn without a named session, so nobody can answer it: the client names one, "
    "as with X-Session-Id (docs/sessions.md)"
)

_log = logging.getLogger("trunkline.agent")
_DERIVED = re.compile(r"api-[0-9a-f]{16}")


def as_agent(
    graph: Graph, *, context: Callable[[Turn], object] | None = None
) -> Callable[[Turn], AsyncIterator[Output]]:
    """The agent that runs this graph.

    Args:
        context: makes the runtime context that the graph's nodes see, where it has a `context_schema`.
    """
    _check(graph)
    forgetful = graph.copy({"checkpointer": None})

    async def agent(turn: Turn) -> AsyncIterator[Output]:
        named = turn.session_id is not None and not _DERIVED.fullmatch(turn.session_id)
        config: RunnableConfig = {
            "configurable": {
                # Quoted, the tenant's name has no colon: two pairs are never one thread.
                **({"thread_id": f"{quote(turn.tenant, safe='')}:{turn.session_id}"} if named else {}),
                "session_id": turn.session_id,
                "memory_key": turn.memory_key,
            }
        }
        running = graph if named else forgetful
        answerable = running.checkpointer not in (None, False)
        kept = await running.aget_state(config) if answerable else None
        answer = _Answer(running, turn, past=() if kept is None else _messages(kept.values))
        steps = running.astream(
            _given(running, turn, kept),
            config,
            context=None if context is None else context(turn),
            stream_mode=["messages", "updates"],
            subgraphs=True,
        )
        try:
            async with aclosing(cast("AsyncGenerator[tuple[tuple[str, ...], str, Any], None]", steps)) as parts:
                async for place, mode, data in parts:
                    for output in answer.message(data[0]) if mode == "messages" else answer.updates(data, place):
                        yield output
        except GraphRecursionError as error:
            raise AgentIncomplete(str(error)) from error
        if answer.asked and not answerable:
            _log.warning(_UNANSWERABLE if named or graph.checkpointer in (None, False) else _UNNAMED)
        if answer.usage is not None:
            yield _usage(answer.usage)

    return agent


def _check(given: object) -> None:
    """Raises TypeError for what is no graph, or one that would not be given the conversation: it would answer nothing."""
    if isinstance(given, StateGraph):
        raise TypeError("as_agent takes a compiled graph, got a StateGraph; call .compile() on it")
    if not isinstance(given, Pregel):
        raise wrong_agent(given, adapter=__name__, takes="a compiled graph")
    if isinstance(given, CompiledStateGraph):
        takes = given.builder.schemas[given.builder.input_schema]
        if "messages" not in takes:
            raise TypeError(
                "the conversation is given to a graph in the 'messages' of its state, and of this one's input they are no part "
                f"(a state that extends MessagesState has them); it takes: {', '.join(takes)}"
            )


class _Answer:
    """From what a graph streams to what an agent yields. Nested graphs repeat what was in them; it counts once.

    Args:
        past: messages that the graph's thread has kept. A workflow may return them again.
    """

    def __init__(self, graph: Graph, turn: Turn, *, past: Sequence[object]) -> None:
        self.usage: UsageMetadata | None = None
        self.asked: set[str] = set()
        self._returning = frozenset[str]() if isinstance(graph, CompiledStateGraph) else frozenset(graph.nodes)
        self._input = turn.input
        self._past = {message.id for message in past if isinstance(message, BaseMessage)}
        self._begun: set[tuple[str | None, str]] = set()  # of a message and a call: some models use an id again
        self._running: set[str] = set()
        self._unnamed: list[str] = []  # texts of messages that had no id when they were said
        self._said: dict[str | None, list[str]] = {}  # by the message's id

    def message(self, message: BaseMessage) -> Iterator[Output]:
        """A piece of a model's message, or a whole one that no model streamed."""
        if not isinstance(message, AIMessage):  # what tools and users say comes with the updates, or came from the turn
            return
        if not isinstance(message, AIMessageChunk):
            if message.id in self._past:
                return
            if message.text in self._unnamed:
                self._unnamed.remove(message.text)
                return
        for block in message.content_blocks:
            match block:
                case {"type": "text", "text": str(text)}:
                    self._said.setdefault(message.id, []).append(text)
                    yield text
                case {"type": "reasoning", "reasoning": str(text)}:
                    yield Reasoning(text)
                case _:  # calls come whole with the updates
                    pass
        if message.usage_metadata:
            self.usage = add_usage(self.usage, message.usage_metadata)

    def updates(self, updates: Mapping[str, object], place: Sequence[str]) -> Iterator[Output]:
        """What the nodes of one step wrote, or what a task or a workflow returned."""
        for node, update in updates.items():
            if node == "__interrupt__" and isinstance(update, tuple):
                yield from self._questions(update)
            elif node in self._returning and not place:
                yield from self._returned(update)
            else:
                yield from self._written(_messages(update))

    def _written(self, messages: Sequence[object]) -> Iterator[Output]:
        for message, streamed in self._new(messages):
            if not streamed:
                yield from self.message(message)
                self._unnamed.append(message.text)
            elif isinstance(message, AIMessage):
                yield from self._calls(message)
            elif isinstance(message, ToolMessage) and message.tool_call_id in self._running:
                self._running.remove(message.tool_call_id)
                yield ToolFinished(message.tool_call_id, message.text, failed=message.status == "error")

    def _new(self, messages: Sequence[object]) -> list[tuple[BaseMessage, bool]]:
        """Those of this turn: a node may write the whole conversation. With each, whether it is streamed as a message, which those
        are not that were written as a tuple or a mapping."""
        new: list[tuple[BaseMessage, bool]] = []
        for given in messages:
            (message,) = convert_to_messages([cast("MessageLikeRepresentation", given)])
            if isinstance(message, HumanMessage) and message.text == self._input:
                new = []
            elif message.id is None or message.id not in self._past:
                new.append((message, message is given))
        return new

    def _returned(self, value: object) -> Iterator[Output]:
        """What a workflow gave at its end, as far as it has not been said."""
        messages = _message_like(value) or _messages(value)
        if messages:
            yield from self._written(messages)
            return
        match value:
            case None | [] | {"messages": _}:
                pass
            case str():
                yield self._missing(value)
            case _:
                if not self._said:
                    yield as_text(value)

    def _missing(self, text: str) -> str:
        """What of a text has not been said as that of a message, of the last with more after it, or of all of them."""
        messages = ["".join(pieces) for pieces in self._said.values()]
        if not messages:
            return text
        whole = "".join(messages)
        if any(said.split() == text.split() for said in (whole, *messages)):
            return ""
        before = next((said for said in (whole, messages[-1]) if said and text.startswith(said)), None)
        return f"\n\n{text}" if before is None else text.removeprefix(before)

    def _calls(self, message: AIMessage) -> Iterator[Output]:
        for call in message.tool_calls:
            call_id = call["id"]
            if call_id is not None and (message.id, call_id) not in self._begun:
                self._begun.add((message.id, call_id))
                self._running.add(call_id)
                yield ToolStarted(call_id, call["name"], call["args"])

    def _questions(self, interrupts: Sequence[Interrupt]) -> Iterator[Output]:
        for interrupt in interrupts:
            if interrupt.id not in self.asked:
                self.asked.add(interrupt.id)
                yield as_text(interrupt.value)


def _messages(update: object) -> list[object]:
    """The messages in what was written: a state, a Command with one, a list of either, or what a task returned."""
    if isinstance(update, Command):
        update = update.update
    if isinstance(update, BaseMessage):
        return [update]
    if isinstance(update, list):
        return [message for part in update for message in _messages(part)]
    written = update.get("messages") if isinstance(update, Mapping) else None
    if isinstance(written, Overwrite):
        written = written.value
    return written if isinstance(written, list) else [] if written is None else [written]


def _message_like(value: object) -> list[object]:
    """What LangChain takes for messages, where a workflow returned that; in what a node wrote it could be something else."""
    parts = value if isinstance(value, list) else [value]
    for part in parts:
        match part:
            case BaseMessage() | {"role": str(), "content": _} | (str(), str()) if not isinstance(part, list):
                pass
            case _:
                return []
    return parts


def _usage(counted: UsageMetadata) -> Usage:
    read, written = counted.get("input_token_details", {}), counted.get("output_token_details", {})
    return Usage(
        input_tokens=counted["input_tokens"],
        output_tokens=counted["output_tokens"],
        cached_tokens=read.get("cache_read"),
        cache_write_tokens=read.get("cache_creation"),
        reasoning_tokens=written.get("reasoning"),
    )


def _given(graph: Graph, turn: Turn, kept: StateSnapshot | None) -> object:
    """What the graph starts with: the conversation, what is new of it, or the answer to what it asked."""
    if kept is not None and kept.interrupts:
        return Command(resume=turn.input)
    instructions = (
        [{"role": "system", "content": turn.instructions, "id": INSTRUCTIONS_ID}] if turn.instructions else []
    )
    whole, new = [*instructions, *_conversation(turn)], [*instructions, _asked(turn)]
    if not isinstance(graph, CompiledStateGraph):
        kept_nothing = kept is None or kept.created_at is None or kept.values is None
        # As messages with ids, which a graph's state makes of them itself: returned again they are known.
        return {"messages": add_messages([], cast("Messages", whole if kept_nothing else new))}
    if kept is None:
        return {"messages": whole}
    return {"messages": new if _goes_on(kept, turn) else [RemoveMessage(REMOVE_ALL_MESSAGES), *whole]}


def _goes_on(kept: StateSnapshot, turn: Turn) -> bool:
    """Whether what the thread has is what the client goes on from."""
    asked = [message.text for message in kept.values.get("messages", ()) if isinstance(message, HumanMessage)]
    before = [message["content"] for message in turn.history if message["role"] == "user"]
    return bool(asked) and (not before or asked[-1] == before[-1])


def _conversation(turn: Turn) -> list[object]:
    """The messages, the last of the user with what is attached to it."""
    messages: list[object] = [*turn.messages]
    if turn.attachments:
        last = max(index for index, message in enumerate(turn.messages) if message["role"] == "user")
        messages[last] = _asked(turn)
    return messages


def _asked(turn: Turn) -> dict[str, object]:
    if not turn.attachments:
        return {"role": "user", "content": turn.input}
    return {
        "role": "user",
        "content": [{"type": "text", "text": turn.input}, *[_block(part) for part in turn.attachments]],
    }


def _block(part: Attachment) -> dict[str, object]:
    """A content block as OpenAI writes it, which every chat model of LangChain reads."""
    match part:
        case ImagePart(url=str(url)):
            return {"type": "image_url", "image_url": {"url": url}}
        case AudioPart():
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
        case FilePart(data=str(data)):
            return {"type": "file", "file": {"filename": part.filename or "file", "file_data": data}}
        case _:
            raise unreadable(part)
