"""Chat messages to items and back.

    system, developer, user      one message item
    assistant                    reasoning item (reasoning_content), message item (content, refusal), one call per tool_calls entry
    tool                         function_call_output item
    function, function_call      the API before tools: kept as they are for a backend of this dialect

Written back, an assistant's adjacent reasoning, message and call items become one message again.
"""

from collections.abc import Sequence

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.reading import Json, Object
from trunkline.model.errors import InvalidParameter
from trunkline.model.items import (
    AudioPart,
    FilePart,
    FunctionCall,
    FunctionCallOutput,
    ImagePart,
    Item,
    Message,
    OpaqueItem,
    OpaquePart,
    Part,
    Reasoning,
    RefusalPart,
    TextPart,
)

NAME = "openai_chat"
ROLES = ("developer", "system", "user", "assistant", "tool", "function")


def read_messages(messages: list[Json]) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Items of a conversation and the path of each. Raises InvalidParameter with the path of what is wrong."""
    if not messages:
        raise InvalidParameter(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            code="empty_array",
            param="messages",
        )
    items: list[Item] = []
    places: list[str] = []
    for position, member in enumerate(messages):
        path = f"messages[{position}]"
        message = reading.mapping(member, path)
        role = message.get("role")
        parts: tuple[Part, ...]
        if role == "assistant":
            _read_assistant(message, path, items)
        elif role == "tool":
            items.append(_read_tool(message, path))
        elif role == "function":
            reading.text_field(message, "name", path)
            items.append(OpaqueItem(wire_type="function", dialect=NAME, payload=reading.raw(message)))
        else:
            if role not in ROLES:
                reading.one_of(reading.field(message, "role", path), f"{path}.role", ROLES)
            content = message.get("content")
            if type(content) is str:  # as nearly all are
                parts, as_string = (TextPart(content),), True
            else:
                parts, as_string = _read_content(reading.field(message, "content", path), f"{path}.content")
            name = message.get("name")
            items.append(
                Message(
                    role=role,  # type: ignore[arg-type]  # it is one of them
                    content=parts,
                    as_string=as_string,
                    name=None if name is None else reading.text(name, f"{path}.name"),
                )
            )
        while len(places) < len(items):
            places.append(path)
    return tuple(items), tuple(places)


def _read_assistant(message: Object, path: str, items: list[Item]) -> None:
    if message.get("function_call") is not None or message.get("audio") is not None:
        items.append(OpaqueItem(wire_type="assistant", dialect=NAME, payload=reading.raw(message)))
        return
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thinking, str):
        items.append(Reasoning(text=thinking))
    calls = message.get("tool_calls")
    content, refusal = message.get("content"), message.get("refusal")
    if content is not None or refusal is not None:
        parts, as_string = _read_content(content, f"{path}.content") if content is not None else ((), False)
        if refusal is not None:
            parts = (*parts, RefusalPart(reading.text(refusal, f"{path}.refusal")))
        items.append(
            Message(
                role="assistant", content=parts, as_string=as_string, name=reading.optional_text(message, "name", path)
            )
        )
    elif not calls:
        reading.missing(f"{path}.content")
    if calls is not None:
        for position, call in enumerate(reading.array(calls, f"{path}.tool_calls")):
            items.append(
                _read_call(reading.mapping(call, f"{path}.tool_calls[{position}]"), f"{path}.tool_calls[{position}]")
            )


def _read_call(call: Object, path: str) -> FunctionCall:
    kind = reading.one_of(call.get("type", "function"), f"{path}.type", ("function", "custom"))
    inner, inner_path = reading.mapping(reading.field(call, kind, path), f"{path}.{kind}"), f"{path}.{kind}"
    return FunctionCall(
        call_id=reading.text_field(call, "id", path),
        name=reading.text_field(inner, "name", inner_path),
        arguments=reading.text_field(inner, "arguments" if kind == "function" else "input", inner_path),
        tool="custom" if kind == "custom" else "function",
    )


def _read_tool(message: Object, path: str) -> FunctionCallOutput:
    call_id = reading.text_field(message, "tool_call_id", path)
    parts, as_string = _read_content(reading.field(message, "content", path), f"{path}.content")
    return FunctionCallOutput(
        call_id=call_id, content=parts, as_string=as_string, name=reading.optional_text(message, "name", path)
    )


def _read_content(content: Json, path: str) -> tuple[tuple[Part, ...], bool]:
    if type(content) is str:
        return (TextPart(content),), True
    if type(content) is not list:
        reading.wrong_type(path, "a string or an array of content parts", content)
    if not content:
        raise InvalidParameter(
            f"Invalid '{path}': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            code="empty_array",
            param=path,
        )
    return tuple(_read_part(part, f"{path}[{position}]") for position, part in enumerate(content)), False


def _read_part(value: Json, path: str) -> Part:
    part = reading.mapping(value, path)
    match reading.text_field(part, "type", path):
        case "text":
            return TextPart(reading.text_field(part, "text", path))
        case "refusal":
            return RefusalPart(reading.text_field(part, "refusal", path))
        case "image_url":
            image = reading.mapping(reading.field(part, "image_url", path), f"{path}.image_url")
            return ImagePart(
                url=reading.text_field(image, "url", f"{path}.image_url"),
                detail=reading.optional_text(image, "detail", f"{path}.image_url"),
            )
        case "input_audio":
            audio = reading.mapping(reading.field(part, "input_audio", path), f"{path}.input_audio")
            return AudioPart(
                data=reading.text_field(audio, "data", f"{path}.input_audio"),
                format=reading.text_field(audio, "format", f"{path}.input_audio"),
            )
        case "file":
            file = reading.mapping(reading.field(part, "file", path), f"{path}.file")
            return FilePart(
                filename=reading.optional_text(file, "filename", f"{path}.file"),
                data=reading.optional_text(file, "file_data", f"{path}.file"),
                file_id=reading.optional_text(file, "file_id", f"{path}.file"),
            )
        case kind:
            return OpaquePart(kind, reading.raw(part))


def write_messages(items: Sequence[Item]) -> list[object]:
    """The items as chat messages, in order."""
    messages: list[object] = []
    open_message: dict[str, object] | None = None  # the assistant message that calls may still join
    for item in items:
        match item:
            case Message(role="assistant"):
                if open_message is None or "content" in open_message or "tool_calls" in open_message:
                    open_message = _new_assistant(messages)
                open_message.update(_write_content(item))
            case Message():
                open_message = None
                messages.append({"role": item.role, **_write_content(item)})
            case Reasoning():
                if item.text:
                    if open_message is None or open_message.keys() - {"role", "reasoning_content"}:
                        open_message = _new_assistant(messages)
                    open_message["reasoning_content"] = f"{open_message.get('reasoning_content', '')}{item.text}"
            case FunctionCall():
                if open_message is None:
                    open_message = _new_assistant(messages)
                open_message.setdefault("content", None)
                calls = open_message.setdefault("tool_calls", [])
                assert isinstance(calls, list)
                calls.append(write_call(item))
            case FunctionCallOutput():
                open_message = None
                messages.append({"role": "tool", "tool_call_id": item.call_id, **_write_content(item)})
            case OpaqueItem():
                open_message = None
                messages.append(item.payload)
    for message in messages:
        if isinstance(message, dict):  # reasoning that nothing followed: "content is required" all the same
            message.setdefault("content", "")
    return messages


def write_call(call: FunctionCall) -> dict[str, object]:
    """A `tool_calls` entry."""
    if call.tool == "custom":
        return {"id": call.call_id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _new_assistant(messages: list[object]) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant"}
    messages.append(message)
    return message


def _write_content(item: Message | FunctionCallOutput) -> dict[str, object]:
    named: dict[str, object] = {"name": item.name} if item.name is not None else {}
    parts = item.content
    if item.as_string and len(parts) == 1 and isinstance(parts[0], TextPart):
        return {"content": parts[0].text, **named}
    if item.as_string or not parts or all(isinstance(part, RefusalPart) for part in parts):
        text = [part.text for part in parts if isinstance(part, TextPart)]
        refusal = [part.text for part in parts if isinstance(part, RefusalPart)]
        refused: dict[str, object] = {"refusal": "".join(refusal)} if refusal else {}
        return {"content": "".join(text) if text or not refusal else None, **refused, **named}
    return {"content": [_write_part(part) for part in parts], **named}


def _write_part(part: Part) -> object:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case RefusalPart():
            return {"type": "refusal", "refusal": part.text}
        case ImagePart():
            return {"type": "image_url", "image_url": _present(url=part.url, detail=part.detail)}
        case AudioPart():
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
        case FilePart():
            return {"type": "file", "file": _present(filename=part.filename, file_data=part.data, file_id=part.file_id)}
        case OpaquePart():
            return msgspec.Raw(part.payload)


def _present(**members: str | None) -> dict[str, str]:
    return {key: value for key, value in members.items() if value is not None}
