"""A model server that speaks Responses: what it is told, what comes through, and that state and names stay ours."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.responses_upstream import (
    CITATION,
    FakeResponses,
    code_interpreter,
    custom_call,
    events_of,
    fake_responses,
    frames_of,
    function_call,
    mcp_call,
    message,
    reasoning,
    refusal,
    refused,
    response,
    web_search,
)
from tests.fakes.upstream import Do, answer, json_answer, streamed
from tests.responses import GET_WEATHER, Asking, call_output, check_object, check_stream, final_of, said
from tests.serving import Serving, eventually, finish_of

MODEL = "up-model"
SEARCH = {"type": "web_search", "search_context_size": "low"}
CODE = {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "1g"}}
ENCRYPTED = ["reasoning.encrypted_content"]


def toml(upstream: FakeResponses, more: str = "") -> str:
    return f'[backends.up]\ntype = "http"\ndialect = "openai_responses"\nretries = 0\nendpoints = ["{upstream.url}"]\n{more}'


@pytest.fixture
async def native() -> AsyncIterator[FakeResponses]:
    async with fake_responses() as upstream:
        yield upstream


@pytest.fixture
async def server(native: FakeResponses, serve: Serve) -> AsyncIterator[Serving]:
    async with serve(toml(native)) as served:
        yield served


@pytest.fixture
def client(server: Serving) -> Asking:
    return Asking(server, model=MODEL)


def sent(upstream: FakeResponses, position: int = -1) -> Any:
    return upstream.posts[position].json()


def types_of(items: list[Any]) -> list[str]:
    return [item.get("type", "message") for item in items]


def nothing_of_the_upstream(*bodies: bytes) -> None:
    """No id that the upstream gave is in what a client sees, but for ids of calls."""
    for body in bodies:
        assert b"_up" not in body


# What goes up


async def test_the_clients_own_body_goes_up_without_what_names_state(native: FakeResponses, client: Asking) -> None:
    part = {"type": "input_text", "text": "cats", "prompt_cache_breakpoint": {"mode": "explicit"}}
    created = await client.create(
        [{"role": "user", "content": [part]}],
        store=True,
        truncation="auto",
        conversation="chat",
        include=ENCRYPTED,
        tools=[CODE],
        tool_choice={"type": "code_interpreter"},
        reasoning={"effort": "low", "x_mode": "wide"},
        prompt_cache_retention="24h",
        x_unknown={"a": 1},
    )
    assert created["conversation"] == {"id": "chat"}
    assert created["store"] is True
    assert sent(native) == {
        "model": MODEL,
        "input": [{"role": "user", "content": [part]}],
        "store": False,
        "include": ENCRYPTED,
        "tools": [CODE],
        "tool_choice": {"type": "code_interpreter"},
        "reasoning": {"effort": "low", "x_mode": "wide"},
        "prompt_cache_retention": "24h",
        "x_unknown": {"a": 1},
    }


async def test_nothing_is_ignored_where_everything_is_forwarded(native: FakeResponses, client: Asking) -> None:
    reply = await client.post("cats", tools=[SEARCH], client_metadata={"x": "y"}, stream_options={})
    assert reply.status == 200
    assert "x-trunkline-ignored" not in reply.headers


async def test_encrypted_reasoning_survives_a_chain(native: FakeResponses, client: Asking) -> None:
    """What was thought goes up again as it came, without the id that ours is not."""
    first = await client.create("the weather", tools=[GET_WEATHER], include=ENCRYPTED)
    assert types_of(first["output"]) == ["reasoning", "message", "function_call"]
    again = await client.create([call_output("call_a")], previous_response_id=first["id"], tools=[GET_WEATHER])
    assert again["output_text"] == "sunny"
    history = sent(native)["input"]
    assert types_of(history) == ["message", "reasoning", "message", "function_call", "function_call_output"]
    assert history[1] == {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "I need the tool. "}],
        "encrypted_content": "gAAA:rs_up1",
    }
    assert history[3] == {
        "type": "function_call",
        "call_id": "call_a",
        "name": "get_weather",
        "arguments": '{"city": "Paris"}',
    }


async def test_a_client_that_keeps_its_own_history_sends_the_items_back(native: FakeResponses, client: Asking) -> None:
    first = await client.create("the weather", tools=[GET_WEATHER], include=ENCRYPTED, store=False)
    whole = [said("the weather"), *first["output"], call_output("call_a"), said("and now?")]
    again = await client.create(whole, store=False, tools=[GET_WEATHER])
    assert again["output_text"] == "and now?"
    given = sent(native)["input"]
    assert "id" not in given[1]
    assert given[2:] == whole[2:], "as it came"


async def test_native_items_go_up_again_in_a_conversation(native: FakeResponses, client: Asking) -> None:
    await client.create("cats", tools=[SEARCH], conversation="chat", include=ENCRYPTED)
    await client.create("more", tools=[SEARCH], conversation="chat", include=ENCRYPTED)
    third = await client.create("purr", conversation="chat")
    assert third["output_text"] == "purr"
    items = sent(native)["input"]
    assert types_of(items) == [*["message", "reasoning", "web_search_call", "message"] * 2, "message"]
    assert items[2]["action"]["query"] == "cats"
    assert items[2]["id"].startswith("ws_")
    assert items[3]["phase"] == "final_answer"
    assert items[3]["content"][0]["annotations"] == [CITATION]


async def test_an_item_is_found_by_the_id_that_the_client_saw(native: FakeResponses, client: Asking) -> None:
    first = await client.create("cats", tools=[SEARCH])
    search = first["output"][1]
    second = await client.create([{"type": "item_reference", "id": search["id"]}, said("and?")])
    assert types_of(sent(native)["input"]) == ["web_search_call", "message"]
    listed = (await client.input_items(second["id"], "?order=asc"))["data"]
    assert listed[0] == search


# What comes down

EVERYTHING = [
    reasoning("Let me think. ", "Then act.", encrypted=True),
    web_search("cats"),
    code_interpreter("print(2 + 2)"),
    mcp_call("lookup", '{"page": "cats"}', "Cats purr."),
    {"id": "xyz_up1", "type": "x_new_call", "status": "completed", "what": [1]},
    message("Cats purr.", annotations=[CITATION, {"type": "file_path", "file_id": "f", "index": 3}]),
    refusal("No dogs.", item_id="msg_up2"),
    function_call("get_weather", '{"city": "Paris"}', call_id="call_a"),
    function_call("get_weather", '{"city": "Rome"}', call_id="call_b", item_id="fc_up2"),
    custom_call("shell", "ls -l", call_id="call_c"),
]
TOOLS = [GET_WEATHER, SEARCH, {"type": "custom", "name": "shell"}]


async def test_everything_that_a_native_server_says_comes_through(native: FakeResponses, client: Asking) -> None:
    native.output = [item for item in EVERYTHING if item["type"] != "x_new_call"]
    events = await client.stream("go", tools=TOOLS, include=ENCRYPTED)
    final = check_stream(events)
    kinds = [event.kind for event in events]
    theirs = [event["type"] for event in events_of(native.output)]
    assert kinds == theirs, "the same events in the same order"
    assert not any(b"obfuscation" in event.text for event in events)
    for ours, item in zip(final["output"], native.output, strict=True):
        for key, value in item.items():
            if key not in ("id", "content"):
                assert ours[key] == value
    assert final["output"][4]["content"][0]["annotations"] == native.output[4]["content"][-1]["annotations"]
    assert final["usage"]["input_tokens_details"]["cached_tokens"] == 4
    assert final["usage"]["output_tokens_details"]["reasoning_tokens"] == 3
    assert final["service_tier"] == "default"
    assert final["billing"] == {"payer": "developer"}
    assert (await client.get(final["id"])).body == final_of(events)
    nothing_of_the_upstream(*[event.text.replace(b"gAAA:rs_up1", b"") for event in events])
    for event in events:
        if "item_id" in event.json:
            assert event.json["item_id"] == final["output"][event.json["output_index"]]["id"]


async def test_whole_and_streamed_are_the_same(native: FakeResponses, client: Asking) -> None:
    native.output = EVERYTHING
    whole = (await client.post("go", tools=TOOLS, store=False)).json()
    events = await client.stream("go", tools=TOOLS, store=False)
    streamed_ = json.loads(final_of(events))
    assert types_of(whole["output"]) == types_of(EVERYTHING)
    strip = whole["id"].removeprefix("resp_"), streamed_["id"].removeprefix("resp_")
    for one, other in zip(whole["output"], streamed_["output"], strict=True):
        assert json.dumps(one).replace(strip[0], "") == json.dumps(other).replace(strip[1], "")
    assert whole["output"][4]["what"] == [1]
    assert whole["usage"] == streamed_["usage"]


async def test_an_event_and_an_item_that_nobody_knows_are_passed_on(native: FakeResponses, client: Asking) -> None:
    unknown = {"type": "response.x_new_call.thinking", "output_index": 0, "item_id": "xyz_up1", "depth": 3}
    events = events_of([EVERYTHING[4]])
    native.plan(streamed(b"".join(frames_of([*events[:3], unknown, *events[3:]]))))
    said_ = await client.stream("go")
    [passed] = [event.json for event in said_ if event.kind == "response.x_new_call.thinking"]
    final = json.loads(final_of(said_))
    assert passed == {
        "type": "response.x_new_call.thinking",
        "sequence_number": 3,
        "output_index": 0,
        "item_id": final["output"][0]["id"],
        "depth": 3,
    }
    assert final["output"][0]["id"].startswith("xyz_")
    assert (await client.create("next", previous_response_id=final["id"]))["status"] == "completed"
    assert sent(native)["input"][1] == final["output"][0]


async def test_an_answer_cut_by_a_limit(native: FakeResponses, client: Asking) -> None:
    cut = {**message("Cats"), "status": "incomplete"}
    details = {"incomplete_details": {"reason": "max_output_tokens"}}
    end = {"type": "response.incomplete", "response": response([cut], status="incomplete", **details)}
    native.plan(streamed(b"".join(frames_of(events_of([cut], end=end)))))
    final = check_stream(await client.stream("go", max_output_tokens=16))
    assert (final["status"], final["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert final["output_text"] == "Cats"


# Background


async def test_a_background_run_streams_from_its_upstream(native: FakeResponses, client: Asking) -> None:
    queued = await client.create("cats", tools=[SEARCH], background=True)
    ended = await client.ended(queued["id"])
    check_object(ended)
    assert types_of(ended["output"]) == ["reasoning", "web_search_call", "message"]
    assert sent(native)["stream"] is True
    assert sent(native)["store"] is False
    assert "background" not in sent(native)
    events = await client.resume(queued["id"])
    assert any(event.kind == "response.web_search_call.searching" for event in events)
    assert await client.resume(queued["id"], 4) == events[5:]
    follow = await client.create("more", previous_response_id=queued["id"])
    assert follow["output_text"] == "more"


async def test_a_cancel_leaves_the_upstream(native: FakeResponses, client: Asking) -> None:
    begun = b"".join(frames_of(events_of([message("so far and on")]))[:5])
    native.plan([*streamed(begun)[:-1], Do.HOLD])
    queued = await client.create("x", background=True)
    await eventually(lambda: bool(native.posts))
    assert (await client.cancel(queued["id"])).json()["status"] == "cancelled"
    await native.left.wait()


# Failures

FAILURES: list[tuple[list[Any], int, str | None]] = [
    (list(refused("bad input", code="invalid_value", param="input")), 400, "invalid_value"),
    ([json_answer({"error": {"message": "key sk-1"}}, status="401 Unauthorized")], 502, "upstream_unauthorized"),
    (
        [
            json_answer(
                {"error": {"message": "slow", "type": "requests", "code": "rate_limit_exceeded", "param": None}},
                status="429 Too Many Requests",
                headers={"Retry-After": "7"},
            )
        ],
        429,
        "rate_limit_exceeded",
    ),
    ([json_answer({"error": {"message": "oops"}}, status="500 Internal Server Error")], 502, None),
    (
        streamed(b"".join(frames_of([{"type": "error", "code": "server_error", "message": "oops", "param": None}]))),
        502,
        None,
    ),
    (
        streamed(
            b"".join(
                frames_of(
                    events_of(
                        [],
                        end={
                            "type": "response.failed",
                            "response": response(
                                [], status="failed", error={"code": "rate_limit_exceeded", "message": "slow"}
                            ),
                        },
                    )
                )
            )
        ),
        429,
        "rate_limit_exceeded",
    ),
    (streamed(b"".join(frames_of(events_of([])[:2]))), 503, None),
    ([Do.CLOSE], 503, None),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("plan", "status", "code"), FAILURES)
async def test_a_failure_before_the_first_word_is_a_status(
    native: FakeResponses, client: Asking, plan: list[Any], status: int, code: str | None, stream: bool
) -> None:
    native.plan(plan, plan)
    reply = await client.post("x", stream=stream)
    assert reply.status == status, reply
    if code is not None:
        assert reply.error["code"] == code
    if b"Retry-After" in b"".join(step for step in plan if isinstance(step, bytes)):
        assert reply.headers["retry-after"] == "7"
    assert "sk-1" not in reply.error["message"]


@pytest.mark.parametrize(("plan", "status", "code"), FAILURES[1:])
async def test_a_failure_before_the_first_word_moves_on_to_the_fallback(
    native: FakeResponses, serve: Serve, plan: list[Any], status: int, code: str | None
) -> None:
    routes = 'routes = [{ backend = "up", model = "m" }, { backend = "talk" }]\n'
    more = '[backends.talk]\ntype = "scripted"\n[[models]]\nname = "fast"\n' + routes
    native.plan(plan, plan)
    async with serve(toml(native, more)) as server:
        final = check_stream(await Asking(server, model="fast").stream("hello there"))
        assert final["output_text"] == "hello there"


GONE = {"code": "server_error", "message": "gone"}
FAILED = {"type": "response.failed", "response": response([], status="failed", error=GONE)}


@pytest.mark.parametrize(
    ("end", "message_"), [(FAILED, "gone"), ({"type": "error", **GONE, "param": None}, "gone"), (None, "ended")]
)
async def test_a_failure_after_it_is_the_end_of_the_stream(
    native: FakeResponses, client: Asking, end: Any, message_: str
) -> None:
    events = events_of([message("Cats")])
    frames = frames_of([*events[:5], *([end] if end else [])])
    native.plan(streamed(b"".join(frames)))
    final = check_stream(await client.stream("x"))
    assert (final["status"], final["error"]["code"]) == ("failed", "server_error")
    assert message_ in final["error"]["message"]
    assert final["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"404 page not found", "text/plain"),
        (b'{"detail":"Not Found"}', "application/json"),
        (b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}', "application/json"),
    ],
)
async def test_a_server_without_responses_says_how_to_reach_it(
    native: FakeResponses, client: Asking, body: bytes, kind: str
) -> None:
    native.plan([answer(body, status="404 Not Found", kind=kind)])
    reply = await client.post("x")
    assert reply.status == 503
    assert "POST /responses" in reply.error["message"]
    assert "dialect = 'openai_chat'" in reply.error["message"]


async def test_a_model_that_the_upstream_does_not_have_is_its_404(native: FakeResponses, client: Asking) -> None:
    native.plan(refused("no such model", code="model_not_found", status="404 Not Found"))
    reply = await client.post("x")
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")


# Chat clients


async def chat(server: Serving, text: str = "go", **body: Any) -> Any:
    reply = await server.chat(text, model=MODEL, **body)
    assert reply.status == 200, reply
    return reply


CHAT_TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}},
    {"type": "custom", "custom": {"name": "shell"}},
]


async def test_a_chat_client_gets_what_it_can_be_told(native: FakeResponses, server: Serving) -> None:
    native.output = EVERYTHING
    whole = (await chat(server, tools=CHAT_TOOLS)).json()["choices"][0]
    assert whole["finish_reason"] == "tool_calls"
    assert whole["message"]["content"] == "Cats purr."
    assert whole["message"]["refusal"] == "No dogs."
    citation = {key: value for key, value in CITATION.items() if key != "type"}
    assert whole["message"]["annotations"] == [{"type": "url_citation", "url_citation": citation}]
    calls = whole["message"]["tool_calls"]
    assert [call["id"] for call in calls] == ["call_a", "call_b", "call_c"]
    assert calls[2]["custom"] == {"name": "shell", "input": "ls -l"}
    reply = await chat(server, stream=True, stream_options={"include_usage": True}, tools=CHAT_TOOLS)
    deltas = [choice["delta"] for frame in reply.frames[:-1] for choice in frame["choices"]]
    assert reply.text == "Cats purr."
    assert "".join(delta.get("refusal") or "" for delta in deltas) == "No dogs."
    streamed_annotations = [one for delta in deltas for one in delta.get("annotations", ())]
    assert streamed_annotations == whole["message"]["annotations"]
    assert reply.frames[-2]["usage"]["prompt_tokens"] == 11
    assert reply.frames[-2]["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3
    assert reply.frames[-1] == "[DONE]"


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


async def test_what_a_chat_client_asks_is_said_in_the_upstreams_words(native: FakeResponses, server: Serving) -> None:
    schema = {"name": "person", "schema": {"type": "object"}, "strict": True}
    await chat(
        server,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, PICTURE]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ],
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        tool_choice={"type": "function", "function": {"name": "f"}},
        parallel_tool_calls=False,
        response_format={"type": "json_schema", "json_schema": schema},
        reasoning_effort="low",
        verbosity="low",
        max_completion_tokens=99,
        temperature=0.5,
        top_p=0.9,
        logprobs=True,
        top_logprobs=2,
        service_tier="flex",
        user="u",
    )  # fmt: skip
    assert sent(native) == {
        "model": MODEL,
        "input": [
            {"type": "message", "role": "system", "content": "Be brief."},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Hi"},
                    {"type": "input_image", "detail": "auto", "image_url": "https://example.com/a.png"},
                ],
            },
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        ],
        "store": False,
        "tools": [{"type": "function", "name": "f", "description": None, "parameters": {"type": "object"}, "strict": None}],
        "tool_choice": {"type": "function", "name": "f"},
        "parallel_tool_calls": False,
        "text": {"format": {"type": "json_schema", **schema}, "verbosity": "low"},
        "reasoning": {"effort": "low"},
        "max_output_tokens": 99,
        "temperature": 0.5,
        "top_p": 0.9,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "service_tier": "flex",
        "user": "u",
    }  # fmt: skip


@pytest.mark.parametrize(
    "asked",
    [
        {"n": 2},
        {"seed": 1},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"logit_bias": {"5": 1}},
        {"prediction": {"type": "content", "content": "x"}},
        {"web_search_options": {}},
        {"functions": [{"name": "f"}]},
    ],
    ids=lambda asked: next(iter(asked)),
)
async def test_what_the_upstream_has_no_word_for_is_refused_by_name(server: Serving, asked: Any) -> None:
    reply = await server.chat("x", model=MODEL, **asked)
    assert (reply.status, reply.error["code"]) == (400, "unsupported_parameter")
    assert reply.error["param"] == next(iter(asked))


async def test_stop_sequences_are_applied_here(native: FakeResponses, server: Serving) -> None:
    native.output = [message("Cats purr.")]
    choice = (await chat(server, stop=["purr"])).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Cats ", "stop")
    assert "stop" not in sent(native)


# A trunkline behind a trunkline


async def test_another_trunkline_is_a_native_server(serve: Serve, native: FakeResponses, server: Serving) -> None:
    back = f'[backends.back]\ntype = "http"\ndialect = "openai_responses"\nendpoints = ["{server.url}/v1"]\n'
    async with serve(back) as front:
        client = Asking(front, model=MODEL)
        events = await client.stream("cats", tools=[SEARCH], include=ENCRYPTED)
        final = check_stream(events)
        assert types_of(final["output"]) == ["reasoning", "web_search_call", "message"]
        assert (await client.get(final["id"])).body == final_of(events)
        follow = await client.create("more", previous_response_id=final["id"])
        assert follow["output_text"] == "more"
        assert types_of(sent(native)["input"]) == ["message", "reasoning", "web_search_call", "message", "message"]
        stored = await server.get(f"/v1/responses/{final['id']}")
        assert stored.status == 404, "what is behind was told to keep nothing"


RAN = '[[rules]]\nsteps = [{ run = "search", arguments = "{}", output = "10 results" }, { text = "Found ten." }]\n'


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_tools_that_the_upstream_ran_are_not_for_a_chat_client_to_run(serve: Serve, stream: bool) -> None:
    async with serve('[backends.talk]\ntype = "scripted"\nscript = "ran.toml"\n', scripts={"ran.toml": RAN}) as behind:
        back = f'[backends.back]\ntype = "http"\ndialect = "openai_responses"\nendpoints = ["{behind.url}/v1"]\n'
        async with serve(back) as front:
            without: dict[str, Any] = {}
            for tools in (without, {"tools": CHAT_TOOLS}):
                reply = await front.chat("cats", stream=stream, **tools)
                assert b"tool_calls" not in reply.body
                assert (finish_of(reply.frames) if stream else [reply.json()["choices"][0]["finish_reason"]]) == [
                    "stop"
                ]
            seen = await Asking(front, model="scripted").create("cats")
            assert types_of(seen["output"]) == ["function_call", "function_call_output", "message"]


async def test_a_call_of_a_declared_function_is_for_the_client(native: FakeResponses, server: Serving) -> None:
    native.output = [
        function_call("look_up", "{}", call_id="call_1", item_id="fc_up1"),
        function_call("get_weather", "{}", call_id="call_2", item_id="fc_up2"),
    ]
    choice = (await chat(server, tools=CHAT_TOOLS)).json()["choices"][0]
    assert [call["id"] for call in choice["message"]["tool_calls"]] == ["call_2"]
    assert choice["finish_reason"] == "tool_calls"
