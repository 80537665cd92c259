"""Background responses: begun at once, followed from anywhere, cancelled, deleted, and never without an end."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.responses import GET_WEATHER, Asking, Streamed, check_object, check_stream, events_in, final_of
from tests.serving import Serving, eventually, serving

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
match = "hang"
steps = [{ text = "so far " }, { hang = true }]
[[rules]]
match = "silent"
steps = [{ hang = true }]
"""
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
        assert await client.resume(response_id, last_event_id=odd) in (events, [])
    assert await client.resume(response_id, 10**17) == []
    for wrong in ("x", "-2", "1.5", "1_0", "9" * 30, "9" * 5000):
        reply = await client.get(response_id, f"?stream=true&starting_after={wrong}")
        assert reply.status == 400, wrong
        assert reply.error["param"] == "starting_after"
    assert (await client.get(response_id, "?stream=perhaps")).status == 400


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
