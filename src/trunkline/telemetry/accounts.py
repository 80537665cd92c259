"""What is written down of a call when it has ended, whether a request waited for it or it was work in the background: one line of
the log, and its part of the usage."""

from trunkline.ports.runtime import Clock
from trunkline.telemetry.logs import AccessLog, FieldValue, logfmt
from trunkline.telemetry.outcome import Outcome
from trunkline.telemetry.usage import UsageMeter

LOGGED_CHARACTERS = 200


class Accounts:
    """`access_log` is None where no lines are wanted."""

    def __init__(self, usage: UsageMeter, access_log: AccessLog | None, *, clock: Clock) -> None:
        self._usage = usage
        self._access_log = access_log
        self._clock = clock

    def add(
        self,
        event: str,
        named: dict[str, FieldValue],
        outcome: Outcome,
        *,
        tenant: str,
        started_s: float,
        status: int = 0,
    ) -> None:
        """One call that has ended just now. `named` are the line's first fields, `started_s` is of the monotonic clock, `status` is
        HTTP's where somebody was given one."""
        ended_s, now_s = self._clock.monotonic_s(), self._clock.now_s()
        failed = status if status >= 400 or outcome.error_code is not None else None
        self._usage.add(outcome, tenant=tenant, started_s=started_s, ended_s=ended_s, now_s=now_s, failed=failed)
        if status:
            self._usage.ended(status)
        if self._access_log is None:
            return
        usage, first_s = outcome.usage, outcome.first_content_s
        route = outcome.route or outcome.backend
        fields: dict[str, FieldValue] = {
            **named,
            "ms": (ended_s - started_s) * 1000,
            "tenant": tenant,
            "model": None if outcome.model is None else shortened(outcome.model),
            "route": None if route is None else shortened(route),  # it holds the model's name
            "stream": True if outcome.stream else None,
            "relayed": True if outcome.relayed else None,
            "cache": outcome.cache,
            "first_ms": (first_s - started_s) * 1000 if outcome.stream and first_s is not None else None,
            "input_tokens": usage.input_tokens if usage is not None else None,
            "output_tokens": usage.output_tokens if usage is not None else None,
            "finish": outcome.finish_reason,
            "error": outcome.error_code,
        }
        self._access_log.write(logfmt(event, fields, at_s=now_s))


def shortened(text: str) -> str:
    """A client's own text for the log: bounded, so that nobody fills the disk with one request."""
    return text if len(text) <= LOGGED_CHARACTERS else f"{text[:LOGGED_CHARACTERS]}…"
