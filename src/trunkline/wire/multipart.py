"""`multipart/form-data` (RFC 7578), read without being copied: where each part's content begins and ends.

A form that is passed on changes in one field, and its files may be large. So nothing is taken apart here: whoever wants a field
reads that stretch, and whoever replaces one sends what stands before it, the new value, and what stands after it.
"""

import re
from collections.abc import Iterator

import msgspec

MAX_PARTS = 1000
MAX_HEAD_BYTES = 16_384

_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_DISPOSITION = re.compile(rb"^content-disposition[ \t]*:[ \t]*form-data([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_PARAMETER = re.compile(rb';\s*([a-z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)


class MalformedForm(ValueError):
    """The body is not the form that its content type announces; says what is wrong."""


class Part(msgspec.Struct, frozen=True):
    """A part's name, its file's name, and where its content stands in the body."""

    name: str
    filename: str | None
    start: int
    end: int


def boundary_of(content_type: str) -> bytes | None:
    """The boundary that a content type names."""
    found = _BOUNDARY.search(content_type)
    return (found[1] or found[2]).encode("latin-1", "replace") if found else None


def parts_of(body: bytes | bytearray, boundary: bytes) -> Iterator[Part]:
    """The parts in order. Raises MalformedForm."""
    delimiter = b"--" + boundary
    if not body.startswith(delimiter):
        first = body.find(b"\r\n" + delimiter)
        if first < 0:
            raise MalformedForm("the boundary that the content type names does not occur in the body")
        at = first + 2
    else:
        at = 0
    at += len(delimiter)
    for _ in range(MAX_PARTS):
        if body[at : at + 2] == b"--":
            return
        line_end = body.find(b"\r\n", at, at + MAX_HEAD_BYTES)
        if line_end < 0 or body[at:line_end].strip(b" \t"):
            raise MalformedForm(f"byte {at}: a boundary has to be followed by a line break")
        head_end = body.find(b"\r\n\r\n", line_end, line_end + MAX_HEAD_BYTES)
        if head_end < 0:
            raise MalformedForm(f"byte {at}: the headers of a part do not end")
        start = head_end + 4
        end = body.find(b"\r\n" + delimiter, start - 2)  # an empty part's content ends where its headers do
        if end < 0:
            raise MalformedForm("the last boundary is missing: the form is not complete")
        yield _part(bytes(body[line_end + 2 : head_end]), start, max(start, end))
        at = end + 2 + len(delimiter)
    raise MalformedForm(f"more than {MAX_PARTS} parts")


def _part(head: bytes, start: int, end: int) -> Part:
    disposition = _DISPOSITION.search(head)
    found = (
        {match[1].lower(): match[2] or match[3] or b"" for match in _PARAMETER.finditer(disposition[1])}
        if disposition
        else {}
    )
    if b"name" not in found:
        raise MalformedForm(f"byte {start}: a part has no name in its Content-Disposition")
    filename = found.get(b"filename")
    return Part(
        found[b"name"].decode("utf-8", "replace"),
        None if filename is None else filename.decode("utf-8", "replace"),
        start,
        end,
    )
