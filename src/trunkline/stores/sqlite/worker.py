"""A thread that works on one SQLite connection, and how the event loop hands it jobs.

The thread takes everything that waits, works through it and reports all of it with one call into the loop. For the writer
that is group commit: what arrives while one transaction is being synced to disk shares the next. Under load a write then
costs a fraction of a sync, and when idle it waits for nobody.

A batch is one transaction. If anything in it fails, it is rolled back and each job is tried again in a transaction of its
own, so that a job fails only for a reason of its own. Jobs may therefore run twice, and do nothing but SQL. A job is done
once it has been handed over, whether or not somebody still waits for it.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from trunkline.model.errors import StoreError, TrunklineError
from trunkline.stores.sqlite import statements as sql

MAX_BATCH = 1000

Result = TypeVar("Result")
Key = tuple[str, str]
"""A tenant and the id of a response."""

_log = logging.getLogger("trunkline.store")


class Session:
    """What a job works with: the connection, and a list of the responses it has changed."""

    __slots__ = ("changed", "execute", "executemany")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.changed: set[Key] = set()


class Job(Generic[Result]):
    """One piece of work and the future of its result."""

    __slots__ = ("_error", "_result", "future", "run")

    def __init__(self, run: Callable[[Session], Result], future: "asyncio.Future[Result]") -> None:
        self.run = run
        self.future = future
        self._result: Result
        self._error: Exception | None = None

    def work(self, session: Session) -> None:
        """In the thread."""
        self._result = self.run(session)
        self._error = None

    def fail(self, error: Exception) -> None:
        self._error = error

    def settle(self) -> None:
        """In the loop. Nobody may be waiting any more."""
        if self.future.done():
            return
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(self._result)


AnyJob = Job[object]
Settled = Callable[[set[Key]], None]


class Worker:
    """The thread. `writes` makes each batch a transaction.

    `settled` hears in the loop which responses a batch has changed, `rolled_back` in the thread that nothing came of one.
    `gate` is held while the connection is in use: the threads of an in-memory database share one.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        gate: threading.Lock,
        writes: bool,
        settled: Settled | None = None,
        rolled_back: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._gate = gate
        self._settled = settled
        self._rolled_back = rolled_back
        self._attempt = self._transact if writes else self._read
        self._loop = asyncio.get_running_loop()
        self._arrived = threading.Condition(threading.Lock())
        self._waiting: list[AnyJob] = []
        self._closing = False
        self._failing = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._main, name="store-writer" if writes else "store-reader", daemon=True
        )
        self._thread.start()

    def submit(self, run: Callable[[Session], Result]) -> "asyncio.Future[Result]":
        """Hands a job over. Raises StoreError when the store is closed."""
        job = Job(run, self._loop.create_future())
        with self._arrived:
            if self._closing:
                raise StoreError("the store is closed: the server is shutting down")
            self._waiting.append(job)  # its result is only carried, by the thread
            if len(self._waiting) == 1:
                self._arrived.notify()
        return job.future

    @property
    def waiting(self) -> int:
        """Jobs that the thread has not taken yet."""
        return len(self._waiting)

    async def close(self) -> None:
        """Works off what has been handed over and ends the thread. The connection stays open."""
        with self._arrived:
            self._closing = True
            self._arrived.notify()
        await asyncio.shield(self._ended)
        self._thread.join()

    def _main(self) -> None:
        while jobs := self._take():
            changed: set[Key] = set()
            with self._gate:
                self._attempt(jobs, changed)
            self._report(self._settle, jobs, changed)
        self._report(self._ended.set_result, None)

    def _take(self) -> list[AnyJob]:
        """Everything that waits; nothing, once nothing will come."""
        with self._arrived:
            while not self._waiting and not self._closing:
                self._arrived.wait()
            jobs, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            return jobs

    def _report(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            _log.debug("the event loop is gone; nobody hears of %d results", len(arguments))

    def _settle(self, jobs: Sequence[AnyJob], changed: set[Key]) -> None:
        if self._settled is not None:
            self._settled(changed)  # before anybody learns of the write: whoever does must not read what was before it
        for job in jobs:
            job.settle()

    def _read(self, jobs: Sequence[AnyJob], changed: set[Key]) -> None:
        session = Session(self._connection)
        for job in jobs:
            try:
                job.work(session)
            except Exception as error:  # noqa: BLE001 - the thread outlives a job; who asked gets the error
                job.fail(self._told(error, what="read"))

    def _transact(self, jobs: Sequence[AnyJob], changed: set[Key]) -> None:
        if not self._begin(jobs) or self._commit(jobs, changed) or len(jobs) == 1:
            return
        for index, job in enumerate(jobs):
            if not self._begin(jobs[index:]):
                return
            self._commit([job], changed)

    def _begin(self, jobs: Sequence[AnyJob]) -> bool:
        """Opens a transaction. Where that is impossible, these jobs have failed: one wait for a lock is enough."""
        try:
            self._connection.execute(sql.BEGIN)
        except sqlite3.Error as error:
            for job in jobs:
                job.fail(self._told(error, what="written"))
            return False
        return True

    def _commit(self, jobs: Sequence[AnyJob], changed: set[Key]) -> bool:
        """Works the jobs off and commits. Otherwise nothing of them is left, and each has failed for now."""
        session = Session(self._connection)
        try:
            for job in jobs:
                job.work(session)
            self._connection.execute(sql.COMMIT)
        except Exception as error:  # noqa: BLE001 - as above, and nothing half-done stays
            self._roll_back()
            for job in jobs:
                job.fail(self._told(error, what="written"))
            return False
        changed |= session.changed
        if self._failing:
            self._failing = False
            _log.warning("the store can write again")
        return True

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:  # SQLite has rolled back by itself after some failures
                self._connection.execute(sql.ROLLBACK)
        except sqlite3.Error as error:
            _log.error("the store could not roll back: %s", error)
        if self._rolled_back is not None:
            self._rolled_back()

    def _told(self, error: Exception, *, what: str) -> Exception:
        """The error for who asked: a safe sentence. What SQLite says goes to the log, once for each time it begins."""
        if isinstance(error, TrunklineError):
            return error
        if not isinstance(error, sqlite3.Error):
            _log.error("a job of the store failed", exc_info=error)
            return StoreError(f"nothing was {what}: the store failed; its log says more")
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        if not self._failing:
            _log.error("the store failed: %s: %s", name, error)
        self._failing = self._failing or what == "written"
        code = getattr(error, "sqlite_errorcode", 0)
        primary = code & 0xFF
        if primary == sqlite3.SQLITE_FULL:
            return StoreError(f"nothing was {what}: the store's disk is full", code="store_full")
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreError(f"nothing was {what}: another program holds the store's file", code="store_locked")
        return StoreError(f"nothing was {what}: the store failed ({name})")
