"""Responses under bad input: what a careless or a hostile client sends is answered with what is wrong, and harms nobody.

Whatever is accepted is answered with an object that the official types accept, so a value that they do not know
is refused here and not echoed.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.responses import GET_WEATHER, Asking, call_output, check_object, said
from tests.serving import Reply, Serving, serving

TOML = '[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n'
SCRIPT = r"""
[[rules]]
match = "hang"
steps = [{ text = "so far " }, { hang = true }]
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"script.toml": SCRIPT}) as served:
        yield served


@pytest.fixture
def client(server: Serving) -> Asking:
    return Asking(server)


async def posted(server: Serving, body: dict[str, Any]) -> Reply:
    whole = {"model": "scripted", "input": "hello", **body}
    return await server.request("POST", "/v1/responses", json.dumps(whole).encode())


CALL = {"type": "function_call", "call_id": "call_a", "name": "get_weather", "arguments": "{}"}
DRAWING = {"type": "custom_tool_call", "call_id": "call_a", "name": "draw", "input": "a cat"}
CUSTOM = {"type": "custom", "name": "draw"}
REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    # Metadata, as the API bounds it
    ({"metadata": {str(number): "x" for number in range(17)}}, "object_above_max_properties", "metadata"),
    ({"metadata": {"k" * 65: "x"}}, "property_name_above_max_length", "metadata"),
    ({"metadata": {"k": "v" * 513}}, "string_above_max_length", "metadata.k"),
    ({"metadata": {"k": None}}, "invalid_type", "metadata.k"),
    # A conversation without a name would be everybody's who forgot to give one
    ({"conversation": ""}, "invalid_value", "conversation"),
    ({"conversation": {"id": ""}}, "invalid_value", "conversation.id"),
    ({"conversation": {"id": 5}}, "invalid_type", "conversation.id"),
    ({"conversation": {}}, "missing_required_parameter", "conversation.id"),
    ({"previous_response_id": ""}, "previous_response_not_found", "previous_response_id"),
    # Words that the object could not repeat
    ({"service_tier": "gold"}, "invalid_value", "service_tier"),
    ({"reasoning": {"effort": "a lot"}}, "invalid_value", "reasoning.effort"),
    ({"reasoning": {"summary": "long"}}, "invalid_value", "reasoning.summary"),
    ({"reasoning": {"generate_summary": "long"}}, "invalid_value", "reasoning.generate_summary"),
    ({"text": {"verbosity": "chatty"}}, "invalid_value", "text.verbosity"),
    ({"include": ["everything"]}, "invalid_value", "include[0]"),
    ({"include": ["reasoning.encrypted_content", 5]}, "invalid_type", "include[1]"),
    ({"include": "reasoning.encrypted_content"}, "invalid_type", "include"),
    # References
    ({"input": [{"type": "item_reference"}]}, "missing_required_parameter", "input[0].id"),
    ({"input": [{"type": "item_reference", "id": None}]}, "missing_required_parameter", "input[0].id"),
    ({"input": [{"type": "item_reference", "id": 5}]}, "invalid_type", "input[0].id"),
    ({"input": [{"type": "item_reference", "id": "msg_" + "x" * 5000}]}, "item_not_found", "input[0]"),
    ({"input": [{**said("one"), "id": "msg_1"}, {**said("two"), "id": "msg_1"}]}, None, "input"),
    # Tools and their choice
    ({"tool_choice": "any"}, "invalid_value", "tool_choice"),
    ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
    ({"tools": [GET_WEATHER], "tool_choice": {"type": "function", "name": "nobody"}}, "invalid_value", "tool_choice"),
    ({"tools": [GET_WEATHER], "tool_choice": {"type": "function"}}, "missing_required_parameter", "tool_choice.name"),
    ({"tools": [GET_WEATHER], "tool_choice": {"type": "custom", "name": "get_weather"}}, "invalid_value", "tool_choice"),
    ({"tools": [CUSTOM], "tool_choice": {"type": "function", "name": "draw"}}, "invalid_value", "tool_choice"),
    ({"tools": [GET_WEATHER], "tool_choice": {"type": "file_search"}}, "invalid_value", "tool_choice"),
    (
        {"tools": [GET_WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
        "empty_array",
        "tool_choice.tools",
    ),
    (
        {
            "tools": [GET_WEATHER],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "get_weather"}, {"type": "function", "name": "nobody"}],
            },
        },
        "invalid_value",
        "tool_choice",
    ),
    ({"tools": [{**GET_WEATHER, "name": ""}]}, "invalid_value", "tools[0].name"),
    ({"tools": [GET_WEATHER, {**CUSTOM, "name": "draw\nit"}]}, "invalid_value", "tools[1].name"),
    ({"tools": [{**GET_WEATHER, "parameters": {"type": "array"}}]}, "invalid_function_parameters", "tools[0].parameters"),
    ({"tools": [{**GET_WEATHER, "parameters": {"properties": []}}]}, "invalid_function_parameters", "tools[0].parameters"),
    ({"tools": [{**GET_WEATHER, "parameters": {"required": [5]}}]}, "invalid_function_parameters", "tools[0].parameters"),
    # A call and its output
    ({"input": [CALL, call_output("call_a"), call_output("call_a")]}, None, "input"),
    ({"input": [CALL, {**call_output("call_a"), "type": "custom_tool_call_output"}]}, None, "input"),
    ({"input": [DRAWING, call_output("call_a")]}, None, "input"),
    # Decision 33: strings for these three, and nothing else
    ({"background": "True"}, "invalid_type", "background"),
    ({"background": 1}, "invalid_type", "background"),
    ({"background": "true", "store": "false"}, "invalid_value", "background"),
    ({"store": "no"}, "invalid_type", "store"),
    ({"stream": "TRUE"}, "invalid_type", "stream"),
    ({"parallel_tool_calls": "true"}, "invalid_type", "parallel_tool_calls"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "code", "param"), REFUSED)
async def test_what_is_wrong_is_named_by_its_path(
    server: Serving, body: dict[str, Any], code: str | None, param: str
) -> None:
    for more in ({}, {"stream": True}, {"background": True}):
        reply = await posted(server, {**more, **body})
        assert reply.status == 400, (more, reply)
        error = reply.error
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param), error
        assert len(error["message"]) < 400
    assert server.backend().opened == 0


@pytest.mark.parametrize(
    "body",
    [
        {"background": "false", "store": "false", "stream": "false"},
        {"metadata": {"k" * 64: "v" * 512}},
        {"include": ["reasoning.encrypted_content", "file_search_call.results"]},
        {"reasoning": {"effort": "xhigh", "summary": "auto"}, "text": {"verbosity": "high"}, "service_tier": "flex"},
        {"tools": [GET_WEATHER, CUSTOM], "tool_choice": {"type": "custom", "name": "draw"}},
        {"tools": [GET_WEATHER], "tool_choice": {"type": "function", "name": "get_weather"}},
        {
            "tools": [GET_WEATHER, CUSTOM],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "draw"}]},
        },
        {"max_output_tokens": 10**40},
        {"instructions": "\x00", "conversation": "\x00😀", "metadata": {"\x00": "😀"}},
    ],
)
async def test_what_is_right_is_repeated_in_the_object(server: Serving, body: dict[str, Any]) -> None:
    reply = await posted(server, body)
    assert reply.status == 200, reply
    created = reply.json()
    check_object(created)
    assert created["metadata"] == body.get("metadata", {})
    if "tool_choice" in body:
        assert created["tool_choice"] == body["tool_choice"]


async def test_three_items_with_one_id_are_no_list_without_end(client: Asking) -> None:
    """A page's `after` names an item; where three have that name, the second page would be the last and the next."""
    first = await client.create("one")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    reply = await client.post([reference, said("two"), reference])
    assert (reply.status, reply.error["param"]) == (400, "input")
    assert "Duplicate item" in reply.error["message"]


async def test_a_place_to_start_after_is_only_for_a_stream_of_a_background_response(client: Asking) -> None:
    created = await client.create()
    queued = await client.create(background=True)
    await client.ended(queued["id"])
    for response_id in (created["id"], queued["id"]):
        for value in ("1", "x"):
            reply = await client.get(response_id, f"?starting_after={value}")
            assert (reply.status, reply.error["param"]) == (400, "starting_after")


async def test_the_last_of_two_equal_keys_counts_in_every_place(client: Asking, server: Serving) -> None:
    body = (
        b'{"model":"nobody","model":"scripted","input":"one","input":[{"role":"user","content":"x","content":"two"}]}'
    )
    reply = await server.request("POST", "/v1/responses", body)
    assert reply.json()["output_text"] == "two"
    (kept,) = (await client.input_items(reply.json()["id"]))["data"]
    assert kept["content"][0]["text"] == "two"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"scripted","input":"x","temperature":NaN}',
        b'{"model":"scripted","input":"x","temperature":1e999}',
        b'{"model":"scripted","input":"\\ud800"}',
        b'\xef\xbb\xbf{"model":"scripted","input":"x"}',
        b'{"model":"scripted","input":' + b"[" * 200_000,
        b'{"model":"scripted","input":"\xff"}',
    ],
)
async def test_what_is_no_json_is_the_callers_mistake(server: Serving, body: bytes) -> None:
    reply = await server.request("POST", "/v1/responses", body)
    assert (reply.status, reply.error["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("depth", [100, 500, 900, 980, 1500])
@pytest.mark.parametrize(
    "place",
    [
        b'"input":"x","unknown":%b',
        b'"input":"x","tools":[{"type":"function","name":"f","parameters":%b}]',
        b'"input":[{"role":"user","content":"x","extra":%b}]',
        b'"input":[{"type":"wat","x":%b}]',
        b'"input":"x","text":{"format":{"type":"json_schema","name":"x","schema":%b}}',
    ],
)
async def test_any_depth_is_answered_or_refused(server: Serving, depth: int, place: bytes) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    reply = await server.request("POST", "/v1/responses", b'{"model":"scripted",' + place % deep + b"}")
    assert reply.status in (200, 400), reply


async def test_a_call_is_answered_once_and_by_its_own_kind_of_output(client: Asking) -> None:
    """Over a chain too. Ids that a server uses again in each turn, or for two calls at once, are no second answer."""
    first = await client.create([said("hi"), CALL, call_output("call_a")])
    again = await client.post([call_output("call_a")], previous_response_id=first["id"])
    assert (again.status, again.error["param"]) == (400, "input")
    assert "call_a" in again.error["message"]
    twice = [CALL, CALL, call_output("call_a"), call_output("call_a")]
    assert (await client.create(twice, previous_response_id=first["id"]))["status"] == "completed"


async def test_arguments_that_are_no_json_are_kept_as_they_came(client: Asking) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{not json"}
    created = await client.create([call, call_output("c"), said("x")])
    listed = (await client.input_items(created["id"], "?order=asc"))["data"]
    assert [item["type"] for item in listed] == ["function_call", "function_call_output", "message"]
    assert listed[0]["arguments"] == "{not json"


@pytest.mark.parametrize("path", ["/v1/conversations/{conversation}/items", "/v1/chat/completions"])
async def test_a_long_place_to_continue_after_is_not_echoed(server: Serving, path: str) -> None:
    made = (await server.request("POST", "/v1/conversations", b"{}")).json()
    reply = await server.get(path.format(conversation=made["id"]) + "?after=" + "x" * 5000)
    assert (reply.status, reply.error["param"]) == (400, "after")
    assert len(reply.error["message"]) < 400


@pytest.mark.parametrize(
    ("part", "meant"),
    [("text", "input_text"), ("input_txt", "input_text"), ("image_url", "input_image"), ("x_new", None)],
)
async def test_a_part_that_nobody_knows_is_refused_with_what_may_be_meant(
    echo: Serving, part: str, meant: str | None
) -> None:
    reply = await Asking(echo).post([{"role": "user", "content": [{"type": part, "text": "hi"}]}])
    assert (reply.status, reply.error["code"]) == (400, "unsupported_content_type")
    assert reply.error["param"] == "input[0].content[0]"
    assert reply.error["message"].endswith(f"(did you mean '{meant}'?)" if meant else f"'{part}'")


async def test_messages_are_called_input_here(echo: Serving) -> None:
    body = b'{"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}'
    reply = await echo.request("POST", "/v1/responses", body)
    assert (reply.status, reply.error["param"]) == (400, "input")
    assert (
        reply.error["message"]
        == "Missing required parameter: 'input'. It has 'messages'; did you mean that as 'input'?"
    )


@pytest.mark.parametrize("body", [b"", b" \n"])
async def test_an_empty_body_is_called_that(echo: Serving, body: bytes) -> None:
    reply = await echo.request("POST", "/v1/responses", body)
    assert (reply.status, reply.error["code"]) == (400, "invalid_json")
    assert "empty body" in reply.error["message"]
