"""What became of one call, filled in as it happens, read once by the access log and the usage meter."""

from trunkline.model import events as ev
from trunkline.model.usage import Usage


class Outcome:
    """Mutable on purpose: one per call, written by the engine, read when the response has ended. What is not written stays the
    class's: most of it, for most calls."""

    model: str | None = None
    operation = "chat"
    backend: str | None = None
    endpoint: str | None = None
    route: str | None = None  # set once no other backend can take the call over
    ignored: tuple[str, ...] = ()
    stream = False
    grace_s = 0.0  # how long the turn may go on without its client
    relayed = False
    warning: str | None = None  # what went wrong beside the answer, for its client
    cache: str | None = None  # hit or miss, where the cache was asked
    first_content_s: float | None = None  # monotonic clock
    usage: Usage | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    error_status: int | None = None  # HTTP's, also of a failure after the head was sent

    def adopt(self, other: "Outcome") -> None:
        """Takes over what is known of a call that was made for this one."""
        for name, known in vars(other).items():
            if known:
                setattr(self, name, known)

    def note(self, event: ev.Event) -> None:
        """Keeps what the log wants of an event."""
        if type(event) is ev.UsageReported:
            self.usage = event.usage
        elif type(event) is ev.ChoiceDone:
            self.finish_reason = event.finish_reason
        elif type(event) is ev.TurnFailed:
            self.error_code = event.error.code or event.error.type
            self.error_status = event.error.status
        elif type(event) is ev.TurnIncomplete:
            self.finish_reason = self.finish_reason or event.reason
        elif type(event) is ev.TurnCancelled:
            self.error_code = "cancelled"


NOTED = (ev.UsageReported, ev.ChoiceDone, *ev.TERMINALS)
"""Event types `note` looks at; the hot path asks this before it calls."""
