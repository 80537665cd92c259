"""GET /v1/usage as its readers see it: since the start, over time, by whom and of what."""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.stores import HandClock
from tests.fakes.upstream import COMPLETION, HELLO, STREAM, Do, FakeUpstream, chunk, json_answer, streamed, text_frame
from tests.responses import Asking
from tests.serving import ECHO, Serving, eventually, serving
from tests.sockets import socket

KEYED = (
    '[server]\napi_keys = ["sk-default"]\n[[server.keys]]\nname = "alice"\nkey = "sk-alice"\n'
    '[[server.keys]]\nname = "root"\nkey = "sk-root"\nadmin = true\n'
    '[backends.talk]\ntype = "scripted"\nmodels = ["one", "two"]\n'
)
HOUR = 1_800_000_000
"""A whole hour, and the time the HandClock shows first."""
DAY = 86_400


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-{name}"}


async def series(server: Serving, query: str, **headers: str) -> Any:
    reply = await server.get(f"/v1/usage?{query}", headers=headers)
    assert reply.status == 200, reply.body
    return reply.json()


async def totals(server: Serving, query: str, *fields: str, **headers: str) -> list[tuple[Any, ...]]:
    """These fields of every result of a series, whatever its time."""
    body = await series(server, query, **headers)
    return [tuple([result[name] for name in fields]) for bucket in body["data"] for result in bucket["results"]]


def on_file(folder: Path, clock: HandClock | None = None) -> contextlib.AbstractAsyncContextManager[Serving]:
    return serving(f'[store]\nurl = "sqlite:///usage.db"\n{ECHO}', base_dir=folder, clock=clock)


async def test_a_series_has_every_step_and_each_call_in_its_own() -> None:
    clock = HandClock(HOUR + 30)
    async with serving(clock=clock) as server:
        await server.chat("one two three")
        clock.now = HOUR + 125
        await server.chat("one two", stream=True)
        await server.chat("one")
        body = await series(server, f"from={HOUR + 10}&to={HOUR + 200}&step=1m")
        assert {name: body[name] for name in ("object", "from", "to", "step_s", "group_by")} == {
            "object": "list",
            "from": HOUR,
            "to": HOUR + 240,
            "step_s": 60,
            "group_by": [],
        }
        assert [(one["start_time"], one["end_time"]) for one in body["data"]] == [
            (HOUR + at, HOUR + at + 60) for at in (0, 60, 120, 180)
        ]
        assert [[result["requests"] for result in one["results"]] for one in body["data"]] == [[1], [], [2], []]
        result = body["data"][2]["results"][0]
        assert (result["input_tokens"], result["output_tokens"], result["streams"], result["errors"]) == (3, 3, 1, 0)


async def test_without_a_step_the_whole_time_is_one_and_without_a_time_it_is_the_last_day() -> None:
    clock = HandClock(HOUR + 30)
    async with serving(clock=clock) as server:
        await server.chat("one")
        clock.now += 3600
        await server.chat("one")
        (whole,) = (await series(server, f"from={HOUR}"))["data"]
        assert (whole["start_time"], whole["end_time"]) == (HOUR, HOUR + 3660)
        assert whole["results"][0]["requests"] == 2
        day = await series(server, "step=1h")
        assert (day["from"], day["to"]) == (HOUR - 23 * 3600, HOUR + 7200)
        assert [len(bucket["results"]) for bucket in day["data"]] == [0] * 23 + [1, 1]


async def test_every_kind_of_call_counts_once(serve: Serve) -> None:
    async with serve() as server:
        client = Asking(server)
        await server.chat("one two")
        await client.create("one two", store=False)
        background = await client.create("one two", background=True)
        await client.ended(background["id"])
        async with socket(server) as ws:
            await ws.answer("one two")
        counted = await server.request(
            "POST", "/v1/responses/input_tokens", json.dumps({"model": "scripted", "input": "one two"}).encode()
        )
        assert counted.json()["input_tokens"] == 2
        rows = await totals(server, "step=1d&group_by=operation", "operation", "requests", "output_tokens")
        assert rows == [("chat", 4, 8), ("count_tokens", 1, 0)]
        (row,) = await totals(
            server, "step=1d&group_by=tenant,model,backend,endpoint&operation=chat", "tenant", "model", "endpoint"
        )
        assert row == ("default", "scripted", "talk")


async def test_a_stream_that_its_client_left_counts_as_cancelled(serve: Serve) -> None:
    rule = '[[rules]]\nmatch = "hang"\nsteps = [{ text = "so far " }, { hang = true }]\n'
    async with serve(f'{ECHO}script = "s.toml"\n', scripts={"s.toml": rule}) as server:
        async with server.stream("hang") as wire:
            await wire.head()
            await wire.until(b"so far")
        await eventually(lambda: server.backend().active == 0 and bool(server.access_lines))
        (row,) = await totals(server, "step=1h", "errors", "error_classes", "streams")
        assert row == (1, {"cancelled": 1}, 1)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        ("400 Bad Request", "invalid_request"),
        ("429 Too Many Requests", "rate_limited"),
        ("503 Unavailable", "unavailable"),
        ("500 Broken", "server_error"),
    ],
)
async def test_a_failure_counts_by_its_class(upstream: FakeUpstream, serve: Serve, status: str, name: str) -> None:
    """The class is that of the status, as an upstream's own code may be anything."""
    toml = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\nmodels = ["m"]\nretries = 0\n'
    async with serve(toml) as server:
        upstream.plan([json_answer({"error": {"message": "no", "code": "a_code_of_its_own"}}, status=status)])
        await server.chat(model="m")
        assert await totals(server, "step=1h", "requests", "errors", "error_classes") == [(1, 1, {name: 1})]


async def test_a_stream_that_fails_after_its_head_counts_by_the_class_of_its_end(
    upstream: FakeUpstream, serve: Serve
) -> None:
    toml = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\nmodels = ["m"]\n'
    async with serve(toml) as server:
        upstream.plan([STREAM, chunk(text_frame("part")), Do.RESET])
        assert (await server.chat(model="m", stream=True)).status == 200
        assert await totals(server, "step=1h", "errors", "error_classes") == [(1, {"unavailable": 1})]


async def test_cached_and_reasoning_tokens_are_counted_where_a_backend_tells_them(
    upstream: FakeUpstream, serve: Serve
) -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 80},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\nmodels = ["m"]\n') as server:
        upstream.plan([json_answer({**COMPLETION, "usage": usage})], streamed(HELLO))
        await server.chat(model="m")
        await server.chat(model="m", stream=True)
        names = ("requests", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
        assert await totals(server, "step=1h", *names) == [(2, 105, 80, 52, 30)]


async def test_an_operation_counts_under_its_own_name(upstream: FakeUpstream, serve: Serve) -> None:
    vectors = {
        "object": "list",
        "model": "m",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.5]}],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\nmodels = ["m"]\n') as server:
        upstream.plan([json_answer(vectors)])
        body = json.dumps({"model": "m", "input": "hello"}).encode()
        assert (await server.request("POST", "/v1/embeddings", body)).status == 200
        rows = await totals(
            server, "step=1h&group_by=operation,model", "operation", "model", "requests", "input_tokens"
        )
        assert rows == [("embeddings", "m", 1, 7)]


@pytest.mark.parametrize("nonsense", [-5, 10**30, 2**63 - 1])
async def test_counts_that_cannot_be_true_spoil_nothing(upstream: FakeUpstream, serve: Serve, nonsense: int) -> None:
    usage = {"prompt_tokens": nonsense, "completion_tokens": 2, "total_tokens": nonsense}
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\nmodels = ["m"]\n') as server:
        upstream.plan(*[[json_answer({**COMPLETION, "usage": told})] for told in (usage, COMPLETION["usage"])])
        for _ in range(2):
            assert (await server.chat(model="m")).status == 200
        assert await totals(server, "step=1h", "requests", "input_tokens", "output_tokens") == [(2, 5, 4)]


async def test_a_tenant_sees_its_own_and_an_admin_everybodys(serve: Serve) -> None:
    async with serve(KEYED) as server:
        for name in ("default", "alice", "root"):
            await server.chat("one", model="one", headers=key(name))
        everybody = "step=1d&group_by=tenant"
        for name in ("default", "alice"):
            assert await totals(server, everybody, "tenant", "requests", **key(name)) == [(name, 1)]
            assert await totals(server, "step=1d&tenant=root", "requests", **key(name)) == []
            assert (await series(server, "tenant=root", **key(name)))["data"] == []
        assert await totals(server, everybody, "tenant", **key("root")) == [("alice",), ("default",), ("root",)]
        assert await totals(server, "step=1d&tenant=alice&tenant=default", "requests", **key("root")) == [(2,)]


async def test_groups_and_filters_work_since_the_start_as_over_time(serve: Serve) -> None:
    async with serve(KEYED) as server:
        for model, name in (("one", "alice"), ("two", "alice"), ("two", "default")):
            await server.chat("x", model=model, headers=key(name))
        for time in ("", "step=1d&"):

            async def counts(query: str, *fields: str, time: str = time) -> list[tuple[Any, ...]]:
                if time:
                    return sorted(await totals(server, time + query, *fields, **key("root")))
                rows = (await series(server, query, **key("root")))["data"]
                return sorted([tuple([row[name] for name in fields]) for row in rows])

            assert await counts("group_by=model", "model", "requests") == [("one", 1), ("two", 2)]
            assert await counts("group_by=model&group_by=tenant&model=two", "tenant", "model") == [
                ("alice", "two"),
                ("default", "two"),
            ]
            assert await counts("group_by=&backend=talk", "requests") == [(3,)]
            assert await counts("backend=other", "requests") == []


@pytest.mark.parametrize(
    ("query", "param", "says"),
    [
        ("modle=x", "modle", "Known: from, to, step, group_by, tenant, model"),
        ("from=yesterday", "from", "expected an integer"),
        ("from=-5", "from", ">= 0"),
        ("from=100&to=100", "from", "before 'to' (100)"),
        ("to=0", "to", "from 1"),
        ("from=1&from=2", "from", "more than once"),
        ("step=60", "step", "'5m', '1h' or '1d'"),
        ("step=0m", "step", "'5m', '1h' or '1d'"),
        ("step=1.5h", "step", "'5m', '1h' or '1d'"),
        ("step=", "step", "'5m', '1h' or '1d'"),
        (f"from={HOUR - 7 * DAY + 3600}&step=1m", "step", "at most 1500 steps"),
        (f"from={HOUR - 30 * DAY}&step=5m", "step", "minutes are kept from"),
        ("group_by=user", "group_by", "tenant, model, backend, endpoint, operation"),
        ("group_by=model,x", "group_by", "got 'x'"),
    ],
)
async def test_what_cannot_be_read_is_refused_by_name(query: str, param: str, says: str) -> None:
    async with serving(clock=HandClock(HOUR)) as server:
        reply = await server.get(f"/v1/usage?{query}")
        assert (reply.status, reply.error["param"]) == (400, param)
        assert says in reply.error["message"]


async def test_old_times_are_told_in_whole_hours_and_older_ones_are_gone(tmp_path: Path) -> None:
    clock = HandClock(HOUR - 500 * DAY)
    async with on_file(tmp_path, clock) as server:
        await server.chat("long ago")
        clock.now = HOUR - 100 * DAY + 1200
        await server.chat("a while ago")
        assert await totals(server, f"from={HOUR - 600 * DAY}&to={HOUR}&step=1d", "requests") == [(1,), (1,)]
    async with on_file(tmp_path, HandClock(HOUR)) as server:
        await server.chat("now")
        assert await totals(server, f"from={HOUR - 600 * DAY}&to={HOUR + 1}&step=1d", "requests") == [(1,), (1,)]
        (old,) = (await series(server, f"from={HOUR - 100 * DAY + 1234}&to={HOUR - 99 * DAY - 1}"))["data"]
        assert (old["start_time"], old["end_time"]) == (HOUR - 100 * DAY, HOUR - 99 * DAY)
        assert old["results"][0]["requests"] == 1
    with contextlib.closing(sqlite3.connect(tmp_path / "usage.db")) as file:
        kept = file.execute("SELECT span_s, start_s FROM usage ORDER BY span_s, start_s").fetchall()
    assert kept == [(60, HOUR), (3600, HOUR - 100 * DAY), (3600, HOUR)]


async def test_a_restart_keeps_the_series_and_begins_the_totals_anew(tmp_path: Path) -> None:
    async with on_file(tmp_path, HandClock(HOUR)) as server:
        await server.chat("one two three")
    async with on_file(tmp_path, HandClock(HOUR + 20)) as server:
        assert (await series(server, ""))["data"] == []
        await server.chat("one")
        assert await totals(server, f"from={HOUR}", "requests", "output_tokens") == [(2, 4)]


async def test_quantiles_come_from_the_histograms() -> None:
    async with serving() as server:
        for _ in range(3):
            await server.chat("one", stream=True)
        (row,) = await totals(server, "step=1h", "duration_quantiles_s", "first_content_quantiles_s", "duration_s")
        for quantiles in row[:2]:
            assert 0 < quantiles["p50"] <= quantiles["p90"] <= quantiles["p99"]
        assert row[2] > 0
        await server.chat("one")
        assert (await totals(server, "step=1h", "requests", "streams"))[0] == (4, 3)
