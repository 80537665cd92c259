"""POST /v1/chat/completions as the API defines it: every parameter is honoured, forwarded, named as ignored or refused by name."""

import json
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.upstream import COMPLETION, DONE, FakeUpstream, json_answer, streamed, text_frame, usage_frame
from tests.serving import Serving, finish_of, text_of, user

FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
AGENT = "async def agent(turn):\n    yield 'you said ' + turn.input\n"
PYTHON = '[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\n'


async def test_the_first_chunk_has_role_and_text_and_the_last_an_empty_delta(echo: Serving) -> None:
    frames = (await echo.chat("one two", stream=True)).frames
    assert frames[0]["choices"][0]["delta"] == {"role": "assistant", "content": "one"}
    assert frames[-2]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert frames[-1] == "[DONE]"
    assert all(frame["object"] == "chat.completion.chunk" for frame in frames[:-1])
    assert all("usage" not in frame for frame in frames[:-1])


async def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(echo: Serving) -> None:
    frames = (await echo.chat("one two", stream=True, stream_options={"include_usage": True})).frames
    assert frames[-2]["choices"] == []
    assert frames[-2]["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    assert all(frame["usage"] is None for frame in frames[:-2])


async def test_a_stream_and_a_whole_answer_say_the_same(serve: Serve) -> None:
    steps = (
        '{ reasoning = "hm " }, { text = "one" }, { text = " two" }, { run = "search", output = "10" }, { text = " three" },'
        '{ call = "f", arguments = ["{", "}"], call_id = "c1" }'
    )
    script = f"[[rules]]\nsteps = [{steps}]\n"
    toml = '[backends.talk]\ntype = "scripted"\nscript = "s.toml"\n'
    async with serve(toml, scripts={"s.toml": script}) as server:
        whole = (await server.chat(tools=[FUNCTION])).json()["choices"][0]
        frames = (await server.chat(tools=[FUNCTION], stream=True)).frames
    deltas = [frame["choices"][0]["delta"] for frame in frames[:-1]]
    message = whole["message"]
    assert text_of(frames) == message["content"] == "one two three"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == message["reasoning_content"] == "hm "
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert {call["index"] for call in calls} == {0}, "the tool that ran on the server is not the client's to run"
    assert "".join(call["function"]["arguments"] for call in calls) == "{}"
    assert message["tool_calls"] == [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    assert finish_of(frames) == [whole["finish_reason"]] == ["tool_calls"]


async def test_booleans_as_strings_are_booleans(echo: Serving) -> None:
    assert (await echo.chat(stream="true")).headers["content-type"] == "text/event-stream"
    assert (await echo.chat(stream="false")).json()["object"] == "chat.completion"


async def test_max_tokens_under_either_name_ends_with_length(echo: Serving) -> None:
    limits: list[dict[str, Any]] = [{"max_tokens": 2}, {"max_completion_tokens": 2}]
    for limit in limits:
        reply = (await echo.chat("one two three", **limit)).json()
        assert reply["choices"][0]["message"]["content"] == "one two"
        assert reply["choices"][0]["finish_reason"] == "length"
        assert reply["usage"]["completion_tokens"] == 2
        frames = (await echo.chat("one two three", stream=True, **limit)).frames
        assert (text_of(frames), finish_of(frames), frames[-1]) == ("one two", ["length"], "[DONE]")


async def test_content_may_be_parts_and_every_role_is_read(echo: Serving) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    reply = await echo.chat(
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "developer", "content": [{"type": "text", "text": "be kind"}]},
            {"role": "user", "content": "hi", "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "22"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "so"}], "reasoning_content": "hm"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        ]
    )  # fmt: skip
    assert reply.status == 200
    assert reply.json()["choices"][0]["message"]["content"] == "one\ntwo"


async def test_unicode_survives_both_ways(echo: Serving) -> None:
    text = 'héllo 👋🏽 \u2028 日本 \x7f \\ " \t'
    assert (await echo.chat(text)).json()["choices"][0]["message"]["content"] == text
    assert (await echo.chat(text, stream=True)).text == text


HINTS: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.5,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "logit_bias": {"1": 1},
    "reasoning_effort": "low",
    "verbosity": "low",
    "service_tier": "flex",
}
QUIET: dict[str, Any] = {
    "user": "u",
    "metadata": {"a": "b"},
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "store": False,
    "tools": [],
    "stop": [],
    "n": 1,
    "logprobs": False,
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "service_tier": "auto",
    "parallel_tool_calls": True,
    "tool_choice": "none",
    "temperature": None,
    "stream_options": None,
}
REFUSED_BY_AN_AGENT: dict[str, Any] = {
    "n": {"n": 2},
    "logprobs": {"logprobs": True},
    "tools": {"tools": [FUNCTION]},
    "response_format": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
    "audio": {"audio": {"voice": "a", "format": "wav"}},
    "web_search_options": {"web_search_options": {}},
    "functions": {"functions": [{"name": "f"}]},
}


@pytest.mark.parametrize("name", HINTS)
async def test_a_hint_that_nobody_uses_is_named(echo: Serving, serve: Serve, name: str) -> None:
    for stream in (False, True):
        reply = await echo.chat(stream=stream, **{name: HINTS[name]})
        assert (reply.status, reply.headers["x-trunkline-ignored"]) == (200, name)


@pytest.mark.parametrize("name", QUIET)
async def test_what_asks_for_nothing_special_is_neither_refused_nor_named(serve: Serve, name: str) -> None:
    async with serve(PYTHON, scripts={"bot.py": AGENT}) as server:
        model = (await server.get("/v1/models")).json()["data"][0]["id"]
        reply = await server.chat(model=model, **{name: QUIET[name]})
        assert (reply.status, "x-trunkline-ignored" in reply.headers) == (200, False), reply.body


@pytest.mark.parametrize("name", REFUSED_BY_AN_AGENT)
async def test_what_an_agent_cannot_do_is_refused_by_name(serve: Serve, name: str) -> None:
    async with serve(PYTHON, scripts={"bot.py": AGENT}) as server:
        model = (await server.get("/v1/models")).json()["data"][0]["id"]
        for stream in (False, True):
            reply = await server.chat(model=model, stream=stream, **REFUSED_BY_AN_AGENT[name])
            assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unsupported_parameter", name)
            assert f"'{name}'" in reply.error["message"]
            table = "client_tools = true below [backends.bot] in a configuration file (trunkline serve --config FILE)"
            assert (table in reply.error["message"]) == (name in ("tools", "tool_choice"))


async def test_an_agent_that_calls_a_tool_without_leave_is_told_where_that_is_given(serve: Serve) -> None:
    calls = "from trunkline.agent import FunctionCall\n\n\nasync def agent(turn):\n    yield FunctionCall('clock')\n"
    async with serve(PYTHON, scripts={"bot.py": calls}) as server:
        reply = await server.chat(model="bot")
    assert reply.status == 500
    assert "configured with client_tools = true below [backends.bot] in a config" in reply.error["message"]


async def test_what_a_client_adds_for_itself_is_named_where_it_is_lost(echo: Serving) -> None:
    reply = await echo.chat(client_metadata={"a": 1}, top_k=5)
    assert reply.headers["x-trunkline-ignored"] == "client_metadata, top_k"


EVERYTHING: dict[str, Any] = {
    **HINTS,
    "audio": {"voice": "a", "format": "wav"},
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "logprobs": True,
    "top_logprobs": 3,
    "max_completion_tokens": 9,
    "metadata": {"a": "b"},
    "modalities": ["text", "audio"],
    "moderation": {"x": 1},
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {"x": 1},
    "prompt_cache_retention": "24h",
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True},
    },
    "safety_identifier": "s",
    "seed": 5,
    "stop": ["a", "b"],
    "store": False,
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "tools": [
        FUNCTION,
        {"type": "custom", "custom": {"name": "g", "format": {"type": "text"}}},
        {"type": "web_search"},
    ],
    "user": "u",
    "web_search_options": {"search_context_size": "low"},
    "anything_else": [1, None, {"deep": True}],
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_everything_is_forwarded_to_a_server_of_the_same_dialect(
    serve: Serve, upstream: FakeUpstream, stream: bool
) -> None:
    toml = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n'
    async with serve(toml) as server:
        upstream.plan(streamed(text_frame("x") + text_frame(finish="stop")) if stream else [json_answer(COMPLETION)])
        reply = await server.chat(model="up-model", stream=stream, **EVERYTHING)
    assert reply.status == 200
    assert "x-trunkline-ignored" not in reply.headers
    sent = upstream.posts[0].json()
    assert sent.pop("stream") is stream
    assert sent.pop("stream_options", None) == ({"include_usage": True} if stream else None)
    assert sent == {"model": "up-model", "messages": user("hello there"), **EVERYTHING}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("said", [{}, {"model": None}], ids=["absent", "null"])
@pytest.mark.parametrize(
    "models", ["", '[[models]]\nname = "up-model"\nroutes = [{backend = "up"}]\n'], ids=["listed", "configured"]
)
async def test_the_default_model_is_named_to_its_server(
    serve: Serve, upstream: FakeUpstream, models: str, said: dict[str, None], stream: bool
) -> None:
    backend = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n'
    body = {**said, "messages": user("model"), "stream": stream, "top_k": 5}
    async with serve(f'server.default_model = "up-model"\n{models}{backend}') as server:
        upstream.plan(streamed(text_frame("x") + text_frame(finish="stop")) if stream else [json_answer(COMPLETION)])
        assert (await server.post_raw(json.dumps(body).encode())).status == 200
    sent = upstream.posts[0].json()
    sent.pop("stream_options", None)
    assert sent == {**body, "model": "up-model"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_what_is_stored_here_is_not_stored_again_upstream(
    serve: Serve, upstream: FakeUpstream, stream: bool
) -> None:
    toml = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n'
    async with serve(toml) as server:
        upstream.plan(streamed(text_frame("x") + text_frame(finish="stop")) if stream else [json_answer(COMPLETION)])
        reply = await server.chat(model="up-model", stream=stream, store=True, metadata={"a": "b"}, top_k=5)
    assert reply.status == 200
    assert upstream.posts[0].json().keys() == {"model", "messages", "stream", "top_k"} | (
        {"stream_options"} if stream else set()
    )


@pytest.mark.parametrize("null", [',"usage":null', ', "usage": null'])
@pytest.mark.parametrize("size", [1, 7, None])
@pytest.mark.parametrize("asks", [False, True])
async def test_usage_that_only_we_asked_for_is_in_no_chunk(
    upstream: FakeUpstream, serve: Serve, null: str, size: int | None, asks: bool
) -> None:
    """Servers that are asked for usage say in every chunk but the last that there is none."""
    plain = [text_frame('"usage":null '), text_frame("a"), text_frame("b"), text_frame(finish="stop")]
    frames = [frame.replace(b"}\n\n", null.encode() + b"}\n\n") for frame in plain]
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        upstream.plan(streamed(b"".join([*frames, usage_frame(), DONE]), size=size))
        reply = await server.chat(model="up-model", stream=True, stream_options={"include_usage": asks})
    assert reply.body == b"".join([*frames, usage_frame(), DONE] if asks else [*plain, DONE])


async def test_a_translated_request_loses_nothing_either(serve: Serve, upstream: FakeUpstream) -> None:
    """Written anew from its values, the request says the same."""
    toml = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n'
    async with serve(toml) as server:
        server.application.runtime.gateway._may_relay = False
        upstream.plan([json_answer(COMPLETION)])
        assert (await server.chat(model="up-model", **EVERYTHING)).status == 200
    sent = upstream.posts[0].json()
    assert sent == {"model": "up-model", "messages": user("hello there"), **EVERYTHING}


async def test_a_backend_that_does_not_stream_says_so(serve: Serve) -> None:
    async with serve('[backends.talk]\ntype = "scripted"\nstreaming = false\n') as server:
        reply = await server.chat(stream=True)
        assert (reply.status, reply.error["message"], reply.error["param"]) == (
            400,
            "streaming not supported",
            "stream",
        )
        assert (await server.chat()).status == 200


async def test_choices_are_numbered_and_each_ends_once(echo: Serving) -> None:
    frames = (await echo.chat("one two", n=3, stream=True)).frames
    for choice in range(3):
        assert text_of(frames, choice=choice) == "one two"
        assert finish_of(frames, choice=choice) == ["stop"]
    roles = [one for frame in frames[:-1] for one in frame["choices"] if "role" in one["delta"]]
    assert sorted(one["index"] for one in roles) == [0, 1, 2]


async def test_the_body_may_be_in_any_encoding_of_json(echo: Serving) -> None:
    body = json.dumps({"model": "scripted", "messages": user("h\u00e9")}, ensure_ascii=True, indent=4).encode()
    assert (await echo.post_raw(body)).json()["choices"][0]["message"]["content"] == "hé"
