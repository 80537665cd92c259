"""What every dialect implements: six pure operations, three for each role, and one to read an upstream's refusal.

    as surface   decode_request(bytes) -> Request     encoder(…).feed(Event) -> bytes      encode_turn(Turn) -> bytes
                 encode_error(error) -> bytes
    as backend   encode_request(Request) -> bytes     decoder(…).feed(bytes) -> [Event]    decode_error(status, bytes) -> error

A non-streamed body goes through the same decoder; a non-streamed answer is `encode_turn(fold(events))`. Properties each dialect
proves: `decode(encode(events)) == events` on the events it can express, and byte-split invariance.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from trunkline.model.errors import BackendError, ErrorInfo
from trunkline.model.events import Event, TurnStarted
from trunkline.model.items import Item
from trunkline.model.request import OpaqueTool, Request, Tool
from trunkline.model.turn import Turn
from trunkline.wire.sse import KEEPALIVE


class Framing(msgspec.Struct, frozen=True):
    """How a dialect's streams look from outside. `keepalive` may stand between frames and says nothing; empty: nothing may."""

    media_type: str
    keepalive: bytes


EVENT_STREAM = Framing("text/event-stream", KEEPALIVE)
JSON_LINES = Framing("application/x-ndjson", b"")


class Encoder(Protocol):
    """Events to bytes for one streamed answer. One event may give no bytes, or those of several frames."""

    def feed(self, event: Event) -> bytes: ...


class KeepingEncoder(ABC):
    """An encoder of a dialect whose answers can be retrieved: it gives the final object that was said.

    A class to inherit from: each stream asks whether its encoder is one, and of a protocol that takes 17 µs.
    """

    @abstractmethod
    def feed(self, event: Event) -> bytes: ...

    @property
    @abstractmethod
    def response(self) -> bytes | None:
        """The final object, once the terminal event has been fed; None where the dialect has none for such an end."""
        ...

    @abstractmethod
    def failed_instead(self, data: bytes, error: ErrorInfo) -> bytes:
        """The frames `data`, which end the stream, with a terminal event that says the turn failed."""
        ...


class Decoder(Protocol):
    """Bytes to events for one answer, in any split. `close` ends the input and gives what that decides."""

    @property
    def ended(self) -> bool:
        """Whether the terminal event has been given."""
        ...

    def feed(self, data: bytes) -> list[Event]:
        """Raises BackendError for a fault before the turn has begun; after that a fault is the last event, TurnFailed."""
        ...

    def close(self) -> list[Event]:
        """Raises BackendProtocolError or BackendUnavailable when the answer is not whole."""
        ...


class SurfaceCodec(Protocol):
    """A dialect in front. `own_name` is the profile's: headers that only we have are named after it."""

    name: str
    own_name: str
    framing: Framing

    def decode_request(self, body: bytes) -> Request: ...

    def encoder(self, request: Request) -> Encoder: ...

    def encode_turn(self, turn: Turn, request: Request) -> bytes: ...

    def encode_error(self, error: ErrorInfo) -> bytes: ...


class BackendCodec(Protocol):
    """A dialect behind. `fallback` names the turn where the answer brings no id, model or time of its own."""

    name: str

    def encode_request(self, request: Request, *, model: str) -> bytes: ...

    def forward_body(self, body: bytes, request: Request, *, model: str, own_items: Sequence[Item]) -> bytes:
        """A client's own body of this dialect. `own_items`: what its items were read as; the request may hold others."""
        ...

    def decoder(
        self, fallback: TurnStarted, *, streamed: bool, tools: Sequence[Tool | OpaqueTool] | None = None
    ) -> Decoder:
        """`tools`: those the request declares, for a dialect in which answers also show calls of the upstream's own."""
        ...

    def decode_error(self, status: int, body: bytes) -> BackendError: ...


def encode_all(encoder: Encoder, events: Iterable[Event]) -> bytes:
    """What the encoder gives for these events, joined."""
    return b"".join([encoder.feed(event) for event in events])
