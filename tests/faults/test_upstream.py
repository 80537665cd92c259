"""Everything an upstream can do to us, over real sockets: each failure has its status, and none looks like an answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.conftest import Serve
from tests.fakes.upstream import (
    COMPLETION,
    DONE,
    END,
    HELLO,
    STREAM,
    Do,
    FakeUpstream,
    Plan,
    answer,
    chunk,
    frame,
    json_answer,
    streamed,
    text_frame,
)
from tests.serving import Serving, eventually, finish_of, serving, text_of, user

ROUTED = """
[backends.up]
type = "http"
endpoints = ["{url}"]
retries = 0
{settings}
[[models]]
name = "m"
routes = [{{ backend = "up", model = "up-model" }}]
"""
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


def routed(upstream: FakeUpstream, settings: str = "") -> str:
    return ROUTED.format(url=upstream.url, settings=settings)


@pytest.fixture
async def server(upstream: FakeUpstream) -> AsyncIterator[Serving]:
    async with serving(routed(upstream)) as served:
        yield served


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_nobody_listening_is_503(serve: Serve, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    toml = ROUTED.format(url="http://127.0.0.1:1/v1", settings="")
    async with serve(toml) as served:
        reply = await served.chat(model="m", stream=stream)
        assert (reply.status, reply.error["code"]) == (503, "backend_unavailable")
        assert reply.error["message"] == "backend 'up' cannot be reached: connection refused"
        told = [line for line in caplog.messages if reply.headers["x-request-id"] in line]
        assert "http://127.0.0.1:1/v1/chat/completions" in told[0], "the operator needs the address"


@pytest.mark.parametrize("step", [Do.RESET, Do.CLOSE], ids=["reset", "closed"])
async def test_a_pooled_connection_lost_before_the_head_is_tried_once_more(
    upstream: FakeUpstream, server: Serving, step: Do
) -> None:
    """It was pooled by the list of models that the server asked for when it started."""
    upstream.plan([step], [json_answer(COMPLETION)])
    reply = await server.chat(model="m")
    assert (reply.status, reply.json()["choices"][0]["message"]["content"]) == (200, "Hello")
    assert len(upstream.posts) == 2


@pytest.mark.parametrize("step", [Do.RESET, Do.CLOSE], ids=["reset", "closed"])
async def test_the_fresh_one_that_took_its_place_and_is_lost_is_503(
    upstream: FakeUpstream, server: Serving, step: Do
) -> None:
    upstream.plan([step], [step], [json_answer(COMPLETION)])
    reply = await server.chat(model="m")
    assert (reply.status, reply.error["code"]) == (503, "backend_unavailable")
    assert len(upstream.posts) == 2


async def test_a_pooled_connection_that_has_gone_stale_is_replaced(upstream: FakeUpstream, server: Serving) -> None:
    for _ in range(5):
        upstream.plan([json_answer(COMPLETION), Do.CLOSE])
        assert (await server.chat(model="m")).status == 200


async def test_a_good_connection_is_used_again(upstream: FakeUpstream, server: Serving) -> None:
    for _ in range(3):
        upstream.plan(streamed(HELLO))
        assert (await server.chat(model="m", stream=True)).text == "Hello"
        upstream.plan([json_answer(COMPLETION)])
        assert (await server.chat(model="m")).status == 200
    assert len({request.connection for request in upstream.posts}) == 1


def error_body(message: str, **more: object) -> dict[str, object]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (400, 400),
        (404, 404),
        (413, 413),
        (422, 422),
        (401, 502),
        (403, 502),
        (429, 429),
        (500, 502),
        (502, 502),
        (503, 503),
        (504, 504),
        (529, 502),
    ],
)
async def test_a_refusal_keeps_its_status_where_the_client_can_act_on_it(
    upstream: FakeUpstream, server: Serving, status: int, shown: int, stream: bool
) -> None:
    upstream.plan(
        [json_answer(error_body("context is full", code="too_long", param="messages"), status=f"{status} No")]
    )
    reply = await server.chat(model="m", stream=stream)
    assert reply.status == shown
    if status == 401:  # about this server's key, which is none of the client's business
        assert "API key" in reply.error["message"]
        return
    assert reply.error["message"] == "context is full"
    assert reply.error["code"] == "too_long"


async def test_a_rate_limit_keeps_retry_after(upstream: FakeUpstream, server: Serving) -> None:
    upstream.plan([json_answer(error_body("slow down"), status="429 Too Many", headers={"Retry-After": "17"})])
    reply = await server.chat(model="m")
    assert (reply.status, reply.headers["retry-after"], reply.error["type"]) == (429, "17", "rate_limit_error")


async def test_a_key_that_the_upstream_repeats_stays_with_us(upstream: FakeUpstream, server: Serving) -> None:
    upstream.plan([json_answer(error_body("Incorrect API key provided: sk-live-0123456789abcdef"), status="401 No")])
    reply = await server.chat(model="m")
    assert reply.status == 502
    assert "0123456789" not in reply.body.decode()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("plan", "status"),
    [
        ([answer(HTML, status="502 Bad Gateway", kind="text/html")], 502),
        ([answer(HTML, status="404 Not Found", kind="text/html")], 404),
        ([answer(HTML, kind="text/html")], 502),
        ([answer(b"", kind="application/json")], 502),
        ([answer(b"[1]")], 502),
        ([answer(b"{}")], 502),
        ([answer(b"\xff\xfe\x00")], 502),
        ([answer(b'{"a":' * 100_000)], 502),
        ([json_answer(error_body("no", type="server_error"))], 502),
        ([answer(b"", status="204 No Content")], 502),
        ([json_answer({}, status="302 Found", headers={"Location": "http://example.org/v1"})], 503),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nContent-Type: application/json\r\n\r\n{", Do.CLOSE], 503),
        ([b"not http at all\r\n\r\n", Do.CLOSE], 502),
    ],
    ids=["html 502", "html 404", "html 200", "empty", "array", "no choices", "not utf-8", "too deep",
         "error in a 200", "no content", "redirect", "cut off", "not HTTP"],
)  # fmt: skip
async def test_what_is_no_answer_is_a_failure_in_json(
    upstream: FakeUpstream, server: Serving, plan: Plan, status: int, stream: bool
) -> None:
    upstream.plan(plan, plan)
    reply = await server.chat(model="m", stream=stream)
    assert reply.status == status, reply
    assert "<html" not in reply.error["message"]


async def test_a_redirect_is_not_followed_and_the_log_says_where_it_went(
    upstream: FakeUpstream, server: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.plan([json_answer({}, status="307 Moved", headers={"Location": "http://example.org/v1/chat/completions"})])
    reply = await server.chat(model="m")
    assert "example.org" not in reply.error["message"]
    assert "configure" in reply.error["message"]
    assert "http://example.org/v1/chat/completions" in caplog.text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_address_that_the_upstream_repeats_stays_with_us(
    upstream: FakeUpstream, server: Serving, stream: bool
) -> None:
    host = upstream.url.removeprefix("http://").removesuffix("/v1")
    said = f"dial tcp {host}: refused, while asking {upstream.url}/x?y=1 (see https://example.com/help)"
    upstream.plan([json_answer(error_body(said), status="400 No")])
    reply = await server.chat(model="m", stream=stream)
    assert (reply.status, reply.error["message"]) == (
        400,
        "dial tcp [redacted] refused, while asking [redacted] (see https://example.com/help)",
    )


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"404 page not found", "text/plain"),
        (b'{"detail":"Not Found"}', "application/json"),
        (
            b'{"error":{"message":"no such route","type":"invalid_request_error","code":"not_found"}}',
            "application/json",
        ),
        (
            b'{"error":{"message":"unknown route POST /chat/completions; see GET /v1/models","code":"not_found"}}',
            "application/json",
        ),
    ],
)
async def test_a_base_url_that_may_be_wrong_is_named(
    upstream: FakeUpstream, server: Serving, body: bytes, kind: str
) -> None:
    upstream.plan([answer(body, status="404 Not Found", kind=kind)])
    reply = await server.chat(model="m")
    assert reply.status == 404
    assert "backend 'up' answered 404 to POST /chat/completions" in reply.error["message"]
    assert "often it ends in /v1" in reply.error["message"]


async def test_a_base_url_whose_list_of_models_is_missing_is_named(upstream: FakeUpstream, serve: Serve) -> None:
    upstream.models = [answer(b"404 page not found", status="404 Not Found", kind="text/plain")]
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        ready = await server.get("/health/ready")
        assert "backend 'up' answered 404 to GET /models" in ready.body.decode()
        assert "often it ends in /v1" in ready.body.decode()


async def test_json_for_a_stream_request_is_streamed(upstream: FakeUpstream, server: Serving) -> None:
    upstream.plan([json_answer(COMPLETION)])
    reply = await server.chat(model="m", stream=True)
    assert (reply.text, reply.frames[-1], finish_of(reply.frames)) == ("Hello", "[DONE]", ["stop"])


async def test_a_stream_for_a_plain_request_is_folded(upstream: FakeUpstream, server: Serving) -> None:
    upstream.plan(streamed(HELLO))
    reply = await server.chat(model="m")
    assert reply.json()["choices"][0]["message"]["content"] == "Hello"
    assert reply.json()["usage"]["total_tokens"] == 7
    assert reply.json()["model"] == "m"


async def test_a_missing_done_is_supplied_after_a_finish_reason(upstream: FakeUpstream, server: Serving) -> None:
    upstream.plan(streamed(text_frame("Hi") + text_frame(finish="stop")))
    assert (await server.chat(model="m", stream=True)).frames[-1] == "[DONE]"


CUTS: dict[str, list[bytes | Do]] = {
    "ends without finish": [chunk(text_frame("part")), END],
    "done without finish": [chunk(text_frame("part") + DONE), END],
    "reset": [chunk(text_frame("part")), Do.RESET],
    "closed in the middle": [chunk(text_frame("part")), Do.CLOSE],
    "closed inside a frame": [chunk(text_frame("part") + b'data: {"choi'), Do.CLOSE],
    "error object": [chunk(text_frame("part") + frame({"error": {"message": "out of memory"}})), END],
    "error object in a later read": [chunk(text_frame("part")), chunk(frame({"error": {"message": "oom"}})), END],
    "error object, then more": [chunk(text_frame("part") + frame({"error": {"message": "x"}}) + text_frame("no") + DONE), END],
    "not JSON": [chunk(text_frame("part") + b"data: <html>\n\n"), END],
    "aborted": [chunk(text_frame("part") + text_frame(finish="abort") + DONE), END],
}  # fmt: skip


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
async def test_a_stream_that_fails_midway_ends_with_an_error_and_no_done(
    upstream: FakeUpstream, server: Serving, cut: list[bytes | Do]
) -> None:
    upstream.plan([STREAM, *cut])
    reply = await server.chat(model="m", stream=True)
    assert reply.status == 200
    assert text_of(reply.frames) == "part"
    assert reply.frames[-1].keys() == {"error"}
    assert reply.frames[-1]["error"]["message"]
    assert finish_of(reply.frames) == []
    assert b"[DONE]" not in reply.body


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
async def test_the_same_cut_fails_a_plain_request_that_was_answered_by_a_stream(
    upstream: FakeUpstream, server: Serving, cut: list[bytes | Do]
) -> None:
    upstream.plan([STREAM, *cut])
    reply = await server.chat(model="m")
    assert reply.status in (502, 503)
    assert reply.error["message"]


EARLY: dict[str, tuple[list[bytes | Do], int]] = {
    "nothing": ([END], 503),
    "only done": ([chunk(DONE), END], 503),
    "only a role": ([chunk(text_frame("")), END], 503),
    "error first": ([chunk(frame({"error": {"message": "no", "code": 429}})), END], 429),
    "role, then error": ([chunk(text_frame("") + frame({"error": {"message": "no"}})), END], 502),
    "reset": ([Do.RESET], 503),
}


@pytest.mark.parametrize(("cut", "status"), EARLY.values(), ids=EARLY.keys())
async def test_a_stream_that_fails_before_content_is_a_status(
    upstream: FakeUpstream, server: Serving, cut: list[bytes | Do], status: int
) -> None:
    upstream.plan([STREAM, *cut])
    reply = await server.chat(model="m", stream=True)
    assert (reply.status, bool(reply.error["message"])) == (status, True)


async def test_an_answer_without_text_is_whole(upstream: FakeUpstream, server: Serving) -> None:
    upstream.plan(streamed(text_frame("") + text_frame(finish="stop") + DONE))
    reply = await server.chat(model="m", stream=True)
    assert (reply.status, reply.text, reply.frames[-1]) == (200, "", "[DONE]")


async def test_done_is_the_end_though_the_connection_stays_open(upstream: FakeUpstream, server: Serving) -> None:
    upstream.plan([STREAM, chunk(HELLO), Do.HOLD], [json_answer(COMPLETION)])
    assert (await server.chat(model="m", stream=True)).text == "Hello"
    await upstream.left.wait()
    assert (await server.chat(model="m")).status == 200


async def test_no_head_in_time_is_504(upstream: FakeUpstream, serve: Serve) -> None:
    async with serve(routed(upstream, "first_event_timeout_s = 0.05")) as served:
        for stream in (False, True):
            upstream.left.clear()
            upstream.plan([Do.HOLD])
            reply = await served.chat(model="m", stream=stream)
            assert (reply.status, reply.error["code"]) == (504, "backend_timeout")
            await upstream.left.wait()


async def test_no_event_after_the_head_in_time_is_504(upstream: FakeUpstream, serve: Serve) -> None:
    async with serve(routed(upstream, "first_event_timeout_s = 0.05")) as served:
        upstream.plan([STREAM, Do.HOLD])
        reply = await served.chat(model="m", stream=True)
        assert (reply.status, reply.error["code"]) == (504, "backend_timeout")
        await upstream.left.wait()


async def test_the_first_event_has_its_own_time_though_the_head_came_at_once(
    upstream: FakeUpstream, serve: Serve
) -> None:
    """Servers that send the head before they read the prompt: the idle time is for what comes after the first event."""
    async with serve(routed(upstream, "first_event_timeout_s = 60\nidle_timeout_s = 0.05")) as served:
        thought = asyncio.Event()
        upstream.plan([STREAM, thought, chunk(HELLO), END])
        asking = asyncio.create_task(served.chat(model="m", stream=True))
        await eventually(lambda: bool(upstream.posts))
        asyncio.get_running_loop().call_later(0.2, thought.set)
        assert (await asking).text == "Hello"


async def test_silence_after_the_finish_reason_ends_the_answer_before_its_idle_time(
    upstream: FakeUpstream, serve: Serve
) -> None:
    """Relayed and read; with the idle time this test would be ended by the suite's deadline."""
    finished = chunk(text_frame("Hello") + text_frame(finish="stop"))
    upstream.plan([STREAM, finished, Do.HOLD], [STREAM, finished, Do.HOLD])
    async with serve(routed(upstream, "idle_timeout_s = 3600\ntimeout_s = 7200")) as served:
        responding = {"model": "m", "input": "a", "stream": True}
        replies = await asyncio.gather(
            served.chat(model="m", stream=True),
            served.request("POST", "/v1/responses", json.dumps(responding).encode()),
        )
    assert all(reply.body.endswith(DONE) for reply in replies)
    assert b"response.completed" in replies[1].body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_silence_in_the_middle_is_a_timeout(upstream: FakeUpstream, serve: Serve, stream: bool) -> None:
    async with serve(routed(upstream, "idle_timeout_s = 0.05")) as served:
        if stream:
            upstream.plan([STREAM, chunk(text_frame("part")), Do.HOLD])
            reply = await served.chat(model="m", stream=True)
            assert reply.status == 200
            assert text_of(reply.frames) == "part"
            assert reply.frames[-1]["error"]["code"] == "backend_timeout"
        else:
            upstream.plan([b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{", Do.HOLD])
            reply = await served.chat(model="m")
            assert (reply.status, reply.error["code"]) == (504, "backend_timeout")
        await upstream.left.wait()


def reached(upstream: FakeUpstream, number: int) -> bool:
    return len(upstream.posts) == number


async def test_a_client_that_leaves_ends_the_upstreams_work(upstream: FakeUpstream, server: Serving) -> None:
    plans: list[Plan] = [[Do.HOLD], [STREAM, Do.HOLD], [STREAM, chunk(text_frame("part")), Do.HOLD]]
    for number, plan in enumerate(plans, start=1):
        upstream.left.clear()
        upstream.plan(plan)
        async with server.stream(model="m") as wire:
            await eventually(partial(reached, upstream, number))
            if len(plan) == 3:
                await wire.head()
                await wire.until(b"part")
        await upstream.left.wait()
    await eventually(lambda: server.application.runtime.endpoints[0].active == 0)


async def test_a_client_that_leaves_ends_a_plain_request_too(upstream: FakeUpstream, server: Serving) -> None:
    upstream.plan([Do.HOLD])
    async with server.connect() as wire:
        await wire.send_chat({"model": "m", "messages": user("hi")})
        await eventually(lambda: bool(upstream.posts))
    await upstream.left.wait()


async def test_models_are_listed_and_a_dead_upstream_lists_none(upstream: FakeUpstream, serve: Serve) -> None:
    toml = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n'
    async with serve(toml) as served:
        listed = (await served.get("/v1/models")).json()["data"]
        assert listed == [{"id": "up-model", "object": "model", "created": 5, "owned_by": "lab"}]
        assert (await served.get("/health/ready")).status == 200
        upstream.plan([json_answer(COMPLETION)])
        assert (await served.chat(model="up-model")).status == 200
        assert (await served.chat(model="other")).status == 404


@pytest.mark.parametrize(
    "listing",
    [answer(HTML, kind="text/html"), answer(b"{}"), answer(b'{"data":[{"id":5}]}'), answer(b"[" * 100_000), answer(b"\xff"),
     answer(HTML, status="500 Oh", kind="text/html"), json_answer(error_body("no"), status="401 No")],
)  # fmt: skip
async def test_a_listing_that_is_none_leaves_the_rest_working(
    upstream: FakeUpstream, serve: Serve, listing: bytes
) -> None:
    """An upstream that cannot list is passed the name the client asked for: it may still answer."""
    upstream.models = [listing]
    toml = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n[backends.talk]\ntype = "scripted"\n'
    async with serve(toml) as served:
        assert [model["id"] for model in (await served.get("/v1/models")).json()["data"]] == ["scripted"]
        assert (await served.chat()).status == 200
        upstream.plan([json_answer(COMPLETION)])
        assert (await served.chat(model="anything")).json()["model"] == "anything"
        ready = await served.get("/health/ready")
        assert ready.status == 200
        assert ready.json()["backends"]["up"] != "ok"


async def test_a_model_name_passed_on_cannot_write_headers(upstream: FakeUpstream, serve: Serve) -> None:
    upstream.models = [answer(HTML, status="500 Oh", kind="text/html")]
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as served:
        upstream.plan([json_answer(COMPLETION)])
        reply = await served.chat(model="a\r\nset-cookie: b=c")
        assert reply.status == 200
        assert "set-cookie" not in reply.headers


TWO = """
[backends.first]
type = "http"
endpoints = ["{url}"]
first_event_timeout_s = 60
[backends.second]
type = "scripted"
[[models]]
name = "m"
routes = [{{ backend = "first", model = "up-model" }}, {{ backend = "second", model = "scripted" }}]
"""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "plan",
    [
        [Do.RESET],
        [json_answer(error_body("full"), status="503 Busy")],
        [json_answer(error_body("slow"), status="429 Slow")],
        [json_answer(error_body("bad key"), status="401 No")],
        [answer(HTML, kind="text/html")],
        [STREAM, chunk(text_frame("") + frame({"error": {"message": "quota", "code": 429}})), END],
        [STREAM, chunk(text_frame("")), Do.RESET],
        [STREAM, END],
    ],
    ids=["reset", "503", "429", "401", "html", "quota error in a 200 stream", "reset after the role", "empty stream"],
)
async def test_the_next_route_answers_while_nothing_has_been_said(
    upstream: FakeUpstream, serve: Serve, plan: Plan, stream: bool
) -> None:
    async with serve(TWO.format(url=upstream.url)) as served:
        upstream.plan(plan, plan)
        reply = await served.chat("from the second", model="m", stream=stream)
        assert reply.status == 200
        said = reply.text if stream else reply.json()["choices"][0]["message"]["content"]
        assert said == "from the second"
        assert reply.headers["x-trunkline-route"] == "second/scripted; fallback"
        row = (await served.get("/v1/usage")).json()["data"]
        assert [(entry["backend"], entry["errors"]) for entry in row] == [("second", 0)]


async def test_no_other_route_answers_once_content_has_been_said(upstream: FakeUpstream, serve: Serve) -> None:
    async with serve(TWO.format(url=upstream.url)) as served:
        upstream.plan([STREAM, chunk(text_frame("part")), Do.RESET])
        reply = await served.chat("from the second", model="m", stream=True)
        assert text_of(reply.frames) == "part"
        assert reply.frames[-1].keys() == {"error"}
        assert served.backend(1).opened == 0


async def test_a_request_that_is_wrong_for_the_first_route_goes_to_no_other(
    upstream: FakeUpstream, serve: Serve
) -> None:
    async with serve(TWO.format(url=upstream.url)) as served:
        upstream.plan([json_answer(error_body("bad request"), status="400 Bad")])
        assert (await served.chat(model="m")).status == 400
        assert served.backend(1).opened == 0


async def test_two_hundred_mixed_answers_do_not_mix(upstream: FakeUpstream, server: Serving) -> None:
    """Answers of connections that are reused, lost and replaced go to whom they belong."""

    def said(number: int) -> Plan:
        choice = {"index": 0, "message": {"role": "assistant", "content": f"n{number}"}, "finish_reason": "stop"}
        completion = {**COMPLETION, "choices": [choice]}
        body = json.dumps(completion).encode()
        return [answer(body), Do.CLOSE] if number % 3 == 0 else [answer(body)]

    for number in range(100):
        upstream.plan(said(number))
        reply = await server.chat(model="m")
        assert reply.json()["choices"][0]["message"]["content"] == f"n{number}"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_key_that_the_upstream_repeats_does_not_reach_the_client(upstream: FakeUpstream, stream: bool) -> None:
    key = "our-own-key-without-a-known-shape"
    error = error_body(f"no such key: {key}")
    async with serving(routed(upstream, f'api_key = "{key}"')) as server:
        plans: list[Plan] = [
            [json_answer(error, status="400 Bad Request")],
            [json_answer(error)],
            streamed(frame(error)),
        ]
        for plan in plans:
            upstream.plan(plan)
            reply = await server.chat(model="m", stream=stream)
            assert key not in str(reply)
            assert "[redacted]" in str(reply)


async def test_credentials_in_an_endpoint_stay_out_of_messages() -> None:
    toml = ROUTED.format(url="http://user:hunter2pw@127.0.0.1:9/v1", settings="")
    async with serving(toml) as server:
        reply = await server.chat(model="m")
        assert reply.status == 503
        assert "hunter2pw" not in str(reply)
