"""The event union: every answer, from every backend, is one stream of these frozen values.

Items are numbered by `index` over the whole turn, whatever their choice; a delta names only its item. What the union cannot
name travels as `Extension`, so that nothing is dropped: without `choice` it belongs to the turn, with `choice` to that choice,
and with `index` to that item.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from trunkline.model.errors import ErrorInfo
from trunkline.model.items import Item, Status, ToolKind
from trunkline.model.tokens import TokenLogprob
from trunkline.model.usage import Usage

ItemKind = Literal["message", "reasoning", "function_call", "function_call_output", "opaque"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call", "error"]
IncompleteReason = Literal["max_output_tokens", "content_filter", "client_disconnected", "cancelled"]


class TurnStarted(msgspec.Struct, frozen=True, tag="turn_started"):
    """Always first. `created_at` in unix seconds; `model` is the backend's own name for what answers."""

    turn_id: str
    model: str
    created_at: int


class ItemStarted(msgspec.Struct, frozen=True, tag="item_started", omit_defaults=True, kw_only=True):
    """Opens an item. One item of a choice is open at a time. `call_id` and `name` belong to calls and their outputs.

    `extra` holds members of the wire's item that no field names; of an opaque item, all that is known when it opens.
    """

    index: int
    kind: ItemKind
    choice: int = 0
    item_id: str | None = None
    call_id: str | None = None
    name: str | None = None
    tool: ToolKind = "function"
    hosted: bool = False
    extra: Mapping[str, msgspec.Raw] = {}


class TextDelta(msgspec.Struct, frozen=True, tag="text", gc=False):
    index: int
    text: str


class ReasoningDelta(msgspec.Struct, frozen=True, tag="reasoning", gc=False):
    index: int
    text: str


class SummaryDelta(msgspec.Struct, frozen=True, tag="summary", omit_defaults=True, gc=False):
    """Text of a reasoning item's summary. A `part` higher than any before begins the next part; there is no way back."""

    index: int
    text: str
    part: int = 0


class RefusalDelta(msgspec.Struct, frozen=True, tag="refusal", gc=False):
    index: int
    text: str


class ArgumentsDelta(msgspec.Struct, frozen=True, tag="arguments", gc=False):
    index: int
    text: str


class TokensDelta(msgspec.Struct, frozen=True, tag="tokens", omit_defaults=True):
    """Exact tokens of the delta that follows it; `token_ids` may come without log probabilities and the other way round."""

    index: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class AnnotationAdded(msgspec.Struct, frozen=True, tag="annotation"):
    """A citation or the like on the open text of a message; JSON of the wire."""

    index: int
    annotation: msgspec.Raw


class ToolProgress(msgspec.Struct, frozen=True, tag="tool_progress", omit_defaults=True, kw_only=True):
    """A tool that the backend runs itself has begun or ended. Never part of the answer's text."""

    call_id: str
    name: str
    status: Literal["running", "completed"]
    label: str | None = None
    failed: bool = False


class ItemDone(msgspec.Struct, frozen=True, tag="item_done", omit_defaults=True, kw_only=True):
    """Closes an item. `item` is given only for kinds whose content does not travel as deltas.

    `encrypted_content` is that of a reasoning item, which an upstream gives when the item is whole.
    """

    index: int
    status: Status = "completed"
    item: Item | None = None
    encrypted_content: str | None = None


class UsageReported(msgspec.Struct, frozen=True, tag="usage"):
    """Tokens of the whole turn so far; a later report replaces an earlier one."""

    usage: Usage


class ApprovalRequested(msgspec.Struct, frozen=True, tag="approval_requested"):
    call_id: str
    tool: str
    text: str
    choices: tuple[str, ...]


class ApprovalResolved(msgspec.Struct, frozen=True, tag="approval_resolved"):
    call_id: str
    choice: str


class ChoiceDone(msgspec.Struct, frozen=True, tag="choice_done"):
    """One per choice, after its items are closed and before the terminal event."""

    choice: int
    finish_reason: FinishReason


OWN = "trunkline"
"""The name of an extension of ours, on the turn: how a result that is not a whole answer came to be. A profile may rename it."""


class Extension(msgspec.Struct, frozen=True, tag="extension", omit_defaults=True, kw_only=True):
    """What the union cannot name: a key of the wire and its JSON."""

    name: str
    payload: msgspec.Raw
    choice: int | None = None
    index: int | None = None


class TurnCompleted(msgspec.Struct, frozen=True, tag="turn_completed"):
    pass


class TurnIncomplete(msgspec.Struct, frozen=True, tag="turn_incomplete"):
    reason: IncompleteReason


class TurnFailed(msgspec.Struct, frozen=True, tag="turn_failed"):
    error: ErrorInfo


class TurnCancelled(msgspec.Struct, frozen=True, tag="turn_cancelled"):
    pass


Delta = TextDelta | ReasoningDelta | SummaryDelta | RefusalDelta | ArgumentsDelta
Terminal = TurnCompleted | TurnIncomplete | TurnFailed | TurnCancelled
Event = (
    TurnStarted
    | ItemStarted
    | TextDelta
    | ReasoningDelta
    | SummaryDelta
    | RefusalDelta
    | ArgumentsDelta
    | TokensDelta
    | AnnotationAdded
    | ToolProgress
    | ItemDone
    | UsageReported
    | ApprovalRequested
    | ApprovalResolved
    | ChoiceDone
    | Extension
    | TurnCompleted
    | TurnIncomplete
    | TurnFailed
    | TurnCancelled
)

PIECES = (TextDelta, ReasoningDelta, SummaryDelta, RefusalDelta, ArgumentsDelta, TokensDelta, AnnotationAdded)
"""Events that add to an open item."""
TERMINALS = (TurnCompleted, TurnIncomplete, TurnFailed, TurnCancelled)
CONTENT = (TextDelta, ReasoningDelta, SummaryDelta, RefusalDelta, ArgumentsDelta, ToolProgress, ApprovalRequested)
"""Events a client can see as content: after the first of them a turn can no longer move to another backend."""
