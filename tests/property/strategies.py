"""Generated answers.

`chat_answers` gives event streams in the form in which the chat dialect says them, so that decode(encode(events)) ==
events holds without any normalisation. The form, for each choice:

    - deltas are not empty; two message items or two reasoning items never follow each other;
    - an item opens with its first delta (a call: by itself) and closes when the choice goes on to the next thing;
    - annotations come last in their item; unknown keys come just before what travels in the same chunk;
    - token ids come with log probabilities or not at all, and tokens just before their delta;
    - no item ids, hosted items, statuses, approvals: docs of the dialect list what it cannot say.

Choices begin in order and interleave freely after that, as the official SDK's accumulation needs.

`turns` gives streams that a whole completion can say too: in each choice at most one reasoning item, one message and
then calls, and tokens of the message only.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec
from hypothesis import settings
from hypothesis import strategies as st

from trunkline.model import events as ev
from trunkline.model.items import FunctionCallOutput, OpaqueItem, Status, TextPart
from trunkline.model.tokens import TokenLogprob, TopLogprob
from trunkline.model.turn import terminal_for
from trunkline.model.usage import Usage

T = TypeVar("T", bound=Callable[..., object])


def examples(count: int) -> Callable[[T], T]:
    """Deterministic, bounded, without a clock or a database."""
    return settings(max_examples=count, derandomize=True, deadline=None, database=None)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
NAME = st.text("abcdefghij_", min_size=1, max_size=6)
LOGPROB = st.floats(min_value=-100, max_value=0, allow_nan=False)
REASONS: st.SearchStrategy[ev.FinishReason] = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


@st.composite
def token_lists(draw: st.DrawFn, *, ids: bool) -> tuple[TokenLogprob, ...]:
    def one(cls: type, **extra: object) -> object:
        token = draw(TEXT)
        return cls(
            token=token,
            logprob=draw(LOGPROB),
            bytes=tuple(token.encode()) if draw(st.booleans()) else None,
            id=draw(st.integers(0, 2**31)) if ids else None,
            **extra,
        )

    tops = tuple(one(TopLogprob) for _ in range(draw(st.integers(0, 2))))
    return tuple(one(TokenLogprob, top=tops) for _ in range(draw(st.integers(1, 2))))  # type: ignore[misc]


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    count = st.integers(0, 10_000)
    maybe = st.none() | count
    return Usage(
        input_tokens=draw(count),
        output_tokens=draw(count),
        cached_tokens=draw(maybe),
        cache_write_tokens=draw(maybe),
        reasoning_tokens=draw(maybe),
        details=draw(st.dictionaries(st.sampled_from(["input.audio_tokens", "output.text_tokens"]), count)),
    )


class _Writer:
    """Draws the units of one choice: events that travel in one chunk stay together when choices interleave."""

    def __init__(
        self, draw: st.DrawFn, choice: int, *, tokens: bool, custom: bool, extensions: bool, citations: int = 1
    ) -> None:
        self.draw = draw
        self.citations = citations  # messages that may still have annotations
        self.choice = choice
        self.tokens = tokens
        self.custom = custom
        self.extensions = extensions
        self.units: list[list[Callable[[dict[int, int]], ev.Event]]] = []
        self.item = -1  # local number of the open item
        self.next_item = 0
        self.closing: list[Callable[[dict[int, int]], ev.Event]] = []
        self.names = 0
        self.texts: list[str] = []  # of the open item
        self.calling = False

    def extension_of_choice(self) -> list[Callable[[dict[int, int]], ev.Event]]:
        if not self.extensions or self.draw(st.integers(0, 5)):
            return []
        return [self._extension(choice=self.choice)]

    def _extension(self, **where: int) -> Callable[[dict[int, int]], ev.Event]:
        self.names += 1
        payload, name = raw({"n": self.names, "of": self.choice}), f"x_{self.choice}_{self.names}"
        local = where.pop("item", None)
        if local is None:
            return lambda _: ev.Extension(name=name, payload=payload, choice=where["choice"])
        return lambda index: ev.Extension(name=name, payload=payload, index=index[local])

    def close(self, status: Status = "completed") -> list[Callable[[dict[int, int]], ev.Event]]:
        closing, self.closing = self.closing, []
        if self.item >= 0:
            local = self.item
            closing.append(lambda index: ev.ItemDone(index=index[local], status=status))
            self.item = -1
        return closing

    def start(self, kind: ev.ItemKind) -> Callable[[dict[int, int]], ev.Event]:
        local = self.item = self.next_item
        self.next_item += 1
        call: dict[str, str] = {}
        self.texts, self.calling = [], kind == "function_call"
        if kind == "function_call":
            call = {"call_id": f"call_{self.choice}_{local}", "name": self.draw(NAME)}
            if self.custom and self.draw(st.booleans()):
                call["tool"] = "custom"

        def event(index: dict[int, int]) -> ev.Event:
            index[local] = index[-1]
            index[-1] += 1
            return ev.ItemStarted(index=index[local], kind=kind, choice=self.choice, **call)  # type: ignore[arg-type]

        return event

    def delta(
        self, cls: Callable[[int, str], ev.Event], *, ids: bool, tokens: bool
    ) -> list[Callable[[dict[int, int]], ev.Event]]:
        local, text = self.item, self.draw(TEXT)
        self.texts.append(text)
        made: list[Callable[[dict[int, int]], ev.Event]] = []
        if tokens and self.tokens and self.draw(st.booleans()):
            entries = self.draw(token_lists(ids=ids))
            token_ids = tuple(entry.id for entry in entries if entry.id is not None)
            made.append(lambda index: ev.TokensDelta(index[local], token_ids, entries))
        made.append(lambda index: cls(index[local], text))
        return made

    def reasoning(self, *, tokens: bool) -> None:
        ids = self.draw(st.booleans())
        head = [*self.extension_of_choice(), *self.close(), self.start("reasoning")]
        for _ in range(self.draw(st.integers(1, 3))):
            self.units.append([*head, *self.delta(ev.ReasoningDelta, ids=ids, tokens=tokens)])
            head = []

    def message(self) -> None:
        ids = self.draw(st.booleans())
        kind = self.draw(st.sampled_from(["text", "text", "refusal", "both"]))
        first: Callable[[int, str], ev.Event] = ev.RefusalDelta if kind == "refusal" else ev.TextDelta
        head = [*self.extension_of_choice(), *self.close(), self.start("message")]
        for number in range(self.draw(st.integers(1, 4))):
            if number and self.extensions and not self.draw(st.integers(0, 5)):
                head = [self._extension(item=self.item)]
            self.units.append([*head, *self.delta(first, ids=ids, tokens=True)])
            head = []
        if kind == "both":
            self.units.append(self.delta(ev.RefusalDelta, ids=ids, tokens=True))
        elif kind == "text" and self.citations:
            self.citations -= 1
            local = self.item
            for number in range(self.draw(st.integers(0, 2))):
                where = {"url": f"https://example.com/{number}", "title": "T", "start_index": 0, "end_index": 1}
                citation = raw({"type": "url_citation", "url_citation": where})
                # The default argument binds this citation, not the last.
                self.closing.append(lambda index, note=citation: ev.AnnotationAdded(index[local], note))  # type: ignore[misc]

    def call(self, *, tokens: bool) -> None:
        self.units.append([*self.extension_of_choice(), *self.close(), self.start("function_call")])
        ids = self.draw(st.booleans())
        for _ in range(self.draw(st.integers(0, 3))):
            self.units.append(self.delta(ev.ArgumentsDelta, ids=ids, tokens=tokens))

    def finish(self, reason: ev.FinishReason) -> None:
        cut = reason in ("length", "content_filter") and not (self.calling and _is_json("".join(self.texts)))
        closed = self.close("incomplete" if cut else "completed")
        self.units.append([*self.extension_of_choice(), *closed, lambda _: ev.ChoiceDone(self.choice, reason)])


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True


def _weave(
    draw: st.DrawFn, writers: list[_Writer], reasons: list[ev.FinishReason], *, extensions: bool
) -> list[ev.Event]:
    """The units of all choices in a drawn order, with item indexes given in that order."""
    created = draw(st.integers(1, 2**33))
    events: list[ev.Event] = [ev.TurnStarted(f"chatcmpl-{draw(NAME)}", draw(NAME), created)]
    if extensions and draw(st.booleans()):
        events.append(ev.Extension(name="system_fingerprint", payload=raw(draw(NAME))))
    places: list[dict[int, int]] = [{} for _ in writers]
    following = 0
    begun = 0
    turn_extensions = 0
    while any(writer.units for writer in writers):
        ready = [number for number, writer in enumerate(writers) if writer.units and number <= begun]
        number = draw(st.sampled_from(ready))
        begun = max(begun, number + 1)
        if extensions and not draw(st.integers(0, 7)):
            turn_extensions += 1
            events.append(ev.Extension(name=f"t_{turn_extensions}", payload=raw({"t": turn_extensions})))
        places[number][-1] = following
        events.extend([make(places[number]) for make in writers[number].units.pop(0)])
        following = places[number][-1]
    if draw(st.booleans()):
        events.append(ev.UsageReported(draw(usages())))
    events.append(terminal_for(reasons))
    return events


@st.composite
def chat_answers(
    draw: st.DrawFn,
    *,
    custom: bool = True,
    extensions: bool = True,
    tokens_in: int = 3,
    citations: int = 1,
    reasons: st.SearchStrategy[ev.FinishReason] = REASONS,
) -> list[ev.Event]:
    """A whole answer as the chat dialect streams it.

    Tokens come in the first `tokens_in` choices, annotations in the first `citations` messages of a choice: those of
    a second one get an `index` that they did not have.
    """
    writers = []
    ends = []
    for choice in range(draw(st.integers(1, 3))):
        writer = _Writer(
            draw, choice, tokens=choice < tokens_in, custom=custom, extensions=extensions, citations=citations
        )
        last = ""
        for _ in range(draw(st.integers(0, 4))):
            kind = draw(st.sampled_from([kind for kind in ("message", "reasoning", "call") if kind != last]))
            if kind == "message":
                writer.message()
            elif kind == "reasoning":
                writer.reasoning(tokens=True)
            else:
                writer.call(tokens=True)
            last = "" if kind == "call" else kind
        ends.append(draw(reasons))
        writer.finish(ends[-1])
        writers.append(writer)
    return _weave(draw, writers, ends, extensions=extensions)


@st.composite
def turns(draw: st.DrawFn) -> list[ev.Event]:
    """An answer whose fold a whole completion can say."""
    writers = []
    ends = []
    for choice in range(draw(st.integers(1, 3))):
        writer = _Writer(draw, choice, tokens=True, custom=True, extensions=False)
        if draw(st.booleans()):
            writer.reasoning(tokens=False)
        if draw(st.booleans()):
            writer.message()
        for _ in range(draw(st.integers(0, 2))):
            writer.call(tokens=False)
        ends.append(draw(REASONS))
        writer.finish(ends[-1])
        writers.append(writer)
    return _weave(draw, writers, ends, extensions=False)


@st.composite
def agent_answers(draw: st.DrawFn) -> list[ev.Event]:
    """Answers with what only an agent or a Responses backend says: hosted runs, approvals, summaries, opaque items."""
    events = draw(chat_answers(reasons=st.sampled_from(["stop", "tool_calls"])))
    started = [event for event in events if isinstance(event, ev.ItemStarted)]
    following = len(started)
    runs: list[ev.Event] = []
    for _ in range(draw(st.integers(0, 2))):
        call, output = following, following + 1
        following += 2
        where = {"choice": 7, "hosted": True}
        runs += [
            ev.ItemStarted(
                index=call, kind="function_call", call_id=f"run_{call}", name="shell", choice=7, hosted=True
            ),
            ev.ToolProgress(call_id=f"run_{call}", name="shell", status="running"),
            ev.ArgumentsDelta(call, "{}"),
            ev.ItemDone(index=call),
            ev.ApprovalRequested(f"run_{call}", "shell", "rm -r build", ("once", "deny")),
            ev.ApprovalResolved(f"run_{call}", "once"),
            ev.ToolProgress(call_id=f"run_{call}", name="shell", status="completed"),
            ev.ItemStarted(index=output, kind="function_call_output", call_id=f"run_{call}", **where),  # type: ignore[arg-type]
            ev.ItemDone(index=output, item=FunctionCallOutput(call_id=f"run_{call}", content=(TextPart("ok"),))),
        ]
    if draw(st.booleans()):
        runs.append(ev.ItemStarted(index=following, kind="reasoning", item_id="rs_1", choice=7))
        for part in range(draw(st.integers(0, 2))):
            runs += [ev.SummaryDelta(following, draw(TEXT), part) for _ in range(draw(st.integers(1, 2)))]
        runs.append(ev.ItemDone(index=following, encrypted_content="sealed"))
        following += 1
    if draw(st.booleans()):
        runs += [
            ev.ItemStarted(index=following, kind="opaque", choice=7),
            ev.ItemDone(index=following, item=OpaqueItem(wire_type="web_search_call", dialect="x", payload=raw({}))),
        ]
    if runs:
        runs.append(ev.ChoiceDone(7, "stop"))
    return [*events[:-1], *runs, events[-1]]


def splits(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """The data cut at drawn places."""
    return st.lists(st.integers(0, len(data)), max_size=12).map(
        lambda cuts: [data[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True)]
    )
