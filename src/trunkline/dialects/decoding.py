"""What the decoders of upstreams' answers have in common: frames read one by one, and what becomes of a fault.

A fault in a stream that has begun is the stream's last event, TurnFailed, so that what arrived before it in the same read is not
lost and every split of the bytes gives the same events. Before the turn has begun, a fault raises. A whole body is kept until the
end and is read by the dialect's `close`.
"""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar, cast

import msgspec

from trunkline.dialects.reading import NOT_JSON, Json, Object
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, BackendProtocolError
from trunkline.model.tokens import TokenLogprob
from trunkline.wire.ndjson import LineTooLarge
from trunkline.wire.sse import FrameTooLarge

Frame = TypeVar("Frame")


class Frames(Protocol[Frame]):
    """The framing of a stream: bytes in any split to whole frames."""

    def feed(self, data: bytes) -> list[Frame]: ...


class FrameDecoder(Generic[Frame]):
    """Bytes of one answer to events. A dialect brings `read_frame` and `close`; `frames` is None for a whole body."""

    def __init__(self, fallback: ev.TurnStarted, frames: Frames[Frame] | None) -> None:
        self._fallback = fallback
        self._frames = frames
        self._body: list[bytes] = []
        self._started = False
        self.ended = False

    def feed(self, data: bytes) -> list[ev.Event]:
        events: list[ev.Event] = []
        if self._frames is None:
            self._body.append(data)
            return events
        try:
            for frame in self._frames.feed(data):
                if self.ended:
                    break
                self.read_frame(frame, events)
        # Raised here: a function that raises what it is given is held by it, and both stay until the collector comes.
        except (FrameTooLarge, LineTooLarge) as error:
            if not self._started:
                raise BackendProtocolError(str(error)) from error
            self._fail(BackendProtocolError(str(error)), events)
        except BackendError as error:
            if not self._started:
                raise
            self._fail(error, events)
        return events

    def read_frame(self, frame: Frame, events: list[ev.Event]) -> None:
        raise NotImplementedError

    def _fail(self, error: BackendError, events: list[ev.Event]) -> None:
        self.ended = True
        events.append(ev.TurnFailed(error.info()))

    def _take_body(self) -> bytes:
        body, self._body = b"".join(self._body), []
        return body

    def _begin(
        self, events: list[ev.Event], *, model: Json, turn_id: Json = None, created_at: int | None = None
    ) -> None:
        """Says that the turn has begun; what the upstream does not say of it, the fallback does."""
        self._started = True
        fallback = self._fallback
        events.append(
            ev.TurnStarted(
                turn_id if isinstance(turn_id, str) and turn_id else fallback.turn_id,
                model if isinstance(model, str) and model else fallback.model,
                fallback.created_at if created_at is None else created_at,
            )
        )


def decode_object(data: bytes) -> Object:
    """An upstream's JSON object. Raises BackendProtocolError."""
    try:
        value = cast("Json", msgspec.json.decode(data))
    except NOT_JSON as error:
        raise BackendProtocolError(f"upstream sent what is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BackendProtocolError("upstream sent JSON that is not an object")
    return value


def is_json(text: str | bytes) -> bool:
    """Whether it is JSON, and all of it."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except NOT_JSON:
        return False
    return True


def unnamed(source: Object, named: frozenset[str]) -> list[tuple[str, Json]]:
    """Members that no event names, in the order of the wire; null says nothing."""
    return [(key, value) for key, value in source.items() if key not in named and value is not None]


def give_tokens(item: int, tokens: Sequence[TokenLogprob], events: list[ev.Event]) -> tuple[TokenLogprob, ...]:
    """Says that the tokens, if there are any, belong to this item. Returns those that are left to give: none."""
    if tokens:
        ids = tuple([token.id for token in tokens if token.id is not None])
        events.append(ev.TokensDelta(item, ids if len(ids) == len(tokens) else (), tuple(tokens)))
    return ()
