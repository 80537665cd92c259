"""Completions that are kept: the object at the end of a stream, and the messages it answered as the API lists them.

A completion that its client asked to store must not look whole when storing it failed. So the finish reasons of a stream are held
back until the terminal event, with which it is known whether the completion is kept; text and calls are never held back.
"""

from collections.abc import Callable

import msgspec

from trunkline.dialects.codec import Encoder, KeepingEncoder
from trunkline.model import events as ev
from trunkline.model.errors import ErrorInfo
from trunkline.model.turn import Fold, Turn

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Body(msgspec.Struct):
    messages: list[dict[str, msgspec.Raw]]


_BODY = msgspec.json.Decoder(_Body)


class KeepingChatEncoder(KeepingEncoder):
    """A chat encoder that also has the whole completion in the end. One that failed or was cut by its client has none."""

    def __init__(self, encoder: Encoder, *, write: Callable[[Turn], bytes]) -> None:
        self._encoder = encoder
        self._write = write
        self._folding = Fold()
        self._held = b""
        self._ending = b""
        self._response: bytes | None = None

    @property
    def response(self) -> bytes | None:
        return self._response

    def feed(self, event: ev.Event) -> bytes:
        if isinstance(event, ev.TERMINALS):
            return self._end(event)
        self._folding.feed(event)
        if isinstance(event, ev.ChoiceDone):
            self._held += self._encoder.feed(event)
            return b""
        return self._encoder.feed(event)

    def _end(self, event: ev.Terminal) -> bytes:
        whole = isinstance(event, ev.TurnCompleted) or (
            isinstance(event, ev.TurnIncomplete) and event.reason in ("max_output_tokens", "content_filter")
        )
        if not whole:
            return self._encoder.feed(event)
        self._folding.feed(event)
        self._response = self._write(self._folding.turn())
        self._ending = self._held + self._encoder.feed(event)
        return self._ending

    def failed_instead(self, data: bytes, error: ErrorInfo) -> bytes:
        """The frames `data` with an error in place of the finish reasons and what follows them."""
        return data.removesuffix(self._ending) + self._encoder.feed(ev.TurnFailed(error))


def stored_messages(body: bytes, *, completion_id: str) -> bytes:
    """The messages of a request as a list to store: each with an id, content that came in parts as `content_parts`."""
    return msgspec.json.encode(
        [
            _stored(message, f"{completion_id}-{position}")
            for position, message in enumerate(_BODY.decode(body).messages)
        ]
    )


def _stored(message: dict[str, msgspec.Raw], message_id: str) -> dict[str, object]:
    content = message.get("content")
    in_parts = content is not None and bytes(content).lstrip().startswith(b"[")
    return {
        **message,
        "id": message_id,
        "content": None if in_parts else content,
        "content_parts": content if in_parts else None,
    }


def with_metadata(completion: bytes, metadata: bytes) -> bytes:
    """The completion object with this `metadata`, both as JSON."""
    return msgspec.json.encode({**_MEMBERS.decode(completion), "metadata": msgspec.Raw(metadata)})
