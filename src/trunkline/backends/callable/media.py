"""Attachments as files, for agents that read files, and as parts of a chat message, for agents that hand them to a
model.

Files live as long as the turn. Nothing is fetched: an image at an address is refused, because this server would be
the one that asks for it.
"""

import base64
import binascii
import mimetypes
import re
from collections.abc import Sequence
from pathlib import Path

from trunkline.agent import Attachment, AudioPart, FilePart, ImagePart
from trunkline.model.errors import InvalidParameter

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[^,;]*)*;base64,", re.IGNORECASE | re.ASCII)
NAME_BYTES = 200
"""Of a file's own name; file systems take 255."""
_UNSAFE = re.compile(r"[^\w. -]+")


class Unreadable(InvalidParameter):
    """An attachment that this agent cannot be given."""


def save(attachments: Sequence[Attachment], folder: Path) -> list[str]:
    """The files' paths, in order. Raises Unreadable for what is not in the request itself, or is no base64."""
    paths: list[str] = []
    for number, part in enumerate(attachments):
        name, data = _content(part, number)
        path = folder / f"{number}" / name  # two files may have the same name, which the agent shows
        path.parent.mkdir()
        path.write_bytes(data)
        paths.append(str(path))
    return paths


def user_message(text: str, attachments: Sequence[Attachment]) -> str | list[dict[str, object]]:
    """The message as chat APIs take it: a string, or parts where it has images."""
    images = [part for part in attachments if isinstance(part, ImagePart)]
    if not images:
        return text
    parts: list[dict[str, object]] = [{"type": "text", "text": text}] if text else []
    for image in images:
        if image.url is None:
            raise Unreadable("this agent takes images by URL or as data: URL, not by file id", param="messages")
        detail = {} if image.detail is None else {"detail": image.detail}
        parts.append({"type": "image_url", "image_url": {"url": image.url, **detail}})
    return parts


def _content(part: Attachment, number: int) -> tuple[str, bytes]:
    match part:
        case ImagePart(url=str(url)):
            kind, data = _decoded(url)
            return f"image-{number}{_extension(kind, '.png')}", data
        case AudioPart(data=data_text, format=kind):
            return f"audio-{number}.{_UNSAFE.sub('', kind) or 'wav'}", _bytes(data_text)
        case FilePart(data=str(data_text), filename=filename):
            kind, data = _decoded(data_text) if data_text[:5].lower() == "data:" else ("", _bytes(data_text))
            return _safe(filename) or f"file-{number}{_extension(kind, '.bin')}", data
        case _:
            raise _not_here()


def _decoded(url: str) -> tuple[str, bytes]:
    match = _DATA_URL.match(url)
    if match is None:
        raise _not_here()
    return (match[1] or "").lower(), _bytes(url[match.end() :])


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Unreadable("expected base64 in the data of an attachment", param="messages") from None


def _extension(kind: str, otherwise: str) -> str:
    return mimetypes.guess_extension(kind) or otherwise


def _safe(filename: str | None) -> str:
    """The client's own name for the file, without a folder and whatever else a path could take for more than a name."""
    name = _UNSAFE.sub("_", (filename or "").replace("\\", "/").rpartition("/")[2]).strip(" .")
    return name.encode()[-NAME_BYTES:].decode(errors="ignore")


def _not_here() -> Unreadable:
    return Unreadable(
        "this agent reads attachments as files, so they have to be in the request: send base64 data (a data: URL for an image), "
        "not an address or a file id",
        param="messages",
    )
