"""Answers by idempotency key: `ports.stores.KeyedAnswerStore` over the store's two threads, and how many of them there may be.

Each tenant has its own bounds, so that one cannot push out what belongs to another. What a tenant has is counted once and then in
memory: never less than there is; sometimes more, as nobody takes off what is replaced, deleted or has expired. Only where that
passes a bound it is counted again.
"""

from trunkline.config.schema import IdempotencySettings
from trunkline.ports.runtime import Clock
from trunkline.ports.stores import KeyedAnswer
from trunkline.stores.sqlite import keyed_statements as sql
from trunkline.stores.sqlite.sessions import Work
from trunkline.stores.sqlite.worker import Session

ROW_BYTES = 400
"""About what an answer takes beside its key and its data."""


class KeyedAnswers:
    """Methods that take a session are parts of the writer's jobs."""

    def __init__(self, read: Work, write: Work, settings: IdempotencySettings, *, clock: Clock) -> None:
        self._read = read
        self._write = write
        self._settings = settings
        self._clock = clock
        self._held: dict[str, tuple[int, int]] = {}

    async def save(self, tenant: str, answer: KeyedAnswer) -> None:
        await self._write(lambda session: self.save_in(session, tenant, answer))

    async def load(self, tenant: str, key: str) -> KeyedAnswer | None:
        cutoff = self._expired_before()
        return await self._read(lambda session: _load(session, tenant, key, cutoff=cutoff))

    def save_in(self, session: Session, tenant: str, answer: KeyedAnswer) -> None:
        size_bytes = len(answer.data) + len(answer.key) + ROW_BYTES
        described = (answer.created_at, size_bytes, answer.answer_id, answer.fingerprint, answer.data)
        session.execute(sql.SAVE, (tenant, answer.key, *described))
        self._added(session, tenant, size_bytes)

    def sweep_in(self, session: Session) -> None:
        """Removes what has expired."""
        session.execute(sql.DELETE_EXPIRED, (self._expired_before(),))

    def rolled_back(self) -> None:
        """A transaction came to nothing, with what had been counted in it."""
        self._held.clear()

    def _expired_before(self) -> int:
        """What was created at this second or before has expired."""
        return int(self._clock.now_s() - self._settings.ttl_s)

    def _added(self, session: Session, tenant: str, size_bytes: int) -> None:
        """Makes room for an answer that has just been saved, which itself stays."""
        settings, held = self._settings, self._held.get(tenant)
        count, size = _counted(session, tenant) if held is None else (held[0] + 1, held[1] + size_bytes)
        if count > settings.max_answers or size > settings.max_bytes:
            self.sweep_in(session)
            count, size = self._make_room(session, tenant, *_counted(session, tenant))
        self._held[tenant] = (count, size)

    def _make_room(self, session: Session, tenant: str, count: int, size: int) -> tuple[int, int]:
        """Where anything has to go, a hundredth more goes, so that many writes pay for the counting."""
        settings = self._settings
        if count <= settings.max_answers and size <= settings.max_bytes:
            return count, size
        many, large = settings.max_answers - settings.max_answers // 100, settings.max_bytes - settings.max_bytes // 100
        going: list[tuple[int]] = []
        for rowid, size_bytes in session.execute(sql.OLDEST, (tenant,)):
            if count <= 1 or (count <= many and size <= large):
                break
            going.append((rowid,))
            count, size = count - 1, size - size_bytes
        session.executemany(sql.DELETE_ROW, going)
        return count, size


def forget(session: Session, tenant: str, answer_id: str) -> None:
    """What was answered has been deleted."""
    session.execute(sql.FORGET, (tenant, answer_id))


def _counted(session: Session, tenant: str) -> tuple[int, int]:
    count, size = session.execute(sql.COUNT, (tenant,)).fetchone()
    return count, size


def _load(session: Session, tenant: str, key: str, *, cutoff: int) -> KeyedAnswer | None:
    row = session.execute(sql.LOAD, (tenant, key, cutoff)).fetchone()
    if row is None:
        return None
    return KeyedAnswer(key=row[0], fingerprint=row[1], answer_id=row[2], created_at=row[3], data=row[4])
