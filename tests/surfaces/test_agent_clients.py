"""What agents' clients send besides a conversation: tools as items, tools of the hosts', keys of their own. Recorded from them."""

import json
from typing import Any

import aiohttp
import pytest

from tests.conftest import Serve
from tests.fakes.upstream import DONE, FakeUpstream, streamed, text_frame, usage_frame
from tests.responses import Asking, check_stream, said
from tests.serving import Serving

SEARCH = {"type": "web_search", "external_web_access": True}
AGENTS = {"type": "namespace", "name": "agents", "description": "Other agents.", "tools": []}
NEW_STYLE: dict[str, Any] = {
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "context": "all_turns"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "thread",
    "client_metadata": {"thread_id": "thread"},
}


def tool(name: str, **more: object) -> dict[str, object]:
    parameters = {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]}
    return {"type": "function", "name": name, "description": "Runs.", "strict": False, "parameters": parameters, **more}


def added(*tools: object, **more: object) -> dict[str, object]:
    return {"type": "additional_tools", "id": "at_1", "role": "developer", "tools": tools, **more}


async def ask(serve: Serve, upstream: FakeUpstream, items: list[Any], **body: Any) -> tuple[Any, list[str]]:
    """What a chat upstream is asked, and what the answer's head says was ignored."""
    upstream.plan(streamed(text_frame("Hello.") + text_frame(finish="stop") + usage_frame() + DONE))
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        reply = await Asking(server, model="up-model").post(items, stream=True, **{**NEW_STYLE, **body})
    assert reply.status == 200, reply
    return upstream.posts[0].json(), reply.headers["x-trunkline-ignored"].split(", ")


async def test_tools_that_come_as_an_item_are_tools(serve: Serve, upstream: FakeUpstream) -> None:
    asked, ignored = await ask(serve, upstream, [added(AGENTS, tool("run"), SEARCH), said("hello")])
    assert [one["function"]["name"] for one in asked["tools"]] == ["run"]
    assert asked["parallel_tool_calls"] is False
    assert [message["role"] for message in asked["messages"]] == ["user"]
    assert {"input[0].tools[0]", "input[0].tools[2]", "client_metadata"} <= set(ignored)


async def test_the_request_s_own_tools_come_first_and_win(serve: Serve, upstream: FakeUpstream) -> None:
    items = [said("hi"), added(tool("run", description="Old."), tool("look")), said("hello")]
    asked, ignored = await ask(serve, upstream, items, tools=[tool("run", description="New."), SEARCH])
    assert [(one["function"]["name"], one["function"]["description"]) for one in asked["tools"]] == [
        ("run", "New."),
        ("look", "Runs."),
    ]
    assert "tools[1]" in ignored


async def test_a_grammar_is_where_each_api_has_it(serve: Serve, upstream: FakeUpstream) -> None:
    """Beside `type` in Responses, a level below it in chat completions."""
    grammar = {"syntax": "lark", "definition": "start: /(.+)/"}
    patch = {"type": "custom", "name": "patch", "format": {"type": "grammar", **grammar}}
    asked, _ = await ask(serve, upstream, [said("hello")], tools=[patch])
    nested = {"type": "grammar", "grammar": grammar}
    assert asked["tools"] == [{"type": "custom", "custom": {"name": "patch", "format": nested}}]


async def test_an_item_with_no_tool_of_the_client_s_asks_for_nothing(serve: Serve, upstream: FakeUpstream) -> None:
    asked, ignored = await ask(serve, upstream, [added(AGENTS), said("hello")])
    assert "tools" not in asked
    assert "parallel_tool_calls" not in asked
    assert "input[0].tools[0]" in ignored


async def test_an_item_of_tools_is_stored_and_chained(echo: Serving) -> None:
    asking = Asking(echo)
    first = await asking.create([added(tool("run")), said("one")])
    second = await asking.create([said("two")], previous_response_id=first["id"])
    assert second["output_text"] == "two"
    reply = await asking.get(first["id"], "/input_items?order=asc")
    assert [item["type"] for item in reply.json()["data"]] == ["additional_tools", "message"]


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ("none", "input[0].tools"),
        ([{"type": "function"}], "input[0].tools[0].name"),
        ([{"name": "x"}], "input[0].tools[0].type"),
        ([tool("x", parameters=[])], "input[0].tools[0].parameters"),
    ],
)
async def test_what_is_no_tool_is_refused_by_its_place(echo: Serving, tools: object, param: str) -> None:
    item = {"type": "additional_tools", "role": "developer", "tools": tools}
    reply = await Asking(echo).post([item, said("hello")])
    assert (reply.status, reply.error["param"]) == (400, param)


async def test_a_tool_session_with_everything_declared(echo: Serving) -> None:
    """Reasoning without content, text of its own between calls, an output per call, and every kind of tool declared."""
    reasoning: dict[str, Any] = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": None,
        "encrypted_content": None,
    }
    call = {"type": "function_call", "id": "fc_1", "status": "completed", "name": "run", "arguments": "{}"}
    custom = {"type": "custom_tool_call", "status": "completed", "call_id": "call_2", "name": "patch", "input": "***"}
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /(.+)/"}
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        said("hello"),
        reasoning,
        {**call, "call_id": "call_1"},
        {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "done"},
        custom,
        {"type": "custom_tool_call_output", "id": "cto_1", "call_id": "call_2", "output": "done"},
    ]
    tools = [
        tool("run"),
        {"type": "custom", "name": "patch", "description": "Edits.", "format": grammar},
        {"type": "tool_search", "execution": "client", "description": "Finds.", "parameters": {"type": "object"}},
        AGENTS,
        SEARCH,
    ]
    events = await Asking(echo).stream(items, tools=tools, **{**NEW_STYLE, "parallel_tool_calls": True})
    final = check_stream(events)
    assert final["output_text"] == "hello"
    assert json.loads(json.dumps(final["tools"]))[1]["format"] == grammar


CITED = 'type = "url_citation", url = "https://example.com/", title = "Example", start_index = 0, end_index = 7'
PATCH = "*** Begin Patch\n*** Add File: a.txt\n+hello\n*** End Patch\n"
CALLS = f"""
[[rules]]
steps = [
  {{ text = "As said.", annotation = {{ {CITED} }} }},
  {{ call = "patch", arguments = [{json.dumps(PATCH[:20])}, {json.dumps(PATCH[20:])}], call_id = "call_1" }},
  {{ call = "run", call_id = "call_2" }},
]
"""


async def test_a_call_is_of_the_kind_its_tool_was_declared_as(serve: Serve) -> None:
    toml = '[backends.talk]\ntype = "scripted"\nscript = "s.toml"\n'
    async with serve(toml, scripts={"s.toml": CALLS}) as server:
        asking = Asking(server)
        tools = [tool("run"), {"type": "custom", "name": "patch", "description": "Edits."}]
        final = check_stream(await asking.stream("hello", tools=tools))
        message, patch, run = final["output"]
        assert (patch["type"], patch["name"], patch["input"]) == ("custom_tool_call", "patch", PATCH)
        assert (run["type"], run["name"], run["arguments"]) == ("function_call", "run", "{}")
        assert message["content"][0]["annotations"][0]["url"] == "https://example.com/"
        output = {"type": "custom_tool_call_output", "call_id": "call_1", "output": "Success."}
        other = {"type": "function_call_output", "call_id": "call_2", "output": "done"}
        chained = await asking.create([output, other], tools=tools, previous_response_id=final["id"])
        assert chained["status"] == "completed"


@pytest.mark.parametrize(
    "form", [{"type": "text"}, {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}]
)
async def test_a_custom_tool_of_a_chat_client_goes_up_as_it_came(
    serve: Serve, upstream: FakeUpstream, form: dict[str, Any]
) -> None:
    """`store` makes the server read and write what it would otherwise relay."""
    upstream.plan(streamed(text_frame("Hello.") + text_frame(finish="stop") + usage_frame() + DONE))
    tools = [{"type": "custom", "custom": {"name": "patch", "description": "Edits.", "format": form}}]
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        reply = await server.chat("hello", model="up-model", tools=tools, store=True, stream=True)
    assert reply.status == 200, reply
    assert upstream.posts[0].json()["tools"] == tools


async def test_a_socket_s_client_may_say_that_it_streams(echo: Serving) -> None:
    """`stream: true` comes with every turn of Codex and of openai-agents; it says what happens anyway."""
    url = echo.url.replace("http://", "ws://") + "/v1/responses"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as ws:
        create = {"type": "response.create", "model": "scripted", "input": "hello", "stream": True, "background": False}
        await ws.send_json({**create, **NEW_STYLE})
        kinds = [(await ws.receive_json())["type"]]
        while kinds[-1] not in ("response.completed", "error"):
            kinds.append((await ws.receive_json())["type"])
        assert kinds[-1] == "response.completed"
        for wrong in ("stream", "background"):
            await ws.send_json({**create, wrong: not create[wrong]})
            refused = await ws.receive_json()
            assert (refused["type"], refused["status"], refused["error"]["param"]) == ("error", 400, wrong)
