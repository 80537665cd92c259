"""Reads that are not made twice: readers of the same thing at the same time share one query, finished responses stay.

What a reader gets must never be older than a write it has heard of. So when a write is done, and before its caller
learns of it, what it changed is dropped: from memory, and from the reads under way, which then serve only those who
already wait for them and are not kept.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Generic, TypeVar

from trunkline.ports.stores import StoredResponse
from trunkline.stores.sqlite.worker import Key

Value = TypeVar("Value")

MAX_BYTES = 16_000_000
MAX_RESPONSES = 2000
ROW_BYTES = 1000
"""What a kept response costs beside its documents."""


class SharedReads(Generic[Value]):
    """Reads under way, by the response they are about and which part of it."""

    def __init__(self, *, keep: Callable[[Key, Value], None] | None = None) -> None:
        self._keep = keep
        self._under_way: dict[Key, dict[Hashable, asyncio.Future[Value]]] = {}

    async def read(self, key: Key, part: Hashable, begin: "Callable[[], asyncio.Future[Value]]") -> Value:
        """Joins a read that is under way, or begins one. A reader that is cancelled leaves it to the others."""
        parts = self._under_way.get(key)
        future = None if parts is None else parts.get(part)
        if future is None:
            future = begin()
            parts = self._under_way.setdefault(key, {})
            parts[part] = future
            future.add_done_callback(partial(self._done, key, part, parts))
        return await asyncio.shield(future)

    def detach(self, key: Key) -> None:
        """What is under way is out of date."""
        self._under_way.pop(key, None)

    def _done(
        self,
        key: Key,
        part: Hashable,
        parts: "dict[Hashable, asyncio.Future[Value]]",
        future: "asyncio.Future[Value]",
    ) -> None:
        current = self._under_way.get(key) is parts
        del parts[part]
        if current and not parts:
            del self._under_way[key]
        if future.cancelled() or future.exception() is not None:
            return
        if current and self._keep is not None:
            self._keep(key, future.result())


class FinishedResponses:
    """Responses that have ended, the last used ones, up to a number of bytes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, StoredResponse] = OrderedDict()
        self._size_bytes = 0

    def get(self, key: Key) -> StoredResponse | None:
        response = self._kept.get(key)
        if response is not None:
            self._kept.move_to_end(key)
        return response

    def put(self, key: Key, response: StoredResponse | None) -> None:
        """Keeps a response that has ended and is not too large to share the room with others."""
        if response is None or response.status in ("queued", "in_progress"):
            return
        size_bytes = _size_bytes(response)
        if size_bytes > MAX_BYTES // 8:
            return
        self.drop(key)
        self._kept[key] = response
        self._size_bytes += size_bytes
        while self._size_bytes > MAX_BYTES or len(self._kept) > MAX_RESPONSES:
            _, dropped = self._kept.popitem(last=False)
            self._size_bytes -= _size_bytes(dropped)

    def drop(self, key: Key) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self._size_bytes -= _size_bytes(dropped)


def _size_bytes(response: StoredResponse) -> int:
    return len(response.object) + len(response.input) + len(response.output) + ROW_BYTES
