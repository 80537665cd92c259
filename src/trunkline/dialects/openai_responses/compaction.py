"""Compaction: what stands for a conversation once it has been made shorter.

A compaction item is opaque to clients: they hand it back, and only who made it can read it. OpenAI's goes untouched to an upstream
that speaks this dialect. One of ours carries a summary, so that any model can go on from it: it is neither secret nor signed (its
client has seen the whole conversation, and may say in its name what it likes), but it says what it is and in which version.

Towards a backend, one of ours becomes what the assistant says after the user messages that were kept: they then alternate, which
many chat templates demand, and a later turn that is too long drops it with these.
"""

import base64
from collections.abc import Sequence

import msgspec

from trunkline.dialects.openai_responses.parts import write_usage
from trunkline.dialects.reading import Json
from trunkline.model.errors import InvalidParameter
from trunkline.model.items import Item, Message, OpaqueItem, TextPart
from trunkline.model.request import Request
from trunkline.model.usage import Usage

COMPACTION = "compaction"
_OURS = "trunkline."
_VERSION = "trunkline.1."
_INTRODUCTION = (
    "What follows is a summary of our conversation up to here. Answers and tool results that are not shown are in it."
)


class _Compaction(msgspec.Struct):
    encrypted_content: str


_READ = msgspec.json.Decoder(_Compaction)


def write_summary(summary: str) -> str:
    """`encrypted_content` of an item of ours."""
    return _VERSION + base64.urlsafe_b64encode(summary.encode()).decode()


def read_summary(content: str, path: str) -> str | None:
    """The summary in it; None where another server made it. Raises InvalidParameter for one of ours that is damaged."""
    if not content.startswith(_OURS):
        return None
    try:
        if content.startswith(_VERSION):
            return base64.b64decode(content.removeprefix(_VERSION), altchars=b"-_", validate=True).decode()
    except ValueError:  # letters that are no base64, bytes that are no text
        pass  # and said below, as for a version that nobody here knows
    raise InvalidParameter(
        f"Invalid '{path}': this is not what a compaction item was made with. Expected it exactly as it was returned.",
        param=path,
    )


def with_summaries(request: Request) -> Request:
    """The request with messages in place of compaction items of ours."""
    if OpaqueItem not in map(type, request.items):
        return request
    if not any(isinstance(item, OpaqueItem) and item.wire_type == COMPACTION for item in request.items):
        return request
    return msgspec.structs.replace(request, items=tuple([_readable(item) for item in request.items]))


def _readable(item: Item) -> Item:
    if not isinstance(item, OpaqueItem) or item.wire_type != COMPACTION:
        return item
    summary = read_summary(_READ.decode(item.payload).encrypted_content, "input")
    if summary is None:
        return item
    return Message(role="assistant", content=(TextPart(f"{_INTRODUCTION}\n\n{summary}"),), as_string=True)


def write_compacted(response_id: str, created_at: int, *, output: Sequence[Json | msgspec.Raw], usage: Usage) -> bytes:
    """The `response.compaction` object."""
    return msgspec.json.encode(
        {
            "id": response_id,
            "object": "response.compaction",
            "created_at": created_at,
            "output": output,
            "usage": write_usage(usage, always_details=True),
        }
    )
