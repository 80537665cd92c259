"""Asked about a context without an answer being made: how long it is, and the same made shorter."""

import json
from typing import Any

import pydantic
import pytest
from openai.types.responses import CompactedResponse, InputTokenCountResponse, ResponseCompactionItem, ResponseUsage

from tests.conftest import Serve
from tests.fakes.upstream import DONE, FakeUpstream, json_answer, streamed, text_frame, usage_frame
from tests.responses import GET_WEATHER, Asking, call_output, said
from tests.serving import Reply, Serving, eventually

SCRIPT = """
[[rules]]
match = "Summarise"
steps = [{ text = "Bo wants " }, { text = "tea." }]
"""
TOML = '[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n'
USAGE: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseUsage)


async def count(server: Serving, text: object = None, *, model: str = "scripted", **body: Any) -> Reply:
    whole = {"model": model, **({} if text is None else {"input": text}), **body}
    return await server.request("POST", "/v1/responses/input_tokens", json.dumps(whole).encode())


async def compact(server: Serving, text: object = None, *, model: str = "scripted", **body: Any) -> Reply:
    whole = {"model": model, **({} if text is None else {"input": text}), **body}
    return await server.request("POST", "/v1/responses/compact", json.dumps(whole).encode())


async def compacted(server: Serving, text: object = None, **body: Any) -> Any:
    """The object, after checking what the official types and every client of them rely on."""
    reply = await compact(server, text, **body)
    assert reply.status == 200, reply
    found = reply.json()
    assert found.keys() == {"id", "object", "created_at", "output", "usage"}
    assert found["object"] == "response.compaction"
    assert found["id"].startswith("resp_")
    CompactedResponse.construct(**found)
    USAGE.validate_json(json.dumps(found["usage"]), strict=True)
    *users, last = found["output"]
    ResponseCompactionItem.model_validate(last, strict=True)
    assert all((item["type"], item["role"]) == ("message", "user") for item in users)
    assert len({item["id"] for item in found["output"]}) == len(found["output"])
    return found


# How many tokens


async def test_every_form_of_a_body_is_counted(echo: Serving) -> None:
    client = Asking(echo)
    bodies: list[tuple[dict[str, Any], int]] = [
        ({"input": "one two three"}, 3),
        ({"input": [said("one"), said("two three", "assistant"), said("four")]}, 4),
        ({"input": "one", "instructions": "be kind"}, 3),
        ({"input": "one", "tools": [GET_WEATHER], "reasoning": {"effort": "low"}, "truncation": "auto"}, 1),
        ({"input": "one", "conversation": None, "personality": "friendly"}, 1),
    ]
    for body, expected in bodies:
        reply = await count(echo, **{"text" if key == "input" else key: value for key, value in body.items()})
        assert reply.status == 200, reply
        assert InputTokenCountResponse.model_validate_json(reply.body, strict=True).input_tokens == expected
        assert reply.json() == {"object": "response.input_tokens", "input_tokens": expected}
    first = await client.create("one two")
    assert (await count(echo, "three", previous_response_id=first["id"])).json()["input_tokens"] == 5
    assert (await count(echo, previous_response_id=first["id"])).json()["input_tokens"] == 4
    await client.create("one two", conversation="talk")
    assert (await count(echo, "three", conversation="talk")).json()["input_tokens"] == 5


async def test_counting_stores_nothing(echo: Serving) -> None:
    client = Asking(echo)
    await client.create("one two", conversation="talk")
    for _ in range(2):
        assert (await count(echo, "three", conversation="talk")).json()["input_tokens"] == 5


async def test_the_embedded_model_counts_what_its_answers_report(serve: Serve) -> None:
    async with serve('[backends.local]\ntype = "embedded"\n') as server:
        (model,) = [one["id"] for one in (await server.get("/v1/models")).json()["data"]]
        client = Asking(server, model=model)
        ask: dict[str, Any] = {"max_output_tokens": 2, "temperature": 0}
        call = {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": '{"city": "Rome"}'}
        first = await client.create("Hello, é 🙂", **ask)
        bodies: list[dict[str, Any]] = [
            {"text": "Say one word."},
            {"text": [said("One."), said("Two.", "assistant"), said("Three.")], "instructions": "Be brief."},
            {"text": [said("Weather?"), call, call_output("c")]},
            {"text": "Weather?", "tools": [GET_WEATHER], "tool_choice": "required"},
            {"text": "And now?", "previous_response_id": first["id"]},
        ]
        for body in bodies:
            counted = await count(server, model=model, **body, **ask)
            assert counted.status == 200, counted
            answered = await client.create(**body, **ask)
            assert counted.json()["input_tokens"] == answered["usage"]["input_tokens"], body


async def test_an_agent_cannot_say(serve: Serve) -> None:
    async with serve(
        '[backends.mine]\ntype = "python"\ntarget = "bot.py:agent"\n',
        scripts={"bot.py": "async def agent(turn):\n    yield turn.input\n"},
    ) as server:
        reply = await count(server, "one", model="bot")
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unsupported_parameter", "model")
        assert "count" in reply.error["message"]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"input": "x", "model": "nobody"}, "model_not_found", "model"),
        ({"input": 5}, "invalid_type", "input"),
        ({}, "missing_required_parameter", "input"),
        ({"input": "x", "stream": True}, "unsupported_parameter", "stream"),
        ({"input": "x", "background": True}, "unsupported_parameter", "background"),
        ({"input": "x", "previous_response_id": "resp_x"}, "previous_response_not_found", "previous_response_id"),
        ({"input": "x", "prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
    ],
)
@pytest.mark.parametrize("path", ["input_tokens", "compact"])
async def test_errors(echo: Serving, path: str, body: dict[str, Any], code: str, param: str) -> None:
    whole = {"model": "scripted", **body}
    reply = await echo.request("POST", f"/v1/responses/{path}", json.dumps(whole).encode())
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, code, param)


async def test_a_failing_server_says_so(serve: Serve) -> None:
    async with serve('[backends.up]\ntype = "http"\nendpoints = ["http://127.0.0.1:9/v1"]\nmodels = ["m"]\n') as server:
        assert (await compact(server, "x", model="m")).status == 503


# Made shorter


async def test_a_conversation_becomes_its_user_messages_and_one_item(serve: Serve) -> None:
    async with serve(TOML, scripts={"script.toml": SCRIPT}) as server:
        client = Asking(server)
        call = {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"}
        asked = [
            said("I am Bo."),
            said("Hello", "assistant"),
            said("Tea?"),
            call,
            call_output("c"),
            said("Be kind", "system"),
        ]
        reply = await compact(server, asked, instructions="Briefly.", tools=[GET_WEATHER], temperature=0.5, thing=1)
        assert reply.headers["x-trunkline-ignored"] == "tools, temperature, thing"
        found = await compacted(server, asked, instructions="Briefly.")
        assert [item.get("content") for item in found["output"][:-1]] == [
            [{"type": "input_text", "text": "I am Bo."}],
            [{"type": "input_text", "text": "Tea?"}],
        ]
        assert found["usage"]["output_tokens"] == 3
        # the next turn, and one that continues it
        second = await client.create([*found["output"], said("Go on")])
        assert second["usage"]["input_tokens"] > 9
        items = (await client.input_items(second["id"], "?order=asc"))["data"]
        assert items[2] == found["output"][2]
        third = await client.create("and on", previous_response_id=second["id"])
        assert third["usage"]["input_tokens"] == second["usage"]["input_tokens"] + 4
        again = await compacted(server, "more", previous_response_id=third["id"])
        assert [item["content"][0]["text"] for item in again["output"][:-1]] == [
            "I am Bo.",
            "Tea?",
            "Go on",
            "and on",
            "more",
        ]


async def test_the_summary_reaches_a_server_that_knows_only_chat(serve: Serve, upstream: FakeUpstream) -> None:
    hello = text_frame("Bo likes tea.") + text_frame(finish="stop") + usage_frame() + DONE
    upstream.plan(streamed(hello), streamed(hello), streamed(hello))
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        client = Asking(server, model="up-model")
        first = await client.create(
            [said("I am Bo."), {"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}]
        )
        found = await compacted(server, model="up-model", previous_response_id=first["id"])
        assert found["usage"]["total_tokens"] == 7
        assert found["output"][1]["content"][0]["type"] == "input_image"
        await client.create([*found["output"], said("Go on")], store=False)
    asked, told = upstream.posts[1].json(), upstream.posts[2].json()["messages"]
    assert [message["role"] for message in asked["messages"]] == ["user"]
    assert "User: I am Bo." in asked["messages"][0]["content"]
    assert "User: [image]" in asked["messages"][0]["content"]
    assert "Assistant: Bo likes tea." in asked["messages"][0]["content"]
    assert [message["role"] for message in told] == ["user", "user", "assistant", "user"]
    assert told[2]["content"].endswith("Bo likes tea.")


async def test_a_conversation_with_an_id_takes_the_item(serve: Serve) -> None:
    async with serve(TOML, scripts={"script.toml": SCRIPT}) as server:
        found = await compacted(server, [said("I am Bo."), said("Hello", "assistant")])
        made = await server.request("POST", "/v1/conversations", json.dumps({"items": found["output"]}).encode())
        assert made.status == 200, made
        talk = made.json()["id"]
        listed = (await server.get(f"/v1/conversations/{talk}/items?order=asc")).json()["data"]
        assert listed == found["output"]
        answered = await Asking(server).create("Go on", conversation=talk)
        assert answered["usage"]["input_tokens"] > 5


async def test_an_agent_is_told_the_summary(serve: Serve) -> None:
    agent = """
async def agent(turn):
    if "Summarise" in turn.input:
        yield "Bo wants tea."
    else:
        yield " | ".join(message["content"].rpartition(chr(10))[2] for message in turn.messages)
"""
    toml = '[backends.mine]\ntype = "python"\ntarget = "bot.py:agent"\n'
    async with serve(toml, scripts={"bot.py": agent}) as server:
        found = await compacted(server, [said("I am Bo."), said("Hello", "assistant")], model="bot")
        answered = await Asking(server, model="bot").create([*found["output"], said("Go on")])
        assert answered["output_text"] == "I am Bo. | Bo wants tea. | Go on"


@pytest.mark.parametrize(("context", "at_most"), [(None, 4096), (8000, 1000), (1_000_000, 4096)])
async def test_a_summary_is_bounded(serve: Serve, upstream: FakeUpstream, context: int | None, at_most: int) -> None:
    model = {"id": "up-model", "object": "model", **({} if context is None else {"max_model_len": context})}
    upstream.models = [json_answer({"object": "list", "data": [model]})]
    upstream.plan(streamed(text_frame("Bo.") + text_frame(finish="stop") + usage_frame() + DONE))
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        reply = await compact(server, "I am Bo.", model="up-model")
        assert reply.status == 200
        assert "x-trunkline-ignored" not in reply.headers
    assert upstream.posts[0].json()["max_completion_tokens"] == at_most


async def test_the_embedded_model_goes_on_from_a_summary(serve: Serve) -> None:
    async with serve(TOML + '[backends.local]\ntype = "embedded"\n', scripts={"script.toml": SCRIPT}) as server:
        found = await compacted(server, [said("I am Bo."), said("Hello", "assistant")])
        (model,) = [one["id"] for one in (await server.get("/v1/models")).json()["data"] if one["id"] != "scripted"]
        await Asking(server, model=model).create([*found["output"], said("Go on")], max_output_tokens=2)


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        ("trunkline.1.%%%", "invalid_value", "input[0].encrypted_content"),
        ("trunkline.1.\u00e9", "invalid_value", "input[0].encrypted_content"),
        ("trunkline.1.__79", "invalid_value", "input[0].encrypted_content"),
        ("trunkline.9.Qm8=", "invalid_value", "input[0].encrypted_content"),
        ("gAAAAABo", "unsupported_parameter", "input[0]"),
        (5, "invalid_type", "input[0].encrypted_content"),
        (None, "missing_required_parameter", "input[0].encrypted_content"),
    ],
)
async def test_an_item_that_nobody_here_can_read_is_refused(
    echo: Serving, content: object, code: str, param: str
) -> None:
    item = {"type": "compaction", "encrypted_content": content}
    for reply in (
        await Asking(echo).post([item, said("Go on")]),
        await Asking(echo).post([item, said("Go on")], background=True),
        await compact(echo, [item, said("Go on")]),
    ):
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, code, param)


async def test_every_output_is_shown_with_the_name_of_its_call_however_many_there_are(
    serve: Serve, upstream: FakeUpstream
) -> None:
    upstream.plan(streamed(text_frame("Bo.") + text_frame(finish="stop") + usage_frame() + DONE))
    http = f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n'
    async with serve("[server]\nmax_body_bytes = 20000000\n" + http) as server:
        calls = [(f"call_{number}", f"tool_{number % 7}") for number in range(30_000)]
        asked = [{"type": "function_call", "call_id": one, "name": name, "arguments": ""} for one, name in calls]
        outputs = [call_output(one, "x") for one, _ in calls]
        reply = await compact(server, [said("hi"), *asked, *outputs], model="up-model")
        assert reply.status == 200, reply
    (message,) = upstream.posts[0].json()["messages"]
    assert [line for line in message["content"].splitlines() if line.endswith("returned: x")] == [
        f"{name} returned: x" for _, name in calls
    ]


async def test_a_summary_that_was_not_finished_is_none(serve: Serve, upstream: FakeUpstream) -> None:
    half = text_frame("Bo wa") + text_frame(finish="length") + usage_frame() + DONE
    silent = text_frame(finish="stop") + usage_frame() + DONE
    upstream.plan(streamed(half), streamed(silent))
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        for what in ("did not end its summary within 4096 tokens", "gave no summary"):
            reply = await compact(server, "I am Bo.", model="up-model")
            assert (reply.status, reply.error["code"]) == (502, "compaction_failed")
            assert what in reply.error["message"]
        assert server.application.runtime.endpoints[0].active == 0


async def test_it_is_accounted_for(serve: Serve) -> None:
    async with serve(TOML, scripts={"script.toml": SCRIPT}) as server:
        found = await compacted(server, [said("I am Bo."), said("Hello", "assistant")])
        line = next(line for line in server.access_lines if "/v1/responses/compact" in line)
        assert f"input_tokens={found['usage']['input_tokens']}" in line
        assert "route=talk/scripted" in line


async def test_a_client_that_leaves_stops_it(serve: Serve) -> None:
    script = "[[rules]]\nsteps = [{ text = 'so far' }, { hang = true }]\n"
    async with serve(TOML, scripts={"script.toml": script}) as server:
        body = b'{"model":"scripted","input":"I am Bo."}'
        async with server.connect() as wire:
            head = b"POST /v1/responses/compact HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            await wire.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await eventually(lambda: server.backend().active == 1)
        await eventually(lambda: server.backend().active == 0)
        await eventually(lambda: server.application.runtime.endpoints[0].active == 0)


async def test_nobody_sees_anothers_history(serve: Serve) -> None:
    keys = '[server]\nkeys = [{ key = "sk-a", name = "a" }, { key = "sk-b", name = "b" }]\n'
    async with serve(keys + TOML, scripts={"script.toml": SCRIPT}) as server:
        created = await Asking(server, key="sk-a").create("hello")
        body = json.dumps({"model": "scripted", "input": "x", "previous_response_id": created["id"]}).encode()
        for path in ("input_tokens", "compact"):
            theirs = {"authorization": "Bearer sk-b"}
            reply = await server.request("POST", f"/v1/responses/{path}", body, headers=theirs)
            assert (reply.status, reply.error["code"]) == (400, "previous_response_not_found")
            assert (await server.request("POST", f"/v1/responses/{path}", body)).status == 401


# Tools that a server runs


async def test_a_number_of_tool_calls_is_kept_where_a_server_runs_none(serve: Serve, upstream: FakeUpstream) -> None:
    """`max_tool_calls` is "the maximum number of total calls to built-in tools"; a client's functions are not among them."""
    call = {"index": 0, "id": "up_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    frame = {
        "id": "c",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}],
    }
    upstream.plan(
        streamed(
            b"data: " + json.dumps(frame).encode() + b"\n\n" + text_frame(finish="tool_calls") + usage_frame() + DONE
        )
    )
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        reply = await Asking(server, model="up-model").post("Weather?", tools=[GET_WEATHER], max_tool_calls=1)
        assert reply.json()["max_tool_calls"] == 1
        assert [item["type"] for item in reply.json()["output"]] == ["function_call"]
        assert "x-trunkline-ignored" not in reply.headers
    assert "max_tool_calls" not in upstream.posts[0].json()


async def test_further_runs_of_a_servers_tools_are_left_out(serve: Serve) -> None:
    script = '[[rules]]\nsteps = [{ run = "search", output = "x", repeat = 3 }, { text = "Found." }]\n'
    async with serve(TOML, scripts={"script.toml": script}) as server:
        client = Asking(server)
        assert len((await client.create("go"))["output"]) == 7
        assert len((await client.create("go", max_tool_calls=2))["output"]) == 5


async def test_an_agent_whose_tools_nobody_counts_refuses_a_number(serve: Serve) -> None:
    async with serve(
        '[backends.mine]\ntype = "python"\ntarget = "bot.py:agent"\n',
        scripts={"bot.py": "async def agent(turn):\n    yield turn.input\n"},
    ) as server:
        reply = await Asking(server, model="bot").post("go", max_tool_calls=2)
        assert (reply.status, reply.error["code"], reply.error["param"]) == (
            400,
            "unsupported_parameter",
            "max_tool_calls",
        )
