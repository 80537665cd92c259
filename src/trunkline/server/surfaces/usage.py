"""GET /v1/usage: what has been used. Without a time: since the server started. With `from`, `to` or `step`: from the store, as a
series. Both can be grouped and filtered by the same words.

A parameter that is not known is refused: a filter that was misspelt and ignored would give the numbers of everybody.
"""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline.model.errors import InvalidParameter
from trunkline.ports.stores import Store
from trunkline.ports.usage import (
    BUCKETS_S,
    DIMENSIONS,
    ERROR_CLASSES,
    HOUR_S,
    MINUTE_S,
    Dimension,
    Tally,
    UsageKey,
    UsageQuery,
)
from trunkline.server.exchange import exchange_of
from trunkline.server.json_response import send_json
from trunkline.server.privilege import Privilege
from trunkline.server.query import integer_of
from trunkline.server.runtime import Runtime
from trunkline.telemetry.usage import minutes_kept_from_s

GROUPS_SINCE_START: tuple[Dimension, ...] = ("tenant", "model", "backend")
DAY_S = 86_400
MAX_STEPS = 1500
MAX_RESULTS = 10_000
TIMES = ("from", "to", "step")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_STEP = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_UNITS_S = {"m": MINUTE_S, "h": HOUR_S, "d": DAY_S}


class Asked(msgspec.Struct, frozen=True):
    """A query string, read."""

    times: Mapping[str, str]
    group_by: tuple[Dimension, ...] | None
    only: dict[Dimension, tuple[str, ...]]


class Usage:
    """A tenant sees its own; one whose key is an admin's sees everybody's."""

    def __init__(self, runtime: Runtime, store: Store) -> None:
        self._runtime = runtime
        self._store = store
        self._privilege = Privilege(runtime.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant = exchange_of(scope).tenant
        seen = None if self._privilege.sees_all(tenant) else tenant
        asked = _asked(scope)
        body = await self._series(asked, seen) if asked.times else self._since_start(asked, seen)
        await send_json(msgspec.json.encode(body), send)

    def _since_start(self, asked: Asked, tenant: str | None) -> dict[str, object]:
        group_by = GROUPS_SINCE_START if asked.group_by is None else asked.group_by
        summed: dict[tuple[str, ...], Tally] = {}
        for key, tally in self._runtime.usage.since_start().items():
            if (tenant is None or key[0] == tenant) and _wanted(key, asked.only):
                group = tuple([value for name, value in zip(DIMENSIONS, key, strict=True) if name in group_by])
                summed.setdefault(group, Tally()).add(tally)
        names = [name for name in DIMENSIONS if name in group_by]
        return {"object": "list", "data": [_result(names, group, tally) for group, tally in summed.items()]}

    async def _series(self, asked: Asked, tenant: str | None) -> dict[str, object]:
        group_by = frozenset(asked.group_by or ())
        query = _query(asked, group_by, now_s=int(self._runtime.clock.now_s()))
        await self._runtime.usage.flush()
        rows = await self._store.read_usage(tenant, query)
        if len(rows) > MAX_RESULTS:
            raise InvalidParameter(
                f"This has more than {MAX_RESULTS} results; ask for a longer 'step', a shorter time or fewer groups.",
                param="step",
            )
        buckets: dict[int, list[dict[str, object]]] = {
            start_s: [] for start_s in range(query.from_s, query.to_s, query.step_s)
        }
        names = [name for name in DIMENSIONS if name in group_by]
        for row in rows:
            buckets[row.start_s].append(_result(names, [value for value in row.key if value is not None], row.tally))
        return {
            "object": "list",
            "from": query.from_s,
            "to": query.to_s,
            "step_s": query.step_s,
            "group_by": names,
            "data": [
                {"start_time": start_s, "end_time": start_s + query.step_s, "results": results}
                for start_s, results in buckets.items()
            ],
        }


def _asked(scope: Scope) -> Asked:
    given = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    known = (*TIMES, "group_by", *DIMENSIONS)
    for name in given:
        if name not in known:
            raise InvalidParameter(
                f"Unknown parameter: '{name[:100]}'. Known: {', '.join(known)}.",
                code="unknown_parameter",
                param=name[:100],
            )
    for name in TIMES:
        if len(given.get(name, "x")) > 1:
            raise InvalidParameter(f"'{name}' was given more than once.", param=name)
    return Asked(
        {name: given[name][0] for name in TIMES if name in given},
        _groups(given["group_by"]) if "group_by" in given else None,
        {name: tuple(given[name]) for name in DIMENSIONS if name in given},
    )


def _groups(given: Sequence[str]) -> tuple[Dimension, ...]:
    names = [name for text in given for name in text.split(",") if name]
    for name in names:
        if name not in DIMENSIONS:
            raise InvalidParameter(
                f"Invalid 'group_by': expected some of {', '.join(DIMENSIONS)}, but got '{name[:100]}'.",
                param="group_by",
            )
    return tuple([name for name in DIMENSIONS if name in names])


def _query(asked: Asked, group_by: frozenset[Dimension], *, now_s: int) -> UsageQuery:
    """The time asked for, widened to whole steps; without a step to one, of whole minutes or, where these are gone, hours."""
    times = dict(asked.times)
    to_s = integer_of(times, "to", now_s + 1, low=1, high=now_s + 366 * DAY_S)
    from_s = integer_of(times, "from", max(0, to_s - DAY_S), low=0)
    if from_s >= to_s:
        raise InvalidParameter(
            f"Invalid 'from': expected a unix time before 'to' ({to_s}), but got {from_s} instead.", param="from"
        )
    minutes_from_s = minutes_kept_from_s(now_s)
    step_s = _step_s(times["step"]) if "step" in times else MINUTE_S if from_s >= minutes_from_s else HOUR_S
    from_s, to_s = from_s - from_s % step_s, to_s + -to_s % step_s
    if from_s < minutes_from_s and step_s % HOUR_S:
        raise InvalidParameter(
            f"Invalid 'step': minutes are kept from {minutes_from_s} on; expected whole hours for what is older, "
            f"but got '{times['step']}'.",
            param="step",
        )
    if "step" not in times:
        step_s = to_s - from_s
    if (to_s - from_s) // step_s > MAX_STEPS:
        raise InvalidParameter(
            f"Invalid 'step': at most {MAX_STEPS} steps are given at once, this would be {(to_s - from_s) // step_s}; "
            "ask for longer ones or a shorter time.",
            param="step",
        )
    return UsageQuery(
        from_s=from_s, to_s=to_s, step_s=step_s, group_by=group_by, only=asked.only, limit=MAX_RESULTS + 1
    )


def _step_s(text: str) -> int:
    step = _STEP.fullmatch(text)
    if step is None:
        raise InvalidParameter(
            f"Invalid 'step': expected minutes, hours or days as in '5m', '1h' or '1d', but got '{text[:100]}'.",
            param="step",
        )
    return int(step[1]) * _UNITS_S[step[2]]


def _wanted(key: UsageKey, only: Mapping[Dimension, tuple[str, ...]]) -> bool:
    return all(value in only.get(name, (value,)) for name, value in zip(DIMENSIONS, key, strict=True))


def _result(names: Sequence[str], values: Sequence[str], tally: Tally) -> dict[str, object]:
    return {
        **dict(zip(names, values, strict=True)),
        "requests": tally.requests,
        "errors": sum(tally.errors),
        "error_classes": {name: count for name, count in zip(ERROR_CLASSES, tally.errors, strict=True) if count},
        "input_tokens": tally.input_tokens,
        "cached_tokens": tally.cached_tokens,
        "output_tokens": tally.output_tokens,
        "reasoning_tokens": tally.reasoning_tokens,
        "duration_s": tally.duration_s,
        "duration_quantiles_s": _quantiles(tally.durations),
        "streams": tally.streams,
        "first_content_s": tally.first_content_s,
        "first_content_quantiles_s": _quantiles(tally.first_contents),
    }


def _quantiles(counts: Sequence[int]) -> dict[str, float] | None:
    """As far as buckets tell: evenly spread within one, and the last bound for what is beyond it."""
    total = sum(counts)
    return {name: _quantile(counts, rank * total) for name, rank in QUANTILES.items()} if total else None


def _quantile(counts: Sequence[int], rank: float) -> float:
    below, low_s = 0, 0.0
    for high_s, count in zip(BUCKETS_S, counts, strict=False):
        if count and below + count >= rank:
            return round(low_s + (high_s - low_s) * (rank - below) / count, 4)
        below, low_s = below + count, high_s
    return low_s


def routes(runtime: Runtime, store: Store) -> list[BaseRoute]:
    return [Route("/v1/usage", Usage(runtime, store), methods=["GET"])]
