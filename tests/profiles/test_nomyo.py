"""`profile = "nomyo"`: what clients of nomyo-router pin, as they would check it from outside.

The numbered tests are the black-box checks of that contract, in its order.
"""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession

from tests.cli.program import Program
from tests.conftest import Serve
from tests.fakes.ollama import Reply, fake_ollama
from tests.fakes.responses_upstream import fake_responses, message, response
from tests.fakes.upstream import DONE, FakeUpstream, Plan, frame, json_answer, streamed, text_frame
from tests.serving import Reply as Answer
from tests.serving import Serving, eventually
from trunkline.config.environment import OVERRIDES
from trunkline.config.load import build_config
from trunkline.config.profiles import PROFILES

PROFILE = '[server]\nprofile = "nomyo"\n'
MODEL = "test-model"
TOOL = {"type": "function", "name": "lookup", "parameters": {"type": "object", "properties": {}}}
SCRIPT = """
[[rules]]
match = "hang"
steps = [{ text = "so far " }, { hang = true }]
"""


def listing(*models: str) -> Plan:
    return [
        json_answer({"object": "list", "data": [{"id": model, "object": "model", "created": 1} for model in models]})
    ]


def completion(content: str, prompt_tokens: int = 3, completion_tokens: int = 5) -> Plan:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    return [
        json_answer(
            {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice], "usage": usage}
        )
    ]


def chunk(delta: Mapping[str, Any] | None, finish: str | None = None, **members: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return frame(
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": choices, **members}
    )


USAGE = chunk(None, usage={"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8})
HELLO = streamed(chunk({"content": "Hel"}) + chunk({"content": "lo"}) + chunk({}, "stop") + USAGE + DONE)


def over(upstream: FakeUpstream, more: str = "") -> str:
    return f'{PROFILE}{more}\n[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\nretries = 0\n'


async def ask(server: Serving, given: object = "hi", *, query: str = "", **body: Any) -> Answer:
    whole = {"model": MODEL, "input": given, **body}
    return await server.request("POST", f"/v1/responses{query}", json.dumps(whole).encode())


def events(reply: Answer) -> list[Any]:
    """Every `data:` line, decoded: what cannot be decoded fails, `[DONE]` too."""
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = reply.body.decode().split("\n")
    read = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert [line[7:] for line in lines if line.startswith("event: ")] == [event["type"] for event in read]
    return read


def joined(told: list[Any], kind: str) -> str:
    return "".join(event["delta"] for event in told if event["type"] == kind)


@pytest.fixture
async def router(upstream: FakeUpstream, serve: Serve) -> AsyncIterator[Serving]:
    upstream.models = listing(MODEL)
    async with serve(over(upstream)) as server:
        yield server


async def test_1_a_whole_answer_has_its_text_and_exactly_three_counts(router: Serving, upstream: FakeUpstream) -> None:
    upstream.plan(completion("hello world"))
    reply = await ask(router, store=False)
    body = reply.json()
    assert (reply.status, body["object"], body["output_text"], body["status"]) == (
        200,
        "response",
        "hello world",
        "completed",
    )
    assert body["usage"] == {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
    assert body["id"].startswith("resp_")
    (item,) = body["output"]
    assert item["content"] == [{"type": "output_text", "text": "hello world", "annotations": []}]


async def test_2_a_stream_begins_created_and_ends_completed(router: Serving, upstream: FakeUpstream) -> None:
    upstream.plan(HELLO)
    told = events(await ask(router, stream=True))
    assert (told[0]["type"], told[-1]["type"]) == ("response.created", "response.completed")
    assert joined(told, "response.output_text.delta") == "Hello"
    assert told[-1]["response"]["usage"] == {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}


async def test_3_a_tool_call_streams_its_arguments(router: Serving, upstream: FakeUpstream) -> None:
    begun = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": '{"q":'}}
    rest = {"index": 0, "function": {"arguments": '"hi"}'}}
    upstream.plan(
        streamed(
            chunk({"tool_calls": [begun]}) + chunk({"tool_calls": [rest]}) + chunk({}, "tool_calls") + USAGE + DONE
        )
    )
    told = events(await ask(router, stream=True, tools=[TOOL]))
    assert joined(told, "response.function_call_arguments.delta") == '{"q":"hi"}'
    assert "response.function_call_arguments.done" in [event["type"] for event in told]
    (call,) = told[-1]["response"]["output"]
    assert (call["type"], call["name"], call["arguments"], call["call_id"]) == (
        "function_call",
        "lookup",
        '{"q":"hi"}',
        "call_1",
    )


async def test_4_and_5_a_native_answer_has_our_id_and_is_stored_here_only(serve: Serve) -> None:
    async with fake_responses() as native:
        native.models = listing(MODEL)
        told_whole = response([message("native hi")], id="resp_openai")
        native.plan([json_answer(told_whole)])
        config = over(native) + 'dialect = "openai_responses"\n'
        async with serve(config) as server:
            whole = (await ask(server, store=True)).json()
            assert whole["output_text"] == "native hi"
            assert whole["id"].startswith("resp_")
            assert whole["id"] != "resp_openai"
            assert native.posts[-1].json()["store"] is False
            told = events(await ask(server, "native hi", stream=True))
            ids = {event["response"]["id"] for event in told if "response" in event}
            (one,) = ids
            assert one.startswith("resp_")
            assert not any("resp_up" in json.dumps(event) or "resp_openai" in json.dumps(event) for event in told)
            chained = await ask(server, "and?", previous_response_id=whole["id"])
            assert chained.status == 200
            assert "previous_response_id" not in native.posts[-1].json()
            assert "native hi" in json.dumps(native.posts[-1].json()["input"])


async def test_6_a_stored_answer_can_be_had_again(router: Serving, upstream: FakeUpstream) -> None:
    upstream.plan(completion("hello world"))
    told = (await ask(router, store=True)).json()
    kept = await router.get(f"/v1/responses/{told['id']}")
    assert (kept.status, kept.json()["output_text"]) == (200, "hello world")


async def test_7_the_turn_before_is_put_before_the_next(router: Serving, upstream: FakeUpstream) -> None:
    upstream.plan(completion("turn-one"), completion("turn-two"))
    first = (await ask(router, "first?")).json()
    second = await ask(router, "second?", previous_response_id=first["id"])
    assert second.json()["output_text"] == "turn-two"
    said = [entry["content"] for entry in upstream.posts[-1].json()["messages"]]
    assert said == ["first?", "turn-one", "second?"]


async def test_8_and_9_what_is_deleted_or_never_was_is_404(router: Serving, upstream: FakeUpstream) -> None:
    upstream.plan(completion("hello world"))
    told = (await ask(router)).json()
    deleted = await router.request("DELETE", f"/v1/responses/{told['id']}")
    assert (deleted.status, deleted.json()["deleted"]) == (200, True)
    assert (await router.get(f"/v1/responses/{told['id']}")).status == 404
    assert (await router.get("/v1/responses/resp_missing")).status == 404
    after = await ask(router, previous_response_id=told["id"])
    assert (after.status, after.error["code"]) == (404, "previous_response_not_found")


async def test_10_background_without_store_is_refused(router: Serving) -> None:
    assert (await ask(router, background=True, store=False)).status == 400


async def test_11_background_work_is_queued_and_can_be_polled(router: Serving, upstream: FakeUpstream) -> None:
    upstream.plan(HELLO)
    queued = await ask(router, background=True, store=True)
    assert (queued.status, queued.json()["status"]) == (200, "queued")
    while (told := (await router.get(f"/v1/responses/{queued.json()['id']}")).json())["status"] != "completed":
        assert told["status"] in ("queued", "in_progress")
    assert told["output_text"] == "Hello"


def test_12_work_of_a_server_that_was_killed_has_failed(tmp_path: Path) -> None:
    (tmp_path / "script.toml").write_text(SCRIPT)
    (tmp_path / "router.toml").write_text(
        f'{PROFILE}[backends.talk]\ntype = "scripted"\nscript = "script.toml"\nmodels = ["{MODEL}"]\n'
    )
    arguments = ("--config", "router.toml", "--port", "0")
    environ = {"NOMYO_ROUTER_DB_PATH": str(tmp_path / "router.db"), "NOMYO_ROUTER_API_KEY": "k"}
    with Program(*arguments, cwd=tmp_path, environ=environ) as program:
        body = json.dumps({"model": MODEL, "input": "hang", "background": True}).encode()
        response_id = told_by(program, "POST", "/v1/responses", body)["id"]
        while told_by(program, "GET", f"/v1/responses/{response_id}")["status"] != "in_progress":
            pass
        program.stop(signal.SIGKILL)
    assert (tmp_path / "router.db").exists()
    with Program(*arguments, cwd=tmp_path, environ=environ) as program:
        assert told_by(program, "GET", f"/v1/responses/{response_id}")["status"] == "failed"


def told_by(program: Program, method: str, path: str, body: bytes | None = None) -> Any:
    connection = program.connect()
    try:
        connection.request(method, path, body, {"content-type": "application/json", "authorization": "Bearer k"})
        answer = connection.getresponse()
        assert answer.status == 200
        return json.loads(answer.read())
    finally:
        connection.close()


async def test_13_and_14_a_cached_answer_is_given_again_whole_or_streamed(
    router: Serving, upstream: FakeUpstream
) -> None:
    upstream.plan(HELLO, completion("other"), completion("other"))
    wanted: dict[str, Any] = {"nomyo": {"cache": True}}
    first = await ask(router, "what?", **wanted, stream=True)
    assert joined(events(first), "response.output_text.delta") == "Hello"
    again = (await ask(router, "what?", **wanted)).json()
    assert again["output_text"] == "Hello"
    told = events(await ask(router, "what?", **wanted, stream=True))
    assert joined(told, "response.output_text.delta") == "Hello"
    assert (told[0]["type"], told[-1]["type"]) == ("response.created", "response.completed")
    assert len({event["response"]["id"] for event in told if "response" in event} | {again["id"]}) == 2
    assert len(upstream.posts) == 1
    assert "nomyo" not in upstream.posts[0].json()
    assert (await ask(router, "what?")).json()["output_text"] == "other", "only who asks for the cache gets it"
    assert (await ask(router, "what?", nomyo={"cache": False})).json()["output_text"] == "other"
    assert len(upstream.posts) == 3


async def test_the_cache_knows_histories_and_parameters_apart(router: Serving, upstream: FakeUpstream) -> None:
    upstream.plan(*[completion(f"answer {number}") for number in range(3)])
    alone = {"role": "user", "content": "go on"}
    before = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    asked: list[dict[str, Any]] = [
        {"messages": [alone]},
        {"messages": [*before, alone]},
        {"messages": [alone], "temperature": 0.5},
        {"messages": [alone]},
    ]
    texts = []
    for body in asked:
        reply = await router.chat(model=MODEL, nomyo={"cache": True}, **body)
        texts.append(reply.json()["choices"][0]["message"]["content"])
    assert texts == ["answer 0", "answer 1", "answer 2", "answer 0"]
    assert all("nomyo" not in post.json() for post in upstream.posts)


@pytest.mark.parametrize("wrong", [True, "yes", {"cache": "yes"}, ["cache"]])
async def test_a_wrong_cache_member_is_refused_by_name(router: Serving, wrong: object) -> None:
    refused = await ask(router, nomyo=wrong)
    assert (refused.status, refused.error["param"]) == (400, "nomyo")


async def test_the_member_is_nobodys_under_the_default_profile(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.models = listing(MODEL)
    upstream.plan(completion("one"))
    async with serve(over(upstream).removeprefix(PROFILE)) as server:
        assert (await server.chat("hi", model=MODEL, nomyo={"cache": True})).status == 200
    assert upstream.posts[0].json()["nomyo"] == {"cache": True}


def refused(message: str, status: str = "400 Bad Request") -> Plan:
    return [json_answer({"error": {"message": message, "type": "invalid_request_error"}}, status=status)]


@pytest.mark.parametrize("surface", ["chat", "responses"])
async def test_a_model_without_tools_answers_without_them(
    router: Serving, upstream: FakeUpstream, surface: str
) -> None:
    upstream.plan(refused("x does not support tools"), completion("hello"))
    nested = [{"type": "function", "function": {"name": "lookup"}}]
    if surface == "chat":
        reply = await router.chat("hi", model=MODEL, tools=nested, tool_choice="auto", top_k=3)
    else:
        reply = await ask(router, tools=[TOOL])
    assert reply.status == 200
    assert reply.headers["x-trunkline-ignored"] == "tools"
    first, second = (post.json() for post in upstream.posts)
    assert "tools" in first
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & second.keys()
    assert second.get("top_k") == first.get("top_k")


async def test_a_model_without_eyes_answers_without_images(router: Serving, upstream: FakeUpstream) -> None:
    upstream.plan(
        refused("image input is not supported", "500 Internal Server Error"),
        streamed(text_frame("hi") + text_frame(finish="stop") + DONE),
    )
    content = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    reply = await router.chat(model=MODEL, messages=[{"role": "user", "content": content}], stream=True)
    assert (reply.status, reply.text, reply.headers["x-trunkline-ignored"]) == (200, "hi", "images")
    assert "image_url" not in upstream.posts[1].body.decode()
    assert "look" in upstream.posts[1].body.decode()


async def test_a_conversation_that_is_too_long_loses_its_oldest_turns(router: Serving, upstream: FakeUpstream) -> None:
    upstream.plan(refused("This model's maximum context length is 10 tokens"), completion("hello"))
    messages = [{"role": "system", "content": "be kind"}]
    for number in range(4):
        messages += [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": f"a{number}"}]
    reply = await router.chat(model=MODEL, messages=[*messages, {"role": "user", "content": "last"}])
    assert reply.status == 200
    kept = [entry["content"] for entry in upstream.posts[1].json()["messages"]]
    assert (kept[0], kept[-1]) == ("be kind", "last")
    assert len(kept) < 10


async def test_what_nothing_can_be_left_out_of_stays_refused(router: Serving, upstream: FakeUpstream) -> None:
    upstream.plan(refused("x does not support tools"))
    reply = await router.chat("hi", model=MODEL)
    assert (reply.status, len(upstream.posts)) == (400, 1)


async def test_15_inputs_reach_a_chat_server_in_its_own_words(router: Serving, upstream: FakeUpstream) -> None:
    upstream.plan(completion("ok"))
    image = "data:image/png;base64,iVBORw0KGgo="
    given = [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": image}],
        },
        {"type": "function_call", "call_id": "call_9", "name": "lookup", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_9", "output": "42"},
        {"role": "user", "content": [{"type": "input_text", "text": "only text"}]},
    ]
    reply = await ask(router, given, instructions="be kind", tools=[TOOL], tool_choice="required")
    assert reply.status == 200, reply.body
    sent = upstream.posts[-1].json()
    system, looked, called, returned, text = sent["messages"]
    assert (system["role"], system["content"]) == ("system", "be kind")
    assert looked["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": image}},
    ]
    assert (called["role"], called["tool_calls"][0]["id"]) == ("assistant", "call_9")
    assert (returned["role"], returned["tool_call_id"], returned["content"]) == ("tool", "call_9", "42")
    assert text["content"] == "only text"
    assert sent["tools"] == [
        {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}
    ]
    assert sent["tool_choice"] == "required"


async def test_16_cancelling(serve: Serve) -> None:
    config = f'{PROFILE}[backends.talk]\ntype = "scripted"\nscript = "script.toml"\nmodels = ["{MODEL}"]\n'
    async with serve(config, scripts={"script.toml": SCRIPT}) as server:
        running = (await ask(server, "hang", background=True)).json()
        await eventually(lambda: server.application.runtime.endpoints[0].active == 1)
        cancelled = await server.request("POST", f"/v1/responses/{running['id']}/cancel")
        assert (cancelled.status, cancelled.json()["status"]) == (200, "cancelled")
        again = await server.request("POST", f"/v1/responses/{running['id']}/cancel")
        assert (again.status, again.json()) == (200, cancelled.json())
        assert (await server.request("POST", "/v1/responses/resp_missing/cancel")).status == 404
        done = (await ask(server, "short", background=True)).json()
        while (told := (await server.get(f"/v1/responses/{done['id']}")).json())["status"] != "completed":
            pass
        unchanged = await server.request("POST", f"/v1/responses/{done['id']}/cancel")
        assert (unchanged.status, unchanged.json()) == (200, told)


async def test_17_idle_calls_go_to_the_endpoint_that_has_the_model_loaded(serve: Serve) -> None:
    gate = asyncio.Event()
    async with fake_ollama() as cold, fake_ollama() as warm:
        for fake in (cold, warm):
            fake.add(MODEL, loaded=fake is warm)
        config = (
            f'{PROFILE}[backends.desks]\ntype = "http"\ndialect = "ollama_chat"\nmax_concurrency = 1\n'
            f'endpoints = ["{cold.url}", "{warm.url}"]\n'
        )
        async with serve(config) as server:
            await server.get("/v1/models")
            for _ in range(3):
                assert (await ask(server)).status == 200
            assert (len(cold.posts("/api/chat")), len(warm.posts("/api/chat"))) == (0, 3)
            warm.replies.append(Reply(text=("a", "b"), hold=gate))
            held = asyncio.create_task(ask(server))
            await eventually(lambda: len(warm.posts("/api/chat")) == 4)
            assert (await ask(server)).status == 200
            assert len(cold.posts("/api/chat")) == 1
            gate.set()
            assert (await held).status == 200


async def test_17_an_unknown_model_is_404_on_every_surface(router: Serving) -> None:
    body = json.dumps({"model": "nope", "input": "hi", "messages": [{"role": "user", "content": "hi"}]}).encode()
    for path in ("/v1/responses", "/v1/chat/completions"):
        refused = await router.request("POST", path, body)
        assert (refused.status, refused.error["code"]) == (404, "model_not_found")
    assert (await router.request("POST", "/api/chat", body)).status == 404
    assert (await router.get("/v1/models")).json()["object"] == "list"


async def test_17_the_finish_chunk_survives_and_tool_choice_arrives(router: Serving, upstream: FakeUpstream) -> None:
    upstream.plan(streamed(text_frame("hi") + text_frame(finish="stop") + DONE))
    tools = [{"type": "function", "function": {"name": "lookup"}}]
    stream = await router.chat("hi", model=MODEL, stream=True, tools=tools, tool_choice="required", n=1, user="u")
    finishes = [
        choice["finish_reason"] for one in stream.frames[:-1] for choice in one["choices"] if choice["finish_reason"]
    ]
    assert finishes == ["stop"]
    assert (upstream.posts[-1].json()["tool_choice"], upstream.posts[-1].json()["user"]) == ("required", "u")


KEYED = '[server]\nprofile = "nomyo"\napi_keys = ["right"]\n[backends.talk]\ntype = "scripted"\n'


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/models", {}, 401),
        ("/health", {}, 401),
        ("/v1/models", {"authorization": "Bearer wrong"}, 403),
        ("/v1/models?api_key=wrong", {}, 403),
        ("/v1/models?api_key=schl%C3%BCssel", {}, 403),
        ("/v1/models?api_key=right", {}, 200),
        ("/v1/models", {"authorization": "Bearer right"}, 200),
        ("/health", {"authorization": "Bearer right"}, 200),
        ("/", {}, 200),
        ("/favicon.ico", {}, 404),
    ],
)
async def test_keys_in_the_header_or_the_query(
    serve: Serve, path: str, headers: Mapping[str, str], status: int
) -> None:
    async with serve(KEYED) as server:
        reply = await server.get(path, headers=headers)
        assert reply.status == status
        if status in (401, 403):
            assert list(reply.json()) == ["detail"]
        lines = server.access_lines
    assert len(lines) == 1
    assert "api_key=" not in lines[0]
    assert "right" not in lines[0]


async def test_a_key_in_the_query_is_no_parameter_of_what_is_asked(serve: Serve) -> None:
    async with serve(KEYED) as server:
        assert (await server.request("DELETE", "/v1/cache?api_key=right")).status == 200
        assert (await server.request("DELETE", "/v1/cache?api_key=right&model=a")).status == 200
        assert (await server.get("/v1/usage?api_key=right")).status == 200
        assert (await server.request("DELETE", "/v1/cache?api_key=right&modell=a")).status == 400


async def test_over_a_socket_the_member_asks_for_the_cache_too(router: Serving, upstream: FakeUpstream) -> None:
    upstream.plan(HELLO)
    for _ in range(2):
        async with ClientSession() as session, session.ws_connect(f"{router.url}/v1/responses") as socket:
            await socket.send_json(
                {"type": "response.create", "model": MODEL, "input": "what?", "nomyo": {"cache": True}}
            )
            told = [await socket.receive_json()]
            while told[-1]["type"] not in ("response.completed", "response.failed", "error"):
                told.append(await socket.receive_json())
            assert told[-1]["response"]["output_text"] == "Hello"
    assert len(upstream.posts) == 1
    assert "nomyo" not in upstream.posts[0].json()


async def test_a_key_that_is_no_ascii_is_wrong_and_no_crash(serve: Serve) -> None:
    async with serve(KEYED) as server, server.connect() as wire:
        await wire.send("GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer schlüssel\r\n\r\n".encode())
        assert (await wire.head())[0] == 403


async def test_health_is_that_of_every_endpoint(serve: Serve) -> None:
    async with fake_ollama() as one, fake_ollama() as two:
        config = f'{PROFILE}[backends.desks]\ntype = "http"\ndialect = "ollama_chat"\nendpoints = ["{one.url}", "{two.url}"]\n'
        async with serve(config) as server:
            well = await server.get("/health")
            labels = [f"desks@{fake.url.removeprefix('http://')}" for fake in (one, two)]
            assert (well.status, well.json()["status"]) == (200, "ok")
            assert well.json()["endpoints"] == {label: {"status": "ok"} for label in labels}
    async with fake_ollama() as one:
        config = (
            f'{PROFILE}[backends.desks]\ntype = "http"\ndialect = "ollama_chat"\n'
            f'endpoints = ["{one.url}", "http://127.0.0.1:9"]\n'
        )
        async with serve(config) as server:
            ill = await server.get("/health")
            assert (ill.status, ill.json()["status"]) == (503, "error")
            live, dead = ill.json()["endpoints"].values()
            assert (live, dead["status"]) == ({"status": "ok"}, "error")
            assert "cannot be reached" in dead["detail"]


def test_the_routers_own_variables_are_read_under_its_profile_only() -> None:
    document = {"server": {"profile": "nomyo"}, "backends": {"talk": {"type": "scripted"}}}
    environ = {"NOMYO_ROUTER_API_KEY": "k", "NOMYO_ROUTER_DB_PATH": "/data/router.db"}
    config = build_config(document, environ=environ)
    assert (config.server.api_keys, config.store.url) == (("k",), "sqlite:////data/router.db")
    ours = build_config(document, environ={**environ, "TRUNKLINE_API_KEY": "ours"})
    assert ours.server.api_keys == ("ours",)
    other = build_config({"backends": {"talk": {"type": "scripted"}}}, environ=environ)
    assert (other.server.api_keys, other.store.url) == ((), "sqlite:///trunkline.db")
    chosen = build_config(
        {"backends": {"talk": {"type": "scripted"}}}, environ={**environ, "TRUNKLINE_PROFILE": "nomyo"}
    )
    assert chosen.server.api_keys == ("k",)
    assert {override.profile for override in OVERRIDES} <= {None, *PROFILES}


def test_a_profile_is_data() -> None:
    assert all(isinstance(profile, msgspec.Struct) for profile in PROFILES.values())
    with pytest.raises(AttributeError):
        PROFILES["nomyo"].done_sentinel = True  # type: ignore[misc]
