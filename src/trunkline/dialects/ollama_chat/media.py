"""Images and sound, which Ollama takes as bare base64 in one list, `images`, and tells apart by their first bytes.

Elsewhere they have a media type. It is read from the same first bytes here; bytes that say nothing go on as
`application/octet-stream`, and whoever gets them says whether it can read them.
"""

import binascii

from trunkline.dialects import reading
from trunkline.dialects.reading import Json
from trunkline.model.errors import InvalidParameter, UnsupportedParameter
from trunkline.model.items import AudioPart, ImagePart, Part

_IMAGES = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"BM", "bmp"))
_MP3 = (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")


def read_media(value: Json, path: str) -> tuple[Part, ...]:
    """The parts of an `images` list."""
    return tuple([_read(one, f"{path}[{position}]") for position, one in enumerate(reading.array(value, path))])


def _read(value: Json, path: str) -> Part:
    text = "".join(reading.text(value, path).split())  # base64 may be folded into lines
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise InvalidParameter(
            f"Invalid '{path}': expected the image as base64, without a data: prefix.", param=path
        ) from None
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return AudioPart(text, "wav")
    if data.startswith(_MP3):
        return AudioPart(text, "mp3")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    else:
        kind = next((f"image/{name}" for start, name in _IMAGES if data.startswith(start)), "application/octet-stream")
    return ImagePart(url=f"data:{kind};base64,{text}")


def write_media(part: ImagePart | AudioPart, path: str) -> str:
    """The part as base64. Raises UnsupportedParameter for an image that would have to be fetched: Ollama fetches none."""
    if isinstance(part, AudioPart):
        return part.data
    scheme, _, rest = (part.url or "").partition(":")
    head, comma, data = rest.partition(",")
    if scheme.lower() != "data" or not comma or not head.lower().endswith(";base64"):
        raise UnsupportedParameter(
            "this model's server (Ollama) takes images only as data, not by address or file id: "
            "send 'data:image/png;base64,…'",
            code="unsupported_content_type",
            param=path,
        )
    return data
