"""The store's sessions: `ports.stores.SessionStore` over the store's two threads.

As everything of the store, each method makes a job of a function (`session_rows`) and waits for it.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from trunkline.ports.stores import Page, StoredItem, StoredSession
from trunkline.stores.sqlite import session_rows
from trunkline.stores.sqlite.limits import Limits
from trunkline.stores.sqlite.worker import Session

Result = TypeVar("Result")


class Work(Protocol):
    """Has a job done by one of the threads."""

    def __call__(self, run: Callable[[Session], Result]) -> Awaitable[Result]: ...


class Sessions:
    """Sessions and their items."""

    def __init__(self, read: Work, write: Work, limits: Limits) -> None:
        self._read = read
        self._write = write
        self._limits = limits

    async def create(self, tenant: str, session: StoredSession) -> None:
        await self._write(lambda job: session_rows.create(job, tenant, session, limits=self._limits))

    async def load(self, tenant: str, session_id: str) -> StoredSession | None:
        cutoff = self._limits.expired_before()
        return await self._read(lambda job: session_rows.load(job, tenant, session_id, cutoff=cutoff))

    async def update(self, tenant: str, session_id: str, *, title: str | None, metadata: bytes) -> bool:
        update = partial(session_rows.update, title=title, metadata=metadata, limits=self._limits)
        return await self._write(lambda job: update(job, tenant, session_id))

    async def delete(self, tenant: str, session_id: str) -> bool:
        cutoff = self._limits.expired_before()
        return await self._write(lambda job: session_rows.delete(job, tenant, session_id, cutoff=cutoff))

    async def list(self, tenant: str, page: Page) -> Sequence[StoredSession]:
        cutoff = self._limits.expired_before()
        return await self._read(lambda job: session_rows.list_page(job, tenant, page, cutoff=cutoff))

    async def items(self, tenant: str, session_id: str, page: Page) -> Sequence[StoredItem]:
        cutoff = self._limits.expired_before()
        return await self._read(lambda job: session_rows.items(job, tenant, session_id, page, cutoff=cutoff))

    async def history(self, tenant: str, session_id: str) -> Sequence[StoredItem] | None:
        cutoff = self._limits.expired_before()
        return await self._read(lambda job: session_rows.history(job, tenant, session_id, cutoff=cutoff))

    async def extend(
        self, tenant: str, session_id: str, items: Sequence[StoredItem], *, now_s: int, new: bool = False
    ) -> bool:
        extend = partial(session_rows.extend, now_s=now_s, new=new, limits=self._limits)
        return await self._write(lambda job: extend(job, tenant, session_id, items))

    async def fork(self, tenant: str, session_id: str, fork: StoredSession, *, up_to: str | None = None) -> bool:
        copy = partial(session_rows.fork, up_to=up_to, limits=self._limits)
        return await self._write(lambda job: copy(job, tenant, session_id, fork))
