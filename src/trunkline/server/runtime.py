"""What surfaces work with, in one value, so that adding to it does not touch their constructors."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from trunkline.config.profiles import Profile
from trunkline.config.schema import ServerSettings
from trunkline.engine.approvals import ApprovalRegistry
from trunkline.engine.cache import AnswerCache
from trunkline.engine.chaining import Chaining
from trunkline.engine.gateway import Gateway
from trunkline.engine.idempotency import Idempotency
from trunkline.engine.runs import Runs
from trunkline.engine.sessions import Sessions
from trunkline.ports.runtime import Clock, Entropy
from trunkline.ports.stores import Store
from trunkline.routing.balancer import Endpoint
from trunkline.routing.router import Router
from trunkline.telemetry.accounts import Accounts
from trunkline.telemetry.usage import UsageMeter


class Connection(Protocol):
    """What lives longer than its requests, and has to be told when the server leaves."""

    def drain(self) -> None:
        """Take on nothing new, end what is under way, then close."""
        ...


class State:
    """What changes while the server runs: which requests are in flight, and whether it is leaving."""

    def __init__(self) -> None:
        self.draining = False
        self.aborting = False
        self.in_flight: set[asyncio.Task[object]] = set()
        self.connections: set[Connection] = set()

    def drain(self) -> None:
        self.draining = True
        for connection in list(self.connections):
            connection.drain()

    def abort(self) -> None:
        """Ends every request in flight; each still says that it is not the whole answer."""
        self.draining = self.aborting = True
        for task in list(self.in_flight):
            task.cancel()


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a surface may use."""

    settings: ServerSettings
    profile: Profile
    gateway: Gateway
    router: Router
    endpoints: Sequence[Endpoint]
    usage: UsageMeter
    clock: Clock
    entropy: Entropy
    state: State
    accounts: Accounts
    cache: AnswerCache
    approvals: ApprovalRegistry
    sessions: Sessions
    idempotency: Idempotency


class ResponseState(msgspec.Struct, frozen=True):
    """What keeps responses: the store, the histories in it, and the work that goes on in the background.

    `unattended`: by tenant and id, those that are answered on although their client has left, as they stand until they are kept.
    """

    store: Store
    chaining: Chaining
    runs: Runs
    unattended: dict[tuple[str, str], bytes] = msgspec.field(default_factory=dict)
