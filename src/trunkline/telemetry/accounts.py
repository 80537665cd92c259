"""What is written down of a call when it has ended, whether a request waited for it or it was work in the background: one line of
the log, and its part of the usage."""

from functools import lru_cache

from trunkline.ports.runtime import Clock
from trunkline.telemetry.logs import AccessLog, line, logfields
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
        named: str,
        outcome: Outcome,
        *,
        tenant: str,
        started_s: float,
        status: int = 0,
    ) -> None:
        """One call that has ended just now.

        Args:
            named: the line's first fields, as `logfields` gives them.
            started_s: of the monotonic clock.
            status: HTTP's, where somebody was given one.
        """
        ended_s, now_s = self._clock.monotonic_s(), self._clock.now_s()
        failed = status if status >= 400 or outcome.error_code is not None else None
        self._usage.add(outcome, tenant=tenant, started_s=started_s, ended_s=ended_s, now_s=now_s, failed=failed)
        if status:
            self._usage.ended(status)
        if self._access_log is None:
            return
        usage, first_s = outcome.usage, outcome.first_content_s
        model, route = outcome.model, outcome.route or outcome.backend
        if model is not None and len(model) > LOGGED_CHARACTERS:
            model, route = shortened(model), route and shortened(route)  # a route holds the model's name
        fields = [named, f"ms={(ended_s - started_s) * 1000:.3f}", _whom(tenant, model, route)]
        if outcome.stream:
            fields.append("stream=true")
        if outcome.relayed:
            fields.append("relayed=true")
        if outcome.cache is not None:
            fields.append(f"cache={outcome.cache}")
        if outcome.stream and first_s is not None:
            fields.append(f"first_ms={(first_s - started_s) * 1000:.3f}")
        if usage is not None and usage.input_tokens is not None:
            fields.append(f"input_tokens={usage.input_tokens}")
        if usage is not None and usage.output_tokens is not None:
            fields.append(f"output_tokens={usage.output_tokens}")
        if outcome.finish_reason is not None:
            fields.append(f"finish={outcome.finish_reason}")  # one of ours, as the cache's word is
        if outcome.error_code is not None:
            fields.append(logfields({"error": outcome.error_code, "origin": outcome.origin}))
        self._access_log.write(line(event, " ".join(fields), at_s=now_s))


@lru_cache(maxsize=512)
def _whom(tenant: str, model: str | None, route: str | None) -> str:
    """The same from one call to the next, so it is not written anew for each."""
    return logfields({"tenant": tenant, "model": model, "route": route})


def shortened(text: str) -> str:
    """A client's own text for the log: bounded, so that nobody fills the disk with one request."""
    return text if len(text) <= LOGGED_CHARACTERS else f"{text[:LOGGED_CHARACTERS]}…"
