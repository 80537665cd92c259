"""How much is kept: so many responses, completions and sessions for each tenant at most, and none older than so many seconds.

Responses and sessions give way in the order of their last use, completions in the order they were stored; what is still being
answered never gives way. The limit is for each tenant, so that one cannot push out what belongs to another. Once it is
passed, a hundredth of it goes at once, in the transaction that passed it, so that the limit holds at any moment and the
counting is paid for by many writes.

Uses are remembered in memory and written when somebody has to give way, when many have come together, and at the end:
never one write for one read. A crash forgets the last of them, which only makes the order a little older.
"""

import itertools
from collections import deque
from collections.abc import Callable

from trunkline.ports.runtime import Clock
from trunkline.stores.sqlite import session_statements
from trunkline.stores.sqlite import statements as sql
from trunkline.stores.sqlite.worker import Key, Session

MAX_REMEMBERED = 1000
SWEEP_ROWS = 200
FOREVER = -1
"""Before every time: rows are compared with `created_at > cutoff`."""

Remove = Callable[[Session, str, str], None]


class Limits:
    """The limits of one store. `used` and `expired_before` are for any thread, the rest for the writer's."""

    def __init__(
        self,
        *,
        max_responses: int,
        max_sessions: int,
        max_age_s: float | None,
        max_run_age_s: float | None,
        clock: Clock,
    ) -> None:
        self._max = max_responses
        self._max_sessions = max_sessions
        self._slack = max_responses // 100
        self._max_age_s = max_age_s
        self._max_run_age_s = max_run_age_s
        self._clock = clock
        self._uses = itertools.count(1)
        self._remembered: deque[tuple[Key, int]] = deque()
        # Per tenant, once counted. Never less than there are; sometimes more, as nobody takes off what is deleted.
        self._responses: dict[str, int] = {}
        self._completions: dict[str, int] = {}
        self._sessions: dict[str, int] = {}

    def recall(self, session: Session) -> None:
        """Goes on where the file left off."""
        self._uses = itertools.count(session.execute(sql.LAST_USE).fetchone()[0] + 1)

    def forget(self) -> None:
        """A transaction was rolled back, with what had been counted in it."""
        self._responses.clear()
        self._completions.clear()
        self._sessions.clear()

    def expired_before(self) -> int:
        """What was created at this second or before has expired."""
        return FOREVER if self._max_age_s is None else int(self._clock.now_s() - self._max_age_s)

    def runs_ended_before(self) -> float:
        """A run that ended at this second or before is not kept any more."""
        return FOREVER if self._max_run_age_s is None else self._clock.now_s() - self._max_run_age_s

    def next_use(self) -> int:
        return next(self._uses)

    def used(self, key: Key) -> bool:
        """Remembers a use. True when it is time to write them all."""
        self._remembered.append((key, next(self._uses)))
        return len(self._remembered) % MAX_REMEMBERED == 0

    def write_uses(self, session: Session) -> None:
        latest: dict[Key, int] = {}
        while self._remembered:
            key, use = self._remembered.popleft()
            latest[key] = use
        if latest:
            session.executemany(sql.USE_RESPONSE, [(*key, use) for key, use in latest.items()])

    def response_added(self, session: Session, tenant: str, added: str, *, remove: Remove) -> None:
        """Makes room for the response `added`, which stays even where nothing else may give way: its client is about to be
        told that it is stored."""
        count = self._responses.get(tenant, self._max) + 1
        if count > self._max:
            count = session.execute(sql.COUNT_RESPONSES, (tenant,)).fetchone()[0]
        if count > self._max:
            self.write_uses(session)
            surplus = count - self._max + self._slack
            for (response_id,) in session.execute(sql.LEAST_USED, (tenant, added, surplus)).fetchall():
                remove(session, tenant, response_id)
                count -= 1
        self._responses[tenant] = count

    def completion_added(self, session: Session, tenant: str) -> None:
        """Makes room for a completion that has just been inserted."""
        count = self._completions.get(tenant, self._max) + 1
        if count > self._max:
            count = session.execute(sql.COUNT_COMPLETIONS, (tenant,)).fetchone()[0]
        if count > self._max:
            surplus = count - self._max + self._slack
            session.execute(sql.DELETE_OLDEST_COMPLETIONS, (tenant, surplus - 1))
            count -= surplus
        self._completions[tenant] = count

    def session_added(self, session: Session, tenant: str, added: str, *, remove: Remove) -> None:
        """Makes room for the session `added`, which stays."""
        count = self._sessions.get(tenant, self._max_sessions) + 1
        if count > self._max_sessions:
            count = session.execute(session_statements.COUNT, (tenant,)).fetchone()[0]
        if count > self._max_sessions:
            surplus = count - self._max_sessions + self._max_sessions // 100
            for (session_id,) in session.execute(session_statements.LEAST_USED, (tenant, added, surplus)).fetchall():
                remove(session, tenant, session_id)
                count -= 1
        self._sessions[tenant] = count

    def sweep(
        self, session: Session, *, remove: Remove, remove_session: Remove, expire_runs: Callable[..., bool]
    ) -> bool:
        """Removes what has expired, a bounded number at a time. True when there may be more."""
        before = self.expired_before()
        session.execute(sql.DELETE_EXPIRED_COMPLETIONS, (before,))
        expired = session.execute(sql.EXPIRED_RESPONSES, (before, SWEEP_ROWS)).fetchall()
        for tenant, response_id in expired:
            remove(session, tenant, response_id)
        rested = session.execute(session_statements.EXPIRED, (before, SWEEP_ROWS)).fetchall()
        for tenant, session_id in rested:
            remove_session(session, tenant, session_id)
        more_runs = expire_runs(session, ended_before=self.runs_ended_before(), limit=SWEEP_ROWS)
        return more_runs or SWEEP_ROWS in (len(expired), len(rested))
