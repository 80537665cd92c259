"""Lists as the API shows them: a page, whether there is more, and the ids at its ends."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from trunkline.ports.stores import Page, no_such_entry


class Listed(Protocol):
    """What may stand in a list: something with an id, and its JSON."""

    @property
    def id(self) -> str: ...

    @property
    def data(self) -> bytes: ...


class Entry(msgspec.Struct, frozen=True):
    """What is written for a list alone."""

    id: str
    data: bytes


def listing(entries: Sequence[Listed], *, limit: int) -> bytes:
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


def paged(entries: Sequence[Listed], page: Page) -> Sequence[Listed]:
    """The entries of one page of a list that is at hand whole, and one more if there is a next page."""
    ordered = entries if page.order == "asc" else entries[::-1]
    if page.after is None:
        return ordered[: page.limit + 1]
    for position, entry in enumerate(ordered):
        if entry.id == page.after:
            return ordered[position + 1 : position + 2 + page.limit]
    raise no_such_entry(page.after)


def one_more(page: Page) -> Page:
    """The page to ask a store for, so that `listing` can tell whether there is a next one."""
    return msgspec.structs.replace(page, limit=page.limit + 1)
