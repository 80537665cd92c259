"""Lists as the API shows them: a page, whether there is more, and the ids at its ends."""

from collections.abc import Sequence

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """One member of a list: its id and its JSON."""

    id: str
    data: bytes


def listing(entries: Sequence[Entry], *, limit: int) -> bytes:
    """The list object for `entries`, of which there is one more than `limit` if there is a next page."""
    shown = entries[:limit]
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [msgspec.Raw(entry.data) for entry in shown],
            "first_id": shown[0].id if shown else None,
            "last_id": shown[-1].id if shown else None,
            "has_more": len(entries) > limit,
        }
    )
