"""`Idempotency-Key` as clients meet it: one request is answered once, however often and from wherever it is sent."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.stores import HandClock
from tests.fakes.upstream import (
    COMPLETION,
    DONE,
    END,
    HELLO,
    STREAM,
    Do,
    FakeUpstream,
    Plan,
    chunk,
    json_answer,
    streamed,
    text_frame,
    usage_frame,
)
from tests.responses import check_stream, events_in
from tests.serving import Reply, Serving, Wire, eventually, serving, user

MODEL = '[[models]]\nname = "m"\nroutes = [{ backend = "b" }]\n'
ECHO = f'[backends.b]\ntype = "scripted"\n{MODEL}'
SCRIPTED = f'[backends.b]\ntype = "scripted"\nscript = "script.toml"\n{MODEL}'
KEYS = "".join(f'[[server.keys]]\nname = "{name}"\nkey = "sk-{name}"\n' for name in ("ann", "bob"))
WAYS = ("chat", "chat streamed", "response", "response streamed")
SURFACES = ("chat", "response")


def http(upstream: FakeUpstream, more: str = "") -> str:
    return f'[backends.b]\ntype = "http"\nendpoints = ["{upstream.url}"]\nretries = 0\n{more}{MODEL}'


async def post(server: Serving, path: str, body: Mapping[str, object], headers: Mapping[str, str] = {}) -> Reply:
    return await server.request("POST", path, json.dumps(body).encode(), headers=headers)


async def ask(
    server: Serving,
    how: str,
    text: str = "hello",
    *,
    key: str | None = "k",
    headers: Mapping[str, str] = {},
    **body: Any,
) -> Reply:
    surface, _, stream = how.partition(" ")
    whole: dict[str, object] = {"model": "m", "stream": bool(stream), **body}
    sent = headers if key is None else {"idempotency-key": key, **headers}
    if surface == "chat":
        return await post(server, "/v1/chat/completions", {"messages": user(text), **whole}, sent)
    return await post(server, "/v1/responses", {"input": text, **whole}, sent)


def how_of(reply: Reply) -> str | None:
    assert reply.status == 200, reply.body
    return reply.headers.get("x-trunkline-idempotent")


def shown(reply: Reply) -> tuple[str, str]:
    """The answer's id and text, whatever the surface."""
    answer: dict[str, Any]
    if reply.headers["content-type"] != "text/event-stream":
        answer = reply.json()
    elif b"response.completed" in reply.body:
        answer = check_stream(events_in(reply.body))
    else:
        assert reply.body.endswith(DONE)
        (answer_id,) = {frame["id"] for frame in reply.frames if isinstance(frame, dict)}
        return answer_id, reply.text
    if answer["object"] == "response":
        return answer["id"], answer["output_text"]
    return answer["id"], answer["choices"][0]["message"]["content"]


def halfway(gate: asyncio.Event, *rest: Any) -> Plan:
    return [STREAM, chunk(text_frame("Hel")), gate, *rest]


WHOLE = chunk(text_frame("lo") + text_frame(finish="stop") + usage_frame() + DONE)


@contextlib.asynccontextmanager
async def stream(
    server: Serving, *, key: str = "k", until: bytes = b"Hel", surface: str = "chat"
) -> AsyncIterator[Wire]:
    """A stream under way, read as far as that."""
    path, said = (
        ("chat/completions", {"messages": user("hello")}) if surface == "chat" else ("responses", {"input": "hello"})
    )
    body = json.dumps({"model": "m", "stream": True, **said}).encode()
    async with server.connect() as wire:
        head = f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
        await wire.send(head.encode() + body)
        assert (await wire.head())[0] == 200
        if until:
            await wire.until(until)
        yield wire


async def left(server: Serving, clients: int) -> None:
    await eventually(lambda: sum("client_disconnected" in line for line in server.access_lines) == clients)


# The same request again


@pytest.mark.parametrize("first", WAYS)
async def test_a_request_sent_again_gets_the_same_answer_however_it_wants_it(first: str, serve: Serve) -> None:
    surface = first.partition(" ")[0]
    async with serve(ECHO) as server:
        made = await ask(server, first)
        assert how_of(made) is None
        assert made.headers["x-trunkline-route"] == "b/scripted"
        for again in (surface, f"{surface} streamed"):
            given = await ask(server, again)
            assert how_of(given) == "replayed"
            assert shown(given) == shown(made)
            if again == first:
                assert given.body == made.body
            same = ("x-trunkline-route", "x-session-id")
            assert [given.headers[name] for name in same] == [made.headers[name] for name in same]


@pytest.mark.parametrize("surface", SURFACES)
async def test_the_backend_is_asked_once_and_its_tokens_are_counted_once(
    surface: str, upstream: FakeUpstream, serve: Serve
) -> None:
    upstream.plan([json_answer(COMPLETION)])
    async with serve(http(upstream)) as server:
        made, given = await ask(server, surface), await ask(server, surface)
        assert made.json() == given.json()
        (used,) = (await server.get("/v1/usage")).json()["data"]
    assert len(upstream.posts) == 1
    assert (used["requests"], used["input_tokens"], used["output_tokens"]) == (1, 5, 2)


async def test_without_a_key_and_with_another_a_request_is_another(serve: Serve) -> None:
    async with serve(ECHO) as server:
        replies = [await ask(server, "chat", key=key) for key in ("k", "l", None, None)]
        assert len({shown(reply)[0] for reply in replies}) == 4
        assert [how_of(reply) for reply in replies] == [None] * 4


async def test_spaces_and_the_order_of_members_are_not_the_request(serve: Serve) -> None:
    async with serve(ECHO) as server:
        await ask(server, "chat", seed=5)
        body = b'{ "seed": 5, "stream_options": {"include_usage": true}, "stream": true,'
        body += b'"messages": [{"content": "hello", "role": "user"}], "model": "m" }'
        reply = await server.request("POST", "/v1/chat/completions", body, headers={"idempotency-key": "k"})
        assert how_of(reply) == "replayed"
        assert [frame["usage"] for frame in reply.frames if isinstance(frame, dict) and frame.get("usage")] != []


SCRIPT = """
[[rules]]
match = "call"
steps = [{ call = "look", arguments = ['{"a":', "1}"] }]
[[rules]]
match = "run"
steps = [{ run = "search", output = "found" }, { text = "It is there." }]
[[rules]]
match = "length"
steps = [{ text = "as far as" }, { finish = "length" }]
[[rules]]
match = "part"
steps = [{ text = "some " }, { error = "unavailable" }]
[[rules]]
match = "refuse"
steps = [{ error = "rejected" }]
"""
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
FLAT = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}


async def test_tool_calls_have_the_same_ids_each_time(serve: Serve) -> None:
    async with serve(SCRIPTED, scripts={"script.toml": SCRIPT}) as server:
        made, given = [(await ask(server, "chat", "call", tools=[TOOL])).json() for _ in range(2)]
        assert made == given
        assert made["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"a":1}'}
        whole = (await ask(server, "response", "call", key="r", tools=[FLAT])).json()
        streamed_again = await ask(server, "response streamed", "call", key="r", tools=[FLAT])
        assert check_stream(events_in(streamed_again.body)) == whole


@pytest.mark.parametrize("text", ["run", "length"])
async def test_an_answer_that_ended_by_itself_is_given_again_whatever_it_holds(text: str, serve: Serve) -> None:
    async with serve(SCRIPTED, scripts={"script.toml": SCRIPT}) as server:
        for surface in SURFACES:
            made, given = [await ask(server, surface, text, key=surface) for _ in range(2)]
            assert how_of(given) == "replayed"
            assert made.json() == given.json()


# At the same time


@pytest.mark.parametrize("surface", SURFACES)
async def test_requests_at_the_same_time_are_answered_once(surface: str, upstream: FakeUpstream, serve: Serve) -> None:
    gate = asyncio.Event()
    upstream.plan([gate, json_answer(COMPLETION)])
    async with serve(http(upstream)) as server:
        ways = (surface, f"{surface} streamed", surface)
        asking = [asyncio.create_task(ask(server, how)) for how in ways]
        await eventually(lambda: len(upstream.posts) == 1 and len(server.application.runtime.state.in_flight) == 3)
        gate.set()
        replies = [await one for one in asking]
        assert sorted([how_of(reply) or "made" for reply in replies]) == ["joined", "joined", "made"]
        assert len({shown(reply) for reply in replies}) == 1
        assert shown(replies[0])[1] == "Hello"
    assert len(upstream.posts) == 1


@pytest.mark.parametrize("surface", SURFACES)
async def test_who_joins_a_stream_reads_it_from_its_beginning(
    surface: str, upstream: FakeUpstream, serve: Serve
) -> None:
    gate = asyncio.Event()
    upstream.plan(halfway(gate, WHOLE, END))
    async with serve(http(upstream)) as server, stream(server, surface=surface) as first:
        whole = asyncio.create_task(ask(server, surface))
        async with stream(server, surface=surface) as second:
            gate.set()
            for wire in (first, second):
                assert b'"lo"' in await wire.until(DONE)
        assert how_of(await whole) == "joined"
        assert shown(await whole)[1] == "Hello"
    assert len(upstream.posts) == 1


@pytest.mark.parametrize("leaver", [0, 1])
async def test_one_that_leaves_takes_the_answer_from_nobody(leaver: int, upstream: FakeUpstream, serve: Serve) -> None:
    gate = asyncio.Event()
    upstream.plan(halfway(gate, WHOLE, END))
    async with serve(http(upstream)) as server, stream(server) as first, stream(server) as second:
        wires = [first, second]
        wires[leaver].writer.transport.abort()
        await left(server, 1)
        gate.set()
        assert b'"content":"lo"' in await wires[1 - leaver].until(DONE)
        assert how_of(await ask(server, "chat")) == "replayed"
        if leaver == 0:
            await eventually(lambda: any(" answer id=" in line for line in server.access_lines))
        (used,) = (await server.get("/v1/usage")).json()["data"]
    assert (used["requests"], used["output_tokens"]) == (1, 2)


@pytest.mark.parametrize("surface", SURFACES)
async def test_when_all_have_left_the_work_goes_on_and_the_next_try_finds_it(
    surface: str, upstream: FakeUpstream, serve: Serve
) -> None:
    gate = asyncio.Event()
    upstream.plan(halfway(gate, WHOLE, END))
    async with serve(http(upstream)) as server:
        async with stream(server, surface=surface) as wire:
            wire.writer.transport.abort()
            await left(server, 1)
        again = asyncio.create_task(ask(server, surface))
        await eventually(lambda: len(server.application.runtime.state.in_flight) == 1)
        assert not upstream.left.is_set()
        gate.set()
        assert how_of(await again) == "joined"
        assert shown(await again)[1] == "Hello"
        await eventually(lambda: not server.application.busy)
        assert how_of(await ask(server, surface)) == "replayed"
    assert len(upstream.posts) == 1


async def test_work_that_nobody_waits_for_ends_with_the_time_of_its_backend(
    upstream: FakeUpstream, serve: Serve
) -> None:
    upstream.plan([STREAM, chunk(text_frame("Hel")), Do.HOLD], streamed(HELLO))
    async with serve(http(upstream, "timeout_s = 0.3\n")) as server:
        async with stream(server) as wire:
            wire.writer.transport.abort()
        await upstream.left.wait()
        await eventually(lambda: not server.application.busy)
        assert server.application.runtime.endpoints[0].active == 0
        assert how_of(await ask(server, "chat streamed")) is None


# Another request


async def test_a_key_that_was_used_for_another_request_is_refused(upstream: FakeUpstream, serve: Serve) -> None:
    gate = asyncio.Event()
    upstream.plan(halfway(gate, WHOLE, END))
    async with serve(http(upstream)) as server:
        async with stream(server) as wire:
            for _ in range(2):
                for reply in (
                    await ask(server, "chat", "bye"),
                    await ask(server, "response"),
                    await ask(server, "chat", seed=1),
                ):
                    assert reply.status == 409
                    assert reply.error["code"] == "idempotency_key_reused"
                    assert "'k'" in reply.error["message"]
                gate.set()
                await eventually(lambda: not server.application.busy)
            await wire.until(DONE)
        assert how_of(await ask(server, "chat")) == "replayed"


async def test_session_and_memory_are_part_of_the_request(serve: Serve) -> None:
    async with serve(KEYS + ECHO) as server:
        ann = {"authorization": "Bearer sk-ann"}
        await ask(server, "chat", headers={**ann, "x-session-id": "one", "x-session-key": "me"})
        for other in ({}, {"x-session-id": "two", "x-session-key": "me"}, {"x-session-id": "one"}):
            assert (await ask(server, "chat", headers={**ann, **other})).status == 409
        again = await ask(server, "chat", headers={**ann, "x-session-id": "one", "x-session-key": "me"})
        assert how_of(again) == "replayed"
        assert (again.headers["x-session-id"], again.headers["x-session-key"]) == ("one", "me")


async def test_a_key_is_its_tenants_own(serve: Serve) -> None:
    async with serve(KEYS + ECHO) as server:
        ann, bob = ({"authorization": f"Bearer sk-{name}"} for name in ("ann", "bob"))
        made, others = await ask(server, "chat", headers=ann), await ask(server, "chat", "bye", headers=bob)
        assert (how_of(made), how_of(others)) == (None, None)
        assert (shown(made)[1], shown(others)[1]) == ("hello", "bye")
        assert shown(await ask(server, "chat", headers=ann)) == shown(made)


async def test_a_profile_may_give_the_key_to_the_next_request(upstream: FakeUpstream, serve: Serve) -> None:
    gate = asyncio.Event()
    upstream.plan(halfway(gate, WHOLE, END), streamed(HELLO), streamed(HELLO))
    async with serve('[server]\nprofile = "hermes"\n' + http(upstream)) as server:
        async with stream(server, until=b"Hel") as wire:
            second = await ask(server, "chat streamed", "bye")
            gate.set()
            await wire.until(DONE)
        await eventually(lambda: not server.application.busy)
        assert shown(await ask(server, "chat streamed", "bye")) == shown(second)
        assert how_of(await ask(server, "chat streamed")) is None
    assert len(upstream.posts) == 3


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9"])
async def test_a_key_has_1_to_255_printable_characters(key: str, serve: Serve) -> None:
    async with serve(ECHO) as server:
        body = json.dumps({"model": "m", "messages": user("hello")}).encode()
        async with server.connect() as wire:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\n"
            await wire.send(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            reply = await wire.reply()
        assert (reply.status, reply.error["param"]) == (400, "Idempotency-Key")
        assert how_of(await ask(server, "chat", key="x" * 255)) is None


# Failures


@pytest.mark.parametrize("how", WAYS)
async def test_a_failed_answer_is_not_kept(how: str, serve: Serve) -> None:
    async with serve(SCRIPTED, scripts={"script.toml": SCRIPT}) as server:
        for text in ("part", "refuse"):
            for _ in range(2):
                reply = await ask(server, how, text, key=text)
                assert reply.status >= 400 or b'"error":' in reply.body
                assert "x-trunkline-idempotent" not in reply.headers
        assert not server.application.busy


async def test_what_is_refused_before_it_is_answered_leaves_its_key_free(serve: Serve) -> None:
    async with serve(ECHO) as server:
        for wrong in ({"model": "unknown"}, {"n": 0}, {"tools": [TOOL], "tool_choice": "nonsense"}):
            assert 400 <= (await ask(server, "chat", **wrong)).status < 500
        assert (await ask(server, "response", previous_response_id="resp_none")).status == 400
        assert how_of(await ask(server, "chat")) is None


async def test_a_failure_is_everybodys(upstream: FakeUpstream, serve: Serve) -> None:
    gate = asyncio.Event()
    upstream.plan([gate, json_answer({"error": {"message": "no"}}, status="500 Oops")], [json_answer(COMPLETION)])
    async with serve(http(upstream)) as server:
        asking = [asyncio.create_task(ask(server, how)) for how in ("chat", "chat streamed", "chat")]
        await eventually(lambda: len(upstream.posts) == 1 and len(server.application.runtime.state.in_flight) == 3)
        gate.set()
        assert [(await one).status for one in asking] == [502] * 3
        assert how_of(await ask(server, "chat")) is None
    assert len(upstream.posts) == 2


async def test_an_answer_is_given_again_while_nobody_else_is_let_in(upstream: FakeUpstream, serve: Serve) -> None:
    gate = asyncio.Event()
    upstream.plan([json_answer(COMPLETION)], halfway(gate, WHOLE, END))
    async with serve(http(upstream, "max_concurrency = 1\nmax_queue = 0\n")) as server:
        made = await ask(server, "chat")
        async with stream(server, key="other"):
            assert (await ask(server, "chat", key="third")).status == 429
            assert shown(await ask(server, "chat")) == shown(made)
            gate.set()


# What is stored, and for how long


async def test_an_answer_outlives_the_server(tmp_path: Path) -> None:
    settings = f'[store]\nurl = "sqlite:///keys.db"\n{ECHO}'
    made: dict[str, Reply] = {}
    async with serving(settings, base_dir=tmp_path) as server:
        for how in WAYS:
            made[how] = await ask(server, how, key=how)
    async with serving(settings, base_dir=tmp_path) as server:
        for how in WAYS:
            given = await ask(server, how, key=how)
            assert how_of(given) == "replayed"
            assert shown(given) == shown(made[how])
            assert given.headers["x-session-id"] == made[how].headers["x-session-id"]


async def test_what_a_stopping_server_ends_is_asked_again(tmp_path: Path, upstream: FakeUpstream) -> None:
    upstream.plan([STREAM, chunk(text_frame("Hel")), Do.HOLD], streamed(HELLO))
    settings = f'[store]\nurl = "sqlite:///keys.db"\n{http(upstream)}'
    async with serving(settings, base_dir=tmp_path, grace_s=0.0) as server:
        async with stream(server) as gone:
            gone.writer.transport.abort()
        async with server.connect() as wire:
            body = json.dumps({"model": "m", "stream": True, "messages": user("hello")}).encode()
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\n"
            await wire.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await wire.head()
            await wire.until(b"Hel")
            server.application.abort()
            assert b"server_shutting_down" in await wire.until(b'"error"')
    async with serving(settings, base_dir=tmp_path) as server:
        again = await ask(server, "chat streamed")
        assert (how_of(again), shown(again)[1]) == (None, "Hello")


async def test_a_key_expires(tmp_path: Path) -> None:
    clock = HandClock()
    async with serving(f"[idempotency]\nttl_s = 60\n{ECHO}", base_dir=tmp_path, clock=clock) as server:
        made = await ask(server, "response")
        clock.now += 59
        assert (await ask(server, "response")).json() == made.json()
        clock.now += 1
        assert how_of(await ask(server, "response")) is None


async def test_a_stored_answer_is_stored_once_and_goes_with_its_key(serve: Serve) -> None:
    async with serve(ECHO) as server:
        conversation = (await post(server, "/v1/conversations", {})).json()["id"]
        made, given = [await ask(server, "response", conversation=conversation) for _ in range(2)]
        assert made.json() == given.json()
        items = (await server.get(f"/v1/conversations/{conversation}/items")).json()["data"]
        assert len(items) == 2
        path = f"/v1/responses/{made.json()['id']}"
        assert (await server.get(path)).json() == made.json()
        assert (await server.request("DELETE", path)).status == 200
        assert how_of(await ask(server, "response", conversation=conversation)) is None

        kept = await ask(server, "chat streamed", key="c", store=True)
        path = f"/v1/chat/completions/{shown(kept)[0]}"
        assert shown(await ask(server, "chat", key="c", store=True)) == shown(kept)
        assert (await server.get(path)).json()["choices"][0]["message"]["content"] == "hello"
        assert (await server.request("DELETE", path)).status == 200
        assert how_of(await ask(server, "chat", key="c", store=True)) is None


async def test_what_came_before_may_be_gone_when_an_answer_is_given_again(serve: Serve) -> None:
    async with serve(ECHO) as server:
        first = (await ask(server, "response", key=None)).json()["id"]
        made = await ask(server, "response", "and then?", previous_response_id=first, metadata={"a": "b"})
        assert (await server.request("DELETE", f"/v1/responses/{first}")).status == 200
        for how in ("response", "response streamed"):
            given = await ask(server, how, "and then?", previous_response_id=first, metadata={"a": "b"})
            assert shown(given) == shown(made)


async def test_a_turn_of_a_session_is_said_once(serve: Serve) -> None:
    settings = f'[backends.b]\ntype = "scripted"\nsessions = true\n{MODEL}'
    async with serve(settings) as server:
        for _ in range(3):
            assert (await ask(server, "chat", headers={"x-session-id": "s"})).status == 200
        messages = (await server.get("/v1/sessions/s/messages")).json()["data"]
        assert len(messages) == 2


# In the background, and elsewhere


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/runs"])
async def test_background_work_is_taken_on_once(path: str, upstream: FakeUpstream, serve: Serve) -> None:
    gate = asyncio.Event()
    upstream.plan([gate, json_answer(COMPLETION)])
    body: dict[str, object] = {"model": "m", "input": "hello"}
    if path == "/v1/responses":
        body["background"] = True
    async with serve(http(upstream)) as server:
        key = {"idempotency-key": "k"}
        replies = await asyncio.gather(*[post(server, path, body, key) for _ in range(3)])
        name = "id" if path == "/v1/responses" else "run_id"
        (run_id,) = {reply.json()[name] for reply in replies}
        assert ["x-trunkline-idempotent" in reply.headers for reply in replies].count(False) == 1
        assert (await post(server, path, {**body, "input": "bye"}, key)).status == 409
        gate.set()
        await eventually(lambda: not server.application.busy)
        again = await post(server, path, body, key)
        assert (again.json()[name], again.headers["x-trunkline-idempotent"]) == (run_id, "replayed")
        assert again.json()["status"] == "completed"
        assert (await server.get(f"{path}/{run_id}")).json()["status"] == "completed"
    assert len(upstream.posts) == 1


async def test_background_work_may_be_followed_by_its_key_and_goes_with_its_response(serve: Serve) -> None:
    async with serve(ECHO) as server:
        made = await ask(server, "response streamed", background=True)
        given = await ask(server, "response streamed", background=True)
        assert how_of(given) == "replayed"
        assert made.body == given.body
        whole = await ask(server, "response", background=True)
        assert (whole.json()["id"], whole.json()["status"]) == (shown(made)[0], "completed")
        assert (await server.request("DELETE", f"/v1/responses/{shown(made)[0]}")).status == 200
        assert how_of(await ask(server, "response", background=True)) is None


async def test_background_work_outlives_the_server_with_its_key(tmp_path: Path) -> None:
    settings = f'[store]\nurl = "sqlite:///keys.db"\n{ECHO}'
    async with serving(settings, base_dir=tmp_path) as server:
        made = await ask(server, "response", background=True)
        await eventually(lambda: not server.application.busy)
    async with serving(settings, base_dir=tmp_path) as server:
        given = await ask(server, "response", background=True)
        assert (how_of(given), given.json()["id"]) == ("replayed", made.json()["id"])
        assert given.headers["x-session-id"] == made.headers["x-session-id"]


async def test_where_a_key_says_nothing_it_is_ignored(upstream: FakeUpstream, serve: Serve) -> None:
    vectors = {"object": "list", "data": [], "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    upstream.plan([json_answer(vectors)], [json_answer(vectors)])
    async with serve(http(upstream)) as server:
        for _ in range(2):
            reply = await post(server, "/v1/embeddings", {"model": "m", "input": "a"}, {"idempotency-key": "k"})
            assert reply.status == 200
            assert "x-trunkline-idempotent" not in reply.headers
    assert len(upstream.posts) == 2
