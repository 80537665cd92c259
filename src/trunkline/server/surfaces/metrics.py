"""GET /metrics: what Prometheus scrapes.

Counters and histograms begin at 0 with the process, as Prometheus expects. Tenants label what they are billed for (requests,
errors, tokens) and not the histograms, whose number would be multiplied by them; models are bounded where they are counted.
"""

from collections.abc import Iterable, Sequence

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline import __version__
from trunkline.model.errors import PermissionDenied
from trunkline.ports.stores import Store
from trunkline.ports.usage import BUCKETS_S, DIMENSIONS, ERROR_CLASSES, Tally
from trunkline.server.exchange import exchange_of
from trunkline.server.privilege import Privilege
from trunkline.server.runtime import Runtime
from trunkline.telemetry.metrics import CONTENT_TYPE, Family, Sample, Source, counter, exposition, gauge, histogram


class Metrics:
    """`sources` give what belongs to none of the runtime's parts."""

    def __init__(self, runtime: Runtime, store: Store, sources: Sequence[Source]) -> None:
        self._runtime = runtime
        self._store = store
        self._sources = (self._usage, self._latencies, self._endpoints, self._server, *sources)
        self._privilege = Privilege(runtime.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._privilege.sees_all(exchange_of(scope).tenant):
            raise PermissionDenied("metrics are about every tenant; they need a key with 'admin = true' in server.keys")
        body = exposition([family for source in self._sources for family in source()])
        head = [(b"content-type", CONTENT_TYPE), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    def _usage(self) -> Iterable[Family]:
        rows = [(_labels(DIMENSIONS, key), tally) for key, tally in self._runtime.usage.since_start().items()]
        yield counter(
            "trunkline_requests_total",
            "Calls that a backend was asked to answer, and that have ended.",
            [Sample(tally.requests, labels) for labels, tally in rows],
        )
        yield counter(
            "trunkline_errors_total",
            "Those that failed, by the class of the failure.",
            [
                Sample(count, {**labels, "class": name})
                for labels, tally in rows
                for name, count in zip(ERROR_CLASSES, tally.errors, strict=True)
                if count
            ],
        )
        for name, text in (
            ("input", "Tokens of prompts, as the backends count them; cached ones included."),
            ("cached", "Tokens of prompts that a backend read from its cache."),
            ("output", "Tokens of answers; those of reasoning included."),
            ("reasoning", "Tokens of reasoning."),
        ):
            yield counter(
                f"trunkline_{name}_tokens_total",
                text,
                [Sample(getattr(tally, f"{name}_tokens"), labels) for labels, tally in rows],
            )

    def _latencies(self) -> Iterable[Family]:
        summed: dict[tuple[str, ...], Tally] = {}
        for (_, *key), tally in self._runtime.usage.since_start().items():
            summed.setdefault(tuple(key), Tally()).add(tally)
        rows = [(_labels(DIMENSIONS[1:], key), tally) for key, tally in summed.items()]
        yield Family(
            "trunkline_request_duration_seconds",
            "histogram",
            "From a request to the end of its answer.",
            [one for labels, tally in rows for one in histogram(labels, BUCKETS_S, tally.durations, tally.duration_s)],
        )
        yield Family(
            "trunkline_time_to_first_token_seconds",
            "histogram",
            "From a streamed request to the first content of its answer.",
            [
                one
                for labels, tally in rows
                if tally.streams
                for one in histogram(labels, BUCKETS_S, tally.first_contents, tally.first_content_s)
            ],
        )

    def _endpoints(self) -> Iterable[Family]:
        rows = [({"backend": one.backend_name, "endpoint": one.label}, one) for one in self._runtime.endpoints]
        yield gauge(
            "trunkline_in_flight", "Calls that hold a slot.", [Sample(one.active, labels) for labels, one in rows]
        )
        yield gauge(
            "trunkline_queued",
            "Calls that wait for a slot, by the endpoint they would get first; background ones included.",
            [Sample(one.waiting, labels) for labels, one in rows],
        )
        states = [(labels, one.breaker.states()) for labels, one in rows]
        yield gauge(
            "trunkline_breaker_open",
            "Circuits that are not closed: operations the endpoint is not trusted with after failures of one class.",
            [Sample(len(circuits), labels) for labels, circuits in states],
        )
        yield gauge(
            "trunkline_breaker_retry_seconds",
            "Until an open circuit lets a request through for trial; 0 where the next request is the trial.",
            [
                Sample(left_s, {**labels, "operation": name.partition("/")[0], "class": name.partition("/")[2]})
                for labels, circuits in states
                for name, left_s in circuits.items()
            ],
        )

    def _server(self) -> Iterable[Family]:
        state = self._runtime.state
        yield gauge("trunkline_info", "Which version this is.", [Sample(1, {"version": __version__})])
        yield counter(
            "trunkline_http_requests_total",
            "Requests, and turns of WebSockets, that have ended, also those that no backend was asked about.",
            [Sample(count, {"status": str(status)}) for status, count in self._runtime.usage.statuses()],
        )
        yield gauge("trunkline_http_in_flight", "Requests in flight.", [Sample(len(state.in_flight))])
        yield gauge("trunkline_websockets", "WebSockets that are open.", [Sample(len(state.connections))])
        yield gauge("trunkline_draining", "1 while the server stops.", [Sample(int(state.draining))])
        yield gauge(
            "trunkline_store_waiting", "Reads and writes that wait for the store.", [Sample(self._store.waiting)]
        )


def _labels(names: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    return dict(zip(names, values, strict=True))


def routes(runtime: Runtime, store: Store, *, sources: Sequence[Source]) -> list[BaseRoute]:
    return [Route("/metrics", Metrics(runtime, store, sources), methods=["GET"])]
