"""The answer cache as clients meet it: what is given again, to whom, in what words, and what never is."""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

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
    json_answer,
    streamed,
    text_frame,
    usage_frame,
)
from tests.responses import check_stream, events_in
from tests.serving import Reply, Serving, eventually, finish_of, user
from tests.sockets import socket

CACHED = '[[models]]\nname = "m"\ncache = true\nroutes = [{ backend = "b" }]\n'
PLAIN = '[[models]]\nname = "plain"\nroutes = [{ backend = "b" }]\n'
ECHO = f'[backends.b]\ntype = "scripted"\n{CACHED}{PLAIN}'
SCRIPTED = f'[backends.b]\ntype = "scripted"\nscript = "script.toml"\n{CACHED}'
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def http(upstream: FakeUpstream) -> str:
    return f'[backends.b]\ntype = "http"\nendpoints = ["{upstream.url}"]\nretries = 0\n{CACHED}'


async def chat(server: Serving, text: str = "hello", *, headers: Mapping[str, str] = {}, **body: Any) -> Reply:
    return await server.chat(text, headers=headers, **{"model": "m", **body})


async def respond(server: Serving, text: object = "hello", *, headers: Mapping[str, str] = {}, **body: Any) -> Reply:
    whole = {"model": "m", "input": text, **body}
    return await server.request("POST", "/v1/responses", json.dumps(whole).encode(), headers=headers)


def cache_of(reply: Reply) -> str | None:
    assert reply.status == 200, reply.body
    return reply.headers.get("x-trunkline-cache")


def said(reply: Reply) -> str:
    """The answer's text, whatever the surface."""
    if reply.headers["content-type"] != "text/event-stream":
        answer = reply.json()
        text = answer.get("output_text") or answer["choices"][0]["message"]["content"]
    elif b"response.completed" in reply.body:
        text = check_stream(events_in(reply.body))["output_text"]
    else:
        assert reply.body.endswith(DONE)
        text = reply.text
    assert isinstance(text, str)
    return text


async def ask(server: Serving, how: str, **body: Any) -> Reply:
    surface, _, stream = how.partition(" ")
    return await (chat if surface == "chat" else respond)(server, stream=bool(stream), **body)


WAYS = ("chat", "chat streamed", "response", "response streamed")


@pytest.mark.parametrize("first", WAYS)
async def test_an_answer_serves_every_surface_streamed_or_not(first: str, serve: Serve) -> None:
    async with serve(ECHO) as server:
        made = await ask(server, first)
        assert (cache_of(made), made.headers["x-trunkline-route"]) == ("miss", "b/scripted")
        for way in WAYS:
            given = await ask(server, way)
            assert (cache_of(given), given.headers["x-trunkline-route"]) == ("hit", "cache")
            assert said(given) == said(made) == "hello"


async def test_a_hit_asks_nobody_and_is_an_answer_of_its_own(upstream: FakeUpstream, serve: Serve) -> None:
    upstream.plan([json_answer(COMPLETION)])
    async with serve(http(upstream)) as server:
        made, given = (await chat(server)).json(), (await chat(server)).json()
    assert len(upstream.posts) == 1
    assert made["id"] != given["id"]
    assert "chatcmpl-up" not in (made["id"], given["id"])
    assert given["usage"] == {**COMPLETION["usage"], "prompt_tokens_details": {"cached_tokens": 5}}  # type: ignore[dict-item]
    assert made["usage"] == COMPLETION["usage"]
    same = ("object", "model", "choices")
    assert [made[name] for name in same] == [given[name] for name in same]


async def test_a_hit_is_there_while_its_server_is_not(upstream: FakeUpstream, serve: Serve) -> None:
    upstream.plan(streamed(HELLO), [Do.RESET], [Do.RESET])
    async with serve(http(upstream)) as server:
        assert cache_of(await chat(server, stream=True)) == "miss"
        assert (await chat(server, "other")).status == 503
        assert said(await chat(server)) == "Hello"


async def test_without_being_asked_for_it_there_is_no_cache(serve: Serve) -> None:
    async with serve(ECHO) as server:
        for _ in range(2):
            assert cache_of(await chat(server, model="plain")) is None
        shown = (await server.get("/v1/cache")).json()
    assert (shown["entries"], shown["misses"], shown["data"]) == (0, 0, [])


async def test_a_request_may_ask_for_it_or_go_past_it(serve: Serve) -> None:
    use, bypass = {"x-trunkline-cache": "use"}, {"x-trunkline-cache": "bypass"}
    async with serve(ECHO) as server:
        for post in (chat, respond):
            plain: dict[str, Any] = {"text": post.__name__, "model": "plain"}
            assert cache_of(await post(server, **plain, headers=use)) == "miss"
            assert cache_of(await post(server, **plain)) is None
            assert cache_of(await post(server, **plain, headers=use)) == "hit"
            assert cache_of(await post(server, post.__name__, headers=bypass)) is None
            assert cache_of(await post(server, post.__name__)) == "miss"
            assert cache_of(await post(server, post.__name__, headers=bypass)) is None
            refused = await post(server, headers={"x-trunkline-cache": "maybe"})
            assert (refused.status, refused.error["param"]) == (400, "x-trunkline-cache")
            assert "'use' or 'bypass', got 'maybe'" in refused.error["message"]


HISTORY = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]
DIFFERENT: dict[str, dict[str, Any]] = {
    "text": {"messages": [*HISTORY[:2], {"role": "user", "content": "Three"}]},
    "earlier answer": {"messages": [HISTORY[0], {"role": "assistant", "content": "2"}, HISTORY[2]]},
    "earlier question": {"messages": [{"role": "user", "content": "1"}, *HISTORY[1:]]},
    "system": {"messages": [{"role": "system", "content": "short"}, *HISTORY]},
    "role": {"messages": [{"role": "developer", "content": "one"}, *HISTORY[1:]]},
    "name": {"messages": [{**HISTORY[0], "name": "ann"}, *HISTORY[1:]]},
    "image": {
        "messages": [
            *HISTORY[:2],
            {
                "role": "user",
                "content": [{"type": "text", "text": "three"}, {"type": "image_url", "image_url": {"url": "data:,x"}}],
            },
        ]
    },
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.5},
    "max_tokens": {"max_tokens": 50},
    "seed": {"seed": 1},
    "stop": {"stop": ["x"]},
    "n": {"n": 2},
    "presence_penalty": {"presence_penalty": 1},
    "frequency_penalty": {"frequency_penalty": 1},
    "logit_bias": {"logit_bias": {"5": 1}},
    "logprobs": {"logprobs": True},
    "tools": {"tools": [TOOL]},
    "tool_choice": {"tools": [TOOL], "tool_choice": "none"},
    "parallel_tool_calls": {"tools": [TOOL], "parallel_tool_calls": False},
    "response_format": {"response_format": {"type": "json_object"}},
    "reasoning_effort": {"reasoning_effort": "low"},
    "user": {"user": "ann"},
    "metadata": {"metadata": {"a": "b"}},
    "an unknown key": {"top_k": 5},
    "model": {"model": "plain"},
}


@pytest.mark.parametrize("difference", DIFFERENT)
async def test_what_may_change_the_answer_makes_another_call(difference: str, serve: Serve) -> None:
    use = {"x-trunkline-cache": "use"}
    async with serve(ECHO) as server:
        assert cache_of(await chat(server, messages=HISTORY)) == "miss"
        body = {"messages": HISTORY, **DIFFERENT[difference]}
        if difference in ("tool_choice", "parallel_tool_calls"):
            assert cache_of(await chat(server, messages=HISTORY, tools=[TOOL])) == "miss"
        if difference == "metadata":  # kept only with what is stored
            body["store"] = True
        assert cache_of(await chat(server, headers=use, **body)) == "miss"
        assert cache_of(await chat(server, headers=use, **body)) == "hit"


async def test_sessions_and_tenants_have_their_own_answers(serve: Serve) -> None:
    keys = "".join(f'[[server.keys]]\nname = "{name}"\nkey = "sk-{name}"\n' for name in ("ann", "bob"))
    async with serve(keys + ECHO) as server:
        ann, bob = ({"authorization": f"Bearer sk-{name}"} for name in ("ann", "bob"))
        assert cache_of(await chat(server, headers=ann)) == "miss"
        assert cache_of(await chat(server, headers=bob)) == "miss"
        assert cache_of(await chat(server, headers={**ann, "x-session-id": "s1"})) == "miss"
        assert cache_of(await chat(server, headers={**ann, "x-session-id": "s1"})) == "hit"
        shown = [(await server.get("/v1/cache", headers=who)).json() for who in (ann, bob)]
        assert [(one["entries"], one["hits"], one["misses"]) for one in shown] == [(2, 1, 2), (1, 0, 1)]
        gone = await server.request("DELETE", "/v1/cache", headers=bob)
        assert gone.json() == {"object": "cache.deleted", "deleted": True, "entries": 1}
        assert cache_of(await chat(server, headers=ann)) == "hit"
        assert cache_of(await chat(server, headers=bob)) == "miss"


def called(call_id: str) -> list[dict[str, Any]]:
    call = {"id": call_id, "type": "function", "function": {"name": "look", "arguments": "{}"}}
    return [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": "sunny"},
    ]


async def test_what_only_says_it_otherwise_is_the_same(serve: Serve) -> None:
    def asked(text: object) -> dict[str, Any]:
        return {"messages": [{"role": "system", "content": "short"}, {"role": "user", "content": text}]}

    reordered = {"function": {"parameters": {"properties": {}, "type": "object"}, "name": "look"}, "type": "function"}
    flat = {"type": "function", **TOOL["function"]}  # type: ignore[dict-item]
    async with serve(ECHO) as server:
        assert cache_of(await chat(server, **asked("hi"), tools=[TOOL])) == "miss"
        for same in (
            asked([{"type": "text", "text": "hi"}]),
            {**asked("hi"), "stream": True, "stream_options": {"include_usage": True}},
            {**asked("hi"), "tool_choice": "auto", "response_format": {"type": "text"}, "n": 1},
            {**asked("hi"), "store": True, "prompt_cache_key": "k"},
        ):
            assert cache_of(await chat(server, **{"tools": [TOOL], **same})) == "hit", same
        assert cache_of(await chat(server, **asked("hi"), tools=[reordered])) == "hit"
        assert cache_of(await respond(server, "hi", instructions="short", tools=[flat])) == "hit"
        items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}], "id": "msg_1"}]
        assert cache_of(await respond(server, items, instructions="short", tools=[flat], store=False)) == "hit"
        assert cache_of(await chat(server, messages=called("call_a"), tools=[TOOL])) == "miss"
        assert cache_of(await chat(server, messages=called("call_b"), tools=[TOOL])) == "hit"


async def test_a_history_by_name_is_the_history_itself(serve: Serve) -> None:
    async with serve(ECHO) as server:
        first = (await respond(server, "one")).json()
        assert cache_of(await respond(server, "two", previous_response_id=first["id"])) == "miss"
        again = (await respond(server, "one")).json()
        assert again["id"] != first["id"]
        assert cache_of(await respond(server, "two", previous_response_id=again["id"])) == "hit"
        assert cache_of(await chat(server, messages=[*user("one"), *_assistant("one"), *user("two")])) == "hit"
        kept = (await server.get(f"/v1/responses/{again['id']}")).json()
        assert kept["output_text"] == "one"


def _assistant(text: str) -> list[dict[str, object]]:
    return [{"role": "assistant", "content": text}]


async def test_a_connection_says_for_all_its_turns(serve: Serve) -> None:
    async with serve(ECHO) as server:
        assert cache_of(await respond(server, model="plain", headers={"x-trunkline-cache": "use"})) == "miss"
        for headers in ({}, {"x-trunkline-cache": "use"}):
            async with socket(server, model="plain", additional_headers=headers) as client:
                assert (await client.answer("hello"))["output_text"] == "hello"
        assert (await server.get("/v1/cache")).json()["hits"] == 1


async def test_ollamas_clients_share_it(serve: Serve) -> None:
    async with serve(ECHO) as server:
        assert cache_of(await chat(server)) == "miss"
        for stream in (True, False):
            body = json.dumps({"model": "m", "messages": user("hello"), "stream": stream}).encode()
            reply = await server.request("POST", "/api/chat", body)
            assert cache_of(reply) == "hit"
            assert json.loads(reply.body.splitlines()[0])["message"]["content"] == "hello"


async def test_background_responses_fill_it_and_are_answered_from_it(serve: Serve) -> None:
    async with serve(ECHO) as server:
        for _ in range(2):
            begun = (await respond(server, background=True)).json()
            log = await server.get(f"/v1/responses/{begun['id']}?stream=true")
            assert check_stream(events_in(log.body))["output_text"] == "hello"
        assert cache_of(await chat(server)) == "hit"
        assert (await server.get("/v1/cache")).json()["hits"] == 2


CALLS = """
[[rules]]
match = "call"
steps = [{ text = "Let me look. " }, { call = "look", arguments = ['{"a":', '1}'], call_id = "call_fixed" }]
[[rules]]
match = "think"
steps = [{ reasoning = "Hm" }, { reasoning = "m. " }, { text = "So." }]
[[rules]]
match = "run"
steps = [{ run = "search", output = "ten" }, { text = "Found ten." }]
[[rules]]
match = "approve"
steps = [{ approval = "rm", answer = "once" }, { text = "Done." }]
[[rules]]
match = "item"
steps = [{ item = "web_search_call" }, { text = "Found." }]
[[rules]]
match = "length"
steps = [{ text = "as far as" }, { finish = "length" }]
[[rules]]
match = "filter"
steps = [{ text = "oh" }, { finish = "content_filter" }]
[[rules]]
match = "empty"
steps = [{ finish = "stop" }]
[[rules]]
match = "part"
steps = [{ text = "some " }, { error = "unavailable" }]
[[rules]]
match = "event"
steps = [{ text = "some " }, { error = "unavailable", as_event = true }]
[[rules]]
match = "refuse"
steps = [{ error = "rejected" }]
"""


async def test_tool_calls_have_new_ids_each_time(serve: Serve) -> None:
    async with serve(SCRIPTED, scripts={"script.toml": CALLS}) as server:
        answers = [(await chat(server, "call", tools=[TOOL])).json()["choices"][0] for _ in range(3)]
        calls = [answer["message"]["tool_calls"][0] for answer in answers]
        assert [call["function"] for call in calls] == [{"name": "look", "arguments": '{"a":1}'}] * 3
        assert calls[0]["id"] == "call_fixed"
        assert len({call["id"] for call in calls}) == 3
        assert [answer["finish_reason"] for answer in answers] == ["tool_calls"] * 3
        flat = {"type": "function", **TOOL["function"]}  # type: ignore[dict-item]
        events = events_in((await respond(server, "call", tools=[flat], stream=True)).body)
        ids = [item["id"] for item in check_stream(events)["output"]]
        assert len(set(ids)) == 2


async def test_thinking_log_probabilities_and_choices_are_given_as_they_were(serve: Serve) -> None:
    async with serve(SCRIPTED, scripts={"script.toml": CALLS}) as server:
        bodies: list[dict[str, Any]] = [{}, {"logprobs": True, "top_logprobs": 1}, {"n": 2}]
        for body in bodies:
            made, given = [(await chat(server, "think", **body)).json()["choices"] for _ in range(2)]
            assert made == given
            assert [choice["message"]["content"] for choice in made] == ["So."] * body.get("n", 1)
            streams = [await chat(server, "think", stream=True, **body) for _ in range(2)]
            assert [cache_of(one) for one in streams] == ["hit"] * 2
            for index in range(len(made)):
                assert finish_of(streams[0].frames, choice=index) == ["stop"]


@pytest.mark.parametrize("text", ["length", "run", "think", "call"])
async def test_answers_that_ended_by_themselves_are_kept(text: str, serve: Serve) -> None:
    async with serve(SCRIPTED, scripts={"script.toml": CALLS}) as server:
        assert cache_of(await chat(server, text)) == "miss"
        assert cache_of(await chat(server, text)) == "hit"
        assert cache_of(await respond(server, text)) == "hit"


@pytest.mark.parametrize("text", ["filter", "empty", "approve", "item"])
async def test_answers_that_belong_to_one_turn_are_not(text: str, serve: Serve) -> None:
    async with serve(SCRIPTED, scripts={"script.toml": CALLS}) as server:
        for _ in range(2):
            assert cache_of(await respond(server, text)) == "miss"


@pytest.mark.parametrize("text", ["part", "event", "refuse"])
@pytest.mark.parametrize("stream", [False, True])
async def test_failures_are_not_kept(text: str, stream: bool, serve: Serve) -> None:
    async with serve(SCRIPTED, scripts={"script.toml": CALLS}) as server:
        for _ in range(2):
            reply = await chat(server, text, stream=stream)
            assert b'"error":{' in reply.body
            assert DONE not in reply.body
        shown = (await server.get("/v1/cache")).json()
        assert (shown["entries"], shown["misses"], shown["hits"]) == (0, 2, 0)


async def test_what_a_backend_refuses_it_refuses_whatever_is_kept(serve: Serve) -> None:
    cannot_stream = ECHO.replace('"scripted"\n', '"scripted"\nstreaming = false\n', 1)
    async with serve(cannot_stream) as server:
        assert cache_of(await chat(server)) == "miss"
        assert (await chat(server, stream=True)).status == 400
        assert (await chat(server, model="gone", headers={"x-trunkline-cache": "use"})).status == 404


async def test_ignored_parameters_are_named_in_the_asking_dialects_words(serve: Serve) -> None:
    async with serve(ECHO) as server:
        low: tuple[dict[str, Any], ...] = (
            {"reasoning_effort": "low"},
            {"reasoning_effort": "low"},
            {"reasoning": {"effort": "low"}},
        )
        heard = [await ask(server, way, **one) for way, one in zip(("chat", "chat", "response"), low, strict=True)]
        assert [cache_of(reply) for reply in heard] == ["miss", "hit", "hit"]
        words = [reply.headers["x-trunkline-ignored"] for reply in heard]
        assert words == ["reasoning_effort", "reasoning_effort", "reasoning.effort"]


async def test_what_one_dialect_alone_passes_on_makes_another_call_of_it(upstream: FakeUpstream, serve: Serve) -> None:
    upstream.plan([json_answer(COMPLETION)], [json_answer(COMPLETION)])
    async with serve(http(upstream)) as server:
        lost = await respond(server, min_p=0.5)
        assert (cache_of(lost), lost.headers["x-trunkline-ignored"]) == ("miss", "min_p")
        for seen in ("miss", "hit"):
            reply = await chat(server, min_p=0.5)
            assert cache_of(reply) == seen
            assert "x-trunkline-ignored" not in reply.headers
        assert cache_of(await respond(server, min_p=0.5)) == "hit"
    assert ["min_p" in post.json() for post in upstream.posts] == [False, True]


# The same, asked at the same time


@contextlib.asynccontextmanager
async def two_streams(server: Serving) -> AsyncIterator[list[Any]]:
    async with server.connect() as one, server.connect() as two:
        for wire in (one, two):
            await wire.send_chat({"model": "m", "messages": user("hello"), "stream": True})
            await wire.head()
            await wire.until(b"Hel")
        yield [one, two]


def halfway(gate: asyncio.Event, *rest: Any) -> Plan:
    return [STREAM, chunk(text_frame("Hel")), gate, *rest]


WHOLE = chunk(text_frame("lo") + text_frame(finish="stop") + usage_frame() + DONE)


async def test_calls_at_the_same_time_share_one_answer_word_by_word(upstream: FakeUpstream, serve: Serve) -> None:
    gate = asyncio.Event()
    upstream.plan(halfway(gate, WHOLE, END))
    async with serve(http(upstream)) as server, two_streams(server) as wires:
        gate.set()  # both have its beginning already
        ends = [await wire.until(DONE) for wire in wires]
        assert all(b'"content":"lo"' in end for end in ends)
        shown = (await server.get("/v1/cache")).json()
        assert (shown["misses"], shown["hits"], shown["joined"], shown["entries"]) == (1, 1, 1, 1)
        assert said(await chat(server)) == "Hello"
    assert len(upstream.posts) == 1


@pytest.mark.parametrize("leaver", [0, 1])
async def test_a_client_that_leaves_takes_the_answer_from_nobody(
    leaver: int, upstream: FakeUpstream, serve: Serve
) -> None:
    gate = asyncio.Event()
    upstream.plan(halfway(gate, WHOLE, END))
    async with serve(http(upstream)) as server, two_streams(server) as wires:
        wires[leaver].writer.transport.abort()
        await eventually(lambda: sum("client_disconnected" in line for line in server.access_lines) == 1)
        gate.set()
        assert b'"content":"lo"' in await wires[1 - leaver].until(DONE)
    assert len(upstream.posts) == 1


async def test_what_an_answer_cost_is_counted_once_whoever_leaves(upstream: FakeUpstream, serve: Serve) -> None:
    gate = asyncio.Event()
    upstream.plan(halfway(gate, WHOLE, END))
    async with serve(http(upstream)) as server, two_streams(server) as (first, second):
        first.writer.transport.abort()
        await eventually(lambda: sum("client_disconnected" in line for line in server.access_lines) == 1)
        gate.set()
        await second.until(DONE)
        await eventually(lambda: sum(" answer id=" in line for line in server.access_lines) == 1)
        (used,) = (await server.get("/v1/usage")).json()["data"]
    assert (used["requests"], used["input_tokens"], used["output_tokens"]) == (1, 5, 2)


async def test_with_the_last_client_the_work_stops(upstream: FakeUpstream, serve: Serve) -> None:
    upstream.plan([STREAM, chunk(text_frame("Hel")), Do.HOLD], streamed(HELLO))
    async with serve(http(upstream)) as server:
        async with two_streams(server) as wires:
            for wire in wires:
                wire.writer.transport.abort()
            await upstream.left.wait()
        endpoint = server.application.runtime.endpoints[0]
        await eventually(lambda: endpoint.active == 0)
        reply = await chat(server, stream=True)
        assert (cache_of(reply), said(reply)) == ("miss", "Hello")


SLOW_TO_STOP = """
import asyncio

stopping, may_stop = asyncio.Event(), asyncio.Event()
calls = []

async def agent(turn):
    calls.append(turn)
    if len(calls) > 1:
        yield "second"
        return
    try:
        yield "first"
        await asyncio.Event().wait()
    finally:
        stopping.set()
        await may_stop.wait()
"""


async def test_nobody_joins_an_answer_that_is_being_given_up(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "slow_to_stop.py"
    path.write_text(SLOW_TO_STOP)
    settings = f'[backends.b]\ntype = "python"\ntarget = "{path}:agent"\nmax_concurrency = 2\n{CACHED}'
    async with serve(settings) as server:
        agent: Any = sys.modules["slow_to_stop"]
        async with server.stream("hello", model="m") as wire:
            await wire.head()
            await wire.until(b"first")
            wire.writer.transport.abort()
        await agent.stopping.wait()
        asking = asyncio.create_task(chat(server, stream=True))
        await eventually(lambda: len(server.application.runtime.state.in_flight) == 2)
        await server.get("/health")
        agent.may_stop.set()
        reply = await asking
    assert (cache_of(reply), said(reply)) == ("miss", "second")


async def test_who_joins_may_leave_as_the_first_one_may(upstream: FakeUpstream, serve: Serve) -> None:
    gate = asyncio.Event()
    upstream.plan(halfway(gate, WHOLE, END))
    finishing = http(upstream).replace("retries = 0", 'retries = 0\non_disconnect = "finish"')
    body = json.dumps({"model": "m", "input": "hello", "stream": True}).encode()
    head = b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with serve(finishing) as server:
        ids = []
        for _ in range(2):
            async with server.connect() as wire:
                await wire.send(head + body)
                await wire.head()
                ids += re.findall(rb'"id":"(resp_[0-9a-f]+)"', await wire.until(b'"delta":"Hel"'))[:1]
        for _ in range(3):
            await server.get("/health")  # by now the server has seen them leave
        gate.set()
        await eventually(lambda: not server.application.runtime.state.in_flight)
        assert len(set(ids)) == 2
        for response_id in ids:
            kept = (await server.get(f"/v1/responses/{response_id.decode()}")).json()
            assert (kept["status"], kept["output_text"]) == ("completed", "Hello")
    assert len(upstream.posts) == 1


async def test_a_failure_is_everybodys(upstream: FakeUpstream, serve: Serve) -> None:
    gate = asyncio.Event()
    upstream.plan(halfway(gate, Do.RESET), streamed(HELLO))
    async with serve(http(upstream)) as server:
        async with two_streams(server) as wires:
            gate.set()
            ends = [await wire.until(b'"error"') for wire in wires]
            assert not any(DONE in end for end in ends)
        assert cache_of(await chat(server, stream=True)) == "miss"


async def test_a_failure_before_the_answer_is_a_status_for_everybody(upstream: FakeUpstream, serve: Serve) -> None:
    gate = asyncio.Event()
    upstream.plan([gate, json_answer({"error": {"message": "no"}}, status="400 Bad Request")], streamed(HELLO))
    async with serve(http(upstream)) as server:
        asking = [asyncio.create_task(chat(server)) for _ in range(3)]
        await eventually(lambda: len(upstream.posts) == 1 and len(server.application.runtime.state.in_flight) == 3)
        gate.set()
        assert [(await one).status for one in asking] == [400] * 3
        assert len(upstream.posts) == 1


async def test_an_answer_that_is_made_while_the_cache_is_cleared_is_not_kept(
    upstream: FakeUpstream, serve: Serve
) -> None:
    gate = asyncio.Event()
    upstream.plan(halfway(gate, WHOLE, END), streamed(HELLO))
    async with serve(http(upstream)) as server:
        async with two_streams(server) as wires:
            assert (await server.request("DELETE", "/v1/cache?model=m")).json()["entries"] == 0
            gate.set()
            for wire in wires:
                await wire.until(DONE)
        assert cache_of(await chat(server, stream=True)) == "miss"


async def test_a_stopping_server_says_so_to_everybody(upstream: FakeUpstream, serve: Serve) -> None:
    upstream.plan([STREAM, chunk(text_frame("Hel")), Do.HOLD])
    async with serve(http(upstream), grace_s=0) as server, two_streams(server) as wires:
        server.application.abort()
        for wire in wires:
            assert b"server_shutting_down" in await wire.until(b'"error"')
    assert upstream.left.is_set()


# What is said about it


async def test_statistics_log_usage_and_metrics_tell_hits_from_misses(serve: Serve) -> None:
    async with serve(ECHO) as server:
        for _ in range(3):
            await chat(server, "a b")
        await chat(server, "c", model="plain", headers={"x-trunkline-cache": "use"})
        shown = (await server.get("/v1/cache")).json()
        totals = {name: shown[name] for name in ("entries", "hits", "similar", "joined", "misses")}
        assert totals == {"entries": 2, "hits": 2, "similar": 0, "joined": 0, "misses": 2}
        assert (shown["input_tokens"], shown["output_tokens"]) == (4, 4)
        assert [(row["model"], row["hits"], row["misses"]) for row in shown["data"]] == [("m", 2, 1), ("plain", 0, 1)]
        used = (await server.get("/v1/usage")).json()["data"]
        assert {row["model"]: row["requests"] for row in used} == {"m": 1, "plain": 1}
        lines = [line for line in server.access_lines if "chat/completions" in line]
        assert ["cache=hit" in line and "route=cache" in line for line in lines] == [False, True, True, False]
        metrics = (await server.get("/metrics")).body.decode()
        assert 'trunkline_cache_requests_total{tenant="default",model="m",result="exact"} 2' in metrics
        assert 'trunkline_cache_requests_total{tenant="default",model="m",result="miss"} 1' in metrics


async def test_an_admin_sees_what_everybody_has_in_it(serve: Serve) -> None:
    keys = "".join(f'[[server.keys]]\nname = "{name}"\nkey = "sk-{name}"\n' for name in ("ann", "bob", "root"))
    async with serve(keys + "admin = true\n" + ECHO) as server:
        for name in ("ann", "bob"):
            await chat(server, headers={"authorization": f"Bearer sk-{name}"})
        seen = {}
        for name in ("ann", "root"):
            shown = (await server.get("/v1/cache", headers={"authorization": f"Bearer sk-{name}"})).json()
            seen[name] = (shown["entries"], [row["tenant"] for row in shown["data"]])
    assert seen == {"ann": (1, ["ann"]), "root": (2, ["ann", "bob"])}


async def test_clearing_takes_one_model_or_all_and_nothing_else(serve: Serve) -> None:
    async with serve(ECHO) as server:
        use = {"x-trunkline-cache": "use"}
        for model in ("m", "plain"):
            await chat(server, model=model, headers=use)
        assert (await server.request("DELETE", "/v1/cache?model=m")).json()["entries"] == 1
        assert cache_of(await chat(server, model="plain", headers=use)) == "hit"
        refused = await server.request("DELETE", "/v1/cache?modle=m")
        assert (refused.status, refused.error["param"]) == (400, "modle")
        assert (await server.request("DELETE", "/v1/cache?model=")).json()["entries"] == 0
        assert (await server.request("DELETE", "/v1/cache?modle=")).status == 400
        assert (await server.request("DELETE", "/v1/cache")).json()["entries"] == 1
        assert (await server.request("POST", "/v1/cache", b"")).status == 405


async def test_what_is_kept_stays_within_its_memory(serve: Serve) -> None:
    async with serve(f"[cache]\nmax_bytes = 5000\n{ECHO}") as server:
        for number in range(20):
            assert cache_of(await chat(server, f"question {number}")) == "miss"
        shown = (await server.get("/v1/cache")).json()
        assert 0 < shown["size_bytes"] <= 5000
        assert cache_of(await chat(server, "question 19")) == "hit"
        assert cache_of(await chat(server, "question 0")) == "miss"
        assert cache_of(await chat(server, "long " * 2000)) == "miss"
        assert cache_of(await chat(server, "question 19")) == "hit"  # what is too large pushes nothing out


async def test_names_that_clients_choose_are_within_the_bound_too(upstream: FakeUpstream, serve: Serve) -> None:
    """A server that does not list its models is asked for any name; what nobody honours is named by clients as well."""
    long = "x" * 100_000
    upstream.models = [answer(b"no", status="404 Not Found", kind="text/plain")]
    upstream.plan([json_answer(COMPLETION)])
    async with serve(f'[backends.b]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        assert cache_of(await chat(server, model=long, headers={"x-trunkline-cache": "use"})) == "miss"
        shown = (await server.get("/v1/cache")).json()
        assert len(shown["data"][0]["model"]) < 300
        assert shown["size_bytes"] > len(long)
        assert max(len(line) for line in server.access_lines) < 2_000
        metrics = (await server.get("/metrics")).body
        assert max(len(line) for line in metrics.splitlines()) < 500
    unknown: dict[str, Any] = {long: 1}
    async with serve(f"[cache]\nmax_bytes = 150000\n{ECHO}") as server:
        for number in range(3):
            assert cache_of(await chat(server, str(number), **unknown)) == "miss"
        shown = (await server.get("/v1/cache")).json()
        assert (shown["entries"], shown["size_bytes"] > len(long)) == (1, True)
