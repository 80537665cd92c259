"""The store of one process: `ports.stores.Store` over two threads, one that writes and one that reads.

Each method makes a job of a function (`responses`, `runs`, `conversations`, `completions`, `usage`) and waits for it. Nothing here
touches the database; what happens here is memory: who waits, what is shared, what was used. A database in memory has the
same code, jobs and SQL, over one connection.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from trunkline.config.schema import IdempotencySettings
from trunkline.model.errors import ConfigError, StoreError
from trunkline.ports.runtime import Clock
from trunkline.ports.stores import (
    KeyedAnswer,
    LoggedEvent,
    Page,
    RunStatus,
    Segment,
    StoredCompletion,
    StoredConversation,
    StoredItem,
    StoredResponse,
    StoredRun,
)
from trunkline.ports.usage import Tally, UsageKey, UsageQuery, UsageRow
from trunkline.stores.sqlite import completions, conversations, responses, runs, session_rows, usage
from trunkline.stores.sqlite.database import BUSY_S, Database, Migrations, open_database
from trunkline.stores.sqlite.keyed_answers import KeyedAnswers
from trunkline.stores.sqlite.limits import Limits
from trunkline.stores.sqlite.lock import FileLock
from trunkline.stores.sqlite.migrations import MIGRATIONS
from trunkline.stores.sqlite.reads import FinishedResponses, SharedReads
from trunkline.stores.sqlite.sessions import Sessions
from trunkline.stores.sqlite.worker import Key, Session, Worker

Result = TypeVar("Result")

LOCK_POLL_S = 0.1
SWEEP_S = 60.0

_log = logging.getLogger("trunkline.store")


_KEYED = IdempotencySettings()


class SqliteStore:
    """A file, or for `path` None a database in memory.

    Args:
        max_responses: of each tenant; beyond it the least recently used give way. Completions likewise.
        max_sessions: of each tenant.
        max_age_s: how long they are kept; None: for ever.
        max_run_age_s: how long a run is kept after its end; None: as long as its response.
        keyed: how long answers by idempotency key are kept, and how many.
        lock_wait_s: how long `start` waits for a process that still has the file, as while a server restarts.
        busy_s: how long a lock of another program on the file is waited out.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        clock: Clock,
        max_responses: int = 10_000,
        max_sessions: int = 10_000,
        max_age_s: float | None = None,
        max_run_age_s: float | None = None,
        lock_wait_s: float = 5.0,
        keyed: IdempotencySettings = _KEYED,
        busy_s: float = BUSY_S,
        migrations: Migrations = MIGRATIONS,
    ) -> None:
        self._path = path
        self._limits = Limits(
            max_responses=max_responses,
            max_sessions=max_sessions,
            max_age_s=max_age_s,
            max_run_age_s=max_run_age_s,
            clock=clock,
        )
        self.sessions = Sessions(self._read, self._write, self._limits)
        self.keyed_answers = KeyedAnswers(self._read, self._write, keyed, clock=clock)
        ages = [age for age in (max_age_s, max_run_age_s, keyed.ttl_s) if age is not None]
        self._sweep_s = min(SWEEP_S, max(1.0, min(ages) / 10))
        self._lock_wait_s = lock_wait_s
        self._busy_s = busy_s
        self._migrations = migrations
        self._lock: FileLock | None = None
        self._database: Database | None = None
        self._writer: Worker | None = None
        self._reader: Worker | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._finished = FinishedResponses()
        self._responses = SharedReads(keep=self._finished.put)
        self._events = SharedReads[tuple[LoggedEvent, ...]]()

    async def start(self) -> None:
        if self._path is not None:
            self._lock = await self._locked(self._path)
        try:
            self._database = await asyncio.to_thread(
                open_database, self._path, busy_s=self._busy_s, migrations=self._migrations
            )
        finally:
            if self._database is None:
                self._release()
        database = self._database
        self._writer = Worker(
            database.writer,
            gate=database.writer_gate,
            writes=True,
            settled=self._forget,
            rolled_back=self._rolled_back,
        )
        self._reader = Worker(database.reader, gate=database.reader_gate, writes=False)
        await self._read(self._limits.recall)
        self._sweep()

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        writer, self._writer = self._writer, None
        reader, self._reader = self._reader, None
        if writer is not None and reader is not None:
            _unheard(writer.submit(self._limits.write_uses))
            await writer.close()
            await reader.close()
        database, self._database = self._database, None
        if database is not None:
            await asyncio.to_thread(database.close)
        self._release()

    # Responses

    async def save_response(
        self,
        tenant: str,
        response: StoredResponse,
        *,
        history: Sequence[Segment] = (),
        items: Sequence[StoredItem] = (),
    ) -> None:
        await self._write(
            lambda session: responses.save(session, tenant, response, limits=self._limits, history=history, items=items)
        )

    async def load_response(self, tenant: str, response_id: str) -> StoredResponse | None:
        key, cutoff = (tenant, response_id), self._limits.expired_before()
        found = self._finished.get(key)
        if found is None:
            found = await self._responses.read(
                key,
                None,
                lambda: self._reading(
                    lambda session: responses.load(session, tenant, response_id, cutoff=cutoff),
                ),
            )
        if found is None or found.created_at <= cutoff:
            return None
        self._used(key)
        return found

    async def delete_response(self, tenant: str, response_id: str) -> bool:
        cutoff = self._limits.expired_before()
        return await self._write(lambda session: responses.delete(session, tenant, response_id, cutoff=cutoff))

    async def history(self, tenant: str, response_id: str) -> Sequence[Segment] | None:
        cutoff = self._limits.expired_before()
        found = await self._read(lambda session: responses.history(session, tenant, response_id, cutoff=cutoff))
        if found is not None:
            self._used((tenant, response_id))
        return found

    async def named_response(self, tenant: str, name: str) -> str | None:
        cutoff = self._limits.expired_before()
        return await self._read(lambda session: responses.named(session, tenant, name, cutoff=cutoff))

    # Runs

    async def create_run(
        self,
        run: StoredRun,
        response: StoredResponse,
        events: Sequence[LoggedEvent],
        *,
        history: Sequence[Segment] = (),
        keyed: KeyedAnswer | None = None,
    ) -> None:
        def create(session: Session) -> None:
            runs.create(session, run, response, events, limits=self._limits, history=history)
            if keyed is not None:
                self.keyed_answers.save_in(session, run.tenant, keyed)

        await self._write(create)

    async def start_run(
        self, tenant: str, run_id: str, *, response: StoredResponse | None = None, events: Sequence[LoggedEvent] = ()
    ) -> bool:
        return await self._write(
            lambda session: runs.start(session, tenant, run_id, response=response, events=events, limits=self._limits)
        )

    async def requeue_run(
        self, tenant: str, run_id: str, *, response: StoredResponse, events: Sequence[LoggedEvent]
    ) -> bool:
        return await self._write(
            lambda session: runs.requeue(session, tenant, run_id, response=response, events=events, limits=self._limits)
        )

    async def note_stop(self, tenant: str, run_id: str) -> None:
        await self._write(lambda session: runs.note_stop(session, tenant, run_id))

    async def append_events(
        self,
        tenant: str,
        run_id: str,
        events: Sequence[LoggedEvent],
        *,
        final: StoredResponse | None = None,
        status: RunStatus | None = None,
        items: Sequence[StoredItem] = (),
    ) -> bool:
        append = partial(runs.append, final=final, ends_as=status, items=items, limits=self._limits)
        return await self._write(lambda session: append(session, tenant, run_id, events))

    async def read_events(self, tenant: str, run_id: str, *, after: int, limit: int) -> Sequence[LoggedEvent]:
        return await self._events.read(
            (tenant, run_id),
            (after, limit),
            lambda: self._reading(lambda session: runs.read(session, tenant, run_id, after=after, limit=limit)),
        )

    async def load_run(self, tenant: str, run_id: str) -> StoredRun | None:
        ended_before = self._limits.runs_ended_before()
        return await self._read(lambda session: runs.load(session, tenant, run_id, ended_before=ended_before))

    async def list_runs(
        self,
        tenant: str,
        page: Page,
        *,
        statuses: Sequence[RunStatus] | None = None,
        session_id: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> Sequence[StoredRun]:
        wanted = partial(runs.list_page, statuses=statuses, session_id=session_id, ids=ids)
        ended_before = self._limits.runs_ended_before()
        return await self._read(lambda session: wanted(session, tenant, page, ended_before=ended_before))

    async def unfinished_runs(self) -> Sequence[StoredRun]:
        return await self._read(runs.unfinished)

    # Conversations

    async def create_conversation(
        self, tenant: str, conversation: StoredConversation, items: Sequence[StoredItem]
    ) -> None:
        await self._write(lambda session: conversations.create(session, tenant, conversation, items))

    async def load_conversation(self, tenant: str, conversation_id: str) -> StoredConversation | None:
        return await self._read(lambda session: conversations.load(session, tenant, conversation_id))

    async def update_conversation(self, tenant: str, conversation: StoredConversation) -> bool:
        return await self._write(lambda session: conversations.update(session, tenant, conversation))

    async def delete_conversation(self, tenant: str, conversation_id: str) -> bool:
        return await self._write(lambda session: conversations.delete(session, tenant, conversation_id))

    async def add_items(self, tenant: str, conversation_id: str, items: Sequence[StoredItem]) -> bool:
        return await self._write(lambda session: conversations.add_items(session, tenant, conversation_id, items))

    async def list_items(self, tenant: str, conversation_id: str, page: Page) -> Sequence[StoredItem]:
        return await self._read(lambda session: conversations.list_items(session, tenant, conversation_id, page))

    async def load_item(self, tenant: str, conversation_id: str, item_id: str) -> StoredItem | None:
        return await self._read(lambda session: conversations.load_item(session, tenant, conversation_id, item_id))

    async def delete_item(self, tenant: str, conversation_id: str, item_id: str) -> bool:
        return await self._write(lambda session: conversations.delete_item(session, tenant, conversation_id, item_id))

    # Stored chat completions

    async def save_completion(self, tenant: str, completion: StoredCompletion) -> None:
        await self._write(lambda session: completions.save(session, tenant, completion, limits=self._limits))

    async def load_completion(self, tenant: str, completion_id: str) -> StoredCompletion | None:
        cutoff = self._limits.expired_before()
        return await self._read(lambda session: completions.load(session, tenant, completion_id, cutoff=cutoff))

    async def update_completion(self, tenant: str, completion_id: str, *, metadata: bytes, object: bytes) -> bool:  # noqa: A002 - the wire's word
        update = partial(completions.update, metadata=metadata, document=object, cutoff=self._limits.expired_before())
        return await self._write(lambda session: update(session, tenant, completion_id))

    async def delete_completion(self, tenant: str, completion_id: str) -> bool:
        cutoff = self._limits.expired_before()
        return await self._write(lambda session: completions.delete(session, tenant, completion_id, cutoff=cutoff))

    async def list_completions(
        self, tenant: str, page: Page, *, model: str | None = None, metadata: bytes | None = None
    ) -> Sequence[StoredCompletion]:
        wanted = partial(completions.list_page, model=model, metadata=metadata, cutoff=self._limits.expired_before())
        return await self._read(lambda session: wanted(session, tenant, page))

    # Usage

    async def add_usage(self, rows: Sequence[tuple[int, UsageKey, Tally]]) -> None:
        await self._write(lambda session: usage.add(session, rows))

    async def read_usage(self, tenant: str | None, query: UsageQuery) -> Sequence[UsageRow]:
        return await self._read(lambda session: usage.read(session, tenant, query))

    async def forget_usage(self, *, minutes_before_s: int, hours_before_s: int) -> None:
        forget = partial(usage.forget, minutes_before_s=minutes_before_s, hours_before_s=hours_before_s)
        await self._write(forget)

    # What they share

    @property
    def waiting(self) -> int:
        return sum(worker.waiting for worker in (self._writer, self._reader) if worker is not None)

    async def _locked(self, path: Path) -> FileLock:
        """The file's lock, once whoever has it lets go."""
        lock = FileLock(path)
        loop = asyncio.get_running_loop()
        until, told = loop.time() + self._lock_wait_s, False
        while not lock.take():
            if loop.time() >= until:
                raise ConfigError(
                    f"{path} is in use by {lock.holder()}: a store belongs to one server at a time; "
                    'stop that one, or give this one another file: [store] url = "sqlite:///other.db", or "memory:"',
                    key="store.url",
                )
            if not told:
                _log.info("waiting for %s, which %s still uses", path, lock.holder())
                told = True
            await asyncio.sleep(LOCK_POLL_S)
        return lock

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def _write(self, run: Callable[[Session], Result]) -> Result:
        if self._writer is None:
            raise _not_running()
        return await self._writer.submit(run)

    async def _read(self, run: Callable[[Session], Result]) -> Result:
        return await self._reading(run)

    def _reading(self, run: Callable[[Session], Result]) -> "asyncio.Future[Result]":
        if self._reader is None:
            raise _not_running()
        return self._reader.submit(run)

    def _forget(self, changed: set[Key]) -> None:
        """In the loop, after a commit and before its callers hear of it."""
        for key in changed:
            self._finished.drop(key)
            self._responses.detach(key)
            self._events.detach(key)

    def _used(self, key: Key) -> None:
        if self._limits.used(key) and self._writer is not None:
            _unheard(self._writer.submit(self._limits.write_uses))

    def _sweep(self) -> None:
        """Removes what has expired, now and from time to time, also where nobody writes."""
        if self._writer is None:
            return
        swept = self._writer.submit(self._swept_in)
        swept.add_done_callback(self._swept)

    def _swept_in(self, session: Session) -> bool:
        self.keyed_answers.sweep_in(session)
        return self._limits.sweep(
            session, remove=responses.remove, remove_session=session_rows.remove, expire_runs=runs.expire
        )

    def _rolled_back(self) -> None:
        """In the writer's thread."""
        self._limits.forget()
        self.keyed_answers.rolled_back()

    def _swept(self, swept: "asyncio.Future[bool]") -> None:
        more = not swept.cancelled() and swept.exception() is None and swept.result()
        if self._writer is not None:
            self._sweeping = asyncio.get_running_loop().call_later(0.0 if more else self._sweep_s, self._sweep)


def _unheard(future: "asyncio.Future[None]") -> None:
    """Nobody waits for it, and what goes wrong is in the log."""
    future.add_done_callback(lambda done: done.cancelled() or done.exception())


def _not_running() -> StoreError:
    return StoreError("the store is not open: the server is starting or shutting down")
