"""Background runs through what happens to a server: a restart, `kill -9` at any moment, a store that cannot be written."""

import asyncio
import contextlib
import http.client
import json
import random
import resource
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.responses import Asking, Streamed, check_stream, events_in, final_of
from tests.serving import Serving, eventually, serving
from trunkline.engine.runs import MAX_AT_WORK

SCRIPT = r"""
[[rules]]
match = "hang"
steps = [{ text = "so far " }, { hang = true }]
[[rules]]
match = "slowly"
steps = [
  { reasoning = "hm " },
  { text = "word ", repeat = 12, delay_s = 0.002 },
  { call = "get_weather", arguments = ['{"city": ', '"Paris"}'], call_id = "call_a" },
  { run = "search", arguments = "{}", output = "found" },
  { text = "more ", repeat = 12, delay_s = 0.002 },
]
"""
TOML = (
    '[server]\naccess_log = false\n[store]\nurl = "sqlite:///runs.db"\n[backends.talk]\ntype = "scripted"\n'
    'script = "script.toml"\nmax_concurrency = 200\n'
)
SEED = 20261121
AT_ONCE = 4


def on_file(folder: Path, script: str = SCRIPT) -> contextlib.AbstractAsyncContextManager[Serving]:
    return serving(TOML, base_dir=folder, scripts={"script.toml": script})


async def test_after_a_restart_what_was_queued_runs_and_what_was_begun_has_lost_its_worker(tmp_path: Path) -> None:
    async with on_file(tmp_path) as server:
        client = Asking(server)
        before = await client.create("what came before", conversation="chat")
        begun = [await client.create("hang", background=True) for _ in range(MAX_AT_WORK)]
        await eventually(lambda: server.backend().active == MAX_AT_WORK)
        queued = await client.create("what was queued", background=True, previous_response_id=before["id"])
        named = await client.create("in the chat", background=True, conversation="chat")
        assert (await client.get(queued["id"])).json()["status"] == "queued"
    async with on_file(tmp_path) as server:
        client = Asking(server)
        for one in (queued, named):
            events = await client.resume(one["id"])
            final = check_stream(events)
            assert final["status"] == "completed"
            assert final_of(events) == (await client.get(one["id"])).body
            assert final["id"] == one["id"]
        assert (await client.get(named["id"])).json()["output_text"] == "in the chat"
        for one in begun:
            events = await client.resume(one["id"])
            assert check_stream(events)["error"]["code"] == "worker_lost"
            assert final_of(events) == (await client.get(one["id"])).body
        stored = await client.resume(begun[0]["id"])
    async with on_file(tmp_path) as server:
        client = Asking(server)
        assert await client.resume(begun[0]["id"]) == stored
        assert await client.resume(begun[0]["id"], 3) == stored[4:]
        assert (await client.create("go on", previous_response_id=begun[0]["id"]))["status"] == "completed"


async def test_a_queued_run_whose_conversation_has_gone_fails(tmp_path: Path) -> None:
    async with on_file(tmp_path) as server:
        client = Asking(server)
        created = await server.request("POST", "/v1/conversations", b"{}")
        conversation = created.json()["id"]
        for _ in range(MAX_AT_WORK):
            await client.create("hang", background=True)
        await eventually(lambda: server.backend().active == MAX_AT_WORK)
        queued = await client.create("x", background=True, conversation=conversation)
        assert (await server.request("DELETE", f"/v1/conversations/{conversation}")).status == 200
    async with on_file(tmp_path) as server:
        client = Asking(server)
        events = await client.resume(queued["id"])
        assert check_stream(events)["status"] == "failed"
        assert (await client.get(queued["id"])).body == final_of(events)


# kill -9


def _begin(program: Program) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = program.connect()
    body = {"model": "scripted", "input": "slowly", "stream": True, "background": True}
    connection.request("POST", "/v1/responses", json.dumps(body), {"content-type": "application/json"})
    return connection, connection.getresponse()


def _read(program: Program, events: int) -> list[bytes]:
    """What readers of several runs had got when the process was killed, at the moment the first of them had so many events."""
    with contextlib.ExitStack() as stack:
        answers = []
        for _ in range(AT_ONCE):
            connection, answer = _begin(program)
            stack.callback(connection.close)
            answers.append(answer)
        seen = [b""] * AT_ONCE
        while seen[0].count(b"\n\n") < events and b"[DONE]" not in seen[0]:
            seen[0] += answers[0].readline()
        program.send(signal.SIGKILL)
        program.process.wait()
        for position, answer in enumerate(answers):
            seen[position] += b"".join(_rest(answer))
    return seen


def _rest(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    with contextlib.suppress(http.client.HTTPException, ConnectionError):
        while line := answer.readline():
            yield line


def _get(program: Program, path: str) -> bytes:
    with contextlib.closing(program.connect()) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body


def _whole_events(seen: bytes) -> list[Streamed]:
    whole = seen[: seen.rfind(b"\n\n") + 2].removesuffix(b"data: [DONE]\n\n")
    fields = [dict(line.split(b": ", 1) for line in frame.split(b"\n")) for frame in whole.split(b"\n\n")[:-1]]
    return [Streamed(one[b"event"].decode(), one[b"id"].decode(), one[b"data"]) for one in fields]


def _check(program: Program, seen: list[bytes]) -> list[str]:
    """Every run has ended, its log is whole, and its readers have read what is stored."""
    ends = []
    for one in seen:
        read = _whole_events(one)
        if not read:  # its first event had not come yet, so nobody knows its id
            continue
        response_id = read[0].json["response"]["id"]
        stored = events_in(_get(program, f"/v1/responses/{response_id}?stream=true"))
        assert stored[: len(read)] == read
        final = check_stream(stored)
        assert _get(program, f"/v1/responses/{response_id}") == final_of(stored)
        assert final["status"] == "completed" or final["error"]["code"] == "worker_lost", final
        ends.append(final["status"])
    return ends


def _kill_at(folder: Path, moments: int) -> list[str]:
    print("seed", SEED)
    (folder / "runs.toml").write_text(TOML)
    (folder / "script.toml").write_text(SCRIPT)
    numbers = random.Random(SEED)
    ends: list[str] = []
    seen: list[bytes] = []
    for _ in range(moments):
        with Program("--config", "runs.toml", "--port", "0", cwd=folder) as program:
            ends += _check(program, seen)
            seen = _read(program, numbers.randrange(2, 50))
    with Program("--config", "runs.toml", "--port", "0", cwd=folder) as program:
        ends += _check(program, seen)
    with contextlib.closing(sqlite3.connect(folder / "runs.db")) as database:
        states = {row[0] for row in database.execute("SELECT DISTINCT status FROM runs")}
    assert states <= {"completed", "failed"}, states  # also those whose readers had seen nothing
    return ends


def test_kill_9_at_seeded_moments_leaves_no_run_without_an_end(tmp_path: Path) -> None:
    assert "failed" in _kill_at(tmp_path, 8)


@pytest.mark.slow
def test_kill_9_at_fifty_seeded_moments(tmp_path: Path) -> None:
    assert {"failed", "completed"} >= set(_kill_at(tmp_path, 50))


# A store that cannot be written


async def test_what_cannot_be_stored_is_not_said_to_be_done(tmp_path: Path) -> None:
    async with on_file(tmp_path) as server:
        client = Asking(server)
        kept = await client.create("hello")
        running = await client.create("hang", background=True)
        await eventually(lambda: server.backend().active == 1)
        await _until_said(client, running["id"])
        with _no_room():
            whole = await client.post("hello")
            assert whole.status >= 500
            assert whole.error["code"] in ("store_full", "store_error")
            assert (await client.post("hello", background=True)).status >= 500
            final = check_stream(await client.stream("hello"))
            assert final["status"] == "failed"
            assert (await client.get(kept["id"])).json() == kept
            assert (await client.create("hello", store=False))["status"] == "completed"
        assert (await client.get(final["id"])).status == 404
        assert (await client.create("hello", previous_response_id=kept["id"]))["status"] == "completed"
        assert (await client.cancel(running["id"])).json()["status"] == "cancelled"


async def test_the_end_of_a_run_waits_for_room(tmp_path: Path) -> None:
    async with on_file(tmp_path) as server:
        client = Asking(server)
        running = await client.create("hang", background=True)
        await _until_said(client, running["id"])
        database = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
        with contextlib.closing(database):
            database.execute("BEGIN IMMEDIATE")
            cancelling = asyncio.create_task(client.cancel(running["id"]))
            await eventually(lambda: server.backend().active == 0)
            assert (await client.get(running["id"])).json()["status"] == "in_progress"
            database.execute("ROLLBACK")
            assert (await cancelling).json()["status"] == "cancelled"
        assert check_stream(await client.resume(running["id"]))["status"] == "cancelled"


async def _until_said(client: Asking, response_id: str) -> None:
    """Returns once the run's first text is stored."""
    async with client.server.connect() as wire:
        await wire.send(f"GET /v1/responses/{response_id}?stream=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await wire.head()
        await wire.until(b"so far")


@contextlib.contextmanager
def _no_room() -> Iterator[None]:
    """No file of this process may grow."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
