"""GET /metrics as Prometheus reads it, through the parser of its official client."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Serve
from tests.fakes.upstream import FakeUpstream, json_answer
from tests.serving import ECHO, Reply, Serving, eventually
from trunkline import __version__
from trunkline.telemetry.metrics import Family, Sample, exposition

KEYED = (
    '[server]\napi_keys = ["sk-default"]\n[[server.keys]]\nname = "alice"\nkey = "sk-alice"\n'
    '[[server.keys]]\nname = "root"\nkey = "sk-root"\nadmin = true\n' + ECHO
)
HANG = '[[rules]]\nmatch = "hang"\nsteps = [{ text = "so far " }, { hang = true }]\n'
LABELS = {"model": "scripted", "backend": "talk", "endpoint": "talk", "operation": "chat"}
Scraped = Mapping[str, list[tuple[dict[str, str], float]]]


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-{name}"}


def read(reply: Reply) -> Scraped:
    """Samples by name, after checking what every scrape must be."""
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(reply.body.decode()):
        assert family.documentation.endswith("."), family
        assert family.type in {"counter", "gauge", "histogram"}, family
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    for name, samples in found.items():
        assert len({tuple(sorted(labels.items())) for labels, _ in samples}) == len(samples), name
        assert name.startswith(("trunkline_", "process_")), name
    return found


async def scrape(server: Serving, **headers: str) -> Scraped:
    return read(await server.get("/metrics", headers=headers))


async def test_calls_errors_and_tokens_are_counted(echo: Serving) -> None:
    await echo.chat("one two three")
    await echo.chat("one two", stream=True)
    found = await scrape(echo)
    tenant = {"tenant": "default", **LABELS}
    assert found["trunkline_requests_total"] == [(tenant, 2)]
    assert found["trunkline_input_tokens_total"] == found["trunkline_output_tokens_total"] == [(tenant, 5)]
    assert found["trunkline_cached_tokens_total"] == found["trunkline_reasoning_tokens_total"] == [(tenant, 0)]
    assert "trunkline_errors_total" not in found
    assert found["trunkline_info"] == [({"version": __version__}, 1)]


async def test_histograms_grow_from_bucket_to_bucket_and_agree_with_their_counts(echo: Serving) -> None:
    for stream in (True, False, True):
        await echo.chat("one", stream=stream)
    found = await scrape(echo)
    for name, count in (("trunkline_request_duration_seconds", 3), ("trunkline_time_to_first_token_seconds", 2)):
        buckets = [(float(labels["le"]), value) for labels, value in found[f"{name}_bucket"]]
        assert buckets == sorted(buckets)
        assert math.isinf(buckets[-1][0])
        assert int(buckets[-1][1]) == count
        assert found[f"{name}_count"] == [(LABELS, count)]
        assert found[f"{name}_sum"][0][1] > 0


async def test_a_refusal_counts_where_no_backend_was_asked(echo: Serving) -> None:
    await echo.chat(n=0)
    await echo.get("/v1/nothing")
    await echo.chat()
    found = await scrape(echo)
    assert found["trunkline_http_requests_total"] == [
        ({"status": "200"}, 1),
        ({"status": "400"}, 1),
        ({"status": "404"}, 1),
    ]
    assert found["trunkline_http_in_flight"] == [({}, 1)]  # this scrape
    assert found["trunkline_requests_total"][0][1] == 1


async def test_slots_and_queues_are_shown_as_they_are_now(serve: Serve) -> None:
    toml = f'{ECHO}script = "s.toml"\nmax_concurrency = 1\n'
    async with serve(toml, scripts={"s.toml": HANG}) as server, server.stream("hang") as wire:
        await wire.head()
        await wire.until(b"so far")
        async with server.stream("hang"):
            endpoint = server.application.runtime.endpoints[0]
            await eventually(lambda: endpoint.waiting == 1)
            found = await scrape(server)
            talk = {"backend": "talk", "endpoint": "talk"}
            assert (found["trunkline_in_flight"], found["trunkline_queued"]) == ([(talk, 1)], [(talk, 1)])
            assert found["trunkline_breaker_open"] == [(talk, 0)]
            assert found["trunkline_store_waiting"][0][1] >= 0


async def test_failures_and_the_circuits_they_open_are_shown(upstream: FakeUpstream, serve: Serve) -> None:
    toml = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\nmodels = ["m"]\nretries = 0\n'
    async with serve(toml) as server:
        busy = json_answer({"error": {"message": "busy"}}, status="503 Busy", headers={"Retry-After": "60"})
        upstream.plan([busy])
        assert (await server.chat(model="m")).status == 503
        found = await scrape(server)
        up = {"backend": "up", "endpoint": "up"}
        ((labels, count),) = found["trunkline_errors_total"]
        assert (labels["class"], labels["model"], count) == ("unavailable", "m", 1)
        assert found["trunkline_breaker_open"] == [(up, 1)]
        ((labels, left_s),) = found["trunkline_breaker_retry_seconds"]
        assert labels == {**up, "operation": "chat", "class": "unavailable"}
        assert 0 < left_s <= 60


async def test_the_process_and_its_loop_are_shown(echo: Serving) -> None:
    found = await scrape(echo)
    assert found["process_cpu_seconds_total"][0][1] > 0
    assert found["process_start_time_seconds"][0][1] > 1_700_000_000
    assert found["process_open_fds"][0][1] < found["process_max_fds"][0][1]
    assert found["process_resident_memory_bytes"][0][1] > 10_000_000
    assert found["trunkline_event_loop_lag_seconds_count"][0][1] >= 0
    assert found["trunkline_draining"] == found["trunkline_websockets"] == [({}, 0)]


async def test_only_who_may_see_everybody_may_scrape(serve: Serve) -> None:
    async with serve(KEYED) as server:
        await server.chat("one", headers=key("alice"))
        assert (await server.get("/metrics")).error["code"] == "invalid_api_key"
        for name in ("default", "alice"):
            refused = await server.get("/metrics", headers=key(name))
            assert (refused.status, refused.error["type"]) == (403, "permission_error")
            assert "admin = true" in refused.error["message"]
        found = await scrape(server, **key("root"))
        assert [labels["tenant"] for labels, _ in found["trunkline_requests_total"]] == ["alice"]
        assert "tenant" not in found["trunkline_request_duration_seconds_count"][0][0]


async def test_where_all_keys_are_one_tenants_each_may_scrape(serve: Serve) -> None:
    async with serve(f'[server]\napi_keys = ["sk-default"]\n{ECHO}') as server:
        assert (await server.get("/metrics")).status == 401
        await scrape(server, **key("default"))


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", 'a\\"b\\n', "日本 {x}", ""])
def test_any_text_is_a_label(text: str) -> None:
    families: list[Any] = [
        Family("trunkline_x", "gauge", 'A "help" \\ text\nin lines.', [Sample(0.5, {"model": text})])
    ]
    ((family,)) = text_string_to_metric_families(exposition(families).decode())
    assert family.documentation == 'A "help" \\ text\nin lines.'
    (sample,) = family.samples
    assert (sample.labels, sample.value) == ({"model": text}, 0.5)
