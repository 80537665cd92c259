"""The shape of a delta: what stays the same from chunk to chunk of one stream, so that only the text need be read.

Most chunks of an answer differ in one JSON string, the text. Once a chunk has been read in full, the bytes before and after
its text are known. A chunk with the same bytes around one valid JSON string is the same JSON but for that string, whatever it
says, and so the same event but for its text. Anything else, such as a string that is no JSON, is left to the full reading.

A shape says nothing of what the decoder has seen since. It holds only as long as no chunk of another kind came between.
"""

import re
from itertools import islice

import msgspec

from trunkline.dialects.reading import NOT_JSON, Json, Object
from trunkline.model import events as ev

MAX_SHAPED_BYTES = 16_384
_TEXT = re.compile(rb'"(content|reasoning_content|reasoning)":\s*("[^"\\]*(?:\\.[^"\\]*)*")')
_MOST_TRIED = 4  # each costs a reading
_HOLE = "\u2603"  # stands for the text while its place is checked
_HOLE_JSON = msgspec.json.encode(_HOLE)
_FIELD = b"data: "
_STRING = msgspec.json.Decoder(str)


class Shape:
    """The bytes around the text of a delta, and the event that it makes. `fitted` says whether another chunk had it."""

    __slots__ = ("_after", "_before", "_event", "_frame", "_frame_size", "_item", "_size", "_tail", "fitted")

    def __init__(
        self, before: bytes, after: bytes, event: type[ev.TextDelta] | type[ev.ReasoningDelta], item: int
    ) -> None:
        self._before = before
        self._frame = _FIELD + before
        self._after = after
        self._size = len(before)
        self._frame_size = len(self._frame)
        self._tail = -len(after)
        self._event = event
        self._item = item
        self.fitted = False

    def read(self, data: bytes, events: list[ev.Event]) -> bytes:
        """Reads the deltas that `data`, which begins an event of the stream, begins with; returns the rest."""
        start, after, size, tail, event, item = (
            self._frame,
            self._after,
            self._frame_size,
            self._tail,
            self._event,
            self._item,
        )
        read = 0
        frames = data.split(b"\n\n")
        rest = frames.pop()
        for frame in frames:
            if not frame.startswith(start) or not frame.endswith(after):
                break
            try:
                text = _decode(frame[size:tail])
            except NOT_JSON:
                break
            if not text:
                break
            events.append(event(item, text))
            read += 1
        if read:
            self.fitted = True
        return rest if read == len(frames) else b"\n\n".join([*frames[read:], rest])

    def read_chunk(self, data: bytes, events: list[ev.Event]) -> bool:
        """Whether `data`, the JSON of one chunk, was a delta of this shape; it is read then."""
        if not data.startswith(self._before) or not data.endswith(self._after):
            return False
        try:
            text = _decode(data[self._size : self._tail])
        except NOT_JSON:
            return False
        if not text:
            return False
        self.fitted = True
        events.append(self._event(self._item, text))
        return True


_decode = _STRING.decode


def shape_of(data: bytes, chunk: Object, delta: ev.TextDelta | ev.ReasoningDelta) -> Shape | None:
    """The shape of the JSON `data`, which is this chunk and made this delta and nothing else; None where it has none."""
    if len(data) > MAX_SHAPED_BYTES or b"\n" in data or b"\r" in data:  # line breaks: its lines were joined
        return None
    for match in islice(_TEXT.finditer(data), _MOST_TRIED):
        before, after = data[: match.start(2)], data[match.end(2) :]
        probe: Json = msgspec.json.decode(before + _HOLE_JSON + after)
        said = _delta_of(probe)
        key = match[1].decode()
        if said is not None and said.get(key) == _HOLE:
            said[key] = delta.text
            if probe == chunk:  # so the text stood there, and nowhere else
                return Shape(before, after, type(delta), delta.index)
    return None


def _delta_of(chunk: Json) -> Object | None:
    """The delta of a chunk's one choice."""
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    delta = choice.get("delta") if isinstance(choice, dict) else None
    return delta if isinstance(delta, dict) else None
