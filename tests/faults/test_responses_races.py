"""Requests about one response or one conversation that meet: each is answered as if it had come before or after the other."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.responses import Asking, said
from tests.serving import Reply, Serving, eventually
from tests.sockets import socket
from trunkline.engine.conversation_turns import MAX_WAITING

SCRIPT = r"""
[[rules]]
match = "slowly"
steps = [{ text = "word ", repeat = 6, delay_s = 0.001 }]
"""
TALK = '[backends.talk]\ntype = "scripted"\nscript = "script.toml"\nmax_concurrency = 200\n'
WAITING = """
import asyncio, pathlib

async def agent(turn):
    if turn.metadata:
        gate = pathlib.Path(turn.metadata["gate"])
        gate.with_suffix(".reached").write_text("")
        while not gate.exists():
            await asyncio.sleep(0)
    yield " | ".join(str(message["content"]) for message in turn.messages)
"""
MINE = '[backends.talk]\ntype = "python"\ntarget = "bot.py:agent"\n'


async def test_cancels_deletes_and_ends_that_meet_agree_with_each_other(serve: Serve) -> None:
    async with serve(TALK, scripts={"script.toml": SCRIPT}) as server:
        client = Asking(server)

        async def meet(number: int) -> Counter[tuple[str, int]]:
            queued = await client.create("slowly", background=True)
            for _ in range(number * 7):
                await asyncio.sleep(0)
            asked = [client.cancel, client.delete, client.get, client.delete, client.cancel]
            turned = asked[number % 5 :] + asked[: number % 5]
            replies: list[Reply] = await asyncio.gather(*(one(queued["id"]) for one in turned))
            for one in (client.get, client.cancel, client.delete):
                assert (await one(queued["id"])).status == 404
            return Counter((one.__name__, reply.status) for one, reply in zip(turned, replies, strict=True))

        for met in await asyncio.gather(*(meet(number) for number in range(60))):
            assert met["delete", 200] == 1, met
            assert {status for _, status in met} <= {200, 404}, met
        await eventually(lambda: server.backend().active == 0)
        await eventually(lambda: server.application.runtime.endpoints[0].active == 0)


async def _conversation(server: Serving) -> str:
    return str((await server.request("POST", "/v1/conversations", b"{}")).json()["id"])


async def _begun(client: Asking, text: str, gate: Path, **body: object) -> "asyncio.Task[Reply]":
    """A turn whose agent has been asked, and answers once the gate is there."""
    asking = asyncio.create_task(client.post(text, metadata={"gate": str(gate)}, **body))
    await eventually(gate.with_suffix(".reached").exists)
    return asking


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("background", [True, False])
async def test_turns_at_once_in_a_conversation_come_one_after_another(
    serve: Serve, tmp_path: Path, *, named: bool, background: bool
) -> None:
    async with serve(MINE, scripts={"bot.py": WAITING}) as server:
        client, gate = Asking(server, model="bot"), tmp_path / "gate"
        chat = "chat" if named else await _conversation(server)
        first = await _begun(client, "first", gate, conversation=chat, background=background)
        others = [asyncio.create_task(client.post(text, conversation=chat)) for text in ("second", "third")]
        unkept = await client.create("aside", conversation=chat, store=False)
        assert unkept["output_text"] == "aside"
        assert (await client.create("elsewhere", conversation="other"))["output_text"] == "elsewhere"
        refused = await client.post("now", conversation=chat, background=True)
        assert (refused.status, refused.error["code"]) == (429, "conversation_locked")
        assert refused.headers["retry-after"] == "1"
        gate.write_text("")
        said_first = (await client.ended((await first).json()["id"]) if background else (await first).json())[
            "output_text"
        ]
        assert said_first == "first"
        second, third = [(await one).json()["output_text"] for one in others]
        assert second == "first | first | second"
        assert third == f"{second} | {second} | third"
        last = await client.create("last", conversation=chat, background=True)
        assert (await client.ended(last["id"]))["output_text"] == f"{third} | {third} | last"


async def test_what_waits_for_its_turn_is_bounded_and_who_leaves_waits_no_more(serve: Serve, tmp_path: Path) -> None:
    async with serve(MINE, scripts={"bot.py": WAITING}) as server:
        client, gate = Asking(server, model="bot"), tmp_path / "gate"
        first = await _begun(client, "first", gate, conversation="chat")
        waiting = [asyncio.create_task(client.post("x", conversation="chat")) for _ in range(MAX_WAITING)]
        [place] = server.application._runs._chaining.turns._turns._places.values()
        await eventually(lambda: place.wanted == 1 + MAX_WAITING)
        refused = await client.post("now", conversation="chat")
        assert (refused.status, refused.error["code"]) == (429, "conversation_locked")
        for one in waiting:
            one.cancel()
        await eventually(lambda: place.wanted == 1)
        gate.write_text("")
        assert (await first).json()["output_text"] == "first"
        assert (await client.create("after", conversation="chat"))["output_text"] == "first | first | after"


async def test_a_name_on_two_lanes_of_a_socket_is_one_conversation(serve: Serve, tmp_path: Path) -> None:
    async with serve(MINE, scripts={"bot.py": WAITING}) as server, socket(server, model="bot") as ws:
        gate = tmp_path / "gate"
        await ws.create("first", conversation="chat", stream_id="a", metadata={"gate": str(gate)})
        await eventually(gate.with_suffix(".reached").exists)
        await ws.create("second", conversation="chat", stream_id="b")
        assert (await ws.answer("aside", stream_id="c"))["output_text"] == "aside"
        gate.write_text("")
        assert (await ws.rest(lane="b"))[-1]["response"]["output_text"] == "first | first | second"


async def test_a_conversation_deleted_during_a_turn_stays_deleted(serve: Serve, tmp_path: Path) -> None:
    async with serve(MINE, scripts={"bot.py": WAITING}) as server:
        client, conversation_id, gate = Asking(server, model="bot"), await _conversation(server), tmp_path / "gate"
        asking = await _begun(client, "hello", gate, conversation=conversation_id)
        path = f"/v1/conversations/{conversation_id}"
        assert (await server.request("DELETE", path)).status == 200
        gate.write_text("")
        response = (await asking).json()
        assert response["status"] == "completed"
        assert (await client.get(response["id"])).json() == response
        for there in (path, f"{path}/items"):
            assert (await server.get(there)).status == 404
        assert (await client.post("x", conversation=conversation_id)).status == 404


async def test_parents_deleted_during_a_turn_leave_it_its_history(serve: Serve, tmp_path: Path) -> None:
    async with serve(MINE, scripts={"bot.py": WAITING}) as server:
        client, gate = Asking(server, model="bot"), tmp_path / "gate"
        first = await client.create([said("one")])
        second = await client.create("two", previous_response_id=first["id"])
        asking = await _begun(client, "three", gate, previous_response_id=second["id"])
        for one in (second, first):
            assert (await client.delete(one["id"])).status == 200
        gate.write_text("")
        third = (await asking).json()
        assert third["previous_response_id"] == second["id"]
        fourth = await client.create("four", previous_response_id=third["id"])
        assert fourth["output_text"] == f"{third['output_text']} | {third['output_text']} | four"


async def test_a_turn_of_another_tenant_never_meets_ours(serve: Serve) -> None:
    toml = '[server]\nkeys = [{ key = "sk-a", name = "a" }, { key = "sk-b", name = "b" }]\n' + MINE
    async with serve(toml, scripts={"bot.py": WAITING}) as server:
        mine, theirs = (Asking(server, model="bot", key=key) for key in ("sk-a", "sk-b"))
        made = await server.request(
            "POST", "/v1/conversations", json.dumps({"items": [said("ours")]}).encode(), headers=mine.headers
        )
        path = f"/v1/conversations/{made.json()['id']}"
        item = (await server.get(f"{path}/items", headers=mine.headers)).json()["data"][0]["id"]
        kept = await mine.create("ours", conversation="chat")
        foreign = [
            await server.request(method, path + suffix, body, headers=theirs.headers)
            for method, suffix, body in (
                ("GET", "", None),
                ("POST", "", b'{"metadata":{"a":"b"}}'),
                ("GET", "/items", None),
                ("POST", "/items", json.dumps({"items": [said("theirs")]}).encode()),
                ("GET", f"/items/{item}", None),
                ("DELETE", f"/items/{item}", None),
                ("DELETE", "", None),
            )
        ]
        foreign.append(await theirs.post("x", conversation=made.json()["id"]))
        assert {(reply.status, reply.error["code"]) for reply in foreign} == {(404, "conversation_not_found")}
        for number in (kept["output"][0]["id"], item):
            refused = await theirs.post([{"type": "item_reference", "id": number}])
            assert (refused.status, refused.error["code"]) == (400, "item_not_found")
        assert (await theirs.create("two", conversation="chat"))["output_text"] == "two"
        assert (await mine.create("two", conversation=made.json()["id"]))["output_text"] == "ours | two"
