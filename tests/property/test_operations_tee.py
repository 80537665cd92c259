"""A relayed stream of an operation: the same bytes come out however they go in, and one that is cut never looks whole."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.backends.operations import EventTee, read_usage
from trunkline.model import events as ev
from trunkline.model.errors import BackendError
from trunkline.model.usage import Usage

STREAM = (
    b"\xef\xbb\xbf: hello\r\n\r\n"
    b'data: {"model":"theirs","choices":[{"index":0,"text":"H\\u00e9","finish_reason":null}],"x":2.50}\n\n'
    b'event: e\nid: 7\ndata: {"model":"theirs",\ndata: "choices":[{"index":0,"text":"\xe2\x82\xac","finish_reason":null}]}\n\n'
    b'data: {"model":"ours","choices":[{"index":0,"text":"","finish_reason":"length"}]}\n\n'
    b'data: {"model":"theirs","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
    b"data: [DONE]\n\n"
)
FINISHED = STREAM.index(b'"length"}]}\n\n') + len(b'"length"}]}\n\n')


def read(pieces: list[bytes]) -> tuple[bytes, list[ev.Event]]:
    """Raises BackendError where the stream is not whole."""
    tee = EventTee(model="ours", finishes=True)
    batches = [tee.feed(piece) for piece in pieces]
    if tee.failure is not None:
        raise tee.failure
    batches.append(tee.close())
    return b"".join([batch.data for batch in batches]), [event for batch in batches for event in batch.events]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20).map(sorted))
def test_any_split_gives_the_same(cuts: list[int]) -> None:
    bounds = [0, *cuts, len(STREAM)]
    data, events = read([STREAM[start:end] for start, end in pairwise(bounds)])
    assert (data, events) == read([STREAM])
    assert events == [
        ev.ChoiceDone(0, "length"),
        ev.UsageReported(Usage(input_tokens=3, output_tokens=4)),
        ev.TurnCompleted(),
    ]
    assert b"theirs" not in data
    assert b'"x":2.50' in data
    assert b"event: e\nid: 7\n" in data
    assert data.endswith(b"data: [DONE]\n\n")


def test_a_stream_cut_before_its_finish_reason_is_never_whole() -> None:
    for cut in range(len(STREAM)):
        if cut < FINISHED:
            with pytest.raises(BackendError):
                read([STREAM[:cut]])
        else:
            data, events = read([STREAM[:cut]])
            assert events[-1] == ev.TurnCompleted()
            assert data.count(b"data: [DONE]\n\n") == 1


@given(st.binary(max_size=200))
def test_no_bytes_are_a_crash(data: bytes) -> None:
    tee = EventTee(model="ours", finishes=False)
    tee.feed(b"data: " + data + b"\n\n")
    tee.feed(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["model", "usage", "choices", "error", "type", "prompt_tokens", "input_tokens", "total_tokens"]
                ),
                inner,
            )
        ),
    )
)
def test_no_json_is_a_crash(value: object) -> None:
    tee = EventTee(model="ours", finishes=True)
    tee.feed(b"data: " + json.dumps({"choices": value, "usage": value, "model": value}).encode() + b"\n\n")
    tee.feed(b"data: " + json.dumps(value).encode() + b"\n\n")


def test_usage_is_read_in_each_of_its_forms() -> None:
    assert read_usage({"prompt_tokens": 2, "total_tokens": 2}) == Usage(input_tokens=2)
    assert read_usage({"type": "tokens", "input_tokens": 3, "output_tokens": 4}) == Usage(
        input_tokens=3, output_tokens=4
    )
    assert read_usage({"total_tokens": 5}) == Usage(input_tokens=5)
    assert read_usage({"type": "duration", "seconds": 6}) is None
    assert read_usage(None) is None
