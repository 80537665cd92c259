"""What surfaces work with, in one value, so that adding to it does not touch their constructors."""

import asyncio
from collections.abc import Mapping

import msgspec

from trunkline.config.profiles import Profile
from trunkline.config.schema import ServerSettings
from trunkline.engine.gateway import Gateway, Slots
from trunkline.ports.runtime import Clock, Entropy
from trunkline.routing.router import Router
from trunkline.telemetry.usage import UsageMeter


class State:
    """What changes while the server runs: which requests are in flight, and whether it is leaving."""

    def __init__(self) -> None:
        self.draining = False
        self.aborting = False
        self.in_flight: set[asyncio.Task[object]] = set()

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
    slots: Mapping[str, Slots]
    usage: UsageMeter
    clock: Clock
    entropy: Entropy
    state: State
