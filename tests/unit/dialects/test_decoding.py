"""What becomes of a fault is the same in every dialect behind."""

import pytest

from trunkline.dialects.codec import BackendCodec
from trunkline.dialects.decoding import is_json
from trunkline.dialects.ollama_chat import OllamaBackend
from trunkline.dialects.openai_chat import ChatBackend
from trunkline.dialects.openai_responses import ResponsesBackend
from trunkline.model import events as ev
from trunkline.model.errors import BackendProtocolError
from trunkline.wire.ndjson import MAX_LINE_BYTES
from trunkline.wire.sse import MAX_FRAME_BYTES

FALLBACK = ev.TurnStarted("chatcmpl-1", "m", 1)
BEGINNINGS: list[tuple[BackendCodec, bytes]] = [
    (ChatBackend(), b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'),
    (OllamaBackend(), b'{"message": {"content": "a"}, "done": false}\n'),
    (ResponsesBackend(), b'data: {"type": "response.created", "response": {"model": "m"}}\n\n'),
]
ENDLESS = b'data: "' + b"a" * max(MAX_FRAME_BYTES, MAX_LINE_BYTES)


@pytest.mark.parametrize(("codec", "begun"), BEGINNINGS, ids=[codec.name for codec, _ in BEGINNINGS])
def test_a_frame_without_end_fails_a_stream_that_has_begun_as_any_fault_does(codec: BackendCodec, begun: bytes) -> None:
    decoder = codec.decoder(FALLBACK, streamed=True)
    assert decoder.feed(begun)[0] == FALLBACK
    (failed,) = decoder.feed(ENDLESS)
    assert isinstance(failed, ev.TurnFailed)
    assert failed.error.code == "backend_protocol_error"
    assert decoder.ended


@pytest.mark.parametrize("codec", [codec for codec, _ in BEGINNINGS], ids=lambda codec: codec.name)
def test_a_frame_without_end_raises_where_nothing_has_begun(codec: BackendCodec) -> None:
    with pytest.raises(BackendProtocolError, match="larger than"):
        codec.decoder(FALLBACK, streamed=True).feed(ENDLESS)


@pytest.mark.parametrize(
    ("text", "whole"),
    [('{"a": [1]}', True), (b'"a"', True), ("", False), ('{"a": [1]', False), ("{}{}", False), ("[" * 5000, False)],
)
def test_json_is_told_from_a_part_of_it(text: str | bytes, whole: bool) -> None:
    assert is_json(text) is whole
