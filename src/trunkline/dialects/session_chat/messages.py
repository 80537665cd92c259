"""Items as the messages of a session: what was said, which tools were called, what they gave.

Adjacent reasoning, text and calls of an assistant are one message. Instructions are none: they are the session's own. What tools
gave stands behind their calls, so that the messages can be handed to a chat model.
"""

from collections.abc import Iterable, Sequence

import msgspec

from trunkline.model.items import (
    AudioPart,
    FilePart,
    FunctionCall,
    FunctionCallOutput,
    ImagePart,
    Item,
    Message,
    OpaquePart,
    Part,
    Reasoning,
    RefusalPart,
    TextPart,
)
from trunkline.model.tool_order import place, tools_in_order

Members = dict[str, object]


class SessionMessage(msgspec.Struct, frozen=True):
    """One message, and the id of the item with which it begins."""

    id: str | None
    message: Members


def messages_of(items: Sequence[Item]) -> list[SessionMessage]:
    said: list[SessionMessage] = []
    answer: Members | None = None  # the assistant's message that more may join

    def joined(item: Item, *, no_further_than: frozenset[str]) -> Members:
        nonlocal answer
        if answer is None or answer.keys() & no_further_than:
            answer = {"role": "assistant"}
            said.append(SessionMessage(item.id, answer))
        return answer

    for item in tools_in_order(items, place):
        match item:
            case Message(role="assistant"):
                joined(item, no_further_than=_SAID)["content"] = content_of(item.content)
            case Reasoning():
                if item.text:
                    message = joined(item, no_further_than=_SAID)
                    message["reasoning"] = f"{message.get('reasoning', '')}{item.text}"
            case FunctionCall():
                calls = joined(item, no_further_than=frozenset()).setdefault("tool_calls", [])
                assert isinstance(calls, list)
                calls.append(_call(item))
            case Message(role="user"):
                answer = None
                said.append(SessionMessage(item.id, {"role": "user", "content": content_of(item.content)}))
            case FunctionCallOutput():
                answer = None
                output = {"role": "tool", "tool_call_id": item.call_id, "content": content_of(item.content)}
                said.append(
                    SessionMessage(item.id, output if item.name is None else {**output, "tool_name": item.name})
                )
            case _:
                pass
    for one in said:
        one.message.setdefault("content", "")
    return said


def stored_message(session_id: str, one: SessionMessage) -> Members:
    """The same as a list shows it: with every member that clients look for, null where it is not known."""
    return {"id": one.id, "session_id": session_id, **_UNKNOWN, **one.message}


def content_of(parts: Iterable[Part]) -> object:
    """A string where it is all text, else a list of parts."""
    parts = tuple(parts)
    if all(isinstance(part, TextPart | RefusalPart) for part in parts):
        return "".join([part.text for part in parts if isinstance(part, TextPart | RefusalPart)])
    return [_part(part) for part in parts]


def _part(part: Part) -> object:
    match part:
        case TextPart() | RefusalPart():
            return {"type": "text", "text": part.text}
        case ImagePart():
            return {"type": "image_url", "image_url": {"url": part.url}}
        case AudioPart():
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
        case FilePart():
            file = {"filename": part.filename, "file_data": part.data, "file_id": part.file_id, "file_url": part.url}
            return {"type": "file", "file": {name: value for name, value in file.items() if value is not None}}
        case OpaquePart():
            return part.payload


def _call(call: FunctionCall) -> Members:
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


_SAID = frozenset({"content", "tool_calls"})
_UNKNOWN: Members = dict.fromkeys(
    (
        "tool_call_id",
        "tool_calls",
        "tool_name",
        "timestamp",
        "token_count",
        "finish_reason",
        "reasoning",
        "reasoning_content",
    )
)
