"""What is done to stored chat completions, as functions of a session. They are listed in the order they were stored."""

from trunkline.ports.stores import Page, StoredCompletion
from trunkline.stores.sqlite import keyed_answers
from trunkline.stores.sqlite import statements as sql
from trunkline.stores.sqlite.limits import Limits
from trunkline.stores.sqlite.pages import start_of
from trunkline.stores.sqlite.worker import Session


def save(session: Session, tenant: str, completion: StoredCompletion, *, limits: Limits) -> None:
    key = (tenant, completion.id)
    described = (completion.model, completion.created_at, completion.metadata, completion.messages, completion.object)
    if session.execute(sql.COMPLETION_EXISTS, key).fetchone() is not None:
        session.execute(sql.REPLACE_COMPLETION, (*key, *described))
        return
    last = session.execute(sql.LAST_COMPLETION, (tenant,)).fetchone()[0]
    session.execute(sql.INSERT_COMPLETION, (*key, last + 1, *described))
    limits.completion_added(session, tenant)


def load(session: Session, tenant: str, completion_id: str, *, cutoff: int) -> StoredCompletion | None:
    row = session.execute(sql.LOAD_COMPLETION, (tenant, completion_id, cutoff)).fetchone()
    return None if row is None else _completion(row)


def update(session: Session, tenant: str, completion_id: str, *, metadata: bytes, document: bytes, cutoff: int) -> bool:
    values = (tenant, completion_id, cutoff, metadata, document)
    return session.execute(sql.UPDATE_COMPLETION, values).rowcount > 0


def delete(session: Session, tenant: str, completion_id: str, *, cutoff: int) -> bool:
    keyed_answers.forget(session, tenant, completion_id)
    return session.execute(sql.DELETE_COMPLETION, (tenant, completion_id, cutoff)).rowcount > 0


def list_page(
    session: Session, tenant: str, page: Page, *, model: str | None, metadata: bytes | None, cutoff: int
) -> tuple[StoredCompletion, ...]:
    start = start_of(session, page, sql.COMPLETION_POSITION, (tenant, page.after, cutoff))
    statement = sql.COMPLETIONS_DESCENDING if page.order == "desc" else sql.COMPLETIONS_ASCENDING
    wanted = None if metadata is None else metadata.decode()
    rows = session.execute(statement, (tenant, cutoff, model, wanted, start, page.limit))
    return tuple(_completion(row) for row in rows)


def _completion(row: tuple[str, bytes, bytes, str, int, bytes]) -> StoredCompletion:
    return StoredCompletion(id=row[0], object=row[1], messages=row[2], model=row[3], created_at=row[4], metadata=row[5])
