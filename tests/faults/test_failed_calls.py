"""What a call leaves in memory once it has failed: nothing that only the garbage collector finds.

An exception that is kept in a local of a frame it passed makes a cycle: exception, traceback, frame, local. All that the frame
knows, the request's body too, then stays until a full collection, which a busy server comes to rarely. So a call is made with
the collector off, and what a collection then finds must hold no exception.
"""

import contextlib
import gc
import gzip
import json
import socket
import types
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.upstream import HELLO, STREAM, Do, FakeUpstream, Plan, answer, chunk, stream_head, text_frame
from tests.serving import Serving

TOML = """
[backends.up]
type = "http"
endpoints = ["{url}"]
models = ["m"]
retries = {retries}
first_event_timeout_s = 0.05
idle_timeout_s = 0.05
"""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
FAILURES: dict[str, Plan] = {
    "closed": [Do.CLOSE],
    "reset": [Do.RESET],
    "silent": [Do.HOLD],
    "not HTTP": [b"hello\r\n\r\n"],
    "400": [answer(b'{"error": {"message": "no", "type": "invalid_request_error"}}', status="400 Bad")],
    "404": [answer(b'{"error": {"message": "no"}}', status="404 Not Found")],
    "429": [answer(b"slow", status="429 Too Many", headers={"Retry-After": "60"})],
    "500": [answer(b"oops", status="500 Oops")],
    "redirect": [answer(b"", status="307 Moved", headers={"Location": "http://127.0.0.1:1/"})],
    "refusal cut": [b"HTTP/1.1 400 Bad\r\nContent-Length: 99\r\n\r\n{", Do.CLOSE],
    "head, then closed": [HEAD + b"{", Do.CLOSE],
    "head, then reset": [HEAD + b"{", Do.RESET],
    "head, then silent": [HEAD + b"{", Do.HOLD],
    "bad JSON": [answer(b"{nonsense")],
    "an error with 200": [answer(b'{"error": {"message": "no"}}')],
    "broken gzip": [answer(gzip.compress(b"{}" * 100)[:-9], headers={"Content-Encoding": "gzip"})],
    "unknown coding": [answer(b"{}", headers={"Content-Encoding": "br"})],
    "stream closed": [STREAM, chunk(text_frame("a")), Do.CLOSE],
    "stream reset": [STREAM, chunk(text_frame("a")), Do.RESET],
    "stream silent": [STREAM, chunk(text_frame("a")), Do.HOLD],
    "stream of nonsense": [STREAM, chunk(b"data: {nonsense\n\n")],
    "stream ends in nonsense": [STREAM, chunk(text_frame("a")), chunk(b"data: {nonsense\n\n")],
    "stream with an error": [STREAM, chunk(text_frame("a") + b'data: {"error": {"message": "no"}}\n\n')],
    "stream of an error": [STREAM, chunk(b'data: {"error": {"message": "no"}}\n\n')],
    "stream in bad chunks": [STREAM, chunk(text_frame("a")), b"zz\r\n"],
    "stream ends early": [STREAM, chunk(text_frame("a")), b"0\r\n\r\n"],
    "stream in broken gzip": [stream_head({"Content-Encoding": "gzip"}), chunk(b"nonsense")],
}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "q"}]}),
    "stream": ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "q"}], "stream": True}),
    "response": ("/v1/responses", {"model": "m", "input": "q"}),
    "response stream": ("/v1/responses", {"model": "m", "input": "q", "stream": True}),
    "embeddings": ("/v1/embeddings", {"model": "m", "input": "q"}),
    "speech": ("/v1/audio/speech", {"model": "m", "input": "q", "voice": "a"}),
    "completions stream": ("/v1/completions", {"model": "m", "prompt": "q", "stream": True}),
}


@contextlib.contextmanager
def collector_off() -> Iterator[list[Any]]:
    """What a collection finds in the end is in the list."""
    found: list[Any] = []
    gc.collect()
    gc.freeze()  # what is there already need not be looked at again
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.extend(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()


def held(found: Sequence[Any]) -> list[str]:
    """The exceptions and the frames that are ours."""
    ours = [one for one in found if isinstance(one, types.FrameType) and "trunkline" in one.f_code.co_filename]
    return [
        *[repr(one) for one in found if isinstance(one, BaseException) and "trunkline" in type(one).__module__],
        *[f"{one.f_code.co_qualname}:{one.f_lineno}" for one in ours],
    ]


@pytest.fixture
async def server(upstream: FakeUpstream, serve: Serve) -> AsyncIterator[Serving]:
    async with serve(TOML.format(url=upstream.url, retries=0)) as up:
        yield up


async def post(server: Serving, call: str, *, header: str = "X-Nothing: 1", model: str = "m") -> None:
    path, body = CALLS[call]
    async with server.connect() as wire:
        data = json.dumps({**body, "model": model}).encode()
        lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", header, "Content-Type: application/json"]
        await wire.send("\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode() + data)
        assert await wire.reader.read(-1)


@pytest.mark.parametrize("plan", FAILURES.values(), ids=FAILURES.keys())
async def test_a_failed_call_leaves_no_cycle(upstream: FakeUpstream, server: Serving, plan: Plan) -> None:
    with collector_off() as found:
        for call in CALLS:
            upstream.plan(plan)
            await post(server, call)
    assert held(found) == []
    assert not upstream.planned


async def test_a_call_that_nobody_can_take_leaves_no_cycle(serve: Serve) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        async with serve(TOML.format(url=url, retries=0)) as server:
            with collector_off() as found:
                for call in CALLS:
                    for _ in range(7):  # the last ones find an open circuit
                        await post(server, call)
    assert held(found) == []


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_is_answered_leaves_no_cycle(upstream: FakeUpstream, server: Serving, call: str) -> None:
    whole = {"model": "m", "choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]}
    streamed = CALLS[call][1].get("stream") or False
    upstream.plan([STREAM, chunk(HELLO), b"0\r\n\r\n"] if streamed else [answer(json.dumps(whole).encode())])
    with collector_off() as found:
        await post(server, call)
    assert held(found) == []


ROUTED = """
[[models]]
name = "m"
routes = [{{backend = "one"}}, {{backend = "two"}}]
[backends.one]
type = "http"
endpoints = ["{url}"]
models = ["m"]
retries = 0
[backends.two]
type = "http"
endpoints = ["{url}"]
models = ["m"]
retries = 0
"""


async def test_endpoints_that_fail_one_after_the_other_leave_no_cycle(upstream: FakeUpstream, serve: Serve) -> None:
    async with serve(ROUTED.format(url=upstream.url)) as server:
        with collector_off() as found:
            for call in CALLS:
                upstream.plan(*[[answer(b"oops", status="500 Oops")]] * 2)
                await post(server, call)
                upstream.forget()
    assert held(found) == []


@pytest.mark.parametrize("header", ["X-Trunkline-Cache: use", "Idempotency-Key: k"], ids=["cache", "idempotency"])
async def test_an_answer_that_others_may_read_leaves_no_cycle_when_it_fails(
    upstream: FakeUpstream, serve: Serve, header: str
) -> None:
    async with serve(TOML.format(url=upstream.url, retries=0)) as server:
        with collector_off() as found:
            for call in ("chat", "stream", "response", "response stream"):
                for plan in ("closed", "stream reset"):
                    upstream.plan(FAILURES[plan])
                    await post(server, call, header=header)
    assert held(found) == []
    assert not upstream.planned


AGENTS = """
import asyncio, time

def broken(turn):
    raise ValueError("no")

async def abroken(turn):
    raise ValueError("no")

def breaks(turn):
    yield "a"
    raise ValueError("no")

async def abreaks(turn):
    yield "a"
    raise ValueError("no")

async def hangs(turn):
    await asyncio.Event().wait()
"""


@pytest.mark.parametrize("agent", ["broken", "abroken", "breaks", "abreaks", "hangs"])
async def test_an_agent_that_fails_leaves_no_cycle(serve: Serve, agent: str) -> None:
    toml = f'[backends.m]\ntype = "python"\ntarget = "agents.py:{agent}"\ntimeout_s = 0.05\n'
    async with serve(toml, scripts={"agents.py": AGENTS}) as server:
        with collector_off() as found:
            for call in ("chat", "stream", "response", "response stream"):
                await post(server, call, model=agent)
    assert held(found) == []
