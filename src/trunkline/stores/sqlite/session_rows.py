"""What is done to sessions and their items, as functions of a database session: each is one job of the writer or the reader.

A session knows how many items it has and how large they are together, so that growing costs what is added. What is too long loses
its oldest turns, a tenth more than it must, so that this is done rarely; the newest turn always stays, however large it is.
"""

from collections.abc import Sequence

from trunkline.model.errors import Conflict, InvalidParameter
from trunkline.ports.stores import Page, StoredItem, StoredSession
from trunkline.stores.sqlite import session_statements as sql
from trunkline.stores.sqlite.limits import Limits
from trunkline.stores.sqlite.pages import BEYOND, start_of
from trunkline.stores.sqlite.worker import Session

MAX_ITEMS = 10_000
MAX_BYTES = 32_000_000
_KEEP = 0.9


def create(session: Session, tenant: str, made: StoredSession, *, limits: Limits) -> None:
    if session.execute(sql.EXISTS, (tenant, made.id, limits.expired_before())).fetchone() is not None:
        raise Conflict(
            f"Session with id '{made.id}' exists already; choose another id, or go on with it.",
            code="session_exists",
            param="id",
        )
    remove(session, tenant, made.id)  # one that has expired and is not swept yet
    values = (made.created_at, made.updated_at, made.parent_id, made.title, made.metadata)
    session.execute(sql.INSERT, (tenant, made.id, limits.next_use(), *values))
    limits.session_added(session, tenant, made.id, remove=remove)


def load(session: Session, tenant: str, session_id: str, *, cutoff: int) -> StoredSession | None:
    row = session.execute(sql.LOAD, (tenant, session_id, cutoff)).fetchone()
    return None if row is None else _session(row)


def update(
    session: Session, tenant: str, session_id: str, *, title: str | None, metadata: bytes, limits: Limits
) -> bool:
    values = (tenant, session_id, limits.expired_before(), title, metadata, limits.next_use())
    return session.execute(sql.UPDATE, values).rowcount > 0


def delete(session: Session, tenant: str, session_id: str, *, cutoff: int) -> bool:
    if session.execute(sql.EXISTS, (tenant, session_id, cutoff)).fetchone() is None:
        return False
    remove(session, tenant, session_id)
    return True


def remove(session: Session, tenant: str, session_id: str) -> None:
    session.execute(sql.DELETE_ITEMS, (tenant, session_id))
    session.execute(sql.DELETE, (tenant, session_id))


def list_page(session: Session, tenant: str, page: Page, *, cutoff: int) -> tuple[StoredSession, ...]:
    start = start_of(session, page, sql.POSITION, (tenant, page.after, cutoff))
    statement = sql.DESCENDING if page.order == "desc" else sql.ASCENDING
    return tuple(_session(row) for row in session.execute(statement, (tenant, cutoff, start, page.limit)))


def items(session: Session, tenant: str, session_id: str, page: Page, *, cutoff: int) -> tuple[StoredItem, ...]:
    if session.execute(sql.EXISTS, (tenant, session_id, cutoff)).fetchone() is None:
        return ()
    start = start_of(session, page, sql.ITEM_POSITION, (tenant, session_id, page.after))
    statement = sql.ITEMS_DESCENDING if page.order == "desc" else sql.ITEMS_ASCENDING
    return tuple(StoredItem(*row) for row in session.execute(statement, (tenant, session_id, start, page.limit)))


def history(session: Session, tenant: str, session_id: str, *, cutoff: int) -> tuple[StoredItem, ...] | None:
    if session.execute(sql.EXISTS, (tenant, session_id, cutoff)).fetchone() is None:
        return None
    rows = session.execute(sql.ITEMS_ASCENDING, (tenant, session_id, 0, BEYOND))
    return tuple(StoredItem(*row) for row in rows)


def extend(
    session: Session,
    tenant: str,
    session_id: str,
    added: Sequence[StoredItem],
    *,
    now_s: int,
    new: bool,
    limits: Limits,
) -> bool:
    if session.execute(sql.EXISTS, (tenant, session_id, limits.expired_before())).fetchone() is None:
        if not new:
            return False
        create(session, tenant, StoredSession(id=session_id, created_at=now_s, updated_at=now_s), limits=limits)
    position, turn = session.execute(sql.LAST_ITEM, (tenant, session_id)).fetchone() or (0, 0)
    count = size_bytes = 0
    for place, item in enumerate(added, start=position + 1):
        values = (tenant, session_id, place, turn + 1, len(item.data), item.id, item.data)
        if session.execute(sql.ADD_ITEM, values).rowcount > 0:
            count += 1
            size_bytes += len(item.data)
    grown = (tenant, session_id, count, size_bytes, now_s, limits.next_use())
    session.execute(sql.GROW, grown)
    held, held_bytes = session.execute(sql.SIZE, (tenant, session_id)).fetchone()
    if held > MAX_ITEMS or held_bytes > MAX_BYTES:
        _shorten(session, tenant, session_id, held=held, held_bytes=held_bytes)
    return True


def fork(
    session: Session, tenant: str, session_id: str, made: StoredSession, *, up_to: str | None, limits: Limits
) -> bool:
    if session.execute(sql.EXISTS, (tenant, session_id, limits.expired_before())).fetchone() is None:
        return False
    last = BEYOND
    if up_to is not None:
        found = session.execute(sql.ITEM_POSITION, (tenant, session_id, up_to)).fetchone()
        if found is None:
            raise InvalidParameter(
                f"Invalid 'up_to': session '{session_id}' has no message {up_to[:200]!r}.", param="up_to"
            )
        last = found[0]
    create(session, tenant, made, limits=limits)
    session.execute(sql.COPY_ITEMS, (tenant, session_id, made.id, last))
    session.execute(sql.COUNT_ITEMS, (tenant, made.id))
    return True


def _shorten(session: Session, tenant: str, session_id: str, *, held: int, held_bytes: int) -> None:
    """Takes the oldest turns away."""
    left, left_bytes, gone = held, held_bytes, 0
    for turn, count, size_bytes in session.execute(sql.TURNS, (tenant, session_id)).fetchall()[:-1]:
        if left <= MAX_ITEMS * _KEEP and left_bytes <= MAX_BYTES * _KEEP:
            break
        left, left_bytes, gone = left - count, left_bytes - size_bytes, turn
    session.execute(sql.DELETE_TURNS, (tenant, session_id, gone))
    session.execute(sql.SHRINK, (tenant, session_id, held - left, held_bytes - left_bytes))


def _session(row: tuple[str, int, int, str | None, bytes, str | None, int]) -> StoredSession:
    return StoredSession(
        id=row[0],
        created_at=row[1],
        updated_at=row[2],
        title=row[3],
        metadata=row[4],
        parent_id=row[5],
        items=row[6],
    )
