"""A native server that is broken or hostile: its stream becomes a whole stream of ours, or an error that says what it did."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.responses_upstream import FakeResponses, events_of, fake_responses, frames_of, message, response
from tests.fakes.upstream import streamed
from tests.responses import Asking, check_stream, events_in
from tests.serving import Reply, Serving

BEGUN = [{"type": "response.created", "response": response((), status="in_progress")}]
END = {"type": "response.completed", "response": response(())}
SEARCHING = {"type": "web_search_call", "status": "in_progress", "action": {"type": "search", "query": "cats"}}


@pytest.fixture
async def native() -> AsyncIterator[FakeResponses]:
    async with fake_responses() as upstream:
        yield upstream


@pytest.fixture
async def server(native: FakeResponses, serve: Serve) -> AsyncIterator[Serving]:
    toml = f'[backends.up]\ntype = "http"\ndialect = "openai_responses"\nretries = 0\nendpoints = ["{native.url}"]\n'
    async with serve(toml) as served:
        yield served


@pytest.fixture
def client(server: Serving) -> Asking:
    return Asking(server, model="up-model")


def added(index: int, item_id: str) -> Any:
    return {"type": "response.output_item.added", "output_index": index, "item": {**SEARCHING, "id": item_id}}


def done(index: int, item_id: str) -> Any:
    item = {**SEARCHING, "id": item_id, "status": "completed"}
    return {"type": "response.output_item.done", "output_index": index, "item": item}


async def said(native: FakeResponses, client: Asking, events: list[Any]) -> Reply:
    native.plan(streamed(b"".join(frames_of(events)), size=60_000))
    return await client.post("hi", stream=True)


@pytest.mark.parametrize("step", [1, -1])
async def test_a_thousand_items_at_once_come_one_after_another(
    native: FakeResponses, client: Asking, step: int
) -> None:
    places = range(1, 1000)
    events = [added(place, f"ws_{place}") for place in places] + [
        done(place, f"ws_{place}") for place in places[::step]
    ]
    reply = await said(native, client, [*BEGUN, added(0, "ws_0"), *events, done(0, "ws_0"), END])
    final = check_stream(events_in(reply.body))
    assert len(final["output"]) == 1000


async def test_what_waits_for_an_item_that_never_closes_is_bounded(native: FakeResponses, client: Asking) -> None:
    more = {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "x" * 1_000_000}
    reply = await said(native, client, [*BEGUN, added(0, "ws_0"), *[more] * 20, done(0, "ws_0"), END])
    assert (reply.status, reply.error["code"]) == (502, "backend_protocol_error")


async def test_items_of_one_id_are_told_apart(native: FakeResponses, client: Asking) -> None:
    searches = [event for place in range(3) for event in (added(place, "ws_up"), done(place, "ws_up"))]
    final = check_stream(events_in((await said(native, client, [*BEGUN, *searches, END])).body))
    for item in final["output"]:
        found = await client.create([{"type": "item_reference", "id": item["id"]}, {"role": "user", "content": "?"}])
        assert found["status"] == "completed"


@pytest.mark.parametrize("kind", ["completed", "created", "output_item.added", "output_text.delta", "failed", "queued"])
async def test_an_event_under_another_name_does_not_become_one_that_clients_act_on(
    native: FakeResponses, client: Asking, kind: str
) -> None:
    forged = {"type": kind, "response": {"id": "resp_of_another"}, "item": {}, "delta": "x"}
    reply = await said(native, client, [*BEGUN, forged, *events_of([message("hi")])[2:]])
    assert (reply.status, reply.error["code"]) == (502, "backend_protocol_error")
    assert kind in reply.error["message"]


@pytest.mark.parametrize("kind", ["response.created", "response.in_progress", "response.queued"])
async def test_a_beginning_inside_a_native_item_says_nothing(native: FakeResponses, client: Asking, kind: str) -> None:
    again = {"type": kind, "response": response((), status="in_progress")}
    reply = await said(native, client, [*BEGUN, added(0, "ws_0"), again, done(0, "ws_0"), END])
    assert len(check_stream(events_in(reply.body))["output"]) == 1


async def test_nothing_after_the_end_is_said(native: FakeResponses, client: Asking) -> None:
    reply = await said(native, client, [*events_of([message("hi")]), *events_of([message("more")])])
    assert check_stream(events_in(reply.body))["output_text"] == "hi"


async def test_an_event_of_five_megabytes_arrives(native: FakeResponses, client: Asking) -> None:
    text = "x" * 5_000_000
    reply = await said(native, client, events_of([message(text)]))
    assert check_stream(events_in(reply.body))["output_text"] == text
    assert json.loads(native.posts[0].body)["stream"] is True
