"""Lists as the API shows them: a page, whether there is more, and the ids at its ends."""

from collections.abc import Sequence

import msgspec

from trunkline.model.errors import InvalidParameter
from trunkline.ports.stores import Page


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


def paged(entries: Sequence[Entry], page: Page) -> Sequence[Entry]:
    """The entries of one page of a list that is at hand whole, and one more if there is a next page."""
    ordered = entries if page.order == "asc" else entries[::-1]
    if page.after is None:
        return ordered[: page.limit + 1]
    for position, entry in enumerate(ordered):
        if entry.id == page.after:
            return ordered[position + 1 : position + 2 + page.limit]
    raise InvalidParameter(
        f"Invalid 'after': no entry {page.after[:200]!r} in this list to continue after; start again without it.",
        param="after",
    )


def one_more(page: Page) -> Page:
    """The page to ask a store for, so that `listing` can tell whether there is a next one."""
    return msgspec.structs.replace(page, limit=page.limit + 1)
