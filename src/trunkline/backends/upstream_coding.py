"""Bodies that a server packed although it was asked for them as they are: gzip and deflate are unpacked, anything else is refused.

What is unpacked comes in bounded pieces, because a few packed bytes may stand for very many; so many that no answer is packed so
well are refused.
"""

import zlib
from collections.abc import Iterator

PIECE_BYTES = 64 * 1024
MAX_RATIO = 200
FREE_BYTES = 1024 * 1024
"""What may come whatever the ratio: a short text of one letter packs a thousandfold."""


class Undecodable(Exception):
    """The body is not packed as its head says, or in a way that is not known here."""


class Unpacking:
    """Packed bytes in, in any split, plain ones out."""

    def __init__(self, coding: str) -> None:
        coding = coding.strip().lower()
        if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise Undecodable(f"content coding {coding!r}")
        self._is_packed = coding not in ("", "identity")
        self._is_gzip = coding != "deflate"
        self._begun = False
        self._packed_bytes = 0
        self._plain_bytes = 0
        self._inflate = zlib.decompressobj(31)  # 16 + 15: gzip with the largest window

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises Undecodable."""
        if not self._is_packed:
            yield data
            return
        if not self._begun:
            self._begun = True
            if not self._is_gzip:  # RFC 9110, 8.4.1.2: with zlib's header; some servers leave it out
                self._inflate = zlib.decompressobj(15 if data[0] & 0x0F == zlib.DEFLATED else -15)
        plain = b""
        self._packed_bytes += len(data)
        try:
            while data or len(plain) == PIECE_BYTES:  # a full piece may have left something behind
                if data and self._inflate.eof:  # RFC 1952, 2.2: a file may have several members
                    if not self._is_gzip:
                        raise Undecodable("bytes after the end of a packed body")
                    self._inflate = zlib.decompressobj(31)
                plain = self._inflate.decompress(data, PIECE_BYTES)
                data = self._inflate.unconsumed_tail or self._inflate.unused_data
                self._plain_bytes += len(plain)
                if self._plain_bytes > max(FREE_BYTES, MAX_RATIO * self._packed_bytes):
                    raise Undecodable(f"{self._packed_bytes} bytes stand for more than {MAX_RATIO} times as many")
                if plain:
                    yield plain
        except zlib.error as error:
            raise Undecodable(str(error)) from None

    def close(self) -> None:
        """Raises Undecodable where the end is missing."""
        if self._begun and not self._inflate.eof:
            raise Undecodable("a packed body without its end")
