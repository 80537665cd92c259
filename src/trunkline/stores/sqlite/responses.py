"""What is done to responses, as functions of a session: each is one job of the writer or the reader.

A chain is followed by one recursive query over ids, which fetches the items at its end. A response that goes is only
hidden while another turn continues it, and is gone with its last descendant; so a chain is complete as long as one end of
it is there, and nothing of it is left once there is none.
"""

from collections.abc import Sequence

import msgspec

from trunkline.model.errors import StoreError
from trunkline.ports.stores import Segment, StoredItem, StoredResponse
from trunkline.stores.sqlite import conversations, keyed_answers
from trunkline.stores.sqlite import statements as sql
from trunkline.stores.sqlite.limits import Limits
from trunkline.stores.sqlite.worker import Session

NO_ITEMS = b"[]"


def save(
    session: Session,
    tenant: str,
    response: StoredResponse,
    *,
    limits: Limits,
    history: Sequence[Segment] = (),
    items: Sequence[StoredItem] = (),
) -> None:
    """Stores or replaces, moves the name, adds the items to the conversation, makes room."""
    found = session.execute(sql.IS_HIDDEN, (tenant, response.id)).fetchone()
    if found is None:
        _insert(session, tenant, response, history=history, use=limits.next_use())
    else:
        _update(session, tenant, response, use=limits.next_use())
    if response.name is not None:
        session.execute(sql.POINT_NAME, (tenant, response.name, response.id))
    if items and response.conversation_id is not None:
        conversations.add_items(session, tenant, response.conversation_id, items)
    session.changed.add((tenant, response.id))
    if found is None or found[0]:
        limits.response_added(session, tenant, response.id, remove=remove)


def _insert(session: Session, tenant: str, response: StoredResponse, *, history: Sequence[Segment], use: int) -> None:
    parent_id, context = response.parent_id, None
    if parent_id is not None and session.execute(sql.IS_HIDDEN, (tenant, parent_id)).fetchone() is None:
        if not history:
            raise StoreError(
                f"response {response.id!r} was not stored: it continues {parent_id!r}, which is not stored"
            )
        parent_id, context = None, joined(history)
    session.execute(
        sql.INSERT_RESPONSE,
        (
            tenant,
            response.id,
            parent_id,
            response.conversation_id,
            response.name,
            response.status,
            response.model,
            response.created_at,
            response.background,
            use,
            context,
            response.input,
            response.output,
            response.object,
            response.session_id,
        ),
    )


def _update(session: Session, tenant: str, response: StoredResponse, *, use: int) -> None:
    session.execute(
        sql.UPDATE_RESPONSE,
        (
            tenant,
            response.id,
            response.conversation_id,
            response.name,
            response.status,
            response.model,
            response.created_at,
            response.background,
            use,
            response.input,
            response.output,
            response.object,
        ),
    )


def joined(history: Sequence[Segment]) -> bytes:
    """Turns as one list of their items, each item's bytes as they are."""
    items: list[msgspec.Raw] = []
    for turn in history:
        items += msgspec.json.decode(turn.input, type=list[msgspec.Raw])
        items += msgspec.json.decode(turn.output, type=list[msgspec.Raw])
    return msgspec.json.encode(items)


def load(session: Session, tenant: str, response_id: str, *, cutoff: int) -> StoredResponse | None:
    row = session.execute(sql.LOAD_RESPONSE, (tenant, response_id, cutoff)).fetchone()
    if row is None:
        return None
    return StoredResponse(
        id=row[0],
        object=row[1],
        input=row[2],
        output=row[3],
        status=row[4],
        model=row[5],
        created_at=row[6],
        parent_id=row[7],
        conversation_id=row[8],
        name=row[9],
        background=bool(row[10]),
        session_id=row[11],
    )


def history(session: Session, tenant: str, response_id: str, *, cutoff: int) -> tuple[Segment, ...] | None:
    turns: list[Segment] = []
    for context, given, output in session.execute(sql.HISTORY, (tenant, response_id, cutoff)):
        if context is not None:
            turns.append(Segment(context, NO_ITEMS))
        turns.append(Segment(given, output))
    return tuple(turns) or None


def named(session: Session, tenant: str, name: str, *, cutoff: int) -> str | None:
    row = session.execute(sql.NAMED_RESPONSE, (tenant, name, cutoff)).fetchone()
    return None if row is None else str(row[0])


def delete(session: Session, tenant: str, response_id: str, *, cutoff: int) -> bool:
    if session.execute(sql.RESPONSE_STANDS, (tenant, response_id, cutoff)).fetchone() is None:
        return False
    remove(session, tenant, response_id)
    keyed_answers.forget(session, tenant, response_id)
    return True


def remove(session: Session, tenant: str, response_id: str) -> None:
    """Takes a response away with its names, its run and its events, and what was only there for it."""
    found = session.execute(sql.PARENT_OF, (tenant, response_id, 0)).fetchone()
    if found is None:
        return
    for statement in (sql.CLEAR_NAMES, sql.DELETE_RUN, sql.DELETE_EVENTS):
        session.execute(statement, (tenant, response_id))
    session.changed.add((tenant, response_id))
    if session.execute(sql.IS_CONTINUED, (tenant, response_id)).fetchone() is not None:
        session.execute(sql.HIDE_RESPONSE, (tenant, response_id))
        return
    session.execute(sql.DELETE_RESPONSE, (tenant, response_id))
    parent_id = found[0]
    while parent_id is not None:
        found = session.execute(sql.PARENT_OF, (tenant, parent_id, 1)).fetchone()
        if found is None or session.execute(sql.IS_CONTINUED, (tenant, parent_id)).fetchone() is not None:
            return
        session.execute(sql.DELETE_RESPONSE, (tenant, parent_id))
        parent_id = found[0]
