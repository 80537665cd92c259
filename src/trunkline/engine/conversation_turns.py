"""One turn at a time in each conversation, whether it has an id or is only a name.

Two that continue the same response at once would each know nothing of the other, and one would drop out of the chain. So a turn
that is kept waits until the one before it is over, in order. Background work, whose request is to be answered at once, waits only
for a turn that is just ending.
"""

import asyncio
import contextlib

from trunkline.model.errors import RateLimited

MAX_WAITING = 64
BRIEFLY_S = 0.5
RETRY_AFTER_S = 1.0


class _Place:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


class ConversationTurns:
    """Whose turn it is, by tenant and conversation."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], _Place] = {}

    async def take(self, tenant: str, conversation: str, *, briefly: bool) -> contextlib.ExitStack:
        """The turn is over when what this gives is closed. Raises RateLimited where it cannot even wait."""
        key = (tenant, conversation)
        place = self._places.setdefault(key, _Place())
        with contextlib.ExitStack() as turn:
            place.wanted += 1
            turn.callback(self._leave, key)
            try:
                async with asyncio.timeout(0.0 if place.wanted > 1 + MAX_WAITING else BRIEFLY_S if briefly else None):
                    await place.lock.acquire()
            except TimeoutError:
                raise RateLimited(
                    "Another turn of this conversation is under way, and a conversation has one at a time; "
                    "try again when it has ended.",
                    code="conversation_locked",
                    param="conversation",
                    retry_after_s=RETRY_AFTER_S,
                ) from None
            turn.callback(place.lock.release)
            return turn.pop_all()

    def _leave(self, key: tuple[str, str]) -> None:
        place = self._places[key]
        place.wanted -= 1
        if not place.wanted:
            del self._places[key]
