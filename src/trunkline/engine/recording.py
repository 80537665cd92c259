"""What is kept of a response that has ended, read from the one object its client saw."""

import msgspec

from trunkline.engine.chaining import Chained
from trunkline.ports.stores import RunStatus, StoredItem, StoredResponse

_ITEM_ID = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Ended(msgspec.Struct):
    """The members of a Response object that the store wants."""

    id: str
    model: str
    created_at: int
    status: RunStatus
    output: msgspec.Raw


_RESPONSE = msgspec.json.Decoder(_Ended)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


def stored_response(data: bytes, chained: Chained, *, background: bool = False) -> StoredResponse:
    """The Response object `data` and its turn, for the store."""
    ended = _RESPONSE.decode(data)
    return StoredResponse(
        id=ended.id,
        object=data,
        input=b"[" + b",".join(chained.input) + b"]",
        output=bytes(ended.output),
        status=ended.status,
        model=ended.model,
        created_at=ended.created_at,
        parent_id=chained.parent_id,
        conversation_id=chained.conversation_id,
        # A name moves to a turn that can be continued, not to one that has only begun or has failed.
        name=chained.name if ended.status in ("completed", "incomplete") else None,
        background=background,
    )


def conversation_items(response: StoredResponse, chained: Chained) -> list[StoredItem]:
    """What a turn adds to its conversation: its input and, unless it failed, its output."""
    if chained.conversation_id is None or response.status == "failed":
        return []
    return [_item(data) for data in (*chained.input, *(bytes(item) for item in _LIST.decode(response.output)))]


def _item(data: bytes) -> StoredItem:
    return StoredItem(id=msgspec.json.decode(_ITEM_ID.decode(data)["id"], type=str), data=data)
