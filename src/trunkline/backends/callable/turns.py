"""From a request to the `Turn` its agent gets.

`history` (a setting) decides what of the conversation the agent sees: all of it, the last user message only, or all
of it as one text. The conversation is given as chat messages, because that is what an agent hands to a model;
everything else a message can hold stays in `turn.items`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from trunkline.agent import Attachment, ChatMessage, Tool, ToolCall, Turn
from trunkline.model.errors import InvalidParameter
from trunkline.model.items import (
    FunctionCall,
    FunctionCallOutput,
    Item,
    Message,
    text_of,
)
from trunkline.model.request import AllowedTools, NamedTool, OpaqueToolChoice, Request
from trunkline.model.request import Tool as RequestTool
from trunkline.model.tool_order import place, tools_in_order
from trunkline.ports.backend import SAMPLING_HINTS, Context

History = Literal["full", "last", "flatten"]

_HINT_FIELDS = (*sorted(SAMPLING_HINTS & set(Request.__struct_fields__)), "user")
_SPEAKERS = {"user": "User", "assistant": "Assistant", "tool": "Tool"}


def turn_for(request: Request, context: Context, *, history: History, client_tools: bool) -> Turn:
    """Raises InvalidParameter when there is no user message to answer (decision 21)."""
    last = _last_user(request.items)
    asked = request.items[last]
    assert isinstance(asked, Message)
    instructions = [] if request.instructions is None else [request.instructions]
    instructions += [
        text_of(item.content)
        for item in request.items
        if isinstance(item, Message) and item.role in ("system", "developer")
    ]
    items: Sequence[Item] = request.items if history != "last" else request.items[last:]
    ordered = tools_in_order(items, place, unfinished=_unfinished)
    last = _last_user(ordered)
    before, since = chat_messages(ordered[:last]), chat_messages(ordered[last:])
    text = text_of(asked.content, separator="\n")
    messages = before + since
    past = messages if len(since) > 1 else before
    if history == "flatten":
        text = flattened(messages)
        messages, past = [ChatMessage(role="user", content=text)], []
    return Turn(
        input=text,
        history=past,
        messages=messages,
        instructions="\n".join(instructions),
        items=items,
        attachments=tuple(part for part in asked.content if isinstance(part, Attachment)),
        tools=_tools(request) if client_tools else (),
        tool_choice=_tool_choice(request),
        params=_params(request),
        session_id=context.session_id,
        memory_key=context.memory_key,
        metadata=request.metadata or {},
        model=request.model or context.backend_model,
        request_id=context.request_id,
        tenant=context.tenant,
    )


def chat_messages(items: Sequence[Item]) -> list[ChatMessage]:
    """The conversation in these items, which have their tools in order; instructions, reasoning and what is opaque are left out."""
    messages: list[ChatMessage] = []
    for item in items:
        match item:
            case Message(role="user" | "assistant" as role):
                message = ChatMessage(
                    role=role, content=text_of(item.content, separator="\n" if role == "user" else "")
                )
                if item.name is not None:
                    message["name"] = item.name
                messages.append(message)
            case FunctionCall():
                call: ToolCall = {
                    "id": item.call_id,
                    "type": "function",
                    "function": {"name": item.name, "arguments": item.arguments},
                }
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append(ChatMessage(role="assistant", content=""))
                messages[-1].setdefault("tool_calls", []).append(call)
            case FunctionCallOutput():
                messages.append(ChatMessage(role="tool", content=text_of(item.content), tool_call_id=item.call_id))
            case _:
                pass
    return messages


def _unfinished(call: Item) -> Item:
    assert isinstance(call, FunctionCall)
    return FunctionCallOutput(call_id=call.call_id)


def flattened(messages: Sequence[ChatMessage]) -> str:
    """The conversation as one text: each message after its speaker, unless there is only one."""
    if len(messages) == 1:
        return messages[0]["content"]
    lines: list[str] = []
    for message in messages:
        lines += [f"{_SPEAKERS[message['role']]}: {message['content']}"] if message["content"] else []
        lines += [
            f"Assistant called {call['function']['name']}({call['function']['arguments']})"
            for call in message.get("tool_calls", ())
        ]
    return "\n\n".join(lines)


def _last_user(items: Sequence[Item]) -> int:
    for index in range(len(items) - 1, -1, -1):
        item = items[index]
        if isinstance(item, Message) and item.role == "user":
            return index
    raise InvalidParameter(
        "an agent answers a user message, and there is none; add a message with role 'user'", param="messages"
    )


def _tools(request: Request) -> tuple[Tool, ...]:
    choice = request.tool_choice
    if choice == "none":
        return ()
    return tuple(
        Tool(
            name=tool.name,
            description=tool.description,
            parameters=msgspec.json.decode(tool.parameters) if tool.parameters is not None else {},
        )
        for tool in request.tools
        if isinstance(tool, RequestTool) and (not isinstance(choice, AllowedTools) or tool.name in choice.names)
    )


def _tool_choice(request: Request) -> str:
    match request.tool_choice:
        case None:
            return "auto"
        case NamedTool(name=name):
            return name
        case AllowedTools(mode=mode):
            return mode
        case OpaqueToolChoice():  # refused before: it names a tool that no agent can be offered
            return "required"
        case mode:
            return mode


def _params(request: Request) -> Mapping[str, object]:
    params: dict[str, object] = {name: value for name in _HINT_FIELDS if (value := getattr(request, name)) is not None}
    for name in SAMPLING_HINTS & request.extra.keys():
        params[name] = msgspec.json.decode(request.extra[name])
    return params
