"""Runs with open questions, their events and their turns through a restart of the server."""

import asyncio
import contextlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import Program
from tests.responses import Asking, check_stream
from tests.serving import Serving, eventually, serving
from tests.surfaces.test_runs import Running, names, run_events

AGENT = """
import asyncio
from pathlib import Path
from trunkline.agent import ToolStarted

async def agent(turn):
    if turn.input == "work":
        yield ToolStarted("call_1", "shell", {"command": "make"}, label="make")
        await asyncio.Event().wait()
    yield "May I? "
    while turn.input.startswith("/") and not Path(turn.input).exists():
        await asyncio.sleep(0.001)
    yield await turn.approve("shell", "rm -r build")
"""
SCRIPT = '[[rules]]\nmatch = "hang"\nsteps = [{ text = "so far " }, { hang = true }]\n'
TOML = (
    '[server]\naccess_log = false\ndefault_model = "bot"\n[store]\nurl = "sqlite:///runs.db"\n'
    '[backends.talk]\ntype = "scripted"\nscript = "script.toml"\non_lost = "restart"\n'
    '[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\n'
)
RESTART = TOML + 'on_lost = "restart"\n'


def on_file(folder: Path, *, toml: str = TOML) -> contextlib.AbstractAsyncContextManager[Serving]:
    return serving(toml, base_dir=folder, scripts={"bot.py": AGENT, "script.toml": SCRIPT}, grace_s=0.0)


async def test_a_server_that_leaves_denies_what_is_open(tmp_path: Path) -> None:
    async with serving(
        TOML, base_dir=tmp_path, scripts={"bot.py": AGENT, "script.toml": SCRIPT}, grace_s=60.0
    ) as server:
        created = await Running(server).create("go")
        seen = await Running(server).until(created["run_id"], "approval.request")
    async with on_file(tmp_path) as server:
        events = await Running(server).events(created["run_id"])
        assert events[: len(seen)] == seen
        assert events[-1]["output"] == "May I? deny"


@pytest.mark.parametrize("late", [False, True], ids=["open", "asked while it leaves"])
async def test_a_server_that_leaves_has_it_asked_again_where_the_run_is_answered_again(
    tmp_path: Path, *, late: bool
) -> None:
    """And does not wait for its grace to end: nobody can answer any more."""
    files = {"bot.py": AGENT, "script.toml": SCRIPT}
    gate = tmp_path / "go"
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(RESTART, base_dir=tmp_path, scripts=files, grace_s=600.0))
        created = await Running(server).create(str(gate) if late else "go", session_id="s1")
        run_id, turn = created["run_id"], created["response_id"]
        seen = await Running(server).until(run_id, "message.delta" if late else "approval.request")
        stopping = asyncio.create_task(stack.aclose())
        await eventually(lambda: server.application.runtime.state.draining)
        gate.touch()
        await stopping
    async with on_file(tmp_path, toml=RESTART) as server:
        client = Running(server)
        await eventually(lambda: bool(server.application.runtime.approvals.pending("default", turn)))
        assert (await client.run(run_id))["status"] == "requires_action"
        assert (await client.post(f"/{run_id}/approval", choice="once")).status == 200
        events = await client.events(run_id)
        assert events[: len(seen)] == seen
        assert "approval.responded" not in names(events)[: names(events).index("run.restarted")]
        assert events[-1]["output"] == "May I? once"
        assert (await server.get("/v1/sessions/s1")).json()["message_count"] == 2


class Killed:
    """A server in a process of its own, which is killed."""

    def __init__(self, folder: Path, *, toml: str) -> None:
        (folder / "runs.toml").write_text(toml)
        (folder / "bot.py").write_text(AGENT)
        (folder / "script.toml").write_text(SCRIPT)
        self._folder = folder

    def at(self, name: str, *, text: str = "go") -> tuple[str, list[Any]]:
        """A run whose server dies at the first event of that name, and what its reader had got."""
        with Program("--config", "runs.toml", "--port", "0", cwd=self._folder) as program:
            with contextlib.closing(program.connect()) as connection:
                connection.request("POST", "/v1/runs", json.dumps({"input": text}))
                run_id: str = json.loads(connection.getresponse().read())["run_id"]
            with contextlib.closing(program.connect()) as connection:
                connection.request("GET", f"/v1/runs/{run_id}/events")
                answer, seen = connection.getresponse(), b""
                while not (name.encode() in seen and seen.endswith(b"\n\n")):
                    seen += answer.readline()
                program.send(signal.SIGKILL)
                program.process.wait()
        return run_id, run_events(seen)


async def test_a_run_that_waits_for_an_answer_is_lost_with_its_server(tmp_path: Path) -> None:
    run_id, seen = Killed(tmp_path, toml=TOML).at("approval.request")
    async with on_file(tmp_path) as server:
        client = Running(server)
        events = await client.events(run_id)
        assert events[: len(seen)] == seen
        assert names(events)[-1] == "run.failed"
        assert events[-1]["code"] == "worker_lost"
        run = await client.run(run_id)
        assert (run["status"], run["code"]) == ("failed", "worker_lost")
        late = await client.post(f"/{run_id}/approval", choice="once")
        assert (late.status, late.error["code"]) == (409, "approval_not_active")
        assert await client.events(run_id, f"?after={seen[-1]['seq']}") == events[len(seen) :]


async def test_a_run_that_is_answered_again_asks_again(tmp_path: Path) -> None:
    run_id, seen = Killed(tmp_path, toml=RESTART).at("approval.request")
    async with on_file(tmp_path, toml=RESTART) as server:
        client = Running(server)
        response_id = "resp_" + run_id.removeprefix("run_")
        await eventually(lambda: bool(server.application.runtime.approvals.pending("default", response_id)))
        assert (await client.run(run_id))["status"] == "requires_action"
        assert (await client.post(f"/{run_id}/approval", choice="once")).status == 200
        events = await client.events(run_id)
        assert events[: len(seen)] == seen
        again = names(events).index("run.restarted")
        assert names(events)[again:] == [
            "run.restarted",
            "message.delta",
            "approval.request",
            "approval.responded",
            "message.delta",
            "run.completed",
        ]
        assert events[-1]["output"] == "May I? once"


async def test_a_tool_that_ran_when_its_server_died_leaves_a_whole_log(tmp_path: Path) -> None:
    run_id, seen = Killed(tmp_path, toml=TOML).at("tool.started", text="work")
    async with on_file(tmp_path) as server:
        log = await Asking(server).resume(run_id)
        assert check_stream(log)["status"] == "failed"
        assert [event.kind for event in log].count("response.output_item.done") == 1
        assert names(await Running(server).events(run_id)) == [*names(seen), "run.failed"]


@pytest.mark.parametrize("conversation", ["chat", None])
async def test_a_run_that_is_answered_again_takes_its_conversations_turn(
    tmp_path: Path, conversation: str | None
) -> None:
    async with on_file(tmp_path) as server:
        if conversation is None:
            conversation = (await server.request("POST", "/v1/conversations", b"{}")).json()["id"]
        running = await Running(server).create("hang", model="scripted", conversation=conversation)
        await Running(server).until(running["run_id"], "message.delta")
    async with on_file(tmp_path) as server:
        await eventually(lambda: server.backend().active == 1)
        other = Asking(server)
        refused = await other.post("me too", background=True, conversation=conversation)
        assert (refused.status, refused.error["code"]) == (429, "conversation_locked")
        await Running(server).post(f"/{running['run_id']}/stop")
        await Running(server).events(running["run_id"])
        assert (await other.post("me too", background=True, conversation=conversation)).status == 200
