"""What became of one call, filled in as it happens, read once by the access log and the usage meter."""

from trunkline.model import events as ev
from trunkline.model.usage import Usage


class Outcome:
    """Mutable on purpose: one per call, written by the engine, read when the response has ended."""

    __slots__ = (
        "backend",
        "cache",
        "endpoint",
        "error_code",
        "error_status",
        "finish_reason",
        "first_content_s",
        "grace_s",
        "ignored",
        "model",
        "operation",
        "relayed",
        "route",
        "stream",
        "usage",
    )

    def __init__(self) -> None:
        self.model: str | None = None
        self.operation = "chat"
        self.backend: str | None = None
        self.endpoint: str | None = None
        self.route: str | None = None  # set once no other backend can take the call over
        self.ignored: tuple[str, ...] = ()
        self.stream = False
        self.grace_s = 0.0  # how long the turn may go on without its client
        self.relayed = False
        self.cache: str | None = None  # hit or miss, where the cache was asked
        self.first_content_s: float | None = None  # monotonic clock
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.error_code: str | None = None
        self.error_status: int | None = None  # HTTP's, also of a failure after the head was sent

    def adopt(self, other: "Outcome") -> None:
        """Takes over what is known of a call that was made for this one."""
        for name in self.__slots__:
            known = getattr(other, name)
            if known:
                setattr(self, name, known)

    def note(self, event: ev.Event) -> None:
        """Keeps what the log wants of an event."""
        match event:
            case ev.UsageReported():
                self.usage = event.usage
            case ev.ChoiceDone():
                self.finish_reason = event.finish_reason
            case ev.TurnFailed():
                self.error_code = event.error.code or event.error.type
                self.error_status = event.error.status
            case ev.TurnIncomplete():
                self.finish_reason = self.finish_reason or event.reason
            case ev.TurnCancelled():
                self.error_code = "cancelled"
            case _:
                pass


NOTED = (ev.UsageReported, ev.ChoiceDone, *ev.TERMINALS)
"""Event types `note` looks at; the hot path asks this before it calls."""
