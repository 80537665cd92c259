"""Background runs through what happens to a server: a restart, `kill -9` at any moment, a store that cannot be written."""

import asyncio
import contextlib
import http.client
import json
import random
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cli.program import Program
from tests.faults.disk import no_room
from tests.responses import GET_WEATHER, Asking, Streamed, check_stream, events_in, final_of
from tests.serving import Serving, Wire, eventually, serving

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
    'script = "script.toml"\n'
)
RESTART = TOML + 'on_lost = "restart"\n'
SLOTS = 3
FEW = TOML + f"max_concurrency = {SLOTS}\n"
BOT = """
import asyncio
from pathlib import Path

async def agent(turn):
    yield "so far "
    while not Path(turn.input).exists():
        await asyncio.sleep(0.001)
    yield "so good"
"""
SEED = 20261121
AT_ONCE = 4


def on_file(
    folder: Path, script: str = SCRIPT, *, toml: str = TOML, grace_s: float = 0.0
) -> contextlib.AbstractAsyncContextManager[Serving]:
    return serving(toml, base_dir=folder, scripts={"script.toml": script}, grace_s=grace_s)


async def test_after_a_restart_what_was_queued_runs_and_what_was_begun_has_lost_its_worker(tmp_path: Path) -> None:
    async with on_file(tmp_path, toml=FEW) as server:
        client = Asking(server)
        before = await client.create("what came before", conversation="chat")
        begun = [await client.create("hang", background=True) for _ in range(SLOTS)]
        await eventually(lambda: server.backend().active == SLOTS)
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
    async with on_file(tmp_path, toml=FEW) as server:
        client = Asking(server)
        created = await server.request("POST", "/v1/conversations", b"{}")
        conversation = created.json()["id"]
        for _ in range(SLOTS):
            await client.create("hang", background=True)
        await eventually(lambda: server.backend().active == SLOTS)
        queued = await client.create("x", background=True, conversation=conversation)
        assert (await server.request("DELETE", f"/v1/conversations/{conversation}")).status == 200
    async with on_file(tmp_path) as server:
        client = Asking(server)
        events = await client.resume(queued["id"])
        assert check_stream(events)["status"] == "failed"
        assert (await client.get(queued["id"])).body == final_of(events)


@pytest.mark.parametrize("stored", [b"no request", {"body": b'{"tools": 5}', "model": "m", "request_id": "r"}])
async def test_a_run_that_cannot_be_read_any_more_ends(tmp_path: Path, stored: object) -> None:
    """A version that reads requests otherwise, or a damaged file, must not leave it without an end."""
    more: dict[str, Any] = {"background": True, "metadata": {"k": "v"}, "tools": [GET_WEATHER]}
    async with on_file(tmp_path, toml=FEW + 'on_lost = "restart"\n') as server:
        client = Asking(server)
        begun = [await client.create("hang", **more) for _ in range(SLOTS)]
        await eventually(lambda: server.backend().active == SLOTS)
        await _until_said(client, begun[0]["id"])
        damaged = [begun[0], await client.create("hello", **more)]
        fine = await client.create("hello", **more)
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as file, file:
        data = stored if isinstance(stored, bytes) else msgspec.msgpack.encode(stored)
        file.executemany("UPDATE runs SET request = ? WHERE id = ?", [(data, run["id"]) for run in damaged])
    async with on_file(tmp_path) as server:
        client = Asking(server)
        for run in damaged:
            events = await client.resume(run["id"])
            final = check_stream(events)
            assert (final["status"], final["error"]["code"]) == ("failed", "server_error")
            assert (final["metadata"], final["tools"]) == (run["metadata"], run["tools"])
            assert final_of(events) == (await client.get(run["id"])).body
        assert (await client.ended(fine["id"]))["status"] == "completed"


# Stopping


async def test_a_run_whose_log_is_damaged_does_not_lock_its_conversation(tmp_path: Path) -> None:
    async with on_file(tmp_path, toml=FEW) as server:
        client = Asking(server)
        for _ in range(SLOTS):
            await client.create("hang", background=True)
        await eventually(lambda: server.backend().active == SLOTS)
        queued = await client.create("what was queued", background=True, conversation="chat")
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as file, file:
        file.execute("UPDATE events SET data = ? WHERE run_id = ?", (b"damaged", queued["id"]))
    async with on_file(tmp_path) as server:
        async with asyncio.timeout(10):
            assert (await Asking(server).create("go on", conversation="chat"))["status"] == "completed"


async def test_a_run_has_the_grace_of_any_answer_and_its_readers_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "bot.py").write_text(BOT)
    toml = TOML.partition("[backends")[0] + '[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\n'
    async with contextlib.AsyncExitStack() as connections, contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(on_file(tmp_path, toml=toml, grace_s=60.0))
        client = Asking(server, model="bot")
        read, alone = [await client.create(str(tmp_path / "go"), background=True) for _ in range(2)]
        reading = await _reading(server, read["id"], connections)
        await _until_said(client, alone["id"])
        stopping = asyncio.create_task(stack.aclose())
        await eventually(lambda: server.application.runtime.state.draining)
        (tmp_path / "go").touch()
        await stopping
        assert check_stream(events_in(await reading))["output_text"] == "so far so good"
    async with on_file(tmp_path, toml=toml) as server:
        assert (await Asking(server).get(alone["id"])).json()["output_text"] == "so far so good"


@pytest.mark.parametrize("toml", [TOML, RESTART], ids=["fail", "restart"])
async def test_after_the_grace_every_reader_gets_a_whole_body_and_goes_on_after_the_restart(
    tmp_path: Path, toml: str
) -> None:
    async with contextlib.AsyncExitStack() as connections:
        async with on_file(tmp_path, toml=toml) as server:
            client = Asking(server)
            running = await client.create("hang", background=True)
            await _until_said(client, running["id"])
            readers = [await _reading(server, running["id"], connections) for _ in range(5)]
        bodies = [await reader for reader in readers]
    seen = _whole_events(bodies[0])
    assert [_whole_events(body) for body in bodies] == [seen] * 5
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as database:
        left = [row[0] for row in database.execute("SELECT status FROM runs")]
    if toml is TOML:  # the next start has nothing to mend
        assert left == ["failed"]
        assert check_stream(seen)["error"]["code"] == "worker_lost"
        return
    assert left == ["in_progress"]
    answered = SCRIPT.replace("{ hang = true }", '{ text = "and all" }')
    async with on_file(tmp_path, answered, toml=toml) as server:
        client = Asking(server)
        rest = await client.resume(running["id"], len(seen) - 1)
        final = check_stream([*seen, *rest])
        assert (final["status"], final["output_text"]) == ("completed", "so far and all")
        assert await client.resume(running["id"]) == [*seen, *rest]
        assert (await client.get(running["id"])).body == final_of(rest)
        assert len({event.json["item"]["id"] for event in seen + rest if event.kind.endswith("item.added")}) == 2
        assert (await client.create("go on", previous_response_id=running["id"]))["status"] == "completed"


async def test_what_is_queued_stays_queued_when_the_server_stops(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as connections:
        async with on_file(tmp_path, toml=TOML + "max_concurrency = 1\n") as server:
            client = Asking(server)
            await client.create("hang", background=True)
            await eventually(lambda: server.backend().active == 1)
            queued = await client.create("what waits", background=True)
            reading = await _reading(server, queued["id"], connections)
        seen = _whole_events(await reading)
    assert [event.kind for event in seen] == ["response.created", "response.queued"]
    async with on_file(tmp_path) as server:
        rest = await Asking(server).resume(queued["id"], len(seen) - 1)
        assert check_stream([*seen, *rest])["output_text"] == "what waits"


async def test_a_restarted_run_can_be_cancelled_and_deleted_and_lost_while_queued(tmp_path: Path) -> None:
    async with on_file(tmp_path, toml=RESTART) as server:
        client = Asking(server)
        running = [await client.create("hang", background=True) for _ in range(2)]
        for one in running:
            await _until_said(client, one["id"])
    async with on_file(
        tmp_path, toml=RESTART + "max_concurrency = 1\n"
    ) as server:  # one of them only gets queued again
        await eventually(lambda: server.backend().active == 1)
    async with on_file(tmp_path, toml=RESTART) as server:
        client = Asking(server)
        await eventually(lambda: server.backend().active == 2)
        assert (await client.cancel(running[0]["id"])).json()["status"] == "cancelled"
        assert check_stream(await client.resume(running[0]["id"]))["status"] == "cancelled"
        assert (await client.delete(running[1]["id"])).status == 200
        await eventually(lambda: server.backend().active == 0)
        assert (await client.get(running[1]["id"])).status == 404


def test_sigterm_ends_what_runs_before_the_process_does(tmp_path: Path) -> None:
    (tmp_path / "runs.toml").write_text(TOML.replace("[server]\n", "[server]\nshutdown_grace_s = 0\n"))
    (tmp_path / "script.toml").write_text(SCRIPT)
    with Program("--config", "runs.toml", "--port", "0", cwd=tmp_path) as program:
        connection, answer = _begin(program, "hang")
        with contextlib.closing(connection):
            seen = b""
            while b"so far" not in seen:
                seen += answer.readline()
            assert program.stop() == 0
            seen += answer.read()  # a whole body: http.client raises where it is cut
        assert "shutdown grace of 0 s is over; answers ended: 1, runs cut: 1" in program.log.read_text()
    events = events_in(seen)
    assert check_stream(events)["error"]["code"] == "worker_lost"
    with Program("--config", "runs.toml", "--port", "0", cwd=tmp_path) as program:
        response_id = events[0].json["response"]["id"]
        assert events_in(_get(program, f"/v1/responses/{response_id}?stream=true")) == events


# kill -9


def _begin(program: Program, text: str = "slowly") -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = program.connect()
    body = {"model": "scripted", "input": text, "stream": True, "background": True}
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


def _check(program: Program, seen: list[bytes], *, restarts: bool = False) -> list[str]:
    """Every run has ended or is followed to its end, its log is whole, and its readers have read what is stored."""
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
        lost = final["status"] != "completed"
        assert not lost or (final["error"]["code"] == "worker_lost" and not restarts), final
        ends.append(final["status"])
    return ends


def _kill_at(folder: Path, moments: int, *, toml: str = TOML) -> list[str]:
    print("seed", SEED)
    (folder / "runs.toml").write_text(toml)
    (folder / "script.toml").write_text(SCRIPT)
    numbers = random.Random(SEED)
    ends: list[str] = []
    seen: list[bytes] = []
    for _ in range(moments):
        with Program("--config", "runs.toml", "--port", "0", cwd=folder) as program:
            ends += _check(program, seen, restarts=toml is RESTART)
            seen = _read(program, numbers.randrange(2, 50))
    with Program("--config", "runs.toml", "--port", "0", cwd=folder) as program:
        ends += _check(program, seen, restarts=toml is RESTART)
    with contextlib.closing(sqlite3.connect(folder / "runs.db")) as database:
        states = {row[0] for row in database.execute("SELECT DISTINCT status FROM runs")}
    assert states <= {"completed", "failed"}, states  # also those whose readers had seen nothing
    return ends


def test_kill_9_at_seeded_moments_leaves_no_run_without_an_end(tmp_path: Path) -> None:
    assert "failed" in _kill_at(tmp_path, 8)


def test_kill_9_of_runs_that_are_restarted_leaves_all_of_them_completed(tmp_path: Path) -> None:
    assert set(_kill_at(tmp_path, 4, toml=RESTART)) == {"completed"}


@pytest.mark.slow
def test_kill_9_of_restarted_runs_at_thirty_seeded_moments(tmp_path: Path) -> None:
    assert set(_kill_at(tmp_path, 30, toml=RESTART)) == {"completed"}


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
        with no_room():
            whole = await client.post("hello")
            assert whole.status == 503
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


async def _reading(server: Serving, response_id: str, connections: contextlib.AsyncExitStack) -> "asyncio.Task[bytes]":
    """A reader that has begun; its task gives the body. A body that is cut raises."""
    wire = await connections.enter_async_context(server.connect())
    await wire.send(f"GET /v1/responses/{response_id}?stream=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await wire.head()

    async def rest() -> bytes:
        return b"".join([piece async for piece in _pieces(wire)])

    return asyncio.create_task(rest())


async def _pieces(wire: Wire) -> AsyncIterator[bytes]:
    while piece := await wire.chunk():
        yield piece


async def _until_said(client: Asking, response_id: str) -> None:
    """Returns once the run's first text is stored."""
    async with client.server.connect() as wire:
        await wire.send(f"GET /v1/responses/{response_id}?stream=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await wire.head()
        await wire.until(b"so far")
