"""Refusals whose bodies are broken, slow or without end: the status is told soon, whatever becomes of the words."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.conftest import Serve
from tests.fakes.upstream import COMPLETION, Do, FakeUpstream, Plan, chunk, json_answer
from tests.serving import Reply, Serving

TOML = '[backends.up]\ntype = "http"\nendpoints = ["{url}"]\nmodels = ["m"]\nretries = 0\n{times}'
TIMES = "first_event_timeout_s = 0.1\nidle_timeout_s = 0.05\n"
WORDS = json.dumps({"error": {"message": "a bad thing", "type": "invalid_request_error"}}).encode()
HEAD = b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
REFUSALS: dict[str, Plan] = {
    "cut": [HEAD + b"Content-Length: 200\r\n\r\n", WORDS, Do.CLOSE],
    "reset": [HEAD + b"Content-Length: 200\r\n\r\n", WORDS, Do.RESET],
    "hanging": [HEAD + b"Content-Length: 200\r\n\r\n", WORDS, Do.HOLD],
    "hanging without a word": [HEAD + b"Content-Length: 200\r\n\r\n", Do.HOLD],
    "without end": [CHUNKED, *[chunk(b"x" * 50_000)] * 2, Do.HOLD],
    "bad chunks": [CHUNKED, b"zz\r\n"],
    "not packed": [HEAD + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello"],
    "packed unknown": [HEAD + b"Content-Encoding: br\r\nContent-Length: 5\r\n\r\nhello"],
}
PATHS = {
    "chat": ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "q"}]}),
    "stream": ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "q"}], "stream": True}),
    "response": ("/v1/responses", {"model": "m", "input": "q"}),
    "speech": ("/v1/audio/speech", {"model": "m", "input": "q", "voice": "a"}),
}


@pytest.fixture
async def server(upstream: FakeUpstream, serve: Serve) -> AsyncIterator[Serving]:
    async with serve(TOML.format(url=upstream.url, times=TIMES)) as up:
        yield up


async def ask(server: Serving, what: str) -> Reply:
    path, body = PATHS[what]
    return await server.request("POST", path, json.dumps(body).encode())


@pytest.mark.parametrize("plan", REFUSALS.values(), ids=REFUSALS.keys())
async def test_the_status_of_a_refusal_stays_whatever_its_body_does(
    upstream: FakeUpstream, server: Serving, plan: Plan
) -> None:
    for what in PATHS:
        upstream.plan(plan)
        reply = await ask(server, what)
        assert reply.status == 400, (what, reply)
        assert reply.error["type"] == "invalid_request_error"
        assert not upstream.planned
        if WORDS in plan:
            assert reply.error["message"] == "a bad thing"
    upstream.plan([json_answer(COMPLETION)])
    assert (await ask(server, "chat")).status == 200  # and nobody thinks worse of the server


async def test_an_operation_that_is_not_there_says_so_whatever_its_body_does(
    upstream: FakeUpstream, server: Serving
) -> None:
    upstream.plan([b"HTTP/1.1 404 Not Found\r\nContent-Length: 200\r\n\r\n{", Do.CLOSE])
    reply = await ask(server, "speech")
    assert (reply.status, reply.error["code"]) == (404, "unsupported_operation")
