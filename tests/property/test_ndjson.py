"""JSON in lines: any split of the bytes gives the same lines, and no line grows without bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.strategies import examples, splits
from trunkline.wire.ndjson import LineTooLarge, NdjsonReader

LINES = st.lists(st.sampled_from([b'{"a":1}', b"[]", b"{}", b"x y", '{"é": "☃"}'.encode()]), max_size=6)


@given(LINES, st.data())
@examples(100)
def test_no_split_changes_the_lines(lines: list[bytes], data: st.DataObject) -> None:
    ends = [data.draw(st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n\r\n"])) for _ in lines]
    wire = b"".join(line + end for line, end in zip(lines, ends, strict=True))
    reader = NdjsonReader()
    assert [line for piece in data.draw(splits(wire)) for line in reader.feed(piece)] == lines
    assert reader.rest().strip() == b""


@given(st.data())
@examples(40)
def test_what_no_line_end_follows_is_the_rest(data: st.DataObject) -> None:
    reader = NdjsonReader()
    assert [line for piece in data.draw(splits(b'{"a":1}\n{"b":2}')) for line in reader.feed(piece)] == [b'{"a":1}']
    assert reader.rest() == b'{"b":2}'
    assert reader.rest() == b""


@given(st.integers(1, 40), st.integers(1, 9))
@examples(40)
def test_a_line_without_an_end_is_refused_at_the_bound(size: int, step: int) -> None:
    reader = NdjsonReader(max_line_bytes=size)
    reader.feed(b"ok\n" if size >= 2 else b"")
    line = b"x" * size
    for start in range(0, size, step):
        reader.feed(line[start : start + step])
    with pytest.raises(LineTooLarge):
        reader.feed(b"x")


def test_many_long_lines_are_no_long_line() -> None:
    reader = NdjsonReader(max_line_bytes=4)
    assert reader.feed(b"aaaa\nbbbb\ncccc\ndd") == [b"aaaa", b"bbbb", b"cccc"]
