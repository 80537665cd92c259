"""Responses over a WebSocket and a store that takes nothing: an honest end, and a connection that stays."""

from pathlib import Path

from tests.faults.disk import no_room
from tests.faults.test_responses_store import on_file
from tests.responses import check_stream
from tests.sockets import socket, streamed


async def test_a_turn_that_could_not_be_stored_failed_and_the_connection_stays(tmp_path: Path) -> None:
    async with on_file(tmp_path) as server, socket(server) as ws:
        with no_room():
            failed = check_stream(streamed(await ws.turn("one")))
            assert failed["status"] == "failed"
            assert [item["type"] for item in failed["output"]] == ["message"]
            kept = await ws.answer("two", store=False)
        refused = await ws.refusal("three", previous_response_id=failed["id"])
        assert refused["error"]["code"] == "previous_response_not_found"
        again = await ws.answer("three", previous_response_id=kept["id"])
        assert (await server.get(f"/v1/responses/{again['id']}")).status == 200


async def test_a_warm_up_that_could_not_be_stored_failed(tmp_path: Path) -> None:
    async with on_file(tmp_path) as server, socket(server) as ws:
        with no_room():
            assert check_stream(streamed(await ws.turn("one", generate=False)))["status"] == "failed"
        await ws.answer("two")
