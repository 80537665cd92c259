"""What a backend can do beside answering turns: embeddings, text completions, reranking, speech, images, moderation.

An operation's request and answer are its endpoint's business. trunkline reads of them what it needs to find that endpoint and to
account for it (`model`, usage, failures), and passes the rest as it came. So an operation is a name, and whatever a later version
of its API adds to it works from the first day. A backend without operations does not implement this port.
"""

from typing import Literal, Protocol, runtime_checkable

import msgspec

from trunkline.ports.backend import Context, RelayAnswer

Operation = Literal[
    "embeddings",
    "completions",
    "rerank",
    "moderations",
    "audio/transcriptions",
    "audio/translations",
    "audio/speech",
    "images/generations",
    "images/edits",
    "images/variations",
]
"""Each by its path in OpenAI's API, below `/v1`."""

Bytes = bytes | memoryview


class OperationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A client's request, cut where the model's name stands, so that another name can be put there without a copy of the rest.

    Attributes:
        model: the client's name for it.
        content_type: `application/json`, or the form's with its boundary.
        before: the body up to the name.
        after: the body behind it.
    """

    operation: Operation
    model: str
    content_type: str
    before: tuple[Bytes, ...]
    after: tuple[Bytes, ...]

    def body(self, model: str) -> tuple[Bytes, ...]:
        """The whole body with this name in it, in pieces."""
        name = msgspec.json.encode(model) if self.content_type == "application/json" else model.encode()
        return (*self.before, name, *self.after)


class OperationAnswer(RelayAnswer, frozen=True, kw_only=True):
    """An answer as bytes of this media type; None where it has no content. `ignored` names what of the request nothing used."""

    media_type: str | None
    ignored: tuple[str, ...] = ()


@runtime_checkable
class Operations(Protocol):
    """A backend that has operations."""

    @property
    def operations(self) -> frozenset[Operation]: ...

    async def perform(self, request: OperationRequest, context: Context) -> OperationAnswer:
        """Asks for the answer, up to its head. Its batches end with TurnCompleted, or raise.

        Raises BackendError for everything that is not a 2xx answer.
        """
        ...


__all__ = ["Bytes", "Operation", "OperationAnswer", "OperationRequest", "Operations"]
