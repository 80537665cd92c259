"""Newline-delimited JSON, read without I/O: bytes in any split, whole lines out.

Lines end with LF or CRLF; empty ones are skipped, since some servers send them to keep a connection alive. A line is bounded:
a peer that never ends one must not fill the memory. What follows the last line end is no line yet: `rest` gives it at the end of
the input, because a peer may leave the last line end out, and only the reader of the JSON can tell that from a cut.
"""

MAX_LINE_BYTES = 32 * 1024 * 1024


class LineTooLarge(ValueError):
    """A peer sent more than MAX_LINE_BYTES without ending a line."""


class NdjsonReader:
    """Feeds on bytes, gives lines without their ends."""

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._pieces: list[bytes] = []  # of the open line; joined once, however many reads it takes
        self._size_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Lines completed by `data`. Raises LineTooLarge."""
        head, *others = data.split(b"\n")
        self._grow(head)
        if not others:
            return []
        lines = [self.rest(), *others[:-1]]
        self._grow(others[-1])
        return [stripped for line in lines if (stripped := line.strip())]

    def rest(self) -> bytes:
        """What has come since the last line end; it is forgotten here."""
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._size_bytes = 0
        return line

    def _grow(self, piece: bytes) -> None:
        if not piece:
            return
        self._size_bytes += len(piece)
        if self._size_bytes > self._max_line_bytes:
            raise LineTooLarge(f"line larger than {self._max_line_bytes} bytes")
        self._pieces.append(piece)
