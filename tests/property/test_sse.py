"""Server-sent events: any bytes, any line ends, any split."""

from hypothesis import given
from hypothesis import strategies as st

from tests.property.strategies import examples, splits
from trunkline.wire.sse import SseEvent, SseReader, encode_event, split_frames

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=6)
NAME = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), min_size=1, max_size=4)
END = st.sampled_from(["\n", "\r\n", "\r"])
PIECES = [b"data: x", b"data:", b"data", b": c", b"event: e", b"\n", b"\n", b"\r", b"\r\n", b"retry: 1", b"y"]


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[SseEvent]]:
    """A stream as a server may write it, and the events the specification finds in it."""
    text = draw(st.sampled_from(["", "\ufeff"]))
    events = []
    last_id: str | None = None
    for _ in range(draw(st.integers(0, 4))):
        lines = []
        if draw(st.booleans()):
            lines.append(f":{draw(LINE)}")
        event = draw(st.just("") | NAME)
        if event:
            lines.append(f"event: {event}")
        if draw(st.booleans()):
            last_id = draw(NAME)
            lines.append(f"id: {last_id}")
        data = draw(st.lists(LINE, max_size=3))
        # Only one space after the colon is the separator: a value that begins with one needs it.
        lines += [f"data: {line}" if line.startswith(" ") or draw(st.booleans()) else f"data:{line}" for line in data]
        if draw(st.booleans()):
            lines.append(draw(st.sampled_from(["retry: 5", "unknown: x", "unknown", "id: a\0b"])))
        if data:
            events.append(SseEvent("\n".join(data).encode(), event, last_id))
        for line in [*lines, ""]:
            # A lone CR and the LF of a blank line would be one line end.
            text += line + ("\r" if not line and text.endswith("\r") else draw(END))
    return text.encode(), events


def read(pieces: list[bytes]) -> list[SseEvent]:
    reader = SseReader()
    return [event for piece in pieces for event in reader.feed(piece)]


@given(streams(), st.data())
@examples(200)
def test_any_split_of_a_stream_gives_the_specified_events(
    stream: tuple[bytes, list[SseEvent]], data: st.DataObject
) -> None:
    wire, events = stream
    assert read([wire]) == events
    assert read(data.draw(splits(wire))) == events
    for size in (1, 2, 3, 7):
        assert read([wire[at : at + size] for at in range(0, len(wire), size)]) == events


@given(st.binary(max_size=60), st.data())
@examples(100)
def test_no_bytes_break_the_reader_and_no_split_changes_what_it_reads(wire: bytes, data: st.DataObject) -> None:
    assert read(data.draw(splits(wire))) == read([wire])


@given(st.lists(st.tuples(LINE, NAME, NAME), max_size=4))
@examples(50)
def test_encoded_events_are_read_back(events: list[tuple[str, str, str]]) -> None:
    wire = b"".join([encode_event(data.encode(), event=event, id=number) for data, event, number in events])
    assert read([wire]) == [SseEvent(data.encode(), event, number) for data, event, number in events]


@given(st.lists(st.sampled_from(PIECES), max_size=16).map(b"".join), st.data())
@examples(200)
def test_frames_are_cut_between_events_and_no_byte_is_lost(wire: bytes, data: st.DataObject) -> None:
    rest, frames = b"", []
    for piece in data.draw(splits(wire)):
        whole, rest = split_frames(rest + piece)
        frames.append(whole)
    assert b"".join(frames) + rest == wire
    # Between two frames a relay may put an event of its own: a reader that begins anew there misses nothing.
    assert [event for frame in [*frames, rest] for event in read([frame])] == read([wire])
    assert read([b": keepalive\n\n".join([*frames, rest])]) == read([wire])


@given(
    st.lists(st.sampled_from([b"data: x", b": c", b"event: e"]), max_size=6), st.sampled_from([b"\n", b"\r\n", b"\r"])
)
@examples(50)
def test_every_whole_event_is_in_the_frames(lines: list[bytes], end: bytes) -> None:
    wire = b"".join([line + end + end for line in lines])
    assert split_frames(wire) == (wire, b"")
    assert split_frames(wire + b"data: unfinished") == (wire, b"data: unfinished")
