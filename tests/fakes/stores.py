"""Stores under test, the values that go into them, and a clock that stands still until it is told otherwise."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from trunkline.config.schema import IdempotencySettings
from trunkline.ports.stores import LoggedEvent, RunStatus, StoredResponse, StoredRun
from trunkline.stores.sqlite.database import BUSY_S
from trunkline.stores.sqlite.store import SqliteStore


class HandClock:
    """Moves by hand."""

    def __init__(self, now_s: float = 1_800_000_000.0) -> None:
        self.now = now_s

    def now_s(self) -> float:
        return self.now

    def monotonic_s(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def open_store(
    path: Path | None,
    *,
    clock: HandClock | None = None,
    max_responses: int = 10_000,
    max_sessions: int = 10_000,
    max_age_s: float | None = None,
    max_run_age_s: float | None = None,
    busy_s: float = BUSY_S,
    keyed: IdempotencySettings | None = None,
) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(
        path,
        clock=clock or HandClock(),
        max_responses=max_responses,
        max_sessions=max_sessions,
        max_age_s=max_age_s,
        max_run_age_s=max_run_age_s,
        lock_wait_s=0,
        busy_s=busy_s,
        keyed=keyed or IdempotencySettings(),
    )
    await store.start()
    try:
        yield store
    finally:
        await store.close()


def a_response(
    response_id: str,
    *,
    parent: str | None = None,
    name: str | None = None,
    status: RunStatus = "completed",
    size_bytes: int = 0,
    text: str = "",
    conversation: str | None = None,
    session: str | None = None,
    created_at: int = 1_800_000_000,
    background: bool = False,
) -> StoredResponse:
    said = f"{response_id}{text}".encode()
    return StoredResponse(
        id=response_id,
        object=b'{"id":"%s","pad":"%s"}' % (said, b"x" * size_bytes),
        input=b'[{"in":"%s"}]' % said,
        output=b'[{"out":"%s"}]' % said,
        status=status,
        model="m",
        created_at=created_at,
        parent_id=parent,
        conversation_id=conversation,
        name=name,
        session_id=session,
        background=background,
    )


def a_run(run_id: str, *, tenant: str = "a", status: RunStatus = "queued") -> StoredRun:
    return StoredRun(id=run_id, status=status, request=b'{"again":1}', created_at=1_800_000_000, tenant=tenant)


def some_events(first: int, last: int) -> list[LoggedEvent]:
    """Numbers `first` up to and including `last`."""
    return [LoggedEvent(n, "response.output_text.delta", b'{"sequence_number":%d}' % n) for n in range(first, last + 1)]


async def said_by(store: SqliteStore, tenant: str, response_id: str) -> list[bytes] | None:
    """A chain as the list of its inputs and outputs."""
    turns = await store.history(tenant, response_id)
    return None if turns is None else [part for turn in turns for part in (turn.input, turn.output)]
