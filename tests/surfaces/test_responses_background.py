"""Background responses: begun at once, followed from anywhere, cancelled, deleted, and never without an end."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.responses import GET_WEATHER, Asking, Streamed, check_object, check_stream, events_in, final_of
from tests.serving import Serving, eventually, serving
from trunkline.engine.answer_size import MAX_ANSWER_CHARACTERS
from trunkline.engine.run_room import MAX_RUNS

SCRIPT = r"""
[[rules]]
match = "weather"
steps = [
  { reasoning = "I need the tool. " },
  { text = "Let me " }, { text = "look. " },
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
steps = [{ error = "bug" }]
[[rules]]
match = "many"
steps = [{ text = "word ", repeat = 9000 }]
[[rules]]
match = "without end"
steps = [{ text = "PIECE", repeat = 40, delay_s = 1e-6 }, { hang = true }]
[[rules]]
match = "hang"
steps = [{ text = "so far " }, { hang = true }]
[[rules]]
match = "silent"
steps = [{ hang = true }]
"""
PIECE = "x" * (MAX_ANSWER_CHARACTERS // 32)  # and each is a batch of its own
SCRIPT = SCRIPT.replace("PIECE", PIECE)
TOML = '[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(TOML, base_dir=tmp_path, scripts={"script.toml": SCRIPT}) as served:
        yield served


@pytest.fixture
def client(server: Serving) -> Asking:
    return Asking(server)


def check_run(events: list[Streamed]) -> dict[str, object]:
    final = check_stream(events)
    assert [event.kind for event in events[:2]] == ["response.created", "response.queued"]
    assert [event.id for event in events] == [str(number) for number in range(len(events))]
    return final


async def test_a_run_is_queued_at_once_and_then_as_any_other_answer(client: Asking) -> None:
    queued = await client.create("the weather", background=True, tools=[GET_WEATHER])
    assert queued["status"] == "queued"
    assert queued["background"] is True
    assert queued["output"] == []
    ended = await client.ended(queued["id"])
    check_object(ended)
    assert ended["status"] == "completed"
    assert [item["type"] for item in ended["output"]] == ["reasoning", "message", "function_call"]
    events = await client.resume(queued["id"])
    check_run(events)
    assert final_of(events) == (await client.get(queued["id"])).body
    output = [{"type": "function_call_output", "call_id": "call_a", "output": "sunny"}]
    assert (await client.create(output, previous_response_id=queued["id"]))["status"] == "completed"


async def test_a_run_can_be_followed_from_its_beginning(client: Asking) -> None:
    events = await client.stream("the weather", background=True, tools=[GET_WEATHER])
    final = check_run(events)
    assert (await client.get(str(final["id"]))).body == final_of(events)
    assert await client.resume(str(final["id"])) == events


async def test_what_is_resumed_is_what_was_missed(client: Asking) -> None:
    events = await client.stream("the weather", background=True, tools=[GET_WEATHER])
    response_id = str(check_run(events)["id"])
    for number in range(-1, len(events) + 1):
        assert await client.resume(response_id, number) == events[number + 1 :]
        if number >= 0:
            assert await client.resume(response_id, last_event_id=str(number)) == events[number + 1 :]
    assert await client.resume(response_id, 2, last_event_id="4") == events[3:]
    for odd in ("x", "-1", "1.5", "9" * 5000, "\u00b2"):
        refused = await client.get(response_id, "?stream=true", headers={"last-event-id": odd})
        assert (refused.status, refused.error["param"]) == (400, "Last-Event-ID")
    for wrong in ("x", "-2", "1.5", "1_0", "9" * 30, "9" * 5000):
        reply = await client.get(response_id, f"?stream=true&starting_after={wrong}")
        assert reply.status == 400, wrong
        assert reply.error["param"] == "starting_after"
    assert (await client.get(response_id, "?stream=perhaps")).status == 400


async def test_where_to_go_on_is_said_for_a_stream_only(client: Asking) -> None:
    foreground = await client.create("hello")
    background = await client.create("hello", background=True)
    await client.ended(background["id"])
    for one, right in ((foreground, "was not created in the background"), (background, "needs 'stream=true'")):
        for query, headers, param in (
            ("?starting_after=1", {}, "starting_after"),
            ("?stream=false&starting_after=1", {}, "starting_after"),
            ("", {"last-event-id": "1"}, "Last-Event-ID"),
        ):
            reply = await client.get(one["id"], query, headers=headers)
            assert (reply.status, reply.error["param"]) == (400, param)
            assert right in reply.error["message"]
    for query, headers in (("?stream=true&starting_after=1", {}), ("?stream=true", {"last-event-id": "1"})):
        assert (await client.get(foreground["id"], query, headers=headers)).status == 400
    assert (await client.get(foreground["id"])).status == 200


async def test_a_number_beyond_the_end_gives_nothing_and_ends_when_the_run_has(client: Asking) -> None:
    ended = await client.stream("the weather", background=True, tools=[GET_WEATHER])
    response_id = str(check_run(ended)["id"])
    for number in (len(ended) - 1, len(ended), 10**17):
        assert await client.resume(response_id, number) == []
    running = await client.create("hang", background=True)
    ahead = asyncio.create_task(client.resume(running["id"], 10**17))  # waits for what follows that number
    await client.cancel(running["id"])
    assert await ahead == []


async def test_readers_that_join_at_any_time_see_the_same(client: Asking, server: Serving) -> None:
    queued = await client.create("hang", background=True)
    path = f"/v1/responses/{queued['id']}?stream=true"
    async with server.connect() as first, server.connect() as second, server.connect() as third:
        for wire, after in ((first, ""), (second, "&starting_after=2"), (third, "&starting_after=50")):
            await wire.send(f"GET {path}{after} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await first.head()
        seen = await first.until(b"so far")
        cancelled = await client.cancel(queued["id"])
        whole = events_in(seen + (await _rest(first)))
        assert events_in((await second.reply()).body) == whole[3:]
        assert events_in((await third.reply()).body) == []
    final = check_run(whole)
    assert final["status"] == "cancelled"
    assert final_of(whole) == cancelled.body
    assert await client.resume(queued["id"]) == whole


async def _rest(wire: object) -> bytes:
    pieces = []
    while piece := await wire.chunk():  # type: ignore[attr-defined]
        pieces.append(piece)
    return b"".join(pieces)


async def test_a_reader_that_leaves_does_not_end_the_run(client: Asking, server: Serving) -> None:
    data = json.dumps({"model": "scripted", "input": "hang", "stream": True, "background": True}).encode()
    async with server.connect() as wire:
        await wire.send(b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        await wire.head()
        response_id = "resp_" + (await wire.until(b"so far")).decode().split('"resp_')[1].split('"')[0]
    async with server.connect() as wire:
        await wire.send(f"GET /v1/responses/{response_id}?stream=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await wire.head()
        await wire.until(b"so far")
    assert (await client.get(response_id)).json()["status"] == "in_progress"
    assert server.backend().active == 1
    assert (await client.cancel(response_id)).json()["status"] == "cancelled"


@pytest.mark.parametrize("text", ["hang", "silent"])
async def test_cancel_stops_the_work_and_says_so_each_time(client: Asking, server: Serving, text: str) -> None:
    queued = await client.create(text, background=True)
    await eventually(lambda: server.backend().active == 1)
    replies = await asyncio.gather(*(client.cancel(queued["id"]) for _ in range(3)))
    await eventually(lambda: server.backend().active == 0)
    again = await client.cancel(queued["id"])
    assert {reply.status for reply in (*replies, again)} == {200}
    assert {reply.body for reply in (*replies, again, await client.get(queued["id"]))} == {again.body}
    assert again.json()["status"] == "cancelled"
    assert check_run(await client.resume(queued["id"]))["status"] == "cancelled"


async def test_cancel_at_once(client: Asking, server: Serving) -> None:
    """Whatever the run is doing: queued, beginning, answering or just ended."""
    for _ in range(20):
        queued = await client.create("the weather", background=True, tools=[GET_WEATHER])
        reply = await client.cancel(queued["id"])
        assert reply.status == 200
        final = check_run(await client.resume(queued["id"]))
        assert final["status"] in ("cancelled", "completed")
        assert reply.json() == final
    await eventually(lambda: server.backend().active == 0)


async def test_what_has_ended_is_not_changed_by_a_cancel(client: Asking) -> None:
    queued = await client.create("hello", background=True)
    await client.ended(queued["id"])
    before = await client.get(queued["id"])
    assert (await client.cancel(queued["id"])).body == before.body


async def test_delete_while_it_runs_stops_the_work_and_ends_every_reader(client: Asking, server: Serving) -> None:
    queued = await client.create("hang", background=True)
    async with server.connect() as wire:
        await wire.send(f"GET /v1/responses/{queued['id']}?stream=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await wire.head()
        seen = await wire.until(b"so far")
        assert (await client.delete(queued["id"])).status == 200
        check_run(events_in(seen + await _rest(wire)))
    await eventually(lambda: server.backend().active == 0)
    assert (await client.get(queued["id"])).status == 404
    assert (await client.get(queued["id"], "?stream=true")).status == 404
    assert (await client.cancel(queued["id"])).status == 404


async def test_failures(client: Asking) -> None:
    for text, code, message in (
        ("fail midway", "server_error", "gone"),
        ("fail at once", "rate_limit_exceeded", "slow down"),
        ("bug", "server_error", ""),
    ):
        queued = await client.create(text, background=True)
        events = await client.resume(queued["id"])
        final = check_run(events)
        assert final["status"] == "failed"
        error = final["error"]
        assert isinstance(error, dict)
        assert error["code"] == code
        assert message in error["message"]
        assert (await client.get(queued["id"])).body == final_of(events)


async def test_a_long_answer_arrives_whole(client: Asking) -> None:
    events = await client.stream("many", background=True)
    final = check_run(events)
    assert final["output_text"] == "word " * 9000


async def test_more_runs_than_places_wait_and_all_end(serve: Serve) -> None:
    toml = TOML + "max_concurrency = 1\nmax_queue = 0\n"
    async with serve(toml, scripts={"script.toml": SCRIPT}) as server:
        client = Asking(server)
        queued = [await client.create("the weather", background=True, tools=[GET_WEATHER]) for _ in range(80)]
        for one in queued:
            assert (await client.ended(one["id"]))["status"] == "completed"


async def test_a_run_is_queued_until_a_backend_has_a_slot_for_it(serve: Serve) -> None:
    async with serve(TOML + "max_concurrency = 1\nmax_queue = 1\n", scripts={"script.toml": SCRIPT}) as server:
        client = Asking(server)
        running = await client.create("hang", background=True)
        await eventually(lambda: server.backend().active == 1)
        waiting = [await client.create("hello", background=True) for _ in range(3)]
        foreground = asyncio.create_task(client.create("hello"))
        for one in waiting:
            assert (await client.get(one["id"])).json()["status"] == "queued"
        await client.cancel(running["id"])
        assert (await foreground)["status"] == "completed"  # runs take no place of the queue of those who wait
        for one in waiting:
            events = await client.resume(one["id"])
            assert check_run(events)["status"] == "completed"
            assert [event.kind for event in events].count("response.in_progress") == 1


async def test_more_runs_than_the_server_holds_are_refused_and_none_of_the_others_is_lost(serve: Serve) -> None:
    async with serve(TOML + "max_concurrency = 1\n", scripts={"script.toml": SCRIPT}) as server:
        client = Asking(server)
        first = await client.create("hang", background=True)
        replies = await asyncio.gather(*(client.post("hello", background=True) for _ in range(MAX_RUNS + 9)))
        taken = [reply.json() for reply in replies if reply.status == 200]
        refused = [reply for reply in replies if reply.status != 200]
        assert (len(taken), len(refused)) == (MAX_RUNS - 1, 10)
        for reply in refused:
            assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
            assert int(reply.headers["retry-after"]) > 0
        await client.cancel(first["id"])
        for one in taken[:: MAX_RUNS // 20]:
            assert (await client.ended(one["id"]))["status"] == "completed"
        assert (await client.create("hello", background=True))["status"] == "queued"


async def test_a_run_is_counted_and_logged_once_when_it_has_ended(client: Asking, server: Serving) -> None:
    reply = await client.post("the weather", background=True, tools=[GET_WEATHER])
    await client.ended(reply.json()["id"])
    streamed = await client.stream("hello", background=True)
    failed = await client.create("fail midway", background=True)
    await client.ended(failed["id"])
    cancelled = await client.create("hang", background=True)
    await eventually(lambda: server.backend().active == 1)
    await client.cancel(cancelled["id"])
    (row,) = (await server.get("/v1/usage")).json()["data"]
    assert (row["requests"], row["errors"]) == (4, 2)
    usage = (await client.get(reply.json()["id"])).json()["usage"]
    told = json.loads(final_of(streamed))["usage"]
    assert row["output_tokens"] == usage["output_tokens"] + told["output_tokens"]
    lines = [line for line in server.access_lines if " run " in line]
    assert [line.partition("status=")[2].split(" ")[0] for line in lines] == [
        "completed",
        "completed",
        "failed",
        "cancelled",
    ]
    first = dict(field.split("=", 1) for field in lines[0].split(" ")[2:])
    assert first["id"] == reply.headers["x-request-id"]
    assert first["response"] == reply.json()["id"]
    assert (first["tenant"], first["model"], first["route"]) == ("default", "scripted", "talk/scripted")
    assert (first["input_tokens"], first["output_tokens"]) == (str(usage["input_tokens"]), str(usage["output_tokens"]))
    assert float(first["ms"]) > 0
    assert "error=cancelled" in lines[3]


async def test_a_thousand_readers_of_an_ended_response_cost_one_query_for_each_page(
    client: Asking, server: Serving
) -> None:
    queued = await client.create("the weather", background=True, tools=[GET_WEATHER])
    whole = await client.resume(queued["id"])
    await client.get(queued["id"])
    statements: list[str] = []
    database = server.application._store._database  # type: ignore[attr-defined]
    database.reader.set_trace_callback(statements.append)
    for _ in range(10):
        bodies = await asyncio.gather(*(client.get(queued["id"]) for _ in range(50)))
        assert len({reply.body for reply in bodies}) == 1
        assert await asyncio.gather(*(client.resume(queued["id"]) for _ in range(50))) == [whole] * 50
        assert await client.resume(queued["id"], 4) == whole[5:]
    database.reader.set_trace_callback(None)
    selects = [statement for statement in statements if "FROM" in statement]
    assert len(selects) <= 1, selects  # the page that was read while the run was alive has been read again, whole
    await client.delete(queued["id"])
    assert (await client.get(queued["id"], "?stream=true")).status == 404


@pytest.mark.slow
async def test_an_answer_without_end_ends(client: Asking) -> None:
    queued = await client.create("without end", background=True)
    await client.get(queued["id"], "?stream=true")
    kept = (await client.get(queued["id"])).json()
    assert (kept["status"], kept["output"][0]["status"]) == ("failed", "incomplete")
    assert kept["error"]["message"].startswith("the answer is longer than")
    assert kept["output_text"] == 31 * PIECE  # an event counts for a little beside its text
    streamed = (await client.post("without end", stream=True, store=False)).body
    assert b"the answer is longer than" in streamed[streamed.rfind(b"event: response.failed") :]


async def test_a_turn_cannot_continue_what_has_not_ended(client: Asking) -> None:
    queued = await client.create("hang", background=True)
    reply = await client.post("x", previous_response_id=queued["id"])
    assert (reply.status, reply.error["code"]) == (400, "previous_response_not_ready")
    await client.cancel(queued["id"])
    assert (await client.create("x", previous_response_id=queued["id"]))["status"] == "completed"
    failed = await client.create("fail midway", background=True)
    await client.ended(failed["id"])
    assert (await client.create("x", previous_response_id=failed["id"]))["status"] == "completed"


async def test_a_conversation_goes_on_over_background_turns(client: Asking) -> None:
    first = await client.create("one", background=True, conversation="chat")
    await client.ended(first["id"])
    second = await client.create("two", conversation="chat")
    third = await client.create("three", background=True, conversation="chat")
    await client.ended(third["id"])
    assert second["status"] == "completed"
    assert len((await client.input_items(third["id"]))["data"]) == 1
