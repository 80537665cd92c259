"""What is done to runs and their event logs, as functions of a session.

A run is live while it is queued or in progress. Everything that writes to one asks for that first, in the same
transaction; so whoever ends it, by a final event or a cancel, fences everybody else. Sequence numbers are the store's to
check: the log of a run has no gap, whoever wrote it.
"""

from collections.abc import Sequence

import msgspec

from trunkline.model.errors import StoreError
from trunkline.ports.stores import LoggedEvent, Page, RunStatus, Segment, StoredItem, StoredResponse, StoredRun
from trunkline.stores.sqlite import responses
from trunkline.stores.sqlite import statements as sql
from trunkline.stores.sqlite.limits import Limits
from trunkline.stores.sqlite.pages import start_of
from trunkline.stores.sqlite.worker import Session

LIVE = frozenset({"queued", "in_progress"})


def create(
    session: Session,
    run: StoredRun,
    response: StoredResponse,
    events: Sequence[LoggedEvent],
    *,
    limits: Limits,
    history: Sequence[Segment] = (),
) -> None:
    if run.id != response.id:
        raise StoreError(f"run {run.id!r} was not stored: a run has the id of its response, got {response.id!r}")
    responses.save(session, run.tenant, response, limits=limits, history=history)
    session.execute(sql.INSERT_RUN, (run.tenant, run.id, run.status, run.created_at, run.request))
    _log(session, run.tenant, run.id, events, due=0)


def start(
    session: Session,
    tenant: str,
    run_id: str,
    *,
    response: StoredResponse | None,
    events: Sequence[LoggedEvent],
    limits: Limits,
) -> bool:
    status, due = _state(session, tenant, run_id)
    if status != "queued":
        return False
    session.execute(sql.START_RUN, (tenant, run_id))
    if response is not None:
        responses.save(session, tenant, response, limits=limits)
    _log(session, tenant, run_id, events, due=due)
    return True


def requeue(
    session: Session,
    tenant: str,
    run_id: str,
    *,
    response: StoredResponse,
    events: Sequence[LoggedEvent],
    limits: Limits,
) -> bool:
    status, due = _state(session, tenant, run_id)
    if status != "in_progress":
        return False
    session.execute(sql.REQUEUE_RUN, (tenant, run_id))
    responses.save(session, tenant, response, limits=limits)
    _log(session, tenant, run_id, events, due=due)
    return True


def note_stop(session: Session, tenant: str, run_id: str) -> None:
    session.execute(sql.NOTE_STOP, (tenant, run_id))


def append(
    session: Session,
    tenant: str,
    run_id: str,
    events: Sequence[LoggedEvent],
    *,
    final: StoredResponse | None,
    ends_as: RunStatus | None,
    items: Sequence[StoredItem],
    limits: Limits,
) -> bool:
    status, due = _state(session, tenant, run_id)
    if status not in LIVE:
        return False
    _log(session, tenant, run_id, events, due=due)
    if final is not None:
        if final.status in LIVE:
            raise StoreError(
                f"run {run_id!r} was not ended: {final.status!r} is not the status of a run that has ended"
            )
        responses.save(session, tenant, final, limits=limits, items=items)
        session.execute(sql.END_RUN, (tenant, run_id, ends_as or final.status, events[-1].at))
    return True


def _state(session: Session, tenant: str, run_id: str) -> tuple[str | None, int]:
    """The run's status, None for an unknown one, and the number that its next event must have."""
    row = session.execute(sql.RUN_STATE, (tenant, run_id)).fetchone()
    return (None, 0) if row is None else (row[0], row[1])


def _log(session: Session, tenant: str, run_id: str, events: Sequence[LoggedEvent], *, due: int) -> None:
    """Few statements for many events: between two of them the thread has to get hold of the interpreter again."""
    session.changed.add((tenant, run_id))
    for number, event in enumerate(events, start=due):
        if event.sequence_number != number:
            raise StoreError(
                f"events of run {run_id!r} were not stored: expected sequence number {number}, "
                f"got {event.sequence_number}"
            )
    for start in range(0, len(events), len(sql.INSERT_EVENTS)):
        chunk = events[start : start + len(sql.INSERT_EVENTS)]
        values = [v for one in chunk for v in (tenant, run_id, one.sequence_number, one.type, one.data, one.at)]
        session.execute(sql.INSERT_EVENTS[len(chunk) - 1], values)


def read(session: Session, tenant: str, run_id: str, *, after: int, limit: int) -> tuple[LoggedEvent, ...]:
    return tuple(LoggedEvent(*row) for row in session.execute(sql.READ_EVENTS, (tenant, run_id, after, limit)))


def load(session: Session, tenant: str, run_id: str, *, ended_before: float) -> StoredRun | None:
    row = session.execute(sql.LOAD_RUN, (tenant, run_id, ended_before)).fetchone()
    return None if row is None else _run(row)


def list_page(
    session: Session,
    tenant: str,
    page: Page,
    *,
    statuses: Sequence[RunStatus] | None,
    session_id: str | None,
    ids: Sequence[str] | None,
    ended_before: float,
) -> tuple[StoredRun, ...]:
    start = start_of(session, page, sql.RUN_POSITION, (tenant, page.after, ended_before))
    statement = sql.RUNS_DESCENDING if page.order == "desc" else sql.RUNS_ASCENDING
    wanted = (_json(statuses), session_id, _json(ids))
    rows = session.execute(statement, (tenant, start, ended_before, *wanted, page.limit))
    return tuple([_run(row) for row in rows])


def _json(values: Sequence[str] | None) -> str | None:
    return None if values is None else msgspec.json.encode(values).decode()


def expire(session: Session, *, ended_before: float, limit: int) -> bool:
    """Takes away what ended long ago, and its events; its response stays. True when there may be more."""
    expired = session.execute(sql.EXPIRED_RUNS, (ended_before, limit)).fetchall()
    for tenant, run_id in expired:
        session.execute(sql.DELETE_RUN, (tenant, run_id))
        session.execute(sql.DELETE_EVENTS, (tenant, run_id))
        session.changed.add((tenant, run_id))
    return len(expired) == limit


def unfinished(session: Session) -> tuple[StoredRun, ...]:
    return tuple(_run(row) for row in session.execute(sql.UNFINISHED_RUNS))


def _run(row: tuple[str, str, RunStatus, bytes, int, int, int, str, str | None, float | None]) -> StoredRun:
    return StoredRun(
        tenant=row[0],
        id=row[1],
        status=row[2],
        request=row[3],
        created_at=row[4],
        next_sequence=row[5],
        stops=row[6],
        model=row[7],
        session_id=row[8],
        updated_at=row[9] or row[4],
    )
