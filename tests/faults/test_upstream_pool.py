"""Endpoints that fail under load: who waits is served by those that are left, and what an endpoint says wrong ejects nobody."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.conftest import Serve
from tests.fakes.upstream import (
    COMPLETION,
    HELLO,
    Do,
    FakeUpstream,
    Plan,
    answer,
    fake_upstream,
    json_answer,
    streamed,
)
from tests.faults.test_endpoints import distrusted, host, pool
from tests.serving import eventually


@pytest.fixture
async def two() -> AsyncIterator[Sequence[FakeUpstream]]:
    async with fake_upstream() as one, fake_upstream() as other:
        yield one, other


def failing(status: str, **headers: str) -> Plan:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return [json_answer({"error": {"message": "no"}}, status=status, headers=named)]


async def test_a_call_goes_only_to_whom_can_honour_it_and_no_slot_is_lost(
    two: Sequence[FakeUpstream], serve: Serve
) -> None:
    whole, both = two
    toml = "".join(
        f'[backends.{name}]\ntype = "http"\nendpoints = ["{one.url}"]\nmax_concurrency = 1\nmax_queue = 0\n{more}\n'
        for name, one, more in (("whole", whole, "streaming = false"), ("both", both, ""))
    )
    async with serve(toml) as server:
        await server.get("/v1/models")
        both.plan(*[streamed(HELLO)] * 4)
        for _ in range(4):
            reply = await server.chat(model="up-model", stream=True)
            assert (reply.status, reply.text) == (200, "Hello")
        both.plan(failing("503 Busy"))
        refused = await server.chat(model="up-model", stream=True)
        assert refused.status == 503
        assert whole.posts == []
        assert (await server.get("/health")).json()["active"] == 0


@pytest.mark.parametrize(
    "listing", [answer(b"{}"), answer(b"<html>", kind="text/html"), json_answer({}, status="404 Not Found")]
)
async def test_an_endpoint_that_cannot_list_its_models_is_still_the_first_choice(
    upstream: FakeUpstream, serve: Serve, listing: bytes
) -> None:
    upstream.models = [listing]
    toml = f"""
[backends.first]
type = "http"
endpoints = ["{upstream.url}"]
[backends.second]
type = "scripted"
[[models]]
name = "m"
routes = [{{ backend = "first", model = "up-model" }}, {{ backend = "second", model = "scripted" }}]
"""
    async with serve(toml) as server:
        await server.get("/v1/models")
        upstream.plan(*[[json_answer(COMPLETION)]] * 2)
        for _ in range(2):
            reply = await server.chat(model="m")
            assert reply.headers["x-trunkline-route"] == "first/up-model"
        assert await distrusted(server) == []


@pytest.mark.parametrize(
    ("said", "passed"),
    [
        ("17", "17"),
        ("0", "1"),
        ("1.2", None),
        ("²", None),
        ("-5", None),
        ("9" * 400, None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("", None),
    ],
)
async def test_whatever_retry_after_says_the_status_stays(
    upstream: FakeUpstream, serve: Serve, said: str, passed: str | None
) -> None:
    async with serve(pool(upstream.url, more="retries = 0")) as server:
        upstream.plan(failing("429 Slow", Retry_After=said))
        reply = await server.chat(model="up-model")
        assert (reply.status, reply.headers.get("retry-after")) == (429, passed)


async def test_whoever_waits_when_an_endpoint_dies_is_answered_by_the_other(
    two: Sequence[FakeUpstream], serve: Serve
) -> None:
    bad, good = two
    async with serve(pool(bad.url, good.url, more="max_concurrency = 2\nmax_queue = 20")) as server:
        await server.get("/v1/models")
        dies, gate = asyncio.Event(), asyncio.Event()
        lost: Plan = [dies, Do.RESET]
        held: Plan = [gate, json_answer(COMPLETION)]
        bad.plan(*[lost] * 4)  # each is tried once more on a fresh connection
        good.plan(*[held] * 40)
        asking = [asyncio.create_task(server.chat(model="up-model")) for _ in range(40)]
        await eventually(lambda: [len(bad.posts), len(good.posts)] == [2, 2])
        dies.set()
        await eventually(lambda: server.application.runtime.endpoints[0].active == 0)
        gate.set()
        assert [reply.status for reply in await asyncio.gather(*asking)] == [200] * 40
        assert len(bad.posts) == 3  # nobody else walked into it
        assert await distrusted(server) == [f"gpu@{host(bad)}"]
