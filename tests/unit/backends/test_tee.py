"""The tee of a relayed stream: whole frames out whatever the reads, failures that are never mistaken for an end."""

import pytest

from tests.fakes.upstream import DONE, frame, text_frame, usage_frame
from tests.wire.golden import Case, find_cases
from trunkline.backends.mend import Calls
from trunkline.backends.tee import StreamTee, relay_body
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, BackendProtocolError, BackendUnavailable
from trunkline.model.request import Request
from trunkline.testing.answers import CountingEntropy


def tee(*, model: str | None = "asked", include_usage: bool = False) -> StreamTee:
    request = Request(model=model, items=(), stream=True, include_usage=include_usage)
    return StreamTee(request, entropy=CountingEntropy())


def passed(data: bytes, size: int) -> tuple[bytes, list[ev.Event]]:
    """What the client gets and what was seen, fed `size` bytes at a time."""
    walked = tee(include_usage=True)
    out: list[bytes] = []
    seen: list[ev.Event] = []
    for start in range(0, len(data), size):
        batch = walked.feed(data[start : start + size])
        out.append(batch.data)
        seen.extend(batch.events)
        if walked.ended:
            break
    else:
        batch = walked.close()
        out.append(batch.data)
        seen.extend(batch.events)
    return b"".join(out), seen


@pytest.mark.parametrize("case", list(find_cases("openai_chat", "decode_stream")), ids=lambda case: case.path.stem)
def test_every_split_of_a_stream_passes_the_same_bytes_and_ends_the_same(case: Case) -> None:
    whole = passed(case.data, len(case.data) or 1)
    assert isinstance(whole[1][-1], ev.TERMINALS)
    assert sum(isinstance(event, ev.TERMINALS) for event in whole[1]) == 1
    for size in (1, 2, 3, 7, 100):
        assert passed(case.data, size) == whole, f"fed {size} bytes at a time"


def test_what_came_in_the_same_read_as_a_failure_still_passes() -> None:
    batch = tee().feed(text_frame("kept") + b"data: {not json\n\n" + text_frame("lost"))
    assert b"kept" in batch.data
    assert b"lost" not in batch.data
    assert isinstance(batch.events[-1], ev.TurnFailed)


@pytest.mark.parametrize("reason", ["abort", "error", "insufficient_system_resource"])
def test_a_finish_reason_that_means_failure_is_one(reason: str) -> None:
    _, seen = passed(text_frame("a") + text_frame(finish=reason) + DONE, 1000)
    assert isinstance(seen[-1], ev.TurnFailed)
    assert not any(isinstance(event, ev.ChoiceDone) for event in seen)


def test_a_finish_reason_of_a_vendors_own_becomes_one_that_clients_know() -> None:
    out, seen = passed(text_frame("a") + text_frame(finish="eos_token") + DONE, 1000)
    assert b'"finish_reason":"stop"' in out
    assert b'"native_finish_reason":"eos_token"' in out
    assert isinstance(seen[-1], ev.TurnCompleted)


def test_end_without_a_finish_reason_is_a_failure_and_sends_no_done() -> None:
    for end in (b"", DONE):
        out, seen = passed(text_frame("a") + end, 1000)
        assert isinstance(seen[-1], ev.TurnFailed)
        assert b"[DONE]" not in out


def test_done_that_never_came_is_supplied() -> None:
    out, seen = passed(text_frame("a") + text_frame(finish="stop"), 1000)
    assert out.endswith(DONE)
    assert isinstance(seen[-1], ev.TurnCompleted)


def test_nothing_passes_after_done() -> None:
    walked = tee()
    walked.feed(text_frame("a") + text_frame(finish="stop") + DONE + text_frame("b"))
    assert walked.feed(text_frame("c")).data == b""
    assert walked.close().data == b""


def test_an_error_object_in_the_middle_is_a_failure_with_the_status_it_names() -> None:
    _, seen = passed(text_frame("a") + frame({"error": {"message": "gone", "code": 500}}), 1000)
    failed = seen[-1]
    assert isinstance(failed, ev.TurnFailed)
    assert failed.error.message == "gone"


def test_usage_that_only_we_asked_for_is_kept_from_the_client() -> None:
    walked = tee(include_usage=False)
    batch = walked.feed(text_frame("a") + text_frame(finish="stop") + usage_frame() + DONE)
    assert b"usage" not in batch.data
    assert any(isinstance(event, ev.UsageReported) for event in batch.events)


def test_an_event_without_end_is_refused_before_it_fills_the_memory() -> None:
    walked = tee()
    walked.feed(text_frame("a"))
    walked.feed(b"x" * 30_000_000)
    with pytest.raises(BackendProtocolError, match="larger than"):
        walked.feed(b"x" * 5_000_000)


def test_the_word_error_in_an_answers_text_is_text() -> None:
    data = (
        text_frame("a")
        + text_frame('"error": {"message": "no"} "usage":{ [DONE] "finish_reason":"stop"')
        + text_frame(finish="stop")
        + DONE
    )
    out, seen = passed(data, 10_000)
    assert out == data.replace(b"up-model", b"asked")
    assert isinstance(seen[-1], ev.TurnCompleted)


BODY = b'{"id":"x","object":"chat.completion","created":1,"model":"up-model","choices":[%b]}'
CHOICE = b'{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}'


def relayed(body: bytes) -> bytes:
    return relay_body(body, Request(model="asked", items=()), entropy=CountingEntropy()).data


def test_a_body_is_respliced() -> None:
    assert relayed(BODY % CHOICE) == (BODY % CHOICE).replace(b"up-model", b"asked")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", BackendProtocolError),
        (b"<html>busy</html>", BackendProtocolError),
        (b"[]", BackendProtocolError),
        (b"{}", BackendProtocolError),
        (b"\xff\xfe", BackendProtocolError),
        (b"[" * 200_000, BackendProtocolError),
        (BODY % b"", BackendUnavailable),
        (BODY % b'{"index":0,"message":{"content":"Hi"},"finish_reason":null}', BackendUnavailable),
        (BODY % b'{"index":0,"message":{"content":"Hi"},"finish_reason":"abort"}', BackendError),
        (b'{"error":{"message":"no","code":"x"}}', BackendError),
        (b'{"object":"error","message":"engine is dead","code":500}', BackendError),
    ],
)
def test_a_body_that_is_no_answer_is_the_upstreams_failure(body: bytes, error: type[BackendError]) -> None:
    with pytest.raises(error):
        relayed(body)


def test_calls_without_index_or_id_get_their_own() -> None:
    calls = Calls(CountingEntropy())
    first: dict[str, object] = {"function": {"name": "f", "arguments": "{}"}}
    second: dict[str, object] = {"function": {"name": "f", "arguments": "{}"}}
    assert calls.mend([first, second])  # type: ignore[list-item]  # JSON values, as decoded
    assert (first["index"], second["index"]) == (0, 1)
    assert first["id"] != second["id"]


def test_regular_calls_are_left_alone() -> None:
    calls = Calls(CountingEntropy())
    assert not calls.mend([{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}])
    assert not calls.mend([{"index": 0, "id": None, "type": "function", "function": {"name": None, "arguments": "{}"}}])
    assert not calls.mend([{"index": 1, "id": "b", "type": "function", "function": {"name": "f", "arguments": ""}}])


@pytest.mark.parametrize("text", [b"\xff", b"\\x", b"\n"])
def test_a_completion_whose_text_is_no_json_is_refused_though_nobody_reads_it(text: bytes) -> None:
    body = b'{"model":"asked","choices":[{"message":{"content":"%b"},"finish_reason":"stop"}]}' % text
    with pytest.raises(BackendProtocolError, match="not JSON"):
        relay_body(body, Request(model="asked", items=()), entropy=CountingEntropy())
