"""What the ollama_chat dialect promises for every answer, not only for the golden ones.

`answers` gives event streams in the form in which the dialect says them, line by line: keys of a line stand before what the
line closes and opens, tokens just before their delta, a call comes whole, and the reason after a call is `tool_calls`.
"""

from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ollama import ChatResponse, GenerateResponse

from tests.property.strategies import JSON, NAME, TEXT, examples, raw, splits, token_lists
from trunkline.dialects.codec import encode_all
from trunkline.dialects.ollama_chat import OllamaBackend, OllamaChatSurface, OllamaGenerateSurface
from trunkline.dialects.ollama_chat.times import timestamp, unix_seconds
from trunkline.model import events as ev
from trunkline.model.errors import BackendUnavailable, ErrorInfo
from trunkline.model.grammar import Grammar
from trunkline.model.items import Status
from trunkline.model.request import Request
from trunkline.model.turn import fold, terminal_for
from trunkline.model.usage import Usage
from trunkline.wire.ndjson import NdjsonReader

REQUEST = Request(model=None, items=(), stream=True)
FALLBACK = ev.TurnStarted("chatcmpl-fallback", "fallback", 1)
CHAT = OllamaChatSurface(elapsed_ns=lambda: 0)
GENERATE = OllamaGenerateSurface(elapsed_ns=lambda: 0)


class Writer:
    """Draws an answer, one line after the other."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.events: list[ev.Event] = [ev.TurnStarted(FALLBACK.turn_id, draw(NAME), draw(st.integers(0, 2**37)))]
        self.following = 0
        self.open = False
        self.calls = 0
        self.names = 0
        self.trailing = False  # tokens without text end the open item

    def key(self, *, index: int | None = None) -> None:
        if self.draw(st.integers(0, 4)) == 0 and not self.trailing:
            self.names += 1
            self.events.append(ev.Extension(name=f"x_{self.names}", payload=raw(self.draw(JSON) or 0), index=index))

    def tokens(self, item: int, *, ids: bool) -> None:
        if self.draw(st.booleans()):
            tokens = self.draw(token_lists(ids=ids))
            listed = tuple([token.id for token in tokens if token.id is not None])
            self.events.append(ev.TokensDelta(item, listed, tokens))

    def close(self, status: Status = "completed") -> None:
        if self.open:
            self.events.append(ev.ItemDone(index=self.following - 1, status=status))
            self.open = self.trailing = False

    def start(self, kind: ev.ItemKind, *, call_id: str | None = None, name: str | None = None) -> int:
        self.close()
        item, self.following = self.following, self.following + 1
        self.events.append(ev.ItemStarted(index=item, kind=kind, call_id=call_id, name=name))
        return item

    def text(self, kind: ev.ItemKind, *, tokens: bool = True, trailing: bool = True) -> None:
        self.key()
        item = self.start(kind)
        self.open = True
        ids = self.draw(st.booleans())
        delta: type[ev.TextDelta] | type[ev.ReasoningDelta] = ev.TextDelta if kind == "message" else ev.ReasoningDelta
        for number in range(self.draw(st.integers(1, 4))):
            if number:
                self.key()
            if kind == "message":
                self.key(index=item)
            if tokens:
                self.tokens(item, ids=ids)
            self.events.append(delta(item, self.draw(TEXT)))
        if tokens and trailing and self.draw(st.integers(0, 4)) == 0:
            said = len(self.events)
            self.tokens(item, ids=ids)
            self.trailing = len(self.events) > said

    def call(self, *, tokens: bool = True) -> None:
        self.key()
        item = self.start("function_call", call_id=self.draw(NAME), name=self.draw(NAME))
        if tokens:
            self.tokens(item, ids=self.draw(st.booleans()))
        arguments = self.draw(st.dictionaries(TEXT, JSON, max_size=3))
        self.events += [ev.ArgumentsDelta(item, bytes(raw(arguments)).decode()), ev.ItemDone(index=item)]
        self.calls += 1

    def end(self) -> list[ev.Event]:
        self.key()
        usual: ev.FinishReason = "tool_calls" if self.calls else "stop"
        reason: ev.FinishReason = self.draw(st.sampled_from([usual, usual, "length", "content_filter"]))
        self.close("completed" if reason == usual else "incomplete")
        if reason == usual and self.draw(st.integers(0, 4)) == 0:
            self.events.append(ev.Extension(name="native_finish_reason", payload=raw("loop"), choice=0))
        self.events.append(ev.ChoiceDone(0, reason))
        if self.draw(st.booleans()):
            count = st.integers(0, 10_000)
            self.events.append(ev.UsageReported(Usage(input_tokens=self.draw(count), output_tokens=self.draw(count))))
        return [*self.events, terminal_for([reason])]


@st.composite
def answers(draw: st.DrawFn) -> list[ev.Event]:
    """Any answer."""
    writer = Writer(draw)
    last = ""
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from([kind for kind in ("message", "reasoning", "function_call") if kind != last]))
        if kind == "function_call":
            writer.call()
            last = ""
        else:
            writer.text(kind)  # type: ignore[arg-type]
            last = kind
    return writer.end()


@st.composite
def whole_answers(draw: st.DrawFn) -> list[ev.Event]:
    """An answer whose fold one line can say: thinking, one message with whatever tokens there are, calls."""
    writer = Writer(draw)
    if draw(st.booleans()):
        writer.text("reasoning", tokens=False)
    if draw(st.booleans()):
        writer.text("message", trailing=False)
    for _ in range(draw(st.integers(0, 2))):
        writer.call(tokens=False)
    return writer.end()


def encode(events: list[ev.Event], surface: OllamaChatSurface | OllamaGenerateSurface = CHAT) -> bytes:
    return encode_all(surface.encoder(REQUEST), events)


def decode(pieces: Iterable[bytes], *, streamed: bool) -> list[ev.Event]:
    decoding = OllamaBackend().decoder(FALLBACK, streamed=streamed)
    events = [event for piece in pieces for event in decoding.feed(piece)]
    return events + decoding.close()


@given(answers())
@examples(120)
def test_decoding_an_encoded_stream_gives_the_same_events(events: list[ev.Event]) -> None:
    assert decode([encode(events)], streamed=True) == events


@given(answers(), st.data(), st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
@examples(60)
def test_no_split_of_the_bytes_changes_the_events(events: list[ev.Event], data: st.DataObject, ends: bytes) -> None:
    wire = encode(events).replace(b"\n", ends)
    assert decode(data.draw(splits(wire)), streamed=True) == events


@given(answers(), st.sampled_from([1, 2, 3, 7]))
@examples(25)
def test_no_read_size_changes_the_events(events: list[ev.Event], size: int) -> None:
    wire = encode(events)
    assert decode([wire[at : at + size] for at in range(0, len(wire), size)], streamed=True) == events


@given(answers())
@examples(50)
def test_the_grammar_accepts_what_the_decoder_gives(events: list[ev.Event]) -> None:
    grammar = Grammar()
    for event in decode([encode(events)], streamed=True):
        grammar.feed(event)
    assert grammar.ended


@given(whole_answers())
@examples(80)
def test_a_whole_answer_carries_the_whole_turn(events: list[ev.Event]) -> None:
    turn = fold(events)
    assert fold(decode([CHAT.encode_turn(turn, REQUEST)], streamed=False)) == turn


@given(answers())
@examples(60)
def test_the_streamed_and_the_whole_answer_say_the_same(events: list[ev.Event]) -> None:
    for surface, read in ((CHAT, _message), (GENERATE, _response)):
        lines = [read(line) for line in NdjsonReader().feed(encode(events, surface))]
        whole = read(surface.encode_turn(fold(events), REQUEST))
        assert "".join(text for text, _, _ in lines) == whole[0]
        assert "".join(thinking for _, thinking, _ in lines) == whole[1]
        assert [call for _, _, calls in lines for call in calls] == whole[2]


Said = tuple[str, str, list[object]]


def _message(line: bytes) -> Said:
    message = msgspec.json.decode(line)["message"]
    return message["content"], message.get("thinking", ""), message.get("tool_calls", [])


def _response(line: bytes) -> Said:
    said = msgspec.json.decode(line)
    return said["response"], said.get("thinking", ""), said.get("tool_calls", [])


@given(answers())
@examples(60)
def test_every_line_is_what_the_official_client_reads(events: list[ev.Event]) -> None:
    lines = [ChatResponse.model_validate_json(line) for line in NdjsonReader().feed(encode(events))]
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    ChatResponse.model_validate_json(CHAT.encode_turn(fold(events), REQUEST))
    for line in NdjsonReader().feed(encode(events, GENERATE)):
        GenerateResponse.model_validate_json(line)


@given(answers(), st.data())
@examples(50)
def test_a_failed_stream_never_says_that_it_is_done(events: list[ev.Event], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(events) - 1))
    error = ev.TurnFailed(ErrorInfo(message="broke", type="server_error"))
    lines = [msgspec.json.decode(line) for line in NdjsonReader().feed(encode([*events[:cut], error]))]
    assert lines[-1] == {"error": "broke"}
    assert not any(line.get("done") for line in lines)


@given(answers(), st.data())
@examples(50)
def test_a_stream_that_is_cut_never_ends_well(events: list[ev.Event], data: st.DataObject) -> None:
    wire = encode(events).rstrip(b"\n")
    decoding = OllamaBackend().decoder(FALLBACK, streamed=True)
    seen = decoding.feed(wire[: data.draw(st.integers(0, len(wire) - 1))])
    assert not decoding.ended
    with pytest.raises(BackendUnavailable, match="before it was done"):
        decoding.close()
    assert seen == events[: len(seen)]


@given(st.integers(0, 253_402_300_799))
@examples(200)
def test_every_second_has_a_timestamp_that_reads_back(unix_s: int) -> None:
    assert unix_seconds(timestamp(unix_s)) == unix_s
