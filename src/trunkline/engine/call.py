"""One call as the engine sees it, whatever surface it came through."""

import msgspec

from trunkline.model.request import Request
from trunkline.telemetry.outcome import Outcome


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request with its own bytes, its identity and where its fate is noted. `created_at` in unix seconds.

    `body` is absent once the request is not what the client sent any more. `own_ids`: the answer carries our id and time, never
    those of an upstream, so it is never relayed. `patient`: it may wait for a slot in a queue of any length.
    """

    request: Request
    body: bytes | None
    dialect: str
    turn_id: str
    created_at: int
    request_id: str
    tenant: str
    outcome: Outcome
    session_id: str | None = None
    own_ids: bool = False
    patient: bool = False
