"""One call as the engine sees it, whatever surface it came through."""

import msgspec

from trunkline.model.request import Request
from trunkline.telemetry.outcome import Outcome


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request with its own bytes, its identity and where its fate is noted. `created_at` in unix seconds."""

    request: Request
    body: bytes
    dialect: str
    turn_id: str
    created_at: int
    request_id: str
    tenant: str
    outcome: Outcome
    session_id: str | None = None
