"""What is kept of a response that has ended, read from the one object its client saw."""

import msgspec

from trunkline.dialects.openai_responses.mcp_calls import MCP_CALL
from trunkline.engine.chaining import Chained
from trunkline.model.request import Tool
from trunkline.ports.stores import RunStatus, StoredItem, StoredResponse, stored_item

_NULL = msgspec.Raw(b"null")


class _Ended(msgspec.Struct):
    """The members of a Response object that the store wants."""

    id: str
    model: str
    created_at: int
    status: RunStatus
    output: msgspec.Raw


class _Call(msgspec.Struct):
    """The members of an output item that say which call it is or answers."""

    type: str
    status: str | None = None
    call_id: str | None = None
    name: str | None = None
    output: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL


class _WithResponse(msgspec.Struct):
    response: msgspec.Raw


_WITH_RESPONSE = msgspec.json.Decoder(_WithResponse)
_CALLS = msgspec.json.Decoder(list[_Call])
_RESPONSE = msgspec.json.Decoder(_Ended)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


def stored_response(data: bytes, chained: Chained, *, background: bool = False) -> StoredResponse:
    """The Response object `data` and its turn, for the store."""
    ended = _RESPONSE.decode(data)
    return StoredResponse(
        id=ended.id,
        object=data,
        input=b"[" + b",".join(chained.input) + b"]",
        output=_to_continue(ended, chained),
        status=ended.status,
        model=ended.model,
        created_at=ended.created_at,
        parent_id=chained.parent_id,
        conversation_id=chained.conversation_id,
        session_id=chained.session_id,
        # A name moves to a turn that can be continued, not to one that has only begun or has failed.
        name=chained.name if ended.status in ("completed", "incomplete") else None,
        background=background,
    )


def _to_continue(ended: _Ended, chained: Chained) -> bytes:
    """The output as a later turn gets it: without the calls that a cut left behind and that nobody can answer.

    These are calls that were not finished, and the agent's own, which are not among the client's tools. With them, no turn
    could follow this one: every call must have its output.
    """
    if ended.status == "completed":
        return bytes(ended.output)
    items = _CALLS.decode(ended.output)
    answered = {item.call_id for item in items if item.type.endswith("_output")}
    tools = {tool.name for tool in chained.request.tools if isinstance(tool, Tool)}
    return msgspec.json.encode(
        [
            raw
            for raw, item in zip(_LIST.decode(ended.output), items, strict=True)
            if not _waits(item) or item.call_id in answered or (item.status != "incomplete" and item.name in tools)
        ]
    )


def _waits(item: _Call) -> bool:
    """Whether it is a call without an output of its own. A run of another server's has no call_id, and goes back as it came."""
    if item.type == MCP_CALL:
        return item.call_id is not None and bytes(item.output) == bytes(item.error) == b"null"
    return item.type in ("function_call", "custom_tool_call")


def response_in(event: bytes) -> bytes:
    """The Response object of an event that carries one."""
    return bytes(_WITH_RESPONSE.decode(event).response)


def conversation_items(response: StoredResponse, chained: Chained) -> list[StoredItem]:
    """What a turn adds to its conversation: its input and, unless it failed, its output."""
    if chained.conversation_id is None or response.status == "failed":
        return []
    return [stored_item(data) for data in (*chained.input, *map(bytes, _LIST.decode(response.output)))]
