"""Cutting at stop sequences: a property of the text, not of how it was split."""

from hypothesis import given
from hypothesis import strategies as st

from trunkline.engine.stops import StopCutter
from trunkline.model import events as ev
from trunkline.model.grammar import Grammar
from trunkline.model.tokens import TokenLogprob

LETTERS = st.text(alphabet="ab", min_size=1, max_size=4)


def expected(text: str, stops: list[str]) -> str:
    """Character by character, as a decoder that checks after each would say it: the longest stop that is complete wins."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


def cut(pieces: list[str], stops: list[str], *, tokens: bool = False) -> tuple[str, list[ev.Event]]:
    cutter = StopCutter(stops, choices=1)
    given_events: list[ev.Event] = [ev.TurnStarted("t", "m", 0), ev.ItemStarted(index=0, kind="message")]
    for number, piece in enumerate(pieces):
        if tokens:
            given_events.append(ev.TokensDelta(0, (number,), (TokenLogprob(piece, -0.5),)))
        given_events.append(ev.TextDelta(0, piece))
    given_events += [ev.ItemDone(index=0), ev.ChoiceDone(0, "length"), ev.TurnIncomplete("max_output_tokens")]
    out: list[ev.Event] = []
    for event in given_events:
        cutter.feed(event, out)
        if cutter.ended:
            break
    grammar = Grammar()
    for event in out:
        grammar.feed(event)
    assert grammar.ended
    return "".join(event.text for event in out if isinstance(event, ev.TextDelta)), out


@given(st.lists(LETTERS, max_size=12), st.lists(LETTERS, min_size=1, max_size=3), st.booleans())
def test_the_cut_is_where_a_stop_is_first_complete_whatever_the_pieces(
    pieces: list[str], stops: list[str], tokens: bool
) -> None:
    text, out = cut(pieces, stops, tokens=tokens)
    whole = "".join(pieces)
    assert text == expected(whole, stops)
    reasons = [event.finish_reason for event in out if isinstance(event, ev.ChoiceDone)]
    assert reasons == (["stop"] if len(text) < len(whole) else ["length"])


@given(st.lists(LETTERS, min_size=1, max_size=12), LETTERS)
def test_no_text_waits_longer_than_it_must(pieces: list[str], stop: str) -> None:
    """What is held back is always a beginning of the stop sequence, and nothing more."""
    cutter = StopCutter([stop], choices=1)
    out: list[ev.Event] = []
    cutter.feed(ev.ItemStarted(index=0, kind="message"), out)
    for position, piece in enumerate(pieces):
        cutter.feed(ev.TextDelta(0, piece), out)
        if cutter.ended:
            return
        said = "".join(event.text for event in out if isinstance(event, ev.TextDelta))
        held = "".join(pieces[: position + 1])[len(said) :]
        assert stop.startswith(held)
        assert len(held) < len(stop)


def test_tokens_of_text_that_is_cut_away_are_not_said() -> None:
    _, out = cut(["one ", "STOP", " two"], ["STOP"], tokens=True)
    said = [token.token for event in out if isinstance(event, ev.TokensDelta) for token in event.logprobs]
    assert said == ["one "]
