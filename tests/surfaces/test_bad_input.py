"""What a client may get wrong: always a 4xx in the OpenAI envelope that says where, never a 500 and never HTML."""

import json
from typing import Any

import pytest

from tests.conftest import Serve
from tests.serving import ECHO, Serving, user

OK = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}

BROKEN_JSON = {
    "empty": b"",
    "not JSON": b"hello",
    "cut off": b'{"model": "scripted", "messages": [',
    "an array": b'[{"model": "scripted"}]',
    "a string": b'"scripted"',
    "a number": b"12",
    "null": b"null",
    "NaN": b'{"model":"scripted","temperature":NaN,"messages":[{"role":"user","content":"hi"}]}',
    "Infinity": b'{"model":"scripted","temperature":-Infinity,"messages":[{"role":"user","content":"hi"}]}',
    "a lone surrogate": b'{"model":"scripted","messages":[{"role":"user","content":"\\ud800"}]}',
    "a lone low surrogate": b'{"model":"scripted","messages":[{"role":"user","content":"a\\udc00b"}]}',
    "not UTF-8": b'{"model":"scripted","messages":[{"role":"user","content":"\xff\xfe"}]}',
    "encoded surrogate": b'{"model":"scripted","messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
    "UTF-16": '{"model":"scripted"}'.encode("utf-16"),
    "a byte-order mark": b"\xef\xbb\xbf" + json.dumps(OK).encode(),
    "200,000 arrays deep": b"[" * 200_000 + b"]" * 200_000,
    "200,000 objects deep": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "200,000 deep in a message": b'{"model":"scripted","messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "200,000 deep in an unknown key": b'{"model":"scripted","messages":[{"role":"user","content":"hi"}],"x":'
    + b"[" * 200_000
    + b"]" * 200_000
    + b"}",
    "10 MB of {}": b"{}" * 5_000_000,
    "5,000 digits": b'{"model":"scripted","n":' + b"9" * 5_000 + b',"messages":[{"role":"user","content":"hi"}]}',
    "1e999": b'{"model":"scripted","temperature":1e999,"messages":[{"role":"user","content":"hi"}]}',
    "a form": b"model=scripted&messages=hi",
}


@pytest.mark.parametrize("body", BROKEN_JSON.values(), ids=BROKEN_JSON.keys())
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_body_that_is_not_a_json_object_is_the_callers_mistake(
    echo: Serving, body: bytes, stream: bool
) -> None:
    if stream:
        body = body.replace(b'{"model":"scripted"', b'{"stream":true,"model":"scripted"', 1)
    reply = await echo.post_raw(body)
    assert reply.status == 400
    assert reply.error["type"] == "invalid_request_error"
    assert (await echo.chat("still here")).status == 200


async def test_ten_megabytes_of_empty_objects_in_messages_name_the_first(echo: Serving) -> None:
    reply = await echo.post_raw(b'{"model":"scripted","messages":[' + b"{}," * 3_300_000 + b"{}]}")
    assert (reply.status, reply.error["param"]) == (400, "messages[0].role")


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "no messages": ({"messages": None}, "messages"),
    "empty messages": ({"messages": []}, "messages"),
    "messages is a string": ({"messages": "hi"}, "messages"),
    "messages is an object": ({"messages": {}}, "messages"),
    "a message is a string": ({"messages": ["hi"]}, "messages[0]"),
    "a message is null": ({"messages": [None]}, "messages[0]"),
    "no role": ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    "an unknown role": ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    "role is a number": ({"messages": [{"role": 1, "content": "hi"}]}, "messages[0].role"),
    "no content": ({"messages": [{"role": "user"}]}, "messages[0].content"),
    "content is null": ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    "content is a number": ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    "content is an object": ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
    "content has no parts": ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    "a part is a string": ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]"),
    "a part has no type": ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
    "text is a number": (
        {"messages": [*user("a"), {"role": "user", "content": [{"type": "text", "text": 5}]}]},
        "messages[1].content[0].text",
    ),
    "image without url": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].image_url.url",
    ),
    "tool message without tool_call_id": (
        {"messages": [*user("a"), {"role": "tool", "content": "x"}]},
        "messages[1].tool_call_id",
    ),
    "tool call without id": (
        {"messages": [*user("a"), {"role": "assistant", "tool_calls": [{"type": "function", "function": {}}]}]},
        "messages[1].tool_calls[0]",
    ),
    "model is a number": ({"model": 5}, "model"),
    "no model": ({"model": None}, "model"),
    "n is zero": ({"n": 0}, "n"),
    "n is a string": ({"n": "2"}, "n"),
    "n is too many": ({"n": 1_000_000}, "n"),
    "stream is a number": ({"stream": 1}, "stream"),
    "stream is a word": ({"stream": "yes"}, "stream"),
    "stop is a number": ({"stop": 5}, "stop"),
    "a stop is a number": ({"stop": ["a", 5]}, "stop[1]"),
    "a stop is empty": ({"stop": ["a", ""]}, "stop[1]"),
    "temperature is a string": ({"temperature": "hot"}, "temperature"),
    "temperature is negative": ({"temperature": -1}, "temperature"),
    "top_p is above one": ({"top_p": 1.5}, "top_p"),
    "max_tokens is zero": ({"max_tokens": 0}, "max_tokens"),
    "max_completion_tokens is a decimal": ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
    "seed is a string": ({"seed": "x"}, "seed"),
    "logprobs is a number": ({"logprobs": 1}, "logprobs"),
    "top_logprobs without logprobs": ({"top_logprobs": 2}, "top_logprobs"),
    "logit_bias is a list": ({"logit_bias": []}, "logit_bias"),
    "a logit_bias is a string": ({"logit_bias": {"5": "x"}}, "logit_bias.5"),
    "a penalty is too large": ({"presence_penalty": 3}, "presence_penalty"),
    "response_format is a string": ({"response_format": "json"}, "response_format"),
    "response_format of no kind": ({"response_format": {"type": "xml"}}, "response_format.type"),
    "json_schema without schema": ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    "json_schema without name": (
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        "response_format.json_schema.name",
    ),
    "tools is an object": ({"tools": {}}, "tools"),
    "a tool without type": ({"tools": [{}]}, "tools[0].type"),
    "a function without name": ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    "parameters is a list": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
        "tools[0].function.parameters",
    ),
    "parameters of no object": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
        "tools[0].function.parameters",
    ),
    "a function whose name is empty": (
        {"tools": [{"type": "function", "function": {"name": ""}}]},
        "tools[0].function.name",
    ),
    "a tool whose name has two lines": (
        {"tools": [{"type": "custom", "custom": {"name": "a\nb"}}]},
        "tools[0].custom.name",
    ),
    "tool_choice without tools": ({"tool_choice": "required"}, "tool_choice"),
    "tool_choice of no kind": (
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "maybe"},
        "tool_choice",
    ),
    "tool_choice names no tool": (
        {
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": {"type": "function", "function": {"name": "g"}},
        },
        "tool_choice",
    ),
    "stream_options is a boolean": ({"stream": True, "stream_options": True}, "stream_options"),
    "include_usage is a string": (
        {"stream": True, "stream_options": {"include_usage": "yes"}},
        "stream_options.include_usage",
    ),
    "metadata holds a number": ({"metadata": {"a": 1}}, "metadata.a"),
    "user is a number": ({"user": 7}, "user"),
}


@pytest.mark.parametrize(("change", "param"), WRONG.values(), ids=WRONG.keys())
async def test_what_is_wrong_is_named_by_its_path(echo: Serving, change: dict[str, object], param: str) -> None:
    reply = await echo.post_raw(json.dumps({**OK, **change}).encode())
    assert reply.status == 400
    assert reply.error["type"] == "invalid_request_error"
    assert str(reply.error["param"]).startswith(param), reply.error


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", OK),
        ("/v1/responses", {"model": "scripted", "input": "a"}),
        ("/v1/embeddings", {"model": "scripted", "input": "a"}),
        ("/api/chat", OK),
    ],
)
@pytest.mark.parametrize("name", ["MODEL", "Stream"])
async def test_a_name_in_another_case_is_not_passed_on_to_servers_that_would_take_it(
    path: str, body: dict[str, object], name: str, echo: Serving
) -> None:
    reply = await echo.request("POST", path, json.dumps({**body, name: "other"}).encode())
    assert reply.status == 400
    said = reply.json()["error"]
    assert f"did you mean '{name.lower()}'" in (said if isinstance(said, str) else said["message"])


async def test_no_more_are_those_that_change_ollamas_answer(echo: Serving) -> None:
    reply = await echo.request("POST", "/api/generate", b'{"model": "scripted", "prompt": "a", "Raw": true}')
    assert reply.status == 400
    assert "did you mean 'raw'" in reply.json()["error"]


async def test_missing_messages_is_a_missing_parameter(echo: Serving) -> None:
    reply = await echo.post_raw(b'{"model":"scripted"}')
    assert reply.error["param"] == "messages"
    assert reply.error["code"] == "missing_required_parameter"


async def test_a_megabyte_of_a_wrong_value_is_not_echoed(echo: Serving) -> None:
    huge = "x" * 1_000_000
    for change in (
        {"model": huge},
        {"tool_choice": huge, "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": [{"role": huge, "content": "hi"}]},
        {"response_format": {"type": huge}},
        {"metadata": {huge: 1}},
        {"logit_bias": {huge: "x"}},
        {"tools": [{"type": huge}], "tool_choice": "required"},
    ):
        reply = await echo.post_raw(json.dumps({**OK, **change}).encode())
        assert reply.status in (400, 404), change.keys()
        assert len(reply.body) < 4_000, change.keys()


async def test_unknown_model_lists_what_is_configured(echo: Serving) -> None:
    for stream in (False, True):
        reply = await echo.chat(model="gpt-9", stream=stream)
        assert reply.status == 404
        assert reply.error["code"] == "model_not_found"
        assert reply.error["param"] == "model"
        assert "unknown model 'gpt-9'; configured: 'scripted'" in reply.error["message"]


async def test_a_model_that_is_a_line_break_reaches_neither_header_nor_log_as_one(echo: Serving) -> None:
    reply = await echo.chat(model="a\r\nset-cookie: b=c")
    assert reply.status == 404
    assert "set-cookie" not in reply.headers
    assert len(echo.access_lines) == 1


async def test_a_huge_model_name_does_not_fill_the_log(echo: Serving) -> None:
    assert (await echo.chat(model="m" * 1_000_000)).status == 404
    assert (await echo.get("/" + "p" * 50_000)).status == 404
    assert max(len(line) for line in echo.access_lines) < 2_000


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v2/chat/completions", "/v1/chat/completions/", "/favicon.ico"])
async def test_unknown_route_is_json(echo: Serving, path: str) -> None:
    reply = await echo.get(path)
    assert (reply.status, reply.error["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/responses", "POST"),
        ("PUT", "/v1/chat/completions", "GET, HEAD, POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("POST", "/v1/models/scripted", "GET, HEAD"),
        ("OPTIONS", "/v1/chat/completions", "GET, HEAD, POST"),
        ("BREW", "/health", "GET, HEAD"),
    ],
)
async def test_unknown_method_is_json_and_says_which_are_allowed(
    echo: Serving, method: str, path: str, allow: str
) -> None:
    async with echo.connect() as wire:
        await wire.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        if method == "BREW":  # not an HTTP method at all: the parser refuses it before there is a request
            assert b"HTTP/1.1 400" in await wire.reader.read()
            return
        reply = await wire.reply()
    assert (reply.status, reply.error["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] == allow


async def test_head_of_health_has_no_body(echo: Serving) -> None:
    reply = await echo.request("HEAD", "/health")
    assert (reply.status, reply.body) == (200, b"")


SMALL = '[server]\nmax_body_bytes = 1000\n[backends.talk]\ntype = "scripted"\n'


async def test_announced_body_over_the_limit_is_refused_before_it_is_sent(serve: Serve) -> None:
    async with serve(SMALL) as server, server.connect() as wire:
        await wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n")
        reply = await wire.reply()
        assert (reply.status, reply.error["code"]) == (413, "body_too_large")
        assert "1000 bytes" in reply.error["message"]


async def test_chunked_body_over_the_limit_is_refused_while_it_is_sent(serve: Serve) -> None:
    async with serve(SMALL) as server, server.connect() as wire:
        await wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            await wire.send(b"190\r\n" + b"x" * 400 + b"\r\n")
        assert (await wire.reply()).status == 413


async def test_a_body_of_exactly_the_limit_is_read(serve: Serve) -> None:
    body = json.dumps({**OK, "user": ""}).encode()
    body = body.replace(b'"user": ""', b'"user": "' + b"u" * (1000 - len(body)) + b'"')
    assert len(body) == 1000
    async with serve(SMALL) as server:
        assert (await server.post_raw(body)).status == 200
        assert (await server.post_raw(body + b" ")).status == 413


async def test_connection_is_usable_after_a_refused_body(serve: Serve) -> None:
    """Keep-alive clients send their next request on the same connection."""
    async with serve(SMALL) as server, server.connect() as wire:
        await wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000)
        assert (await wire.reply()).status == 413
        await wire.send_chat(dict(OK))
        assert (await wire.reply()).status == 200


async def test_not_http_is_a_plain_400(echo: Serving) -> None:
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n"):
        async with echo.connect() as wire:
            await wire.send(data)
            answer = await wire.reader.read()
        assert b"<html" not in answer.lower()
        assert answer == b"" or b" 40" in answer.split(b"\r\n")[0], answer
    assert (await echo.chat()).status == 200


async def test_paths_that_are_not_utf8_are_unknown_routes(echo: Serving) -> None:
    for path in ("/v1/models/%ff", "/%00", "/v1/models/%0d%0aset-cookie:%20a=b"):
        reply = await echo.get(path)
        assert reply.status == 404
        assert "set-cookie" not in reply.headers


async def test_unknown_keys_cannot_write_response_headers(echo: Serving) -> None:
    """Ignored keys are named in a header; their names are the client's own text."""
    keys: dict[str, Any] = {"a\r\nset-cookie: b=c": 1, "é": 1, "x" * 100_000: 1, "plain": 1}
    reply = await echo.chat(**keys)
    assert reply.status == 200
    assert "set-cookie" not in reply.headers
    assert "plain" in reply.headers["x-trunkline-ignored"]
    assert len(reply.headers["x-trunkline-ignored"]) < 4_000
    more: dict[str, Any] = {f"key_{number}": 1 for number in range(20_000)}
    many = await echo.chat(**more)
    assert many.status == 200
    assert len(many.headers["x-trunkline-ignored"]) < 4_000


async def test_two_content_lengths_do_not_smuggle_a_request(serve: Serve) -> None:
    async with serve(ECHO) as server, server.connect() as wire:
        await wire.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        answer = await wire.reader.read()
        assert b"200 OK" not in answer


@pytest.mark.parametrize("path", ["/v1/models%0a", "/health%0a", "/v1/models/scripted%0a"])
async def test_a_path_with_a_line_break_is_another_path(echo: Serving, path: str) -> None:
    assert (await echo.get(path)).status == 404
