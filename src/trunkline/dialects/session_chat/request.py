"""What clients send: a `message` (or `input`), and with it `system_message` (or `instructions`).

Everything else is a member of a chat completion, except what the session decides itself.
"""

from collections.abc import Sequence

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.reading import Json
from trunkline.model.errors import InvalidParameter

MESSAGE, SYSTEM = "message", "system_message"
_MESSAGE_NAMES, _SYSTEM_NAMES = (MESSAGE, "input"), (SYSTEM, "instructions")
_OURS = ("messages", "session_id", "store", "stream")
_TEXTS = ("text", "input_text", "output_text")


class ChatBody(msgspec.Struct, frozen=True):
    """The body of a chat completion. `places`: what the client called each of its messages."""

    body: bytes
    places: tuple[str, ...]


def chat_body(body: bytes, *, system: str | None, stream: bool) -> ChatBody:
    """`system`: what the session's instructions are. Raises InvalidParameter."""
    source = reading.decode_body(body)
    given, place = _first(source, _MESSAGE_NAMES)
    content = _content(given, place)
    said, system_place = _first(source, _SYSTEM_NAMES)
    if said is not None and not isinstance(said, str):
        raise InvalidParameter(
            f"Invalid type for '{system_place}': expected a string, but got {reading.describe(said)} instead.",
            code="invalid_system_message",
            param=system_place,
        )
    messages: list[Json] = []
    places: list[str] = []
    for text in (system, said):
        if text:
            messages.append({"role": "system", "content": text})
            places.append(system_place)
    messages.append({"role": "user", "content": content})
    rest = {name: value for name, value in source.items() if name not in (*_MESSAGE_NAMES, *_SYSTEM_NAMES, *_OURS)}
    return ChatBody(msgspec.json.encode({**rest, "messages": messages, "stream": stream}), (*places, place))


def _first(source: dict[str, Json], names: Sequence[str]) -> tuple[Json, str]:
    """The first of these members that says anything, and its name."""
    return next(((source[name], name) for name in names if source.get(name)), (None, names[0]))


def _content(given: Json, place: str) -> Json:
    """A string, or parts of a chat message; the Responses API's names of parts are taken, too."""
    content: Json = [_part(part) for part in given] if isinstance(given, list) else given
    if content is not None and not isinstance(content, str | list):
        reading.wrong_type(place, "a string or an array of content parts", given)
    if not _says_something(content):
        raise InvalidParameter(f"Missing '{place}' field", code="missing_message", param=place)
    return content


def _part(part: Json) -> Json:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": part.get("text")}
    if kind == "input_image":
        url = part.get("image_url")
        return {"type": "image_url", "image_url": {"url": url} if isinstance(url, str) else url}
    return part


def _says_something(content: Json) -> bool:
    if isinstance(content, str):
        return bool(content.strip())
    if not isinstance(content, list):
        return False
    return any(not isinstance(part, dict) or part.get("type") != "text" or bool(part.get("text")) for part in content)
