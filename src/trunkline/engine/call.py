"""One call as the engine sees it, whatever surface it came through."""

from collections.abc import Awaitable, Callable

import msgspec

from trunkline.model.items import Item
from trunkline.model.request import Request
from trunkline.telemetry.outcome import Outcome


class IdempotencyKey(msgspec.Struct, frozen=True):
    """A client's name for one request, and what it stands for, as a digest."""

    key: str
    fingerprint: bytes


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request with its own bytes, its identity and where its fate is noted. `created_at` in unix seconds.

    `own_items` are what the body's own items were read as; the request holds more where history was put before them. `own_ids`:
    the answer carries our id and time, never those of an upstream, so it is never relayed. `patient`: it may wait for a slot in a
    queue of any length. `session_id`: the conversation it belongs to; `session_named`: its client named it, and wants what is kept
    under that name. `cache`: whether a kept answer will do and this one may be kept; None: as its model says. `admitted` is
    awaited once a backend has a slot for it, and before anything is asked of that backend; a fallback may have it awaited again.
    `idempotency_key`: what a run is found by again. `shows_approvals`: whether its stream shows an agent's questions.
    """

    request: Request
    body: bytes | None
    dialect: str
    turn_id: str
    created_at: int
    request_id: str
    tenant: str
    outcome: Outcome
    own_items: tuple[Item, ...] = ()
    session_id: str | None = None
    session_named: bool = False
    memory_key: str | None = None
    own_ids: bool = False
    patient: bool = False
    cache: bool | None = None
    admitted: Callable[[], Awaitable[None]] | None = None
    idempotency_key: IdempotencyKey | None = None
    shows_approvals: bool = True

    @property
    def named_session(self) -> str | None:
        """The session, if its client named it. One that was found out says nothing that the request does not."""
        return self.session_id if self.session_named else None
