"""What is done to conversations and their items, as functions of a session.

Items have a position, one more than the last. An item that is there already stays where and as it is, so that a client
which sends a conversation again does not double it.
"""

from collections.abc import Sequence

from trunkline.ports.stores import Page, StoredConversation, StoredItem
from trunkline.stores.sqlite import statements as sql
from trunkline.stores.sqlite.pages import start_of
from trunkline.stores.sqlite.worker import Session


def create(session: Session, tenant: str, conversation: StoredConversation, items: Sequence[StoredItem]) -> None:
    session.execute(sql.INSERT_CONVERSATION, (tenant, conversation.id, conversation.created_at, conversation.metadata))
    add_items(session, tenant, conversation.id, items)


def load(session: Session, tenant: str, conversation_id: str) -> StoredConversation | None:
    row = session.execute(sql.LOAD_CONVERSATION, (tenant, conversation_id)).fetchone()
    return None if row is None else StoredConversation(id=row[0], created_at=row[1], metadata=row[2])


def update(session: Session, tenant: str, conversation: StoredConversation) -> bool:
    values = (tenant, conversation.id, conversation.created_at, conversation.metadata)
    return session.execute(sql.UPDATE_CONVERSATION, values).rowcount > 0


def delete(session: Session, tenant: str, conversation_id: str) -> bool:
    session.execute(sql.DELETE_ITEMS, (tenant, conversation_id))
    return session.execute(sql.DELETE_CONVERSATION, (tenant, conversation_id)).rowcount > 0


def add_items(session: Session, tenant: str, conversation_id: str, items: Sequence[StoredItem]) -> bool:
    if session.execute(sql.CONVERSATION_EXISTS, (tenant, conversation_id)).fetchone() is None:
        return False
    last = session.execute(sql.LAST_POSITION, (tenant, conversation_id)).fetchone()[0]
    session.executemany(
        sql.ADD_ITEM,
        [
            (tenant, conversation_id, position, item.id, item.data)
            for position, item in enumerate(items, start=last + 1)
        ],
    )
    return True


def list_items(session: Session, tenant: str, conversation_id: str, page: Page) -> tuple[StoredItem, ...]:
    start = start_of(session, page, sql.ITEM_POSITION, (tenant, conversation_id, page.after))
    statement = sql.ITEMS_DESCENDING if page.order == "desc" else sql.ITEMS_ASCENDING
    return tuple(StoredItem(*row) for row in session.execute(statement, (tenant, conversation_id, start, page.limit)))


def load_item(session: Session, tenant: str, conversation_id: str, item_id: str) -> StoredItem | None:
    row = session.execute(sql.LOAD_ITEM, (tenant, conversation_id, item_id)).fetchone()
    return None if row is None else StoredItem(*row)


def delete_item(session: Session, tenant: str, conversation_id: str, item_id: str) -> bool:
    return session.execute(sql.DELETE_ITEM, (tenant, conversation_id, item_id)).rowcount > 0
