"""The decoder's short way through a stream of like chunks gives what its full reading gives.

The short way is taken where the bytes around the text repeat. So the same stream with another amount of space in each chunk is the
same JSON, read in full: whatever the stream says, and however it is broken, both must give the same events and the same end.
"""

from collections.abc import Callable, Iterable
from itertools import count

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.strategies import chat_answers, examples, splits
from tests.property.test_openai_chat import FALLBACK, encode
from tests.wire.golden import Case, find_cases
from trunkline.dialects.openai_chat import ChatBackend
from trunkline.model import events as ev
from trunkline.model.errors import TrunklineError

CHUNK = (
    '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    '"choices":[{"index":%d,"delta":%s,"finish_reason":%s}]%s}'
)
CUT = b"<cut>"
OTHERS = ["reasoning", "constant text", "both", "twice", "other choice", "other extra", "call", "usage", "junk"]
TEXT = st.text(max_size=6) | st.sampled_from(
    ["", "", '"', "\\", '","content":"x', "\n\ndata: ", "[DONE]", "é☃😀", "\x00\x1f\x7f"]
)


def read(pieces: Iterable[bytes]) -> tuple[list[ev.Event], str]:
    """The events of a stream, and the type of what it ended with where that was no event. Of a failure, its type."""
    decoder = ChatBackend().decoder(FALLBACK, streamed=True)
    events: list[ev.Event] = []
    failure = ""
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        events += decoder.close()
    except TrunklineError as error:
        failure = f"{type(error).__name__} {error.code}"
    if events and isinstance(events[-1], ev.TurnFailed):  # its words may name the byte
        events[-1] = ev.TurnFailed(msgspec.structs.replace(events[-1].error, message=""))
    return events, failure


def spaced(wire: bytes) -> bytes:
    """The same stream, each of its chunks with more space before its first member than the one before."""
    lines = wire.split(b"\n")
    spaces = count(1)
    return b"\n".join(
        [b"data: {" + b" " * next(spaces) + line[7:] if line.startswith(b"data: {") else line for line in lines]
    )


def by_frame(wire: bytes) -> list[bytes]:
    """A read for each event, as it is with a model that speaks slowly."""
    return wire.replace(b"\n\n", b"\n\n" + CUT).split(CUT)


def quoted(text: str, draw: Callable[[st.SearchStrategy[bool]], bool]) -> str:
    """A JSON string of this text, with or without escapes that need not be."""
    if draw(st.booleans()):
        return "".join(['"', *(f"\\u{unit:04x}" for unit in _units(text)), '"'])
    return msgspec.json.encode(text).decode()


def _units(text: str) -> list[int]:
    data = text.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Mostly like deltas, with all that may come between two of them."""
    frames = [CHUNK % (0, '{"role":"assistant","content":""}', "null", "")]
    text: st.SearchStrategy[str] = TEXT.filter(lambda text: not any(0xD800 <= ord(one) < 0xE000 for one in text))
    extra = draw(st.sampled_from(["", ',"usage":null', ',"x":1', ',"x":{"content":"a"}', ',"choices_":[]']))
    kinds = ["text"] * 6 + draw(st.sampled_from([[], ["constant text"] * 9, ["reasoning", "text"] * 3, OTHERS]))
    noise = draw(st.booleans())
    for _ in range(draw(st.integers(1, 14))):
        kind = draw(st.sampled_from(kinds))
        content = quoted(draw(text), draw)
        delta, choice, rest, reason = f'{{"content":{content}}}', 0, extra, "null"
        match kind:
            case "reasoning":
                delta = f'{{"reasoning_content":{content},"content":null}}'
            case "constant text":
                delta = f'{{"reasoning":{content},"content":"constant"}}'
            case "both":
                delta = f'{{"reasoning_content":"r","content":{content},"reasoning":"q"}}'
            case "twice":
                delta = f'{{"content":"first","content":{content}}}'
            case "other choice":
                choice = 1
            case "other extra":
                rest = f',"x":{content}'
            case "call":
                call = f'{{"index":0,"id":"c1","function":{{"name":"f","arguments":{content}}}}}'
                delta = f'{{"tool_calls":[{call}]}}'
            case "usage":
                rest = ',"usage":{"prompt_tokens":1,"completion_tokens":2}'
            case "junk":
                rest = draw(st.sampled_from([",", ',"x":', "}", ',"error":{"message":"m"}', ',"object":"error"']))
            case _:
                pass
        frames.append(CHUNK % (choice, delta, reason, rest))
    if draw(st.booleans()):
        frames.append(CHUNK % (0, "{}", draw(st.sampled_from(['"stop"', '"length"', '"odd"'])), ""))
    if draw(st.booleans()):
        frames.append(CHUNK % (0, '{"content":"late"}', "null", extra))
    written = []
    for frame in frames:
        before = draw(st.sampled_from(["", "", "", ": a comment\n\n", "event: x\n", "\n", "data: "])) if noise else ""
        after = (
            draw(st.sampled_from([*["\n\n"] * 4, "\n", "\nid: 1\n\n", "\ndata: 1\n\n", "\r\n\r\n"]))
            if noise
            else "\n\n"
        )
        written.append(f"{before}data: {frame}{after}")
    return "".join([*written, "data: [DONE]\n\n"]).encode()


@given(streams(), st.data())
@examples(400)
def test_like_chunks_are_read_as_unlike_ones_are(wire: bytes, data: st.DataObject) -> None:
    full = read([spaced(wire)])
    assert read([wire]) == full
    assert read(by_frame(wire)) == full
    assert read(data.draw(splits(wire))) == full


@given(streams(), st.data())
@examples(300)
def test_a_broken_stream_breaks_in_the_same_place(wire: bytes, data: st.DataObject) -> None:
    # Past the first chunk's key, so that the space that tells the two streams apart stays between tokens.
    at = data.draw(st.integers(0, len(wire) - 1))
    broken = wire[:at] + bytes([data.draw(st.sampled_from(b'"\\{}[],:\n\r \x00\xffa'))]) + wire[at + 1 :]
    full = read([spaced(broken)])
    assert read([broken]) == read(by_frame(broken)) == read(data.draw(splits(broken))) == full


@given(chat_answers())
@examples(60)
def test_whole_answers_are_read_the_same_either_way(events: list[ev.Event]) -> None:
    wire = encode(events)
    assert read([wire]) == read([spaced(wire)]) == (events, "")


@pytest.mark.parametrize("case", list(find_cases("openai_chat", "decode_stream")), ids=lambda case: case.path.stem)
def test_recorded_streams_are_read_the_same_either_way(case: Case) -> None:
    assert read([case.data]) == read(by_frame(case.data)) == read([spaced(case.data)])
