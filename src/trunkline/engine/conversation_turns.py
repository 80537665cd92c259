"""One turn at a time in each conversation, whether it has an id or is only a name.

Two that continue the same response at once would each know nothing of the other, and one would drop out of the chain. So a turn
that is kept waits until the one before it is over, in order. Background work, whose request is to be answered at once, waits only
for a turn that is just ending.
"""

import contextlib

from trunkline.engine.turns import Turns
from trunkline.model.errors import RateLimited

MAX_WAITING = 64
BRIEFLY_S = 0.5
RETRY_AFTER_S = 1.0


class ConversationTurns:
    """Whose turn it is, by tenant and conversation."""

    def __init__(self) -> None:
        self._turns = Turns()

    async def take(self, tenant: str, conversation: str, *, briefly: bool) -> contextlib.ExitStack:
        """The turn is over when what this gives is closed. Raises RateLimited where it cannot even wait."""
        key = (tenant, conversation)
        full = self._turns.waiting(key) > MAX_WAITING
        return await self._turns.take(
            key,
            wait_s=0.0 if full else BRIEFLY_S if briefly else None,
            refusal=RateLimited(
                "Another turn of this conversation is under way, and a conversation has one at a time; "
                "try again when it has ended.",
                code="conversation_locked",
                param="conversation",
                retry_after_s=RETRY_AFTER_S,
            ),
        )
