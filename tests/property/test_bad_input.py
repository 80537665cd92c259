"""Whatever a client or an upstream sends, the dialect answers with an error of the right side and nothing else."""

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.strategies import JSON, chat_answers, examples, splits
from trunkline.config.profiles import Profile
from trunkline.dialects.codec import encode_all
from trunkline.dialects.openai_chat import ChatBackend, ChatSurface
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, RequestError
from trunkline.model.grammar import Grammar
from trunkline.model.request import Request
from trunkline.model.turn import Fold, fold

SURFACE = ChatSurface(Profile())
BACKEND = ChatBackend()
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
BODY: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "S", "name": "n"},
        {"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "u"}}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "d", "format": "wav"}}]},
        {"role": "user", "content": [{"type": "file", "file": {"filename": "f", "file_data": "d", "file_id": "i"}}]},
        {
            "role": "assistant",
            "content": "A",
            "refusal": "R",
            "reasoning_content": "T",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "x"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "T"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "F"},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "top_p": 0.5,
    "n": 2,
    "seed": 1,
    "stop": ["a"],
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"1": 2},
    "max_completion_tokens": 5,
    "tools": [
        {"type": "function", "function": FUNCTION},
        {"type": "custom", "custom": {"name": "g", "format": {"type": "text"}}},
        {"type": "web_search"},
    ],
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    },
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}, "strict": True}},
    "modalities": ["text"],
    "metadata": {"a": "b"},
    "store": "true",
    "service_tier": "auto",
    "parallel_tool_calls": True,
    "reasoning_effort": "low",
}
ENTRY = {"token": "t", "logprob": -0.5, "bytes": [116], "id": 1, "top_logprobs": [{"token": "t", "logprob": -0.5}]}
CHUNK: dict[str, Any] = {
    "id": "chatcmpl-1",
    "created": 1,
    "model": "m",
    "x": 1,
    "choices": [
        {
            "index": 0,
            "delta": {
                "role": "assistant",
                "reasoning_content": "r",
                "content": "c",
                "refusal": "n",
                "annotations": [{"type": "url_citation"}],
                "audio": {"id": "a"},
                "tool_calls": [
                    {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"index": 1, "id": "c2", "type": "custom", "custom": {"name": "g", "input": "x"}},
                ],
            },
            "logprobs": {"content": [ENTRY], "refusal": [ENTRY]},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}},
    "x_groq": {"usage": {"prompt_tokens": 1}},
}


@st.composite
def mutated(draw: st.DrawFn, body: dict[str, Any]) -> Any:
    """The body with one to three of its members replaced, removed or doubled."""
    value: Any = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        parent: Any = None
        key: Any = None
        place = value
        while isinstance(place, dict | list) and place and (parent is None or draw(st.integers(0, 3))):
            keys = sorted(place, key=str) if isinstance(place, dict) else list(range(len(place)))
            parent, key = place, draw(st.sampled_from(keys))
            place = parent[key]
        if parent is None:
            break
        change = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
        if change == "remove":
            del parent[key]
        elif change == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(place))
        else:
            parent[key] = draw(JSON)
    return value


def broken_bytes(data: st.DataObject, wire: bytes) -> bytes:
    """The bytes with one to three places cut out or overwritten."""
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(wire)))
        wire = wire[:at] + data.draw(st.binary(max_size=3)) + wire[at + data.draw(st.integers(0, 3)) :]
    return wire


def request_of(body: bytes) -> Request | None:
    """The request, which every later step must be able to use; None when it was refused."""
    try:
        request = SURFACE.decode_request(body)
    except RequestError as error:
        assert msgspec.json.decode(SURFACE.encode_error(error.info()))["error"]["type"] == "invalid_request_error"  # noqa: PT017
        return None
    msgspec.json.decode(BACKEND.encode_request(request, model="up"))
    msgspec.json.decode(BACKEND.forward_body(body, request, model="up", own_items=request.items))
    return request


def answer_of(pieces: list[bytes], *, streamed: bool) -> None:
    """Decodes; whatever was decoded follows the grammar and can be shown to a client."""
    decoder = BACKEND.decoder(ev.TurnStarted("t", "m", 1), streamed=streamed)
    encoder = SURFACE.encoder(Request(model=None, items=(), stream=True))
    events: list[ev.Event] = []
    try:
        for piece in pieces:
            events.extend(decoder.feed(piece))
        events.extend(decoder.close())
    except BackendError:
        pass
    grammar, folding = Grammar(), Fold()
    for event in events:
        if isinstance(event, ev.TurnCompleted) and not any(
            isinstance(end, ev.ChoiceDone) and end.choice == 0 for end in events
        ):
            continue  # an answer without a choice 0 is the grammar's to refuse
        grammar.feed(event)
        folding.feed(event)
    encode_all(encoder, events)
    msgspec.json.decode(SURFACE.encode_turn(folding.turn(), Request(model=None, items=())))


@given(mutated(BODY))
@examples(200)
def test_a_wrong_body_is_the_callers_fault_and_nothing_else(body: Any) -> None:
    request_of(msgspec.json.encode(body))


@given(st.data())
@examples(150)
def test_broken_bytes_of_a_body_are_the_callers_fault(data: st.DataObject) -> None:
    request_of(broken_bytes(data, msgspec.json.encode(BODY)))


@given(st.binary(max_size=40) | JSON.map(msgspec.json.encode))
@examples(150)
def test_any_bytes_are_a_request_or_the_callers_fault(body: bytes) -> None:
    request_of(body)


@given(mutated(CHUNK))
@examples(150)
def test_a_wrong_completion_is_the_backends_fault_and_nothing_else(chunk: Any) -> None:
    for choice in chunk.get("choices") if isinstance(chunk.get("choices"), list) else []:
        if isinstance(choice, dict) and "delta" in choice:
            choice["message"] = choice.pop("delta")
    answer_of([msgspec.json.encode(chunk)], streamed=False)


@given(st.lists(mutated(CHUNK), min_size=1, max_size=3))
@examples(100)
def test_wrong_chunks_are_the_backends_fault_and_nothing_else(chunks: list[Any]) -> None:
    answer_of([b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks], streamed=True)


@given(chat_answers(), st.data())
@examples(40)
def test_broken_bytes_of_a_stream_are_the_backends_fault(events: list[ev.Event], data: st.DataObject) -> None:
    wire = broken_bytes(data, encode_all(SURFACE.encoder(Request(model=None, items=())), events))
    answer_of(data.draw(splits(wire)), streamed=True)


@given(st.binary(max_size=60), st.booleans())
@examples(100)
def test_any_bytes_of_an_upstream_are_an_answer_or_its_fault(wire: bytes, streamed: bool) -> None:
    answer_of([wire], streamed=streamed)


@given(st.integers(100, 599), st.binary(max_size=30) | JSON.map(msgspec.json.encode))
@examples(150)
def test_any_refusal_of_an_upstream_is_a_backend_error(status: int, body: bytes) -> None:
    error = BACKEND.decode_error(status, body)
    assert isinstance(error, BackendError)
    assert error.message
    assert 400 <= error.status <= 599
    assert error.status not in (401, 402, 403)


VALID = b'{"model":"m","messages":[{"role":"user","content":"x"}],"x":%s}'
DEEP = {"arrays": (b"[" * 200_000, b"]" * 200_000), "objects": (b'{"a":' * 200_000, b"}" * 200_000)}


@pytest.mark.parametrize("kind", DEEP)
def test_json_nested_200_000_deep_is_refused_on_both_sides(kind: str) -> None:
    opening, closing = DEEP[kind]
    for deep in (opening, opening + b"1" + closing):
        for body in (deep, VALID % deep):
            with pytest.raises(RequestError, match="nested too deeply"):
                SURFACE.decode_request(body)
        with pytest.raises(BackendError):
            answer_strictly(b"data: " + deep + b"\n\n")
        assert BACKEND.decode_error(400, deep).message == "upstream answered 400"


@pytest.mark.parametrize("depth", [10, 200, 400, 600, 800, 900, 1000, 1100])
def test_json_at_any_depth_is_read_and_written_or_refused(depth: int) -> None:
    for deep in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        request_of(VALID % deep)
        chunk = b'{"choices":[{"delta":{"content":"a","y":%s},"finish_reason":"stop","z":%s}],"x":%s}' % (
            deep,
            deep,
            deep,
        )
        answer_of([b"data: " + chunk + b"\n\n"], streamed=True)


def test_10_mb_of_empty_objects_are_refused() -> None:
    with pytest.raises(RequestError, match="Invalid JSON"):
        SURFACE.decode_request(b"{}" * 5_000_000)
    with pytest.raises(RequestError) as caught:
        SURFACE.decode_request(b'{"messages":[' + b"{}," * 3_000_000 + b"{}]}")
    assert caught.value.param == "messages[0].role"


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 5000, b"0x1", b"01"])
def test_what_is_no_json_number_is_refused(number: bytes) -> None:
    for body in (VALID % number, VALID.replace(b'"x":%s', b'"temperature":%s') % number):
        with pytest.raises(RequestError):
            SURFACE.decode_request(body)


@pytest.mark.parametrize(
    "name", ["temperature", "top_p", "seed", "n", "max_tokens", "presence_penalty", "top_logprobs"]
)
@pytest.mark.parametrize("number", [10**18, 2**63, 2**64, 10**40, -(10**40), 10**400, -(10**4000)])
def test_huge_integers_are_used_or_refused(name: str, number: int) -> None:
    request_of(VALID.replace(b'"x":%s', b'"%s":%d' % (name.encode(), number)))


@pytest.mark.parametrize("number", [2**63, 2**64, 10**40, 10**400])
def test_huge_integers_of_an_upstream_do_no_harm(number: int) -> None:
    entry = b'{"token":"t","logprob":-%d,"bytes":[%d],"id":%d}' % (number, number, number)
    chunk = (
        b'{"created":%d,"choices":[{"delta":{"content":"a"},"logprobs":{"content":[%s]},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":%d,"completion_tokens":%d}}' % (number, entry, number, number)
    )
    answer_of([b"data: " + chunk + b"\n\n"], streamed=True)


SURROGATES = [
    rb"\ud800",
    rb"\udfff",
    rb"a\ud83d",
    rb"\ude00\ud83d",
    b"\xed\xa0\x80",
    b"\xff",
    b"\xc3",
    b"\xf4\x90\x80\x80",
]


@pytest.mark.parametrize("text", SURROGATES)
def test_text_that_is_no_unicode_is_refused(text: bytes) -> None:
    for body in (
        b'{"messages":[{"role":"user","content":"%s"}]}',
        b'{"messages":[{"role":"user","content":"x"}],"%s":1}',
    ):
        with pytest.raises(RequestError):
            SURFACE.decode_request(body % text)
    with pytest.raises(BackendError):
        answer_strictly(b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % text)


def test_a_long_key_is_not_echoed_whole() -> None:
    for name in ("metadata", "logit_bias"):
        with pytest.raises(RequestError) as caught:
            SURFACE.decode_request(msgspec.json.encode({**BODY, name: {"k" * 1_000_000: []}}))
        assert len(caught.value.message) < 1000
        assert caught.value.param is not None
        assert len(caught.value.param) < 1000


def answer_strictly(wire: bytes) -> None:
    decoder = BACKEND.decoder(ev.TurnStarted("t", "m", 1), streamed=True)
    fold([*decoder.feed(wire), *decoder.close()])
