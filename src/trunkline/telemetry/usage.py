"""Usage accounting: counters per tenant, model and backend, kept in memory and added to once per call, after its end."""

from collections.abc import Iterator

import msgspec

from trunkline.telemetry.outcome import Outcome


class UsageRow(msgspec.Struct, kw_only=True):
    """Totals since the server started. Times in seconds, summed over the calls that have them."""

    tenant: str
    model: str
    backend: str
    requests: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    duration_s: float = 0.0
    first_content_s: float = 0.0
    streams: int = 0


class UsageMeter:
    """Adds outcomes up."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], UsageRow] = {}

    def add(self, outcome: Outcome, *, tenant: str, started_s: float, ended_s: float, failed: bool) -> None:
        """Counts one call. Calls that no backend was asked to answer are not usage."""
        if outcome.backend is None or outcome.model is None:
            return
        key = (tenant, outcome.model, outcome.backend)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = UsageRow(tenant=tenant, model=outcome.model, backend=outcome.backend)
        row.requests += 1
        row.errors += failed
        row.duration_s += ended_s - started_s
        if outcome.stream and outcome.first_content_s is not None:
            row.streams += 1
            row.first_content_s += outcome.first_content_s - started_s
        usage = outcome.usage
        if usage is not None:
            row.input_tokens += usage.input_tokens
            row.output_tokens += usage.output_tokens
            row.cached_tokens += usage.cached_tokens or 0

    def rows(self, tenant: str | None) -> Iterator[UsageRow]:
        """The rows of one tenant, or all of them for None."""
        return (row for row in self._rows.values() if tenant is None or row.tenant == tenant)
