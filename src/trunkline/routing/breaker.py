"""Which endpoint is trusted with what: circuits that open on failures, and close again after a trial.

One circuit for each operation and class of failure, so that an endpoint that times out on long prompts still serves embeddings,
and a quota that is used up does not count as a dead server. An open circuit lets nobody through until its time is over; then one
request may try, and its outcome closes the circuit or opens it for twice as long. What a client did wrong never counts.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from trunkline.model.errors import (
    AgentError,
    AgentIncomplete,
    BackendError,
    BackendProtocolError,
    BackendRateLimited,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    TrunklineError,
    TurnFailure,
)
from trunkline.ports.runtime import Clock

ANY = "any"
"""Stands for every operation: what a probe of the endpoint found out."""
FailureClass = Literal["unavailable", "timeout", "rate_limited", "protocol", "server_error"]

THRESHOLDS: Mapping[FailureClass, int] = MappingProxyType(
    {"unavailable": 1, "rate_limited": 1, "timeout": 2, "server_error": 3, "protocol": 3}
)
"""Failures in a row that open a circuit. A refused connection and a stated limit are certain; one slow or odd answer is not."""
_BY_STATUS: Mapping[int, FailureClass] = MappingProxyType({429: "rate_limited", 503: "unavailable", 504: "timeout"})
OPEN_S = 1.0
OPEN_AT_MOST_S = 30.0
STATED_AT_MOST_S = 300.0
"""A Retry-After beyond this is not believed for routing; the client is still told it."""


def failure_class(error: TrunklineError) -> FailureClass | None:
    """What kind of failure an endpoint is blamed for; None where it is not to blame."""
    match error:
        case BackendRejected() | AgentError() | AgentIncomplete():
            return None
        case BackendRateLimited():
            return "rate_limited"
        case BackendTimeout():
            return "timeout"
        case BackendUnavailable():
            return "unavailable"
        case BackendProtocolError():
            return "protocol"
        case BackendError():
            return "server_error"
        case TurnFailure() if error.retryable:  # an error object within a stream
            odd = error.code == BackendProtocolError.default_code
            return "protocol" if odd else _BY_STATUS.get(error.status, "server_error")
        case _:
            return None


class _Circuit:
    """Failures of one kind, counted while they follow one another."""

    __slots__ = ("failures", "open_s", "opening", "trial", "until_s")

    def __init__(self) -> None:
        self.failures = 0
        self.open_s = 0.0
        self.until_s: float | None = None  # closed
        self.opening = 0  # which of the breaker's openings was its last
        self.trial = False


class Breaker:
    """The circuits of one endpoint. An endpoint without failures has none, and costs nothing to ask about.

    Attributes:
        openings: how often a circuit has opened: who notes it when a request begins can later say what had happened by then.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._circuits: dict[tuple[str, FailureClass], _Circuit] = {}
        self.openings = 0

    def blocked_s(self, operation: str) -> float:
        """Seconds until this operation may be tried; 0 if now."""
        if not self._circuits:
            return 0.0
        now, longest = self._clock.monotonic_s(), 0.0
        for circuit in self._of(operation):
            if circuit.until_s is not None:
                # While a trial is under way nobody else may follow; its end decides.
                longest = max(longest, circuit.until_s - now, OPEN_S if circuit.trial else 0.0)
        return longest

    def begin(self, operation: str) -> bool:
        """A request goes to the endpoint. Whether it is the trial of a circuit whose time is over."""
        if not self._circuits:
            return False
        now, trial = self._clock.monotonic_s(), False
        for circuit in self._of(operation):
            if circuit.until_s is not None and circuit.until_s <= now and not circuit.trial:
                circuit.trial = trial = True
        return trial

    def abandoned(self, operation: str) -> None:
        """A trial ended without saying anything about the endpoint: its client left. The next one may try."""
        for circuit in self._of(operation):
            circuit.trial = False

    def succeeded(self, operation: str, *, openings: int) -> None:
        """A request succeeded that had begun after so many openings. It says nothing of a circuit that has opened since."""
        if self._circuits:
            self._circuits = {
                key: circuit
                for key, circuit in self._circuits.items()
                if key[0] not in (operation, ANY) or circuit.opening > openings
            }

    def failed(
        self, operation: str, kind: FailureClass, *, trial: bool = False, retry_after_s: float | None = None
    ) -> None:
        """Counts a failure. Those of requests that were under way when the circuit opened do not make it open for longer."""
        if trial:
            self.abandoned(operation)  # whatever it failed of: it is no longer under way
        circuit = self._circuits.setdefault((operation, kind), _Circuit())
        circuit.failures += 1
        now = self._clock.monotonic_s()
        if circuit.until_s is None:
            if circuit.failures >= THRESHOLDS[kind]:
                self._open(circuit, now)
        elif trial and circuit.until_s <= now:
            self._open(circuit, now)
        if circuit.until_s is not None:
            circuit.until_s = max(circuit.until_s, now + min(STATED_AT_MOST_S, retry_after_s or 0.0))

    @property
    def out_of_reach(self) -> bool:
        """Whether it was out of reach and nobody, call or probe, has been answered since."""
        return any(
            kind == "unavailable" and circuit.until_s is not None for (_, kind), circuit in self._circuits.items()
        )

    def reachable(self) -> None:
        """A probe was answered: nothing that was only out of reach is held against the endpoint any more."""
        if self._circuits:
            self._circuits = {key: circuit for key, circuit in self._circuits.items() if key[1] != "unavailable"}

    def unreachable(self) -> None:
        """A probe was not answered."""
        self.failed(ANY, "unavailable", trial=True)

    def states(self) -> Mapping[str, float]:
        """Circuits that are not closed, as `operation/class`, for those who watch: with the seconds that one stays open, never
        fewer than they are; 0 for one that is half-open, whose next request is its trial, unless that is under way."""
        now = self._clock.monotonic_s()
        return {
            f"{operation}/{kind}": math.ceil(max(0.0, circuit.until_s - now) * 10) / 10
            for (operation, kind), circuit in self._circuits.items()
            if circuit.until_s is not None
        }

    def _of(self, operation: str) -> list[_Circuit]:
        return [circuit for (of, _), circuit in self._circuits.items() if of in (operation, ANY)]

    def _open(self, circuit: _Circuit, now: float) -> None:
        """For the shortest time, or for twice as long as before."""
        circuit.open_s = min(OPEN_AT_MOST_S, circuit.open_s * 2 or OPEN_S)
        circuit.until_s = now + circuit.open_s
        self.openings += 1
        circuit.opening = self.openings
