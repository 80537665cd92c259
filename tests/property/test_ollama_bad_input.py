"""Whatever an Ollama client or server sends, the dialect answers with an error of the right side and nothing else."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.property.strategies import JSON, examples
from tests.property.test_bad_input import broken_bytes, mutated
from trunkline.dialects.codec import encode_all
from trunkline.dialects.ollama_chat import OllamaBackend, OllamaChatSurface, OllamaGenerateSurface, asks_to_load
from trunkline.dialects.ollama_chat.listings import decode_embed, decode_show, read_ps, read_tags
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, RequestError
from trunkline.model.grammar import Grammar
from trunkline.model.request import Request
from trunkline.model.turn import fold

BACKEND = OllamaBackend()
CHAT = OllamaChatSurface(elapsed_ns=lambda: 0)
GENERATE = OllamaGenerateSurface(elapsed_ns=lambda: 0)
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
COMMON: dict[str, Any] = {
    "model": "m",
    "stream": False,
    "format": {"type": "object"},
    "think": "low",
    "keep_alive": "5m",
    "logprobs": True,
    "top_logprobs": 2,
    "options": {"temperature": 0.5, "seed": 1, "num_predict": 5, "stop": ["a"], "num_ctx": 4096},
}
CHAT_BODY = {
    **COMMON,
    "messages": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U", "images": ["iVBORw0KGgo=", "UklGRgAAAABXQVZF"]},
        {
            "role": "assistant",
            "content": "A",
            "thinking": "T",
            "tool_calls": [{"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "R", "tool_name": "f", "tool_call_id": "c1"},
        {"role": "control", "content": "thinking"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
}
GENERATE_BODY = {**COMMON, "prompt": "p", "system": "s", "images": ["iVBORw0KGgo="], "raw": True, "context": [1, 2]}
ENTRY = {"token": "t", "logprob": -0.5, "bytes": [116], "top_logprobs": [{"token": "t", "logprob": -0.5}]}
LINE: dict[str, Any] = {
    "model": "m",
    "created_at": "2025-07-07T20:22:19.184789Z",
    "message": {
        "role": "assistant",
        "content": "c",
        "thinking": "t",
        "images": ["iVBORw0KGgo="],
        "tool_calls": [{"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}],
    },
    "logprobs": [ENTRY],
    "done": True,
    "done_reason": "stop",
    "total_duration": 5,
    "prompt_eval_count": 1,
    "eval_count": 2,
}
MODELS: dict[str, Any] = {
    "models": [
        {
            "name": "m",
            "model": "m",
            "modified_at": "2025-07-07T20:22:19Z",
            "size": 5,
            "details": {"family": "f", "families": ["f"], "context_length": 5},
            "capabilities": ["tools"],
        }
    ]
}


def request_of(body: bytes, surface: OllamaChatSurface | OllamaGenerateSurface) -> None:
    """A request that every later step can use, or a refusal."""
    try:
        request = surface.decode_request(body)
        asks_to_load(request)
        msgspec.json.decode(BACKEND.encode_request(request, model="up"))
    except RequestError as error:
        assert msgspec.json.decode(surface.encode_error(error.info())).keys() == {"error"}  # noqa: PT017
        return
    msgspec.json.decode(BACKEND.forward_body(body, request, model="up", own_items=request.items))


def answer_of(wire: bytes, *, streamed: bool) -> None:
    """Whatever is decoded follows the grammar and can be shown to a client."""
    decoder = BACKEND.decoder(ev.TurnStarted("t", "m", 1), streamed=streamed)
    events: list[ev.Event] = []
    try:
        events.extend(decoder.feed(wire))
        events.extend(decoder.close())
    except BackendError:
        pass
    grammar = Grammar()
    for event in events:
        grammar.feed(event)
    for surface in (CHAT, GENERATE):
        for line in encode_all(surface.encoder(Request(model=None, items=())), events).splitlines():
            msgspec.json.decode(line)
        try:
            msgspec.json.decode(surface.encode_turn(fold(events), Request(model=None, items=())))
        except BackendError as error:
            assert "not a JSON object" in str(error)  # noqa: PT017


@given(mutated(CHAT_BODY), mutated(GENERATE_BODY))
@examples(150)
def test_a_wrong_body_is_the_callers_fault_and_nothing_else(chat: Any, generate: Any) -> None:
    request_of(msgspec.json.encode(chat), CHAT)
    request_of(msgspec.json.encode(generate), GENERATE)


@given(st.data())
@examples(100)
def test_broken_bytes_of_a_body_are_the_callers_fault(data: st.DataObject) -> None:
    request_of(broken_bytes(data, msgspec.json.encode(CHAT_BODY)), CHAT)
    request_of(broken_bytes(data, msgspec.json.encode(GENERATE_BODY)), GENERATE)


@given(mutated(LINE), st.booleans())
@examples(200)
def test_a_wrong_line_is_the_backends_fault_and_nothing_else(line: Any, streamed: bool) -> None:
    answer_of(msgspec.json.encode(line) + b"\n", streamed=streamed)


@given(st.data(), st.booleans())
@examples(100)
def test_broken_bytes_of_an_answer_are_the_backends_fault(data: st.DataObject, streamed: bool) -> None:
    first = {**LINE, "done": False}
    wire = msgspec.json.encode(first) + b"\n" + msgspec.json.encode(LINE) + b"\n"
    answer_of(broken_bytes(data, wire), streamed=streamed)


@given(mutated(MODELS), JSON)
@examples(100)
def test_a_wrong_list_of_models_is_the_backends_fault(listed: Any, anything: Any) -> None:
    for value in (listed, anything):
        for read in (read_tags, read_ps):
            try:
                assert all(card.name for card in read(msgspec.json.encode(value)))
            except BackendError as error:
                assert "did not answer with a list of models" in str(error)  # noqa: PT017


@given(JSON.map(msgspec.json.encode) | st.binary(max_size=30))
@examples(100)
def test_any_bytes_are_a_small_request_or_the_callers_fault(body: bytes) -> None:
    for decode in (decode_embed, decode_show):
        try:
            decode(body)
        except RequestError as error:
            assert error.status == 400  # noqa: PT017
