"""Drives a backend through its port, as the engine does, without an engine.

Clock and entropy are pinned, so two runs give the same events. Every answer read here is checked against the event grammar: a test
that reads an answer has tested that much, whatever else it asks.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from trunkline.model.events import Event, ReasoningDelta, TextDelta
from trunkline.model.grammar import Grammar
from trunkline.model.items import Item, Message, TextPart
from trunkline.model.request import Request
from trunkline.ports.backend import Backend, Context, EventBatch

CREATED_AT = 1_700_000_000


class PinnedClock:
    """A clock that moves only when told to."""

    def __init__(self, now_s: float = float(CREATED_AT)) -> None:
        self._now_s = now_s

    def now_s(self) -> float:
        return self._now_s

    def monotonic_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        self._now_s += seconds


class CountingEntropy:
    """1, 2, 3, … as hex: never twice the same, and the same in every run."""

    def __init__(self) -> None:
        self._count = 0

    def hex(self, size_bytes: int) -> str:
        self._count += 1
        return f"{self._count:0{2 * size_bytes}x}"


def pinned_context(
    *, model: str = "model", session_id: str | None = None, memory_key: str | None = None, request_id: str = "req_1"
) -> Context:
    return Context(
        turn_id="turn_1",
        created_at=CREATED_AT,
        backend_model=model,
        request_id=request_id,
        clock=PinnedClock(),
        entropy=CountingEntropy(),
        session_id=session_id,
        memory_key=memory_key,
    )


def user(text: str) -> Message:
    return Message(role="user", content=(TextPart(text),), as_string=True)


def request_of(*items: Item | str, model: str = "model") -> Request:
    """A request of these items; a bare string is a user message."""
    return Request(model=model, items=tuple([user(item) if isinstance(item, str) else item for item in items]))


async def batches_of(
    backend: Backend, request: Request, context: Context | None = None
) -> AsyncGenerator[EventBatch, None]:
    """The answer's batches, each event checked. Closing it closes the backend's iterator."""
    grammar = Grammar()
    batches: AsyncIterator[EventBatch] = backend.open(request, context or pinned_context())
    try:
        async for batch in batches:
            for event in batch:
                grammar.feed(event)
            yield batch
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()
    assert grammar.ended, "the answer ended without a terminal event"


async def events_of(backend: Backend, request: Request, context: Context | None = None) -> list[Event]:
    """The whole answer, checked against the grammar."""
    return [event async for batch in batches_of(backend, request, context) for event in batch]


def text_in(events: Sequence[Event]) -> str:
    """What the answer says, without its reasoning."""
    return "".join([event.text for event in events if isinstance(event, TextDelta)])


def reasoning_in(events: Sequence[Event]) -> str:
    return "".join([event.text for event in events if isinstance(event, ReasoningDelta)])
