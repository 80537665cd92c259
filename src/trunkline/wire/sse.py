"""Server-sent events (WHATWG HTML, section 9.2), both ways, without I/O.

The reader takes bytes in any split and gives whole events. It accepts the three line endings, a leading byte-order mark and
comments, joins several `data` lines with a newline, and drops an event that the stream's end cuts in the middle ("incomplete
event … not dispatched"). Frames are bounded: a peer that never ends a line must not fill the memory.

`split_frames` and `each_frame` are for relays: they cut at event boundaries and keep the bytes as they came.
"""

import re

import msgspec

MAX_FRAME_BYTES = 32 * 1024 * 1024


class FrameTooLarge(ValueError):
    """A peer sent more than MAX_FRAME_BYTES without ending an event."""


class SseEvent(msgspec.Struct, frozen=True, gc=False):
    """One dispatched event. `event` is empty where the stream named none (the type is then `message`)."""

    data: bytes
    event: str = ""
    id: str | None = None


_LINE_END = re.compile(rb"\r\n|\n|\r")
_FRAME_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class SseReader:
    """Feeds on bytes, gives events. `last_event_id` is what a client would send to resume."""

    def __init__(self, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._pieces: list[bytes] = []  # of a line that is not whole yet
        self._pieces_bytes = 0
        self._begun = False
        self._data: list[bytes] = []
        self._event = ""
        self._id: str | None = None
        self._after_cr = False  # the last byte was a CR that ended a line: an LF that follows belongs to it
        self.last_event_id: str | None = None

    @property
    def idle(self) -> bool:
        """Whether the next byte begins an event: whoever knows what follows may read it without us."""
        return not (self._pieces or self._data or self._event or self._after_cr) and self._begun

    def feed(self, data: bytes) -> list[SseEvent]:
        """Events completed by `data`. Raises FrameTooLarge."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if self._begun and b"\n" not in data and b"\r" not in data:  # a long line is joined once, not with every read
            self._pieces.append(data)
            self._pieces_bytes += len(data)
            self._bound(self._pieces_bytes)
            return []
        buffer = b"".join([*self._pieces, data]) if self._pieces else data
        if not self._begun:
            if len(buffer) < 3 and b"\xef\xbb\xbf".startswith(buffer):
                self._keep(buffer)
                return []
            self._begun = True
            if buffer.startswith(b"\xef\xbb\xbf"):
                buffer = buffer[3:]
        events: list[SseEvent] = []
        if b"\r" in buffer:
            rest = self._mixed_lines(buffer, events)
        else:
            lines = buffer.split(b"\n")
            rest = lines.pop()
            for line in lines:
                self._line(line, events)
        self._bound(len(rest))
        self._keep(rest)
        return events

    def _keep(self, rest: bytes) -> None:
        self._pieces, self._pieces_bytes = [rest] if rest else [], len(rest)

    def _bound(self, line_bytes: int) -> None:
        if line_bytes + sum(map(len, self._data)) > self._max_frame_bytes:
            raise FrameTooLarge(f"server-sent event larger than {self._max_frame_bytes} bytes")

    def _mixed_lines(self, buffer: bytes, events: list[SseEvent]) -> bytes:
        start = 0
        for match in _LINE_END.finditer(buffer):
            self._line(buffer[start : match.start()], events)
            start = match.end()
        # A CR at the very end may be the first half of a CRLF. Its line ends here all the same: a live stream must not hold
        # back a whole event until its next byte.
        self._after_cr = buffer.endswith(b"\r")
        return buffer[start:]

    def _line(self, line: bytes, events: list[SseEvent]) -> None:
        if not line:
            self.last_event_id = self._id  # only now: an event that was cut off has not been seen
            if self._data:
                events.append(
                    SseEvent(b"\n".join(self._data) if len(self._data) > 1 else self._data[0], self._event, self._id)
                )
                self._data = []
            self._event = ""
            return
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"data":  # a line that is the field name alone: an empty data line
            self._data.append(b"")


def encode_event(data: bytes, *, event: str | None = None, id: str | None = None) -> bytes:  # noqa: A002 - the RFC's word
    """One event as bytes. `data` must not contain line breaks (JSON text does not)."""
    head = b""
    if event is not None:
        head += b"event: " + event.encode() + b"\n"
    if id is not None:
        head += b"id: " + id.encode() + b"\n"
    return head + b"data: " + data + b"\n\n"


KEEPALIVE = b": keepalive\n\n"
DONE = b"data: [DONE]\n\n"


def split_frames(buffer: bytes) -> tuple[bytes, bytes]:
    """(whole events, the unfinished rest). Bytes are not changed; any of the line endings closes an event."""
    cut = buffer.rfind(b"\n\n") + 2
    if buffer.find(b"\r") >= 0:  # `in` tries a number first, which costs more than looking
        cut = max(
            cut,
            buffer.rfind(b"\r\n\r\n") + 4 if b"\r\n\r\n" in buffer else 0,
            buffer.rfind(b"\r\r") + 2 if b"\r\r" in buffer else 0,
        )
    return (buffer[:cut], buffer[cut:]) if cut > 1 else (b"", buffer)


def each_frame(frames: bytes) -> list[bytes]:
    """Whole events, as `split_frames` gives them, one by one."""
    pieces = []
    start = 0
    for match in _FRAME_END.finditer(frames):
        pieces.append(frames[start : match.end()])
        start = match.end()
    return pieces
