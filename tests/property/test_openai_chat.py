"""What the openai_chat dialect promises for every answer, not only for the golden ones."""

from collections.abc import Iterable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.property.strategies import agent_answers, chat_answers, examples, splits, turns
from trunkline.config.profiles import Profile
from trunkline.dialects.codec import encode_all
from trunkline.dialects.openai_chat import ChatBackend, ChatSurface
from trunkline.dialects.openai_chat.backend import ChatDecoder
from trunkline.model import events as ev
from trunkline.model.errors import ErrorInfo
from trunkline.model.grammar import Grammar
from trunkline.model.request import Request
from trunkline.model.turn import Turn, fold
from trunkline.wire.sse import SseReader

REQUEST = Request(model=None, items=(), stream=True, include_usage=True)
FALLBACK = ev.TurnStarted("fallback", "fallback", 1)
COMPACT = ChatSurface(Profile())
SPACED = ChatSurface(Profile(json_spacing=True))


def decoder(*, streamed: bool) -> ChatDecoder:
    return ChatBackend().decoder(FALLBACK, streamed=streamed)


def decode(pieces: Iterable[bytes], *, streamed: bool) -> list[ev.Event]:
    decoding = decoder(streamed=streamed)
    events = [event for piece in pieces for event in decoding.feed(piece)]
    return events + decoding.close()


def encode(events: list[ev.Event], surface: ChatSurface = COMPACT, request: Request = REQUEST) -> bytes:
    return encode_all(surface.encoder(request), events)


def renumbered(turn: Turn) -> Turn:
    """A whole completion lists choice after choice: item indexes are given in that order."""
    items = sorted(turn.items, key=lambda item: (item.choice, item.index))
    return msgspec.structs.replace(
        turn, items=tuple(msgspec.structs.replace(item, index=number) for number, item in enumerate(items))
    )


def without(value: Any, *names: str) -> Any:
    """The JSON value without these members and without null ones, at every depth."""
    if isinstance(value, dict):
        return {
            key: without(member, *names) for key, member in value.items() if key not in names and member is not None
        }
    return [without(member, *names) for member in value] if isinstance(value, list) else value


def chunks_of(data: bytes) -> list[bytes]:
    return [event.data for event in SseReader().feed(data) if event.data != b"[DONE]"]


@given(chat_answers())
@examples(60)
def test_decoding_an_encoded_stream_gives_the_same_events(events: list[ev.Event]) -> None:
    assert decode([encode(events)], streamed=True) == events


@given(chat_answers())
@examples(50)
def test_spacing_changes_no_event(events: list[ev.Event]) -> None:
    assert decode([encode(events, SPACED)], streamed=True) == events


@given(chat_answers(), st.data(), st.sampled_from([b"\n", b"\r\n", b"\r"]))
@examples(60)
def test_no_split_of_the_bytes_changes_the_events(events: list[ev.Event], data: st.DataObject, ends: bytes) -> None:
    wire = encode(events).replace(b"\n", ends)
    assert decode(data.draw(splits(wire)), streamed=True) == events


@given(chat_answers(), st.sampled_from([1, 2, 3, 7]), st.booleans())
@examples(25)
def test_no_read_size_changes_the_events(events: list[ev.Event], size: int, mark: bool) -> None:
    wire = (b"\xef\xbb\xbf" if mark else b"") + encode(events)
    assert decode([wire[at : at + size] for at in range(0, len(wire), size)], streamed=True) == events


@given(chat_answers())
@examples(50)
def test_the_grammar_accepts_what_the_decoder_gives(events: list[ev.Event]) -> None:
    grammar = Grammar()
    for event in decode([encode(events)], streamed=True):
        grammar.feed(event)
    assert grammar.ended


@given(turns())
@examples(60)
def test_a_whole_completion_carries_the_whole_turn(events: list[ev.Event]) -> None:
    turn = fold(events)
    again = fold(decode([COMPACT.encode_turn(turn, REQUEST)], streamed=False))
    assert again == renumbered(turn)


@given(chat_answers(custom=False, tokens_in=1, citations=3))
@examples(60)
def test_the_sdk_accumulates_the_stream_to_the_whole_completion(events: list[ev.Event]) -> None:
    """The SDK's chunks know only function calls, and it doubles logprobs in the first chunk of every later choice."""
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in chunks_of(encode(events)):
        state.handle_chunk(ChatCompletionChunk.model_validate_json(chunk))
    accumulated = without(state.current_completion_snapshot.to_dict(), "index", "parsed", "parsed_arguments")
    whole = without(msgspec.json.decode(COMPACT.encode_turn(fold(events), REQUEST)), "index")
    for choice in [*accumulated["choices"], *whole["choices"]]:
        for holder in (choice, choice["message"]):
            for name in [name for name in holder if name.startswith("x_")]:
                del holder[name]
    for completion in (accumulated, whole):
        for name in [name for name in completion if name.startswith("t_")]:
            del completion[name]
    assert accumulated == whole


@given(chat_answers(custom=False))
@examples(60)
def test_every_chunk_is_what_the_sdk_types_say(events: list[ev.Event]) -> None:
    for chunk in chunks_of(encode(events)):
        ChatCompletionChunk.model_validate_json(chunk, strict=True)


@given(chat_answers())
@examples(60)
def test_every_completion_is_what_the_sdk_types_say(events: list[ev.Event]) -> None:
    ChatCompletion.model_validate_json(COMPACT.encode_turn(fold(events), REQUEST), strict=True)


@given(agent_answers())
@examples(50)
def test_a_client_that_did_not_ask_for_usage_never_sees_a_chunk_without_choices(events: list[ev.Event]) -> None:
    data = encode(events, request=Request(model="m", items=(), stream=True))
    for chunk in map(msgspec.json.decode, chunks_of(data)):
        assert chunk["choices"]
        assert "usage" not in chunk
    assert data.endswith(b"data: [DONE]\n\n")


@given(agent_answers(), st.data())
@examples(50)
def test_a_failed_stream_never_ends_as_if_all_were_well(events: list[ev.Event], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(events) - 1))
    wire = encode([*events[:cut], ev.TurnFailed(ErrorInfo(message="gone", type="server_error"))])
    assert b"[DONE]" not in wire
    assert msgspec.json.decode(chunks_of(wire)[-1]) == {
        "error": {"message": "gone", "type": "server_error", "param": None, "code": None}
    }
