"""Usage accounting: calls added up in memory when they end, and written to the store in batches.

A call costs one look into a dictionary and a few additions. What has gathered is written half a second later, so a crash loses no
more than that, and when the server closes, so that a clean end loses nothing. Where the store takes nothing, it is kept here and
tried again; after many minutes of that, as hours, so that it stays small. Since models may be named by clients, so many
combinations are counted apart and no more.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping

from trunkline.model.errors import StoreError
from trunkline.ports.runtime import Clock
from trunkline.ports.usage import ERROR_CLASSES, HOUR_S, MINUTE_S, ErrorClass, Tally, UsageKey, UsageStore
from trunkline.telemetry.outcome import Outcome

FLUSH_S = 0.5
RETRY_S = 5.0
MINUTES_KEPT_S = 7 * 86_400
HOURS_KEPT_S = 400 * 86_400
MAX_KEYS = 1000
MAX_UNWRITTEN = 10_000
OTHERS = "(others)"
"""Stands for every model beyond MAX_KEYS combinations."""
MODEL_CHARACTERS = 200
MAX_TOKENS = 10**9
"""Of one call."""

logger = logging.getLogger("trunkline.usage")


def minutes_kept_from_s(now_s: float) -> int:
    """The unix second, a whole hour, from which minutes are known."""
    return int(now_s - MINUTES_KEPT_S) // HOUR_S * HOUR_S


def error_class(code: str | None, status: int) -> ErrorClass:
    """What kind of failure it was, of few: a code may be an upstream's own word. `status` is 0 where none is known."""
    if code in ("cancelled", "client_disconnected"):
        return "cancelled"
    match status:
        case 429:
            return "rate_limited"
        case 503:
            return "unavailable"
        case 504:
            return "timeout"
        case _:
            return "invalid_request" if 400 <= status < 500 else "server_error"


def _believed(tokens: int | None) -> int:
    """A count that can be one: a backend may say anything, and a sum never falls nor outgrows a database."""
    return tokens if tokens is not None and 0 <= tokens <= MAX_TOKENS else 0


class UsageMeter:
    """Adds outcomes up. `start` it to have them written, `close` it to have them written to the last."""

    def __init__(self, store: UsageStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._since_start: dict[UsageKey, Tally] = {}
        self._fresh: dict[tuple[int, UsageKey], Tally] = {}
        self._unwritten: dict[tuple[int, UsageKey], Tally] = {}
        self._statuses: dict[int, int] = {}
        self._forgotten_s = 0
        self._failing = False
        self._arrived = asyncio.Event()
        self._writing = asyncio.Lock()
        self._writer: asyncio.Task[None] | None = None
        self._flushes: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self._forget()
        self._writer = asyncio.create_task(self._keep_writing(), name="usage")

    async def close(self) -> None:
        """Writes what is left. Safe to call twice and without `start`."""
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
            self._writer = None
        await self.flush()

    def ended(self, status: int) -> None:
        """Counts a request or a turn of a WebSocket by the status it ended with, whether or not a backend was asked."""
        self._statuses[status] = self._statuses.get(status, 0) + 1

    def add(
        self, outcome: Outcome, *, tenant: str, started_s: float, ended_s: float, now_s: float, failed: int | None
    ) -> None:
        """Counts one call. Calls that no backend was asked to answer are not usage.

        `started_s` and `ended_s` are of the monotonic clock, `now_s` is the unix time. `failed` is an HTTP status, 0 where the
        failure has none, or None for a call that went well.
        """
        backend, model = outcome.backend, outcome.model
        if backend is None or model is None:
            return
        minute = int(now_s) // MINUTE_S * MINUTE_S
        key = (tenant, model, backend, outcome.endpoint or backend, outcome.operation)
        tally = self._fresh.get((minute, key))
        if tally is None:
            tally = self._begun(minute, key)
        tally.requests += 1
        if failed is not None:
            tally.errors[ERROR_CLASSES.index(error_class(outcome.error_code, outcome.error_status or failed))] += 1
        tally.lasted(ended_s - started_s)
        if outcome.stream and outcome.first_content_s is not None:
            tally.began(outcome.first_content_s - started_s)
        usage = outcome.usage
        if usage is not None:
            tally.input_tokens += _believed(usage.input_tokens)
            tally.output_tokens += _believed(usage.output_tokens)
            if usage.cached_tokens:
                tally.cached_tokens += _believed(usage.cached_tokens)
            if usage.reasoning_tokens:
                tally.reasoning_tokens += _believed(usage.reasoning_tokens)

    def since_start(self) -> Mapping[UsageKey, Tally]:
        """What was counted since the server started."""
        self._settle()
        return self._since_start

    def statuses(self) -> Iterator[tuple[int, int]]:
        """Requests since the start, by status."""
        return iter(sorted(self._statuses.items()))

    async def flush(self) -> None:
        """Has everything counted so far written. Where that fails it is in the log, and tried again later.

        Who is cancelled leaves the writing to itself: what becomes of it is seen to all the same.
        """
        flush = asyncio.create_task(self._write(), name="usage flush")
        self._flushes.add(flush)
        flush.add_done_callback(self._flushes.discard)
        await asyncio.shield(flush)

    async def _write(self) -> None:
        async with self._writing:
            self._settle()
            unwritten, self._unwritten = self._unwritten, {}
            if not unwritten:
                return
            try:
                await self._store.add_usage([(minute, key, tally) for (minute, key), tally in unwritten.items()])
            except StoreError as error:
                for (minute, key), tally in unwritten.items():
                    self._keep(minute, key, tally)
                if not self._failing:
                    logger.error("usage could not be stored, it is kept and tried again: %s", error.message)
                self._failing = True
            else:
                self._failing = False

    def _begun(self, minute: int, key: UsageKey) -> Tally:
        tenant, model, backend, endpoint, operation = key
        if len(model) > MODEL_CHARACTERS:
            model = f"{model[:MODEL_CHARACTERS]}…"
        model = model.encode("utf-8", "replace").decode()  # a lone surrogate goes into no database
        key = (tenant, model, backend, endpoint, operation)
        if key not in self._since_start and len(self._since_start) >= MAX_KEYS:
            key = (tenant, OTHERS, backend, endpoint, operation)
        self._since_start.setdefault(key, Tally())
        if not self._fresh:
            self._arrived.set()
        return self._fresh.setdefault((minute, key), Tally())

    def _settle(self) -> None:
        """From what a call adds to, to what is shown and what is written."""
        fresh, self._fresh = self._fresh, {}
        for (minute, key), tally in fresh.items():
            self._since_start[key].add(tally)
            self._keep(minute, key, tally)

    def _keep(self, minute: int, key: UsageKey, tally: Tally) -> None:
        if len(self._unwritten) >= MAX_UNWRITTEN:
            minute -= minute % HOUR_S
        kept = self._unwritten.get((minute, key))
        if kept is None:
            self._unwritten[minute, key] = tally
        else:
            kept.add(tally)

    async def _keep_writing(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(RETRY_S if self._failing else FLUSH_S)
            self._arrived.clear()
            await self.flush()
            if self._unwritten:
                self._arrived.set()
            await self._forget()

    async def _forget(self) -> None:
        """Once in an hour, what is older than it is kept."""
        now_s = self._clock.now_s()
        minutes_from_s = minutes_kept_from_s(now_s)
        if minutes_from_s == self._forgotten_s:
            return
        hours_from_s = int(now_s - HOURS_KEPT_S) // HOUR_S * HOUR_S
        try:
            await self._store.forget_usage(minutes_before_s=minutes_from_s, hours_before_s=hours_from_s)
            self._forgotten_s = minutes_from_s
        except StoreError as error:
            logger.error("old usage could not be removed, it is tried again: %s", error.message)
