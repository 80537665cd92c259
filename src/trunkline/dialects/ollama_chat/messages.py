"""Ollama's messages to items and back.

    system, developer, user      one message item; its images follow its text
    assistant                    reasoning item (thinking), message item (content), one call for each entry of tool_calls
    tool                         function_call_output item
    any other role               kept as it is for a backend of this dialect: a template may know it

Calls had no ids in older versions, and the official Python client drops them still. They are then named by their place,
so that the same conversation gives the same ids; a result without an id belongs to the first unanswered call of its
tool, or to the first of all where it names no tool.

Written back, an assistant's adjacent reasoning, message and calls become one message again, a developer's messages are the
system's (templates skip roles they do not know), and several texts of one message are joined by line breaks.
"""

from collections.abc import Sequence

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.ollama_chat.media import read_media, write_media
from trunkline.dialects.reading import NOT_JSON, Json, Object
from trunkline.model.errors import InvalidParameter, UnsupportedParameter
from trunkline.model.items import (
    AudioPart,
    FunctionCall,
    FunctionCallOutput,
    ImagePart,
    Item,
    Message,
    OpaqueItem,
    Part,
    Reasoning,
    RefusalPart,
    TextPart,
)

NAME = "ollama_chat"


def read_messages(messages: list[Json]) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Items of a conversation and the path of each. Raises InvalidParameter with the path of what is wrong."""
    items: list[Item] = []
    places: list[str] = []
    unanswered: list[FunctionCall] = []
    for position, member in enumerate(messages):
        path = f"messages[{position}]"
        message = reading.mapping(member, path)
        match reading.text_field(message, "role", path).lower():
            case "assistant":
                _read_assistant(message, position, items, unanswered)
            case "tool":
                items.append(_read_tool(message, position, unanswered))
            case "system" | "developer" | "user" as role:
                items.append(_read_plain(message, path, role))
            case role:
                items.append(OpaqueItem(wire_type=role, dialect=NAME, payload=reading.raw(message)))
        places.extend([path] * (len(items) - len(places)))
    return tuple(items), tuple(places)


def _content(message: Object, path: str) -> tuple[tuple[Part, ...], bool]:
    """Text, then images; and whether it is a bare string."""
    text = reading.optional_text(message, "content", path) or ""
    images = message.get("images")
    media = () if images is None else read_media(images, f"{path}.images")
    if media:
        return ((TextPart(text), *media) if text else media), False
    return (TextPart(text),), True


def _read_plain(message: Object, path: str, role: str) -> Message:
    content, as_string = _content(message, path)
    return Message(role=role, content=content, as_string=as_string)  # type: ignore[arg-type]  # the caller has matched it


def _read_assistant(message: Object, position: int, items: list[Item], unanswered: list[FunctionCall]) -> None:
    path = f"messages[{position}]"
    thinking = reading.optional_text(message, "thinking", path)
    if thinking:
        items.append(Reasoning(text=thinking))
    content, as_string = _content(message, path)
    calls = reading.array(message.get("tool_calls") or [], f"{path}.tool_calls")
    if content != (TextPart(""),) or not (thinking or calls):
        items.append(Message(role="assistant", content=content, as_string=as_string))
    for number, member in enumerate(calls):
        where = f"{path}.tool_calls[{number}]"
        source = reading.mapping(member, where)
        function = reading.mapping(reading.field(source, "function", where), f"{where}.function")
        arguments = reading.mapping(function.get("arguments") or {}, f"{where}.function.arguments")
        call = FunctionCall(
            call_id=reading.optional_text(source, "id", where) or f"call_{position}_{number}",
            name=reading.text_field(function, "name", f"{where}.function"),
            arguments=msgspec.json.encode(arguments).decode(),
        )
        items.append(call)
        unanswered.append(call)


def _read_tool(message: Object, position: int, unanswered: list[FunctionCall]) -> FunctionCallOutput:
    path = f"messages[{position}]"
    call_id = reading.optional_text(message, "tool_call_id", path) or None
    name = reading.optional_text(message, "tool_name", path) or reading.optional_text(message, "name", path) or None
    for call in unanswered:
        if call.call_id == call_id or (call_id is None and name in (None, call.name)):
            call_id, name = call.call_id, name or call.name
            unanswered.remove(call)
            break
    content, as_string = _content(message, path)
    return FunctionCallOutput(call_id=call_id or f"call_{position}", content=content, as_string=as_string, name=name)


def write_messages(items: Sequence[Item], places: Sequence[str]) -> list[object]:
    """The items as messages, in order. `places` name an item in errors: UnsupportedParameter, InvalidParameter."""
    messages: list[object] = []
    names = {item.call_id: item.name for item in items if isinstance(item, FunctionCall)}
    open_message: dict[str, object] | None = None  # the assistant's message that more may still join
    for position, item in enumerate(items):
        place = places[position] if position < len(places) else "messages"
        match item:
            case Message(role="assistant"):
                if open_message is None or open_message["content"] or "tool_calls" in open_message:
                    open_message = _open_assistant(messages)
                open_message.update(_write_content(item, place))
            case Message():
                open_message = None
                role = "system" if item.role == "developer" else item.role
                messages.append({"role": role, **_write_content(item, place)})
            case Reasoning():
                if item.text:
                    if open_message is None or open_message["content"] or "tool_calls" in open_message:
                        open_message = _open_assistant(messages)
                    open_message["thinking"] = f"{open_message.get('thinking', '')}{item.text}"
            case FunctionCall():
                if open_message is None:
                    open_message = _open_assistant(messages)
                calls = open_message.setdefault("tool_calls", [])
                assert isinstance(calls, list)
                calls.append(_write_call(item, len(calls), place))
            case FunctionCallOutput():
                open_message = None
                name = item.name or names.get(item.call_id)
                named = {"tool_name": name} if name else {}
                messages.append({"role": "tool", **_write_content(item, place), **named, "tool_call_id": item.call_id})
            case OpaqueItem():
                open_message = None
                messages.append(item.payload)
    return messages


def _open_assistant(messages: list[object]) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "content": ""}
    messages.append(message)
    return message


def _write_call(call: FunctionCall, number: int, place: str) -> dict[str, object]:
    written = write_call(call, number)
    if written is None:
        raise InvalidParameter(
            f"Invalid '{place}': the arguments of the call of '{reading.shorten(call.name)}' are not a JSON object, "
            "which this model's server (Ollama) needs.",
            param=place,
        )
    return written


def write_call(call: FunctionCall, number: int) -> dict[str, object] | None:
    """A `tool_calls` entry; None where the arguments are not the JSON object that this dialect needs.

    The free text of a custom tool travels as the one argument `input`.
    """
    if call.tool == "custom":
        arguments: object = {"input": call.arguments}
    else:
        try:
            arguments = msgspec.json.decode(call.arguments or "{}")
        except NOT_JSON:
            return None
        if not isinstance(arguments, dict):
            return None
    return {"id": call.call_id, "function": {"index": number, "name": call.name, "arguments": arguments}}


def _write_content(item: Message | FunctionCallOutput, place: str) -> dict[str, object]:
    texts: list[str] = []
    images: list[str] = []
    for position, part in enumerate(item.content):
        match part:
            case TextPart() | RefusalPart():
                texts.append(part.text)
            case ImagePart() | AudioPart():
                images.append(write_media(part, f"{place}.content[{position}]"))
            case _:
                raise UnsupportedParameter(
                    "this model's server (Ollama) reads text, images and sound only",
                    code="unsupported_content_type",
                    param=f"{place}.content[{position}]",
                )
    written: dict[str, object] = {"content": "\n".join(texts)}
    if images:
        written["images"] = images
    return written
