"""What became of one call, filled in as it happens, read once by the access log and the usage meter."""

from trunkline.model import events as ev
from trunkline.model.usage import Usage


class Outcome:
    """Mutable on purpose: one per call, written by the engine, read when the response has ended. All of it is the instance's own:
    reading a default from the class costs several times what writing it here does."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.operation = "chat"
        self.backend: str | None = None
        self.endpoint: str | None = None
        self.acted = False  # who was asked does things in the world, and may have begun to
        self.route: str | None = None  # set once no other backend can take the call over
        self.ignored: tuple[str, ...] = ()
        self.stream = False
        self.grace_s = 0.0  # how long the turn may go on without its client
        self.left = False  # by its client, for whom what was said so far stays said
        self.relayed = False
        self.warning: str | None = None  # what went wrong beside the answer, for its client
        self.cache: str | None = None  # hit or miss, where the cache was asked
        self.first_content_s: float | None = None  # monotonic clock
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.error_code: str | None = None
        self.origin: str | None = None  # of a browser's page that was refused for it
        self.error_status: int | None = None  # HTTP's, also of a failure after the head was sent

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
