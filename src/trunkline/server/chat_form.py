"""A chat request that comes as a form, written as the JSON it stands for.

Clients of one agent server upload files so: `message`, any number of `files`, `session_id`, `model`. What follows then knows of one
form of request only.
"""

import mimetypes
from base64 import b64encode

import msgspec

from trunkline.model.errors import InvalidParameter, PayloadTooLarge, RequestError
from trunkline.wire.multipart import MalformedForm, Part, boundary_of, parts_of

FORM = "multipart/form-data"
MAX_FILE_BYTES = 10 * 1024 * 1024
ABOUT_FILES = "Please look at the attached files."
"""What a message says that only brings files."""

_TEXTS = frozenset({"message", "session_id", "model", "stream"})


def is_form(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == FORM


def chat_of_form(body: bytes, content_type: str) -> bytes:
    """The body of a chat completion. Raises RequestError."""
    boundary = boundary_of(content_type)
    if boundary is None:
        raise RequestError("the content type multipart/form-data has to name a boundary", code="invalid_form")
    texts: dict[str, str] = {}
    files: list[dict[str, object]] = []
    try:
        for part in parts_of(body, boundary):
            data = body[part.start : part.end]
            if part.name in ("files", "files[]"):
                files.append(_file(part, data, position=len(files)))
            elif part.name in _TEXTS:
                texts[part.name] = _text(part, data)
    except MalformedForm as error:
        raise RequestError(f"Invalid form: {error}", code="invalid_form") from None
    message = texts.pop("message", "")
    if not message and not files:
        raise InvalidParameter(
            "Missing required parameter: 'message'.", code="missing_required_parameter", param="message"
        )
    content = [{"type": "text", "text": message or ABOUT_FILES}, *files]
    named = {name: text for name, text in texts.items() if text}
    return msgspec.json.encode({"messages": [{"role": "user", "content": content}], **named})


def _text(part: Part, data: bytes) -> str:
    try:
        return data.decode() if part.name == "message" else data.decode().strip()
    except UnicodeDecodeError:
        raise InvalidParameter(f"'{part.name}' is not UTF-8", param=part.name) from None


def _file(part: Part, data: bytes, *, position: int) -> dict[str, object]:
    name = part.filename or "upload.bin"
    if len(data) > MAX_FILE_BYTES:
        raise PayloadTooLarge(f"file {name[:100]!r} is larger than {MAX_FILE_BYTES} bytes", param=f"files[{position}]")
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    url = f"data:{media_type};base64,{b64encode(data).decode()}"
    if media_type.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"filename": name, "file_data": url}}
