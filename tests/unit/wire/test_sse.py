"""Server-sent events, case by case; tests/property has the splits."""

import pytest

from trunkline.wire import sse
from trunkline.wire.sse import FrameTooLarge, SseEvent, SseReader, encode_event, split_frames


@pytest.mark.parametrize(
    ("wire", "events"),
    [
        (b"data: a\n\n", [SseEvent(b"a")]),
        (b"data:a\r\n\r\n", [SseEvent(b"a")]),
        (b"data:  a\r\r", [SseEvent(b" a")]),
        (b"data\n\n", [SseEvent(b"")]),
        (b"data:\ndata:\n\n", [SseEvent(b"\n")]),
        (b"data: a\ndata: b\n\n", [SseEvent(b"a\nb")]),
        (b": comment\n\n\n\ndata: a\n\n", [SseEvent(b"a")]),
        (b"event: e\ndata: a\n\ndata: b\n\n", [SseEvent(b"a", "e"), SseEvent(b"b")]),
        (b"event: e\n\ndata: a\n\n", [SseEvent(b"a")]),
        (b"id: 1\ndata: a\n\ndata: b\n\n", [SseEvent(b"a", "", "1"), SseEvent(b"b", "", "1")]),
        (b"id: 1\ndata: a\n\nid\ndata: b\n\n", [SseEvent(b"a", "", "1"), SseEvent(b"b", "", "")]),
        (b"id: a\0b\ndata: a\n\n", [SseEvent(b"a")]),
        (b"dataset: x\ndat: y\nretry: 5\n data: z\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [SseEvent(b"a")]),
        (b"data: \xef\xbb\xbfa\n\n", [SseEvent(b"\xef\xbb\xbfa")]),
        (b"data: a\n", []),
        (b"data: a: b\n\n", [SseEvent(b"a: b")]),
    ],
)  # fmt: skip
def test_a_stream_is_read_as_the_specification_says(wire: bytes, events: list[SseEvent]) -> None:
    assert SseReader().feed(wire) == events


def test_an_event_that_ends_in_a_bare_cr_is_not_held_back() -> None:
    reader = SseReader()
    assert reader.feed(b"data: a\r\r") == [SseEvent(b"a")]
    assert reader.feed(b"data: b\r") == []
    assert reader.feed(b"\n") == []
    assert reader.feed(b"\r") == [SseEvent(b"b")]
    assert reader.feed(b"\n") == []


def test_the_last_event_id_is_that_of_an_event_that_was_seen_whole() -> None:
    reader = SseReader()
    reader.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b")
    assert reader.last_event_id == "1"
    reader.feed(b"\n\n")
    assert reader.last_event_id == "2"


@pytest.mark.parametrize("piece", [b"x", b"data: x\n"])
def test_a_peer_that_never_ends_an_event_does_not_fill_the_memory(
    piece: bytes,
) -> None:
    reader = SseReader(max_frame_bytes=64)
    for _ in range(64 // len(piece)):
        assert reader.feed(piece) == []
    with pytest.raises(FrameTooLarge, match="64 bytes"):
        reader.feed(piece * 64)


def test_a_large_read_of_many_events_is_no_large_event() -> None:
    assert len(SseReader(max_frame_bytes=64).feed(b"data: x\n\n" * 100)) == 100


def test_events_are_written_with_their_name_and_id() -> None:
    assert encode_event(b"{}") == b"data: {}\n\n"
    assert encode_event(b"{}", event="e", id="7") == b"event: e\nid: 7\ndata: {}\n\n"
    assert SseReader().feed(sse.KEEPALIVE) == []
    assert SseReader().feed(sse.DONE) == [SseEvent(b"[DONE]")]


@pytest.mark.parametrize(
    ("buffer", "whole"),
    [
        (b"", b""),
        (b"data: a", b""),
        (b"data: a\n", b""),
        (b"data: a\n\n", b"data: a\n\n"),
        (b"data: a\n\ndata: b", b"data: a\n\n"),
        (b"data: a\r\n\r\ndata: b\r\n", b"data: a\r\n\r\n"),
        (b"data: a\r\rdata: b\r", b"data: a\r\r"),
        (b"data: a\n\ndata: b\r\n\r\ndata", b"data: a\n\ndata: b\r\n\r\n"),
        (b"data: a\r\n\r", b""),
    ],
)
def test_frames_are_cut_after_the_last_whole_event(buffer: bytes, whole: bytes) -> None:
    assert split_frames(buffer) == (whole, buffer[len(whole) :])
