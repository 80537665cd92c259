"""Where a page of a list begins: at one of its ends, or behind an entry of it."""

from trunkline.ports.stores import Page, no_such_entry
from trunkline.stores.sqlite.worker import Session

BEYOND = 2**63 - 1


def start_of(session: Session, page: Page, position: str, values: tuple[object, ...]) -> int:
    """The position before the first on the page; the statement `position` finds that of the entry it comes after.

    Raises InvalidParameter where there is no such entry.
    """
    if page.after is None:
        return BEYOND if page.order == "desc" else 0
    found = session.execute(position, values).fetchone()
    if found is None:
        raise no_such_entry(page.after)
    start: int = found[0]
    return start
