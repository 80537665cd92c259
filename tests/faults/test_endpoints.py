"""Several servers behind one name: who gets a call, and that clients do not notice one that is dead, full or lost on the way."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.conftest import Serve
from tests.fakes.stores import HandClock
from tests.fakes.upstream import (
    COMPLETION,
    HELLO,
    STREAM,
    Do,
    FakeUpstream,
    Plan,
    answer,
    chunk,
    fake_upstream,
    json_answer,
    streamed,
    text_frame,
)
from tests.serving import Serving, eventually, serving, text_of

NOBODY = "http://127.0.0.1:1/v1"
HELLO_PLAN: Plan = [json_answer(COMPLETION)]


def pool(*urls: str, more: str = "") -> str:
    listed = ", ".join(f'"{url}"' for url in urls)
    return f'[backends.gpu]\ntype = "http"\nendpoints = [{listed}]\n{more}\n'


def listing(*names: str) -> Plan:
    return [json_answer({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})]


@pytest.fixture
async def two() -> AsyncIterator[Sequence[FakeUpstream]]:
    async with fake_upstream() as one, fake_upstream() as other:
        yield one, other


def host(upstream: FakeUpstream) -> str:
    return upstream.url.removeprefix("http://").removesuffix("/v1")


async def distrusted(server: Serving) -> list[str]:
    """The endpoints of which something is held against them: they get nothing for now, or their next call is a trial."""
    ready = (await server.get("/health/ready")).json()
    return [*{**ready.get("ejected", {}), **ready.get("half_open", {})}]


async def test_calls_go_round_and_say_who_answered(two: Sequence[FakeUpstream], serve: Serve) -> None:
    async with serve(pool(*[one.url for one in two])) as server:
        for one in two:
            one.plan(*[HELLO_PLAN] * 4)
        await server.get("/v1/models")
        routes = {(await server.chat(model="up-model")).headers["x-trunkline-route"] for _ in range(4)}
        assert routes == {f"gpu@{host(one)}/up-model; least busy" for one in two}
        assert [len(one.posts) for one in two] == [2, 2]


async def test_every_endpoints_models_are_listed_once_and_each_gets_its_own(
    two: Sequence[FakeUpstream], serve: Serve
) -> None:
    one, other = two
    one.models, other.models = listing("shared", "mine"), listing("shared", "yours:latest")
    async with serve(pool(one.url, other.url)) as server:
        names = [entry["id"] for entry in (await server.get("/v1/models")).json()["data"]]
        assert sorted(names) == ["mine", "shared", "yours:latest"]
        other.plan(HELLO_PLAN, HELLO_PLAN)
        for asked in ("yours:latest", "yours"):  # the tag goes without saying
            reply = await server.chat(model=asked)
            assert (reply.status, reply.json()["model"]) == (200, asked)
        assert [post.json()["model"] for post in other.posts] == ["yours:latest"] * 2
        assert (await server.chat(model="nobodys")).error["code"] == "model_not_found"
        assert one.posts == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_endpoint_that_is_gone_is_not_noticed(upstream: FakeUpstream, serve: Serve, stream: bool) -> None:
    async with serve(pool(NOBODY, upstream.url)) as server:
        upstream.plan(*[streamed(HELLO) if stream else HELLO_PLAN for _ in range(5)])
        replies = [await server.chat(model="up-model", stream=stream) for _ in range(5)]
        assert [reply.status for reply in replies] == [200] * 5


@pytest.mark.parametrize(
    "plan",
    [
        [Do.RESET],
        [json_answer({"error": {"message": "loading"}}, status="503 Service Unavailable")],
        [
            json_answer(
                {"error": {"message": "slow down"}}, status="429 Too Many Requests", headers={"Retry-After": "60"}
            )
        ],
        [json_answer({"error": {"message": "oops"}}, status="500 Internal Server Error")],
        [STREAM, chunk(text_frame("") + b'data: {"error": {"message": "quota", "code": 429}}\n\n')],
        [STREAM, chunk(text_frame("")), Do.RESET],
    ],
    ids=["reset", "503", "429", "500", "error in a stream", "reset after the role"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_what_fails_before_content_is_answered_by_the_other(
    two: Sequence[FakeUpstream], serve: Serve, plan: Plan, stream: bool
) -> None:
    bad, good = two
    async with serve(pool(bad.url, good.url)) as server:
        await server.get("/v1/models")
        bad.plan(plan, plan)
        good.plan(streamed(HELLO))
        reply = await server.chat(model="up-model", stream=stream)
        said = reply.text if stream else reply.json()["choices"][0]["message"]["content"]
        assert said == "Hello"
        assert reply.headers["x-trunkline-route"] == f"gpu@{host(good)}/up-model; retry"


async def test_what_has_been_said_is_not_said_again_by_another(two: Sequence[FakeUpstream], serve: Serve) -> None:
    bad, good = two
    async with serve(pool(bad.url, good.url)) as server:
        await server.get("/v1/models")
        bad.plan([STREAM, chunk(text_frame("part")), Do.RESET])
        reply = await server.chat(model="up-model", stream=True)
        assert text_of(reply.frames) == "part"
        assert reply.frames[-1].keys() == {"error"}
        assert good.posts == []


async def test_a_clients_mistake_is_told_at_once_and_ejects_nobody(two: Sequence[FakeUpstream], serve: Serve) -> None:
    one, other = two
    wrong = json_answer(
        {"error": {"message": "no such tool", "type": "invalid_request_error"}}, status="400 Bad Request"
    )
    async with serve(pool(one.url, other.url)) as server:
        await server.get("/v1/models")
        for each in two:
            each.plan(*[[wrong]] * 5)
        for _ in range(10):
            assert (await server.chat(model="up-model")).status == 400
        assert [len(each.posts) for each in two] == [5, 5]
        assert await distrusted(server) == []


async def test_an_endpoint_that_failed_is_left_alone_and_shown(two: Sequence[FakeUpstream], serve: Serve) -> None:
    bad, good = two
    refused: Plan = [
        json_answer({"error": {"message": "full"}}, status="429 Too Many Requests", headers={"Retry-After": "60"})
    ]
    async with serve(pool(bad.url, good.url)) as server:
        await server.get("/v1/models")
        bad.plan(refused)
        good.plan(*[HELLO_PLAN] * 4)
        assert [(await server.chat(model="up-model")).status for _ in range(4)] == [200] * 4
        assert len(bad.posts) == 1
        ejected = (await server.get("/health/ready")).json()["ejected"]
        assert list(ejected) == [f"gpu@{host(bad)}"]
        assert 50 < ejected[f"gpu@{host(bad)}"]["chat/rate_limited"] <= 60


async def test_an_endpoint_whose_time_is_over_is_shown_as_about_to_be_tried(upstream: FakeUpstream) -> None:
    clock = HandClock()
    busy = json_answer({"error": {"message": "full"}}, status="429 Full", headers={"Retry-After": "60"})
    async with serving(pool(upstream.url, more="retries = 0"), clock=clock) as server:

        async def shown() -> tuple[object, object]:
            ready = (await server.get("/health/ready")).json()
            return ready.get("ejected"), ready.get("half_open")

        upstream.plan([busy], HELLO_PLAN)
        assert (await server.chat(model="up-model")).status == 429
        clock.now += 59.96
        assert await shown() == ({"gpu": {"chat/rate_limited": 0.1}}, None)
        clock.now += 1
        assert await shown() == (None, {"gpu": ["chat/rate_limited"]})
        assert (await server.chat(model="up-model")).status == 200
        assert await shown() == (None, None)


async def test_a_busy_server_alone_is_asked_once_more_when_it_said(upstream: FakeUpstream, serve: Serve) -> None:
    busy = json_answer({"error": {"message": "busy"}}, status="503 Service Unavailable", headers={"Retry-After": "0"})
    async with serve(pool(upstream.url)) as server:
        upstream.plan([busy], HELLO_PLAN)
        assert (await server.chat(model="up-model")).status == 200
        upstream.plan([busy], [busy], HELLO_PLAN)
        reply = await server.chat(model="up-model")
        assert reply.status == 503  # once, and not for ever
        assert (await server.chat(model="up-model")).status == 200


async def test_no_endpoint_gets_more_than_it_may_while_the_other_has_room(
    two: Sequence[FakeUpstream], serve: Serve
) -> None:
    async with serve(pool(*[one.url for one in two], more="max_concurrency = 2\nmax_queue = 8")) as server:
        await server.get("/v1/models")
        gate = asyncio.Event()
        for one in two:
            held: Plan = [gate, json_answer(COMPLETION)]
            one.plan(*[held] * 6)
        asking = [asyncio.create_task(server.chat(model="up-model")) for _ in range(6)]
        await eventually(lambda: [len(one.posts) for one in two] == [2, 2])
        body = (await server.get("/health")).json()
        assert (body["active"], body["queued"], body["capacity"]) == (4, 2, 4)
        gate.set()
        assert [reply.status for reply in await asyncio.gather(*asking)] == [200] * 6
        assert sum(len(one.posts) for one in two) == 6


async def test_a_conversation_stays_where_it_began(two: Sequence[FakeUpstream], serve: Serve) -> None:
    async with serve(pool(*[one.url for one in two])) as server:
        await server.get("/v1/models")
        for one in two:
            one.plan(*[HELLO_PLAN] * 8)
        first = await server.request("POST", "/v1/responses", b'{"model": "up-model", "input": "one"}')
        home, previous = first.headers["x-trunkline-route"].partition(";")[0], first.json()["id"]
        for _ in range(3):
            body = b'{"model": "up-model", "input": "on", "previous_response_id": "%b"}' % previous.encode()
            reply = await server.request("POST", "/v1/responses", body)
            assert reply.headers["x-trunkline-route"] == f"{home}; sticky"
            previous = reply.json()["id"]


async def test_a_server_that_never_lists_its_models_does_not_delay_the_list(
    two: Sequence[FakeUpstream], serve: Serve
) -> None:
    silent, good = two
    silent.models = [Do.HOLD]
    async with serve(pool(silent.url, good.url)) as server:
        names = [entry["id"] for entry in (await server.get("/v1/models")).json()["data"]]
        assert names == ["up-model"]
        good.plan(HELLO_PLAN)
        assert (await server.chat(model="up-model")).status == 200


NAMED = 'models = ["mine"]\nretries = 0'


async def test_a_backend_of_named_models_is_not_ready_while_nobody_is_there(serve: Serve) -> None:
    async with serve(pool(NOBODY, more=NAMED)) as server:
        reply = await server.get("/health/ready")
        assert (reply.status, reply.json()["status"]) == (503, "unavailable")
        assert reply.json()["backends"]["gpu"] != "ok"
        assert [entry["id"] for entry in (await server.get("/v1/models")).json()["data"]] == ["mine"]


async def test_a_server_of_named_models_need_not_list_them(upstream: FakeUpstream, serve: Serve) -> None:
    upstream.models = [answer(b"not here", status="404 Not Found", kind="text/plain")]
    async with serve(pool(NOBODY, upstream.url, more=NAMED)) as server:
        reply = await server.get("/health/ready")
        assert (reply.status, reply.json()["backends"]) == (200, {"gpu": "ok"})
        assert await distrusted(server) == ["gpu@127.0.0.1:1"]
        upstream.plan(HELLO_PLAN)
        assert (await server.chat(model="mine")).headers["x-trunkline-route"].startswith(f"gpu@{host(upstream)}/")


async def test_named_models_may_be_asked_for_before_the_server_has_given_a_sign(
    upstream: FakeUpstream, serve: Serve
) -> None:
    upstream.models = [Do.HOLD]
    async with serve(pool(upstream.url, more=NAMED)) as server:
        upstream.plan(HELLO_PLAN)
        assert (await server.chat(model="mine")).status == 200


async def test_a_weight_shares_the_work_between_backends_with_the_same_model(
    two: Sequence[FakeUpstream], serve: Serve
) -> None:
    one, other = two
    toml = "".join(
        f'[backends.{name}]\ntype = "http"\nendpoints = ["{up.url}"]\nweight = {weight}\n'
        for name, up, weight in (("small", one, 1), ("large", other, 3))
    )
    async with serve(toml) as server:
        for each in two:
            each.plan(*[HELLO_PLAN] * 8)
        await server.get("/v1/models")
        for _ in range(8):
            assert (await server.chat(model="up-model")).status == 200
        assert [len(each.posts) for each in two] == [2, 6]


async def test_two_endpoints_may_share_a_host(serve: Serve) -> None:
    async with fake_upstream() as one:
        base = one.url.removesuffix("/v1")
        async with serve(pool(f"{base}/a/v1", f"{base}/b/v1")) as server:
            one.plan(*[HELLO_PLAN] * 2)
            await server.get("/v1/models")
            routes = {(await server.chat(model="up-model")).headers["x-trunkline-route"] for _ in range(2)}
            assert routes == {f"gpu@{host(one)}/{which}/v1/up-model; least busy" for which in "ab"}


@pytest.mark.parametrize("path", ["/v1/models", "/api/tags"])
async def test_a_list_of_models_is_taken_up_to_a_bound(path: str, upstream: FakeUpstream, serve: Serve) -> None:
    """A server that lists without an end fills no memory, and nobody waits for it."""
    most = [{"id": f"m-{number}-q4_k_m", "object": "model"} for number in range(10_000)]
    upstream.models = [json_answer({"object": "list", "data": most})]
    async with serve(f'[backends.b]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        listed = (await server.get(path)).json()
        assert len(listed["models" if path == "/api/tags" else "data"]) == 10_000
        upstream.plan([json_answer(COMPLETION)])
        assert (await server.chat(model="M-9999:latest")).status == 200
        assert upstream.posts[-1].json()["model"] == "m-9999-q4_k_m"
    upstream.models = [json_answer({"object": "list", "data": [*most, {"id": "more"}]})]
    async with serve(f'[backends.b]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        ready = await server.get("/health/ready")
        assert ready.status == 503
        assert "lists 10001 models, more than the 10000" in ready.json()["backends"]["b"]


@pytest.mark.parametrize("key", [None, "wrong"], ids=["dead", "key refused"])
async def test_a_route_that_cannot_say_what_it_has_is_passed_over(
    upstream: FakeUpstream, serve: Serve, key: str | None
) -> None:
    """Neither the dead server nor the one that wants another key lists the models of which the first was meant."""
    if key is not None:
        upstream.models = [json_answer({"error": {"message": "bad key"}}, status="401 Unauthorized")]
    first = NOBODY if key is None else upstream.url
    async with serve(
        f'[backends.a]\ntype = "http"\nendpoints = ["{first}"]\n[backends.b]\ntype = "scripted"\n'
        '[[models]]\nname = "m"\nroutes = [{ backend = "a" }, { backend = "b" }]\n'
    ) as server:
        reply = await server.chat("hello", model="m")
        assert (reply.status, reply.headers["x-trunkline-route"]) == (200, "b/scripted; fallback")


async def test_a_full_queue_behind_a_dead_route_is_429(serve: Serve) -> None:
    async with (
        serve(
            f'[backends.dead]\ntype = "http"\nendpoints = ["{NOBODY}"]\nmodels = ["d"]\n'
            '[backends.busy]\ntype = "scripted"\nscript = "hold.toml"\nmax_concurrency = 1\nmax_queue = 0\n'
            '[[models]]\nname = "m"\nroutes = [{ backend = "dead", model = "d" }, { backend = "busy" }]\n',
            scripts={"hold.toml": "[[rules]]\nsteps = [{ hang = true }]\n"},
        ) as server,
        server.stream("hold", model="m"),
    ):
        await eventually(lambda: server.application.runtime.endpoints[1].active == 1)
        reply = await server.chat("hello", model="m")
        assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
        assert "busy" in reply.error["message"]
        assert reply.headers["retry-after"] == "1"


async def test_a_backend_that_calls_cannot_reach_is_not_ready(upstream: FakeUpstream, serve: Serve) -> None:
    async with serve(pool(upstream.url, more="retries = 0")) as server:
        assert (await server.get("/health/ready")).status == 200
        upstream.plan([Do.RESET], [Do.RESET], HELLO_PLAN)  # one stale connection is replaced
        assert (await server.chat(model="up-model")).status == 503
        ready = await server.get("/health/ready")
        assert ready.status == 503
        assert "a moment ago" in ready.json()["backends"]["gpu"]
        assert (await server.chat(model="up-model")).status == 200
        assert (await server.get("/health/ready")).status == 200


async def test_without_a_model_the_reason_why_none_is_known_is_said(serve: Serve) -> None:
    async with serve(pool(NOBODY)) as server:
        await server.get("/v1/models")
        reply = await server.request(
            "POST", "/v1/chat/completions", b'{"messages": [{"role": "user", "content": "x"}]}'
        )
        assert reply.status == 503
        assert "no model is known yet: backend 'gpu' cannot be reached" in reply.error["message"]


async def test_the_reason_stays_readable_behind_a_models_long_name(two: Sequence[FakeUpstream], serve: Serve) -> None:
    name = "/srv/" + "deep/" * 60 + "model.gguf"
    for one in two:
        one.models = listing(name)
        one.plan(HELLO_PLAN)
    async with serve(pool(*[one.url for one in two])) as server:
        await server.get("/v1/models")
        route = (await server.chat(model=name)).headers["x-trunkline-route"]
        assert route.endswith("deep/model.gguf; least busy")
