"""Responses over a WebSocket: what a turn says, what it continues, what is refused, and how turns share a connection."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.upstream import FakeUpstream, json_answer
from tests.responses import GET_WEATHER, Asking, call_output, check_object, check_stream
from tests.serving import Serving, eventually, serving
from tests.sockets import HELD, HOLD, HOLDING, LAST, Socket, socket, streamed

SCRIPT = r"""
[[rules]]
match = "weather"
steps = [
  { reasoning = "I need the tool. " },
  { text = "Let me look. " },
  { call = "get_weather", arguments = ['{"city": ', '"Paris"}'], call_id = "call_a" },
]
[[rules]]
match = "fail midway"
steps = [{ text = "part" }, { error = "unavailable", message = "gone" }]
[[rules]]
match = "fail at once"
steps = [{ error = "rate_limited", message = "slow down", retry_after_s = 7 }]
[[rules]]
match = "bug"
steps = [{ text = "part" }, { error = "bug" }]
"""
TOML = '[server]\nmax_body_bytes = 20000\n[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"script.toml": SCRIPT}) as served:
        yield served


@pytest.fixture
async def ws(server: Serving) -> AsyncIterator[Socket]:
    async with socket(server) as opened:
        yield opened


@pytest.fixture
async def holding(tmp_path: Path) -> AsyncIterator[Serving]:
    HELD.begin()
    async with serving(HOLDING, base_dir=tmp_path, scripts={"bot.py": HOLD}) as served:
        yield served


async def heard(ws: Socket, text: str, **body: Any) -> list[str]:
    """What an agent says it was told."""
    said: str = (await ws.answer(text, **body))["output_text"]
    return said.removeprefix("Heard: ").split(" | ")


# What a turn says


@pytest.mark.parametrize("text", ["hello there", "weather", "fail midway"])
@pytest.mark.parametrize("stream_id", [None, "lane.one-2_A"])
async def test_a_turn_says_what_a_stream_says(ws: Socket, text: str, stream_id: str | None) -> None:
    lane = {} if stream_id is None else {"stream_id": stream_id}
    events = await ws.turn(text, tools=[GET_WEATHER], **lane)
    assert all(event.get("stream_id") == stream_id for event in events)
    assert stream_id is not None or all("stream_id" not in event for event in events)
    final = check_stream(streamed(events))
    assert final["status"] == ("failed" if text == "fail midway" else "completed")
    assert events[0]["type"] == "response.created"


async def test_nothing_follows_the_last_event(ws: Socket) -> None:
    for text in ("one", "two"):
        events = await ws.turn(text)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_a_failure_before_any_content_is_an_error_event(ws: Socket) -> None:
    event = await ws.refusal("fail at once", stream_id="a")
    assert event == {
        "type": "error",
        "status": 429,
        "error": {
            "message": "slow down",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
            "headers": {"retry-after": "7"},
        },
        "stream_id": "a",
    }
    assert (await ws.answer("again"))["output_text"] == "again"


async def test_a_bug_in_an_agent_ends_its_turn_and_not_its_connection(ws: Socket) -> None:
    final = check_stream(streamed(await ws.turn("bug")))
    assert final["error"]["code"] == "server_error"
    assert (await ws.answer("again"))["output_text"] == "again"


async def test_an_answer_that_has_ended_was_not_too_long(tmp_path: Path) -> None:
    bot = "async def agent(turn):\n    yield 'x' * (16 * 1024 * 1024 - 70)\n    yield 'y' * 200\n"
    async with (
        serving(HOLDING, base_dir=tmp_path, scripts={"bot.py": bot}) as server,
        socket(server, model="bot", max_size=None) as ws,
    ):
        await ws.create("hello", store=False)
        while (said := json.loads(await ws.connection.recv()))["type"] not in LAST:
            pass
        await ws.create("hello", stream_id="b", model="nobody")
        assert (await ws.event())["stream_id"] == "b", said["type"]


async def test_a_native_server_is_asked_with_the_body_and_without_the_envelope(upstream: FakeUpstream) -> None:
    toml = f'[backends.native]\ntype = "http"\ndialect = "openai_responses"\nendpoints = ["{upstream.url}/v1"]\n'
    upstream.plan([json_answer({"error": {"message": "no"}}, status="400 Bad Request")])
    async with serving(toml) as server, socket(server, model="up-model") as ws:
        await ws.refusal("hi", stream_id="a", metadata={"k": "v"}, some_key_of_tomorrow=1)
    [asked] = [request.json() for request in upstream.posts]
    assert asked["stream"] is True
    assert not asked.keys() & {"type", "stream_id", "generate"}


# What a turn continues


async def test_a_response_made_over_a_socket_is_stored_like_any_other(server: Serving, ws: Socket) -> None:
    final = await ws.answer("one two")
    asking = Asking(server)
    stored = (await asking.get(final["id"])).json()
    assert stored == final
    check_object(stored)
    continued = await ws.answer("three", previous_response_id=final["id"])
    assert continued["previous_response_id"] == final["id"]
    assert continued["usage"]["input_tokens"] == 5  # one two, one two, three
    items = await asking.input_items(final["id"])
    assert [item["content"][0]["text"] for item in items["data"]] == ["one two"]


async def test_a_response_made_over_http_is_continued_over_a_socket(holding: Serving) -> None:
    body = json.dumps({"model": "bot", "input": "one"}).encode()
    first = (await holding.request("POST", "/v1/responses", body)).json()
    async with socket(holding, model="bot") as ws:
        assert await heard(ws, "two", previous_response_id=first["id"]) == ["one", "two"]


async def test_what_is_not_stored_lives_on_its_connection(holding: Serving) -> None:
    async with socket(holding, model="bot") as ws, socket(holding, model="bot") as other:
        first = await ws.answer("one", store=False)
        assert first["store"] is False
        second = await ws.answer("two", store=False, previous_response_id=first["id"])
        assert await heard(ws, "three", store=False, previous_response_id=second["id"]) == ["one", "two", "three"]
        assert await heard(ws, "fork", store=False, previous_response_id=first["id"]) == ["one", "fork"]
        refused = await other.refusal("three", previous_response_id=second["id"])
        assert refused["error"]["code"] == "previous_response_not_found"
        assert (await holding.get(f"/v1/responses/{second['id']}")).status == 404


async def test_a_stored_turn_that_continues_an_unstored_one_has_its_whole_history_everywhere(holding: Serving) -> None:
    async with socket(holding, model="bot") as ws:
        first = await ws.answer("one", store=False)
        second = await ws.answer("two", previous_response_id=first["id"])
    body = json.dumps({"model": "bot", "input": "three", "previous_response_id": second["id"]}).encode()
    third = (await holding.request("POST", "/v1/responses", body)).json()
    assert third["output_text"] == "Heard: one | two | three"


async def test_a_call_is_answered_on_the_same_connection(ws: Socket) -> None:
    first = await ws.answer("weather", tools=[GET_WEATHER], store=False)
    [call] = [item for item in first["output"] if item["type"] == "function_call"]
    output = [call_output(call["call_id"], "sunny")]
    assert (await ws.answer(input=output, previous_response_id=first["id"], store=False))["status"] == "completed"


async def test_a_reference_finds_an_item_that_only_the_connection_has(holding: Serving) -> None:
    async with socket(holding, model="bot") as ws:
        first = await ws.answer("one", store=False)
        reference = {"type": "item_reference", "id": first["output"][0]["id"]}
        again = await ws.answer(input=[reference, {"role": "user", "content": "two"}], store=False)
        assert again["output_text"] == "Heard: two"
        refused = await ws.refusal(input=[{"type": "item_reference", "id": "msg_unknown_0"}])
        assert refused["error"]["code"] == "item_not_found"


async def test_a_failed_continuation_evicts_what_it_continued(ws: Socket) -> None:
    for text, code in (("fail at once", "rate_limit_exceeded"), ("fail midway", None)):
        first = await ws.answer("one", store=False)
        failed = (await ws.turn(text, store=False, previous_response_id=first["id"]))[-1]
        assert failed["type"] == ("error" if code else "response.failed")
        refused = await ws.refusal("two", store=False, previous_response_id=first["id"])
        assert refused["error"]["code"] == "previous_response_not_found"


async def test_a_fork_that_fails_leaves_the_lane_it_came_from_alone(ws: Socket) -> None:
    first = await ws.answer("one", store=False, stream_id="main")
    await ws.refusal("fail at once", store=False, previous_response_id=first["id"], stream_id="critic")
    await ws.answer("two", store=False, previous_response_id=first["id"], stream_id="main")


async def test_a_failed_turn_cannot_be_continued(ws: Socket) -> None:
    failed = (await ws.turn("fail midway", store=False))[-1]["response"]
    refused = await ws.refusal("two", previous_response_id=failed["id"])
    assert refused["error"]["code"] == "previous_response_not_found"


async def test_an_unknown_previous_response_is_refused_and_the_connection_stays(ws: Socket) -> None:
    assert await ws.refusal("two", previous_response_id="resp_abc", stream_id="main") == {
        "type": "error",
        "status": 400,
        "error": {
            "type": "invalid_request_error",
            "code": "previous_response_not_found",
            "message": "Previous response with id 'resp_abc' not found.",
            "param": "previous_response_id",
        },
        "stream_id": "main",
    }
    await ws.answer("one")


@pytest.mark.parametrize("store", [True, False])
async def test_a_warm_up_says_nothing_and_can_be_continued(holding: Serving, store: bool) -> None:
    async with socket(holding, model="bot") as ws:
        events = await ws.turn("one", generate=False, store=store)
        assert [event["type"] for event in events] == [
            "response.created", "response.in_progress", "response.completed",
        ]  # fmt: skip
        warm = check_stream(streamed(events))
        assert warm["output"] == []
        assert HELD.begun == []
        assert await heard(ws, "two", previous_response_id=warm["id"], store=store) == ["one", "two"]
        assert (await holding.get(f"/v1/responses/{warm['id']}")).status == (200 if store else 404)


async def test_a_warm_up_may_know_no_input_yet(holding: Serving) -> None:
    async with socket(holding, model="bot") as ws:
        nothing: list[Any] = [{}, {"input": []}]
        for given in nothing:
            warm = await ws.answer(generate=False, instructions="Be kind.", store=False, **given)
            assert await heard(ws, "two", previous_response_id=warm["id"], store=False) == ["two"]
        refused = await ws.refusal(instructions="Be kind.")
        assert refused["error"]["param"] == "input"
        refused = await ws.refusal("x", generate=False, model="nobody")
        assert refused["error"]["code"] == "model_not_found"


# What is refused


@pytest.mark.parametrize(
    ("frame", "code", "param"),
    [
        ("", "invalid_json", None),
        ("{", "invalid_json", None),
        ("[1]", "invalid_type", None),
        ('"x"', "invalid_type", None),
        ("[" * 5000, "invalid_json", None),
        (b"\x00\xff", "invalid_frame", None),
        ("{}", "missing_required_parameter", "type"),
        ('{"type": null}', "missing_required_parameter", "type"),
        ('{"type": 1}', "invalid_type", "type"),
        ('{"type": "response.cancel"}', "invalid_value", "type"),
        ('{"type": "response.create"}', "missing_required_parameter", "input"),
        ('{"type": "response.create", "input": "x", "model": "nobody"}', "model_not_found", "model"),
        ('{"type": "response.create", "input": "x", "stream": false}', "unsupported_parameter", "stream"),
        ('{"type": "response.create", "input": "x", "background": true}', "unsupported_parameter", "background"),
        ('{"type": "response.create", "input": "x", "generate": "no"}', "invalid_type", "generate"),
        ('{"type": "response.create", "input": [{"type": "message"}]}', "missing_required_parameter", "input[0].role"),
        ('{"type": "response.create", "input": "x", "stream_id": ""}', "invalid_stream_id", "stream_id"),
        ('{"type": "response.create", "input": "x", "stream_id": "a b"}', "invalid_stream_id", "stream_id"),
        ('{"type": "response.create", "input": "x", "stream_id": 7}', "invalid_stream_id", "stream_id"),
        (
            '{"type": "response.create", "input": "x", "stream_id": "%s"}' % ("a" * 257),
            "invalid_stream_id",
            "stream_id",
        ),
        ('{"type": "response.steer", "input": "x"}', "missing_required_parameter", "previous_response_id"),
        ('{"type": "response.steer", "previous_response_id": "x"}', "missing_required_parameter", "input"),
        ("x" * 20001, "body_too_large", None),
    ],
)
async def test_what_is_wrong_is_said_and_the_connection_stays(
    ws: Socket, frame: str | bytes, code: str, param: str | None
) -> None:
    await ws.send(frame)
    event = await ws.event()
    assert event["type"] == "error"
    assert event["status"] == (413 if code == "body_too_large" else 400)
    assert (event["error"]["type"], event["error"]["code"]) == ("invalid_request_error", code)
    assert event["error"]["param"] == param
    assert "stream_id" not in event
    assert (await ws.answer("still here"))["output_text"] == "still here"


async def test_what_happens_anyway_may_be_said(ws: Socket) -> None:
    await ws.answer("x", stream=True, background=False, generate=True)
    await ws.answer("x", stream=None, background=None, generate=None, stream_id=None)


async def test_steering_is_answered_with_what_it_wanted_to_say(ws: Socket) -> None:
    wanted = [{"type": "message", "role": "user", "content": "Look left."}]
    await ws.send({"type": "response.steer", "previous_response_id": "resp_1", "input": wanted})
    event = await ws.event()
    assert event["type"] == "response.steer.failed"
    assert event["error"]["code"] == "steering_not_supported"
    assert event["steer"] == {"previous_response_id": "resp_1", "input": wanted}


# How turns share a connection


async def test_turns_without_a_lane_run_one_after_another(holding: Serving) -> None:
    async with socket(holding, model="bot") as ws:
        for text in ("hold 1", "hold 2", "last"):
            await ws.create(text)
        await ws.until("response.output_text.delta")
        assert HELD.begun == ["hold 1"]
        HELD.open("hold 2", "hold 1")
        await ws.rest()
        ended = [(await ws.rest())[-1] for _ in range(2)]
        assert [event["response"]["output_text"] for event in ended] == ["Heard: hold 2", "Heard: last"]


async def test_lanes_run_side_by_side_and_each_in_its_order(holding: Serving) -> None:
    async with socket(holding, model="bot") as ws:
        await ws.create("hold a", stream_id="a")
        await ws.create("after a", stream_id="a")
        await ws.create("hold b", stream_id="b")
        await ws.create("free")
        assert (await ws.rest())[-1]["response"]["output_text"] == "Heard: free"
        await eventually(lambda: sorted(HELD.begun) == ["free", "hold a", "hold b"])
        HELD.open("hold b")
        assert (await ws.rest(lane="b"))[-1]["response"]["output_text"] == "Heard: hold b"
        assert "after a" not in HELD.begun
        HELD.open("hold a")
        ended = [(await ws.rest(lane="a"))[-1]["response"]["output_text"] for _ in range(2)]
        assert ended == ["Heard: hold a", "Heard: after a"]


async def test_a_lane_forks_from_another(holding: Serving) -> None:
    async with socket(holding, model="bot") as ws:
        first = await ws.answer("plan", store=False, stream_id="planner")
        assert await heard(ws, "find gaps", store=False, previous_response_id=first["id"], stream_id="critic") == [
            "plan", "find gaps",
        ]  # fmt: skip
        assert await heard(ws, "go on", store=False, previous_response_id=first["id"], stream_id="planner") == [
            "plan", "go on",
        ]  # fmt: skip


async def test_sixteen_turns_are_at_work_at_most(holding: Serving) -> None:
    names = [f"hold {number}" for number in range(18)]
    async with socket(holding, model="bot") as ws:
        for number, name in enumerate(names):
            await ws.create(name, stream_id=f"lane{number}")
        await eventually(lambda: len(HELD.begun) == 16)
        assert sorted(HELD.begun) == sorted(names[:16])
        HELD.open(names[3])
        await ws.rest(lane="lane3")
        await eventually(lambda: len(HELD.begun) == 17)
        HELD.open(*names)
        for number in (16, 17):
            await ws.rest(lane=f"lane{number}")


async def test_a_connection_has_32_lanes_and_the_one_without_a_name(ws: Socket) -> None:
    for number in range(32):
        await ws.answer("x", stream_id=f"lane{number}")
    refused = await ws.refusal("x", stream_id="one-too-many")
    assert (refused["error"]["code"], refused["error"]["param"]) == ("websocket_stream_limit_reached", "stream_id")
    await ws.answer("x", stream_id="lane7")
    await ws.answer("x")


async def test_what_waits_is_bounded_in_number(holding: Serving) -> None:
    async with socket(holding, model="bot") as ws:
        await ws.create("hold")
        await ws.until("response.output_text.delta")
        for _ in range(65):
            await ws.create("x")
        refused = await ws.event()
        assert (refused["status"], refused["error"]["code"]) == (429, "rate_limit_exceeded")
        assert refused["error"]["headers"] == {"retry-after": "1"}
        HELD.open("hold")
        for _ in range(65):
            assert (await ws.rest())[-1]["type"] == "response.completed"


async def test_what_waits_is_bounded_in_size(tmp_path: Path) -> None:
    HELD.begin()
    toml = f"[server]\nmax_body_bytes = 20000\n{HOLDING}"
    async with (
        serving(toml, base_dir=tmp_path, scripts={"bot.py": HOLD}) as server,
        socket(server, model="bot") as ws,
    ):
        await ws.create("hold")
        await ws.until("response.output_text.delta")
        await ws.create("x" * 15000)
        await ws.create("y" * 15000)
        assert (await ws.event())["status"] == 429
        HELD.open("hold")
        assert [(await ws.rest())[-1]["type"] for _ in range(2)] == ["response.completed"] * 2
