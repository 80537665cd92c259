"""Items of the wire to items of the model: a request's input, what was stored of earlier turns, an upstream's output.

The types that every backend can be told about (messages, calls and their outputs, reasoning) become items of their own kind;
members that no field names stay with them in `extra`. Every other type is an `OpaqueItem`, byte for byte, for a native backend.
An `item_reference` is opaque too: only who keeps the state knows what it refers to.

Content that is a single plain text is marked `as_string`, however it was written: the two forms mean the same here, and servers
exist that read only strings.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn, Protocol, cast

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.openai_responses.compaction import COMPACTION, read_summary
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
    Role,
    Status,
    TextPart,
    ToolKind,
)

NAME = "openai_responses"
ROLES = ("user", "assistant", "system", "developer")
STATUSES = ("in_progress", "completed", "incomplete")

_RAW_INPUT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])


class Kept(Protocol):
    """JSON text by path."""

    def __getitem__(self, path: str) -> msgspec.Raw: ...


class RawMembers:
    """The JSON text of the members of a body's list, by path; decoded only when one of them must be kept as it came."""

    def __init__(self, body: bytes, key: str) -> None:
        self._body = body
        self._key = key
        self._members: dict[str, msgspec.Raw] | None = None

    def __getitem__(self, path: str) -> msgspec.Raw:
        if self._members is None:
            members = _RAW_LIST.decode(_RAW_INPUT.decode(self._body)[self._key])
            self._members = {f"{self._key}[{position}]": member for position, member in enumerate(members)}
        return msgspec.Raw(bytes(self._members[path]))  # a copy: what is kept must not keep the whole body alive


def read_input(value: Json, members: RawMembers) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Items of `input` and the path of each. Raises InvalidParameter with the path of what is wrong."""
    if isinstance(value, str):
        return (Message(role="user", content=(TextPart(value),), as_string=True),), ("input",)
    if not isinstance(value, list):
        reading.wrong_type("input", "a string or an array of input items", value)
    if not value:
        empty_array("input")
    paths = tuple([f"input[{position}]" for position in range(len(value))])
    return tuple([read_item(item, path, members) for item, path in zip(value, paths, strict=True)]), paths


def read_item(value: Json, path: str, members: Kept) -> Item:
    """One item. `members` has its JSON text by its path, should it have to be kept."""
    source = reading.mapping(value, path)
    kind = source.get("type")
    if kind is None:
        # OpenAI's two types without a required `type`: an easy message and an item reference.
        if "role" in source:
            return _message(source, path)
        if set(source) <= {"id", "type"} and "id" in source:
            kind = "item_reference"
        else:
            reading.missing(f"{path}.type")
    if kind == "item_reference":
        reading.text_field(source, "id", path)
    reader = _READERS.get(reading.text(kind, f"{path}.type"))
    if reader is not None:
        return reader(source, path)
    if kind == COMPACTION:
        read_summary(reading.text_field(source, "encrypted_content", path), f"{path}.encrypted_content")
    item_id = source.get("id")
    return OpaqueItem(
        wire_type=str(kind),
        dialect=NAME,
        payload=members[path],
        id=None if item_id is None else reading.text(item_id, f"{path}.id"),
    )


def items_from_stored(stored: Iterable[bytes | msgspec.Raw]) -> tuple[Item, ...]:
    """Items that were stored as JSON, to stand before a later turn's. Raises InvalidParameter for what is not an item."""
    texts = {f"history[{position}]": msgspec.Raw(bytes(data)) for position, data in enumerate(stored)}
    return tuple([read_item(msgspec.json.decode(text), path, texts) for path, text in texts.items()])


def empty_array(path: str) -> NoReturn:
    raise InvalidParameter(
        f"Invalid '{path}': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        code="empty_array",
        param=path,
    )


def _message(source: Object, path: str) -> Message:
    role = cast("Role", reading.one_of(reading.field(source, "role", path), f"{path}.role", ROLES))
    # An assistant's message that says nothing is stored and comes back.
    content, as_string = _content(
        reading.field(source, "content", path), f"{path}.content", may_be_empty=role == "assistant"
    )
    return Message(
        role=role,
        content=content,
        as_string=as_string,
        id=reading.optional_text(source, "id", path),
        status=_status(source, path),
        extra=_extra(source, _MESSAGE),
    )


def _call(tool: ToolKind, text_key: str) -> Callable[[Object, str], Item]:
    named = frozenset({"type", "id", "call_id", "name", "status", text_key})

    def read(source: Object, path: str) -> Item:
        return FunctionCall(
            call_id=reading.text_field(source, "call_id", path),
            name=reading.text_field(source, "name", path),
            arguments=reading.text_field(source, text_key, path),
            tool=tool,
            id=reading.optional_text(source, "id", path),
            status=_status(source, path),
            extra=_extra(source, named),
        )

    return read


def _call_output(tool: ToolKind) -> Callable[[Object, str], Item]:
    def read(source: Object, path: str) -> Item:
        content, as_string = _content(reading.field(source, "output", path), f"{path}.output", may_be_empty=True)
        return FunctionCallOutput(
            call_id=reading.text_field(source, "call_id", path),
            content=content,
            as_string=as_string,
            name=reading.optional_text(source, "name", path),
            tool=tool,
            id=reading.optional_text(source, "id", path),
            status=_status(source, path),
            extra=_extra(source, _OUTPUT),
        )

    return read


def _reasoning(source: Object, path: str) -> Item:
    summary = _texts(reading.field(source, "summary", path), f"{path}.summary", "summary_text")
    content = source.get("content")
    return Reasoning(
        text="" if content is None else "".join(_texts(content, f"{path}.content", "reasoning_text", "text")),
        summary=summary,
        encrypted_content=reading.optional_text(source, "encrypted_content", path),
        id=reading.optional_text(source, "id", path),
        status=_status(source, path),
        extra=_extra(source, _REASONING),
    )


def _texts(value: Json, path: str, *kinds: str) -> tuple[str, ...]:
    texts = []
    for position, member in enumerate(reading.array(value, path)):
        where = f"{path}[{position}]"
        part = reading.mapping(member, where)
        reading.one_of(reading.field(part, "type", where), f"{where}.type", kinds)
        texts.append(reading.text_field(part, "text", where))
    return tuple(texts)


_READERS: Mapping[str, Callable[[Object, str], Item]] = {
    "message": _message,
    "function_call": _call("function", "arguments"),
    "function_call_output": _call_output("function"),
    "custom_tool_call": _call("custom", "input"),
    "custom_tool_call_output": _call_output("custom"),
    "reasoning": _reasoning,
}
_MESSAGE = frozenset({"type", "id", "role", "content", "status"})
_OUTPUT = frozenset({"type", "id", "call_id", "name", "output", "status"})
_REASONING = frozenset({"type", "id", "summary", "content", "encrypted_content", "status"})


def _status(source: Object, path: str) -> Status:
    status = source.get("status")
    if status is None or status == "completed":
        return "completed"
    return cast("Status", reading.one_of(status, f"{path}.status", STATUSES))


def _extra(source: Object, named: frozenset[str]) -> dict[str, msgspec.Raw]:
    if source.keys() <= named:
        return {}
    return {key: reading.raw(value) for key, value in source.items() if key not in named and value is not None}


def _content(value: Json, path: str, *, may_be_empty: bool) -> tuple[tuple[Part, ...], bool]:
    if type(value) is str:
        return (TextPart(value),), True
    if type(value) is not list:
        reading.wrong_type(path, "a string or an array of content parts", value)
    if not value and not may_be_empty:
        empty_array(path)
    parts = tuple([_part(part, f"{path}[{position}]") for position, part in enumerate(value)])
    return parts, is_plain_text(parts)


def is_plain_text(parts: Sequence[Part]) -> bool:
    """Whether a bare string says the same."""
    if len(parts) != 1:
        return False
    part = parts[0]
    return isinstance(part, TextPart) and not part.annotations


def _part(value: Json, path: str) -> Part:
    part = reading.mapping(value, path)
    match reading.text_field(part, "type", path):
        case "input_text":
            return TextPart(reading.text_field(part, "text", path))
        case "output_text":
            annotations = part.get("annotations")
            return TextPart(
                reading.text_field(part, "text", path),
                ()
                if annotations is None
                else tuple([reading.raw(one) for one in reading.array(annotations, f"{path}.annotations")]),
            )
        case "refusal":
            return RefusalPart(reading.text_field(part, "refusal", path))
        case "input_image":
            image = ImagePart(
                url=reading.optional_text(part, "image_url", path),
                detail=reading.optional_text(part, "detail", path),
                file_id=reading.optional_text(part, "file_id", path),
            )
            if image.url is None and image.file_id is None:
                reading.missing(f"{path}.image_url")
            return image
        case "input_file":
            file = FilePart(
                filename=reading.optional_text(part, "filename", path),
                data=reading.optional_text(part, "file_data", path),
                file_id=reading.optional_text(part, "file_id", path),
                url=reading.optional_text(part, "file_url", path),
            )
            if file.data is None and file.file_id is None and file.url is None:
                reading.missing(f"{path}.file_data")
            return file
        case "input_audio":
            audio = reading.mapping(reading.field(part, "input_audio", path), f"{path}.input_audio")
            return AudioPart(
                data=reading.text_field(audio, "data", f"{path}.input_audio"),
                format=reading.text_field(audio, "format", f"{path}.input_audio"),
            )
        case kind:
            return OpaquePart(kind, reading.raw(part))
