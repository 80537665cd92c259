"""Responses over a store that fails, is given way in or belongs to somebody else: an honest error, and never a false success."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cli.program import Program, run
from tests.conftest import Serve
from tests.fakes.stores import a_response, open_store
from tests.faults.disk import locked, no_room
from tests.responses import Asking, check_stream, said
from tests.serving import Reply, Serving, eventually, serving
from trunkline.ports.stores import StoredResponse

SCRIPT = r"""
[[rules]]
match = "hang"
steps = [{ text = "so far " }, { hang = true }]
"""
TOML = (
    '[store]\nurl = "sqlite:///kept.db"\nmax_responses = {limit}\n'
    '[backends.talk]\ntype = "scripted"\nscript = "script.toml"\nmax_concurrency = 200\n'
)


def on_file(folder: Path, *, limit: int = 1000) -> contextlib.AbstractAsyncContextManager[Serving]:
    return serving(TOML.format(limit=limit), base_dir=folder, scripts={"script.toml": SCRIPT})


class Kept:
    """Something of every kind that is kept, and every request that would change it."""

    def __init__(self, server: Serving) -> None:
        self.server = server
        self.client = Asking(server)
        self.response = self.conversation = self.completion = self.item = ""

    async def send(self, method: str, path: str, body: object = None) -> Reply:
        return await self.server.request(method, path, None if body is None else json.dumps(body).encode())

    async def fill(self) -> None:
        made = (await self.send("POST", "/v1/conversations", {"items": [said("one")]})).json()
        self.conversation = f"/v1/conversations/{made['id']}"
        self.item = (await self.send("GET", f"{self.conversation}/items")).json()["data"][0]["id"]
        self.response = (await self.client.create("kept"))["id"]
        self.completion = f"/v1/chat/completions/{(await self.server.chat(store=True)).json()['id']}"

    def changes(self) -> dict[str, Awaitable[Reply]]:
        conversation_id = self.conversation.rsplit("/", 1)[1]
        new = {"metadata": {"a": "b"}}
        return {
            "whole": self.client.post("hello"),
            "in a conversation": self.client.post("hello", conversation=conversation_id),
            "by name": self.client.post("hello", conversation="chat"),
            "continued": self.client.post("hello", previous_response_id=self.response),
            "background": self.client.post("hello", background=True),
            "background streamed": self.client.post("hello", background=True, stream=True),
            "delete": self.client.delete(self.response),
            "new conversation": self.send("POST", "/v1/conversations", {}),
            "describe conversation": self.send("POST", self.conversation, new),
            "add item": self.send("POST", f"{self.conversation}/items", {"items": [said("two")]}),
            "delete item": self.send("DELETE", f"{self.conversation}/items/{self.item}"),
            "delete conversation": self.send("DELETE", self.conversation),
            "completion": self.server.chat(store=True),
            "describe completion": self.send("POST", self.completion, new),
            "delete completion": self.send("DELETE", self.completion),
        }

    async def everything(self) -> list[Any]:
        """All that can be read of it."""
        paths = (f"/v1/responses/{self.response}", self.conversation, f"{self.conversation}/items", self.completion)
        return [(await self.send("GET", path)).json() for path in (*paths, "/v1/chat/completions")]


async def refused_everywhere(kept: Kept, codes: set[str]) -> None:
    changes = kept.changes()
    replies = dict(zip(changes, await asyncio.gather(*changes.values()), strict=True))
    for name, reply in replies.items():
        assert reply.status == 503, (name, reply)
        assert reply.error["code"] in codes, (name, reply)
    for body in ({}, {"conversation": kept.conversation.rsplit("/", 1)[1]}, {"conversation": "chat"}):
        final = check_stream(await kept.client.stream("hello", **body))
        assert (final["status"], final["error"]["code"]) == ("failed", "server_error")
        assert (await kept.client.get(final["id"])).status == 404
    assert (await kept.client.create("hello", store=False))["status"] == "completed"


async def test_a_full_disk_changes_nothing_and_nobody_is_told_otherwise(tmp_path: Path) -> None:
    async with on_file(tmp_path) as server:
        kept = Kept(server)
        await kept.fill()
        before = await kept.everything()
        with no_room():
            await refused_everywhere(kept, {"store_full", "store_error"})
            assert await kept.everything() == before
        assert await kept.everything() == before
        assert (await kept.client.create("hello", conversation="chat"))["output_text"] == "hello"
        assert (await kept.client.delete(kept.response)).status == 200
        assert server.application.runtime.endpoints[0].active == 0
    async with on_file(tmp_path) as server:  # a new process finds the same
        after = Kept(server)
        after.conversation, after.completion, after.response = kept.conversation, kept.completion, kept.response
        assert (await after.everything())[1:] == before[1:]


async def test_a_lock_that_stays_is_said_and_nothing_is_kept(tmp_path: Path) -> None:
    async with on_file(tmp_path) as server:
        client = Asking(server)
        with locked(tmp_path / "kept.db"):
            reply = await client.post("hello", conversation="chat")
        assert (reply.status, reply.error["code"]) == (503, "store_locked")
        assert (await client.create("again", conversation="chat"))["output_text"] == "again"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_client_that_leaves_a_store_that_fails_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    async with on_file(tmp_path) as server:
        with no_room():
            async with server.connect() as wire:
                body = json.dumps({"model": "scripted", "input": "hang", "stream": stream}).encode()
                head = b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
                await wire.send(head + body)
                await eventually(lambda: server.backend().active == 1)
                if stream:
                    await wire.head()
                    await wire.until(b"so far")
            await eventually(lambda: server.backend().active == 0)
            await eventually(lambda: server.application.runtime.endpoints[0].active == 0)
            await eventually(lambda: any("/v1/responses" in line for line in server.access_lines))
        assert "client_disconnected" in server.access_lines[-1], server.access_lines
        assert "what a client got before it left is not kept" in caplog.text
        assert (await Asking(server).create("hello"))["status"] == "completed"


# Giving way


async def test_what_has_just_been_answered_does_not_give_way(tmp_path: Path) -> None:
    """Everything else is still being answered; what was acknowledged last is there all the same."""
    async with on_file(tmp_path, limit=2) as server:
        client = Asking(server)
        running = [await client.create("hang", background=True) for _ in range(3)]
        await eventually(lambda: server.backend().active == 3)
        first = await client.create("one", conversation="chat")
        assert (await client.get(first["id"])).status == 200
        second = await client.create("two", conversation="chat")
        assert (await client.get(second["id"])).status == 200
        assert (await client.get(first["id"])).status == 404
        assert (await client.create("three", previous_response_id=second["id"]))["status"] == "completed"
        for one in running:
            assert (await client.cancel(one["id"])).json()["status"] == "cancelled"


HISTORY = """
async def agent(turn):
    yield " ".join(str(message["content"]) for message in turn.messages if message["role"] == "user")
"""


async def test_a_chain_stays_whole_while_its_responses_give_way(serve: Serve) -> None:
    toml = '[store]\nurl = "memory:"\nmax_responses = 3\n[backends.mine]\ntype = "python"\ntarget = "bot.py:agent"\n'
    async with serve(toml, scripts={"bot.py": HISTORY}) as server:
        client = Asking(server, model="bot")
        ids = [(await client.create("0", conversation="chat"))["id"]]
        for number in range(1, 12):
            created = await client.create(str(number), previous_response_id=ids[-1])
            ids.append(created["id"])
            assert created["output_text"] == " ".join(str(one) for one in range(number + 1))
        assert [(await client.get(one)).status for one in ids] == [404] * 9 + [200] * 3
        assert (await client.create("new", conversation="chat"))["output_text"] == "new"  # its name gave way, too
        refused = await client.post("x", previous_response_id=ids[0])
        assert (refused.status, refused.error["code"]) == (400, "previous_response_not_found")


# A long chain


def a_turn(number: int) -> StoredResponse:
    """A turn of a chain as the program stores it."""

    def items(role: str, kind: str) -> bytes:
        content = [{"type": kind, "text": "hello there", **({"annotations": []} if role == "assistant" else {})}]
        item = {
            "id": f"msg_{number}_{role}",
            "type": "message",
            "role": role,
            "status": "completed",
            "content": content,
        }
        return json.dumps([item]).encode()

    return msgspec.structs.replace(
        a_response(f"resp_{number:04}", parent=f"resp_{number - 1:04}" if number else None),
        input=items("user", "input_text"),
        output=items("assistant", "output_text"),
    )


async def test_a_turn_costs_the_store_the_same_after_ten_turns_and_after_a_thousand(tmp_path: Path) -> None:
    """Statements and bytes: a turn writes itself, never what was before it. The whole history still reaches the model."""
    async with open_store(tmp_path / "kept.db") as store:
        for number in range(1000):
            await store.save_response("default", a_turn(number))
    async with on_file(tmp_path, limit=5000) as server:
        client = Asking(server)
        database = server.application._store._database  # type: ignore[attr-defined]  # what it is asked is only counted
        asked: list[str] = []
        for connection in (database.reader, database.writer):
            connection.set_trace_callback(asked.append)

        async def turn(parent: str) -> tuple[list[str], int]:
            """The statements it took, and the bytes of its row."""
            asked.clear()
            created = await client.create("hello there", previous_response_id=parent)
            # Usage is written at its own time, which may be now.
            statements = [" ".join(text.split()[:3]) for text in asked if "responses" in text]
            with contextlib.closing(sqlite3.connect(tmp_path / "kept.db")) as looking:
                ((size_bytes,),) = looking.execute(
                    "SELECT length(input) + length(output) + length(object) + length(coalesce(context, x''))"
                    " FROM responses WHERE id = ?",
                    (created["id"],),
                ).fetchall()
            return statements, size_bytes

        for parent in ("resp_0009", "resp_0999"):  # what was just read or written is at hand
            await turn(parent)
        (few, small), (many, large) = await turn("resp_0009"), await turn("resp_0999")
        assert many == few
        assert 0 < len(few) <= 6
        assert large - small < 10  # the digits of its usage


# Whose file it is, as the user of the program sees it


def at_port_0(folder: Path) -> None:
    (folder / "script.toml").write_text(SCRIPT)
    (folder / "trunkline.toml").write_text("[server]\nport = 0\n" + TOML.format(limit=10))


def create(program: Program, text: str) -> tuple[int, Any]:
    with contextlib.closing(program.connect()) as connection:
        body = json.dumps({"model": "scripted", "input": text})
        connection.request("POST", "/v1/responses", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_a_second_program_on_the_file_is_told_whose_it_is(tmp_path: Path) -> None:
    at_port_0(tmp_path)
    with Program("--config", "trunkline.toml", cwd=tmp_path) as program:
        second = run("serve", "--config", "trunkline.toml", cwd=tmp_path)
        assert second.returncode != 0
        assert f"is in use by process {program.process.pid}" in second.stderr
        assert "Traceback" not in second.stderr
        assert create(program, "hello")[0] == 200


def test_a_file_of_a_newer_version_is_left_as_it_is(tmp_path: Path) -> None:
    at_port_0(tmp_path)
    with Program("--config", "trunkline.toml", cwd=tmp_path) as program:
        assert create(program, "hello")[0] == 200
        assert program.stop() == 0
    path = tmp_path / "kept.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    before = path.read_bytes()
    refused = run("serve", "--config", "trunkline.toml", cwd=tmp_path)
    assert refused.returncode != 0
    assert "was written by a newer version of trunkline" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert path.read_bytes() == before
