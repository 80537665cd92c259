"""One at a time for each key, in the order they came, and only so many that wait.

Nothing is left of a key that nobody holds or waits for. A waiter that is cancelled leaves its place to the next.
"""

import asyncio
import contextlib
from collections.abc import Hashable

from trunkline.model.errors import RequestError


class _Place:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


class Turns:
    """Whose turn it is, by key."""

    def __init__(self) -> None:
        self._places: dict[Hashable, _Place] = {}

    def __len__(self) -> int:
        """The keys that somebody holds."""
        return len(self._places)

    def waiting(self, key: Hashable) -> int:
        """How many hold it or wait for it."""
        place = self._places.get(key)
        return 0 if place is None else place.wanted

    async def take(self, key: Hashable, *, wait_s: float | None, refusal: RequestError) -> contextlib.ExitStack:
        """The turn is over when what this gives is closed. Raises `refusal` once it has waited that long."""
        place = self._places.setdefault(key, _Place())
        with contextlib.ExitStack() as turn:
            place.wanted += 1
            turn.callback(self._leave, key)
            try:
                async with asyncio.timeout(wait_s):
                    await place.lock.acquire()
            except TimeoutError:
                raise refusal from None
            turn.callback(place.lock.release)
            return turn.pop_all()

    def _leave(self, key: Hashable) -> None:
        place = self._places[key]
        place.wanted -= 1
        if not place.wanted:
            del self._places[key]
