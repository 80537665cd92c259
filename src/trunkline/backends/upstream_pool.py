"""The connections to one server: at most so many, the one used last first, and whoever waits for one is served in turn.

What is counted are slots. A slot is held from before a connection is made until it is closed, so a burst cannot make more than are
allowed while they are under way. Whoever gets a connection holds its slot, and gives both back with `release`. The one used last is
taken first, so that after a burst the others grow old and close.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from trunkline.backends.upstream_connection import Connection
from trunkline.model.errors import BackendUnavailable

KEEP_ALIVE_S = 30.0
CLOSE_GRACE_S = 1.0

OnLost = Callable[[Connection], None]


class Pool:
    """`dial` makes a connection that calls what it is given when it is lost."""

    def __init__(self, dial: Callable[[OnLost], Awaitable[Connection]], *, name: str, max_connections: int) -> None:
        self._dial = dial
        self._name = name
        self._max_connections = max_connections
        self._slots = 0
        self._idle: dict[Connection, None] = {}
        self._open: set[Connection] = set()
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._closed: asyncio.Future[None] | None = None

    def idle(self) -> Connection | None:
        """A connection that is there; None means `acquire`. Nobody is overtaken: while anybody waits, none is idle."""
        return self._idle.popitem()[0] if self._idle else None

    async def acquire(self) -> Connection:
        """Waits for its turn; a new connection unless one is given back first. Raises what `dial` raises."""
        self._check_open()
        if self._slots < self._max_connections:
            self._slots += 1
        else:
            connection = await self._turn()
            if connection is not None:
                return connection
        made = None
        try:
            made = await self.connect()
        finally:
            if made is None:
                self._free()
        return made

    async def connect(self) -> Connection:
        """A new connection for who holds a slot: it takes the place of the one they had."""
        self._check_open()
        connection = await self._dial(self._lost)
        if self._closed is not None:
            connection.abort()
            self._check_open()
        if not connection.ended:  # otherwise it may have said so before it was known here
            self._open.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """Gives a connection and its slot back. One that another exchange cannot use is closed."""
        if not connection.reusable or self._closed is not None:
            connection.abort()
            self._free()
        elif (waiter := self._next()) is not None:
            waiter.set_result(connection)
        else:
            self._idle[connection] = None
            connection.rest(KEEP_ALIVE_S)

    async def close(self) -> None:
        """Drops every connection, and returns when they are gone."""
        self._closed = asyncio.get_running_loop().create_future()
        while (waiter := self._next()) is not None:
            waiter.set_exception(BackendUnavailable(f"the connection pool of {self._name} is closed"))
        if not self._open:
            return
        for connection in list(self._open):
            connection.abort()
        await asyncio.wait([self._closed], timeout=CLOSE_GRACE_S)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise BackendUnavailable(f"the connection pool of {self._name} is closed")

    async def _turn(self) -> Connection | None:
        """A connection that somebody gave back, or None for a slot to make one in."""
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:  # it came at the same moment
                connection = waiter.result()
                if connection is None:
                    self._free()
                else:
                    self.release(connection)
            raise

    def _next(self) -> asyncio.Future[Connection | None] | None:
        """Who has waited longest."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    def _free(self) -> None:
        waiter = self._next()
        if waiter is None:
            self._slots -= 1
        else:
            waiter.set_result(None)

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            del self._idle[connection]
            self._free()
        if self._closed is not None and not self._open and not self._closed.done():
            self._closed.set_result(None)
