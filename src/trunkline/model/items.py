"""Items: what a conversation consists of, in the Responses vocabulary, because it is the richest of the dialects.

A chat message with tool calls is a message item followed by function calls; a tool message is a function call output. What
no class here can name is an `OpaqueItem`: the payload is kept as JSON text and travels to a backend of the same dialect.
`extra` of an item holds the members of its wire form that no field names, for the same purpose.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

Role = Literal["system", "developer", "user", "assistant"]
Status = Literal["in_progress", "completed", "incomplete"]
ToolKind = Literal["function", "custom"]


class TextPart(msgspec.Struct, frozen=True, tag="text", omit_defaults=True):
    """Text. `annotations` (citations and the like) are JSON objects of the wire."""

    text: str
    annotations: tuple[msgspec.Raw, ...] = ()


class RefusalPart(msgspec.Struct, frozen=True, tag="refusal"):
    text: str


class ImagePart(msgspec.Struct, frozen=True, tag="image", omit_defaults=True):
    """An image by URL (http, https or data:) or by uploaded file id."""

    url: str | None = None
    detail: str | None = None
    file_id: str | None = None


class AudioPart(msgspec.Struct, frozen=True, tag="audio"):
    """Base64 audio; `format` is `wav`, `mp3`, …"""

    data: str
    format: str


class FilePart(msgspec.Struct, frozen=True, tag="file", omit_defaults=True):
    """A file: inline (`data` is a data: URL or base64), by id or by URL."""

    filename: str | None = None
    data: str | None = None
    file_id: str | None = None
    url: str | None = None


class OpaquePart(msgspec.Struct, frozen=True, tag="opaque"):
    """A content part of a type we do not know, kept for a backend that does."""

    wire_type: str
    payload: msgspec.Raw


Part = TextPart | RefusalPart | ImagePart | AudioPart | FilePart | OpaquePart


class Message(msgspec.Struct, frozen=True, tag="message", omit_defaults=True, kw_only=True):
    """One message. `as_string` remembers that the client sent a bare string, so that it is forwarded as one."""

    role: Role
    content: tuple[Part, ...] = ()
    as_string: bool = False
    name: str | None = None
    id: str | None = None
    status: Status = "completed"
    extra: Mapping[str, msgspec.Raw] = {}


class Reasoning(msgspec.Struct, frozen=True, tag="reasoning", omit_defaults=True, kw_only=True):
    """The model's thinking, kept apart from its answer."""

    text: str = ""
    summary: tuple[str, ...] = ()
    encrypted_content: str | None = None
    id: str | None = None
    status: Status = "completed"
    extra: Mapping[str, msgspec.Raw] = {}


class FunctionCall(msgspec.Struct, frozen=True, tag="function_call", omit_defaults=True, kw_only=True):
    """A call of a tool. `arguments` is JSON text for a function, free text for a custom tool. `hosted`: the backend runs it."""

    call_id: str
    name: str
    arguments: str = ""
    tool: ToolKind = "function"
    hosted: bool = False
    id: str | None = None
    status: Status = "completed"
    extra: Mapping[str, msgspec.Raw] = {}


class FunctionCallOutput(msgspec.Struct, frozen=True, tag="function_call_output", omit_defaults=True, kw_only=True):
    """What a tool returned. A bare string is one text part with `as_string`. `failed`: who ran it says so."""

    call_id: str
    content: tuple[Part, ...] = ()
    as_string: bool = False
    name: str | None = None
    tool: ToolKind = "function"
    hosted: bool = False
    failed: bool = False
    id: str | None = None
    status: Status = "completed"
    extra: Mapping[str, msgspec.Raw] = {}


class OpaqueItem(msgspec.Struct, frozen=True, tag="opaque", kw_only=True):
    """An item of a type we do not know, kept for a backend that does. `dialect` names whose JSON `payload` is."""

    wire_type: str
    dialect: str
    payload: msgspec.Raw
    id: str | None = None


Item = Message | Reasoning | FunctionCall | FunctionCallOutput | OpaqueItem


def text_of(content: tuple[Part, ...], *, separator: str = "") -> str:
    """The text parts joined; other parts contribute nothing."""
    return separator.join([part.text for part in content if isinstance(part, TextPart)])
