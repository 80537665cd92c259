"""How often a run is answered again: a server that is told to leave has lost nothing, one that dies has."""

import contextlib
import json
import signal
from pathlib import Path

import pytest

from tests.cli import program as cli
from tests.cli.program import Program
from tests.responses import Asking, check_stream, final_of
from tests.serving import Serving, serving
from tests.surfaces.test_runs import Running, names
from trunkline.engine.runs import MAX_RESTARTS

AGENT = """
import asyncio
import os
import signal
from pathlib import Path

HERE = Path(__file__).parent

async def agent(turn):
    yield "so far "
    if (HERE / "deadly").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if turn.input == "ask":
        await turn.approve("shell", "rm -r build")
    while not (HERE / "go").exists():
        await asyncio.sleep(0.001)
    yield "so good"
"""
TOML = (
    '[server]\naccess_log = false\nshutdown_grace_s = 0\n[store]\nurl = "sqlite:///runs.db"\n'
    '[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\non_lost = "restart"\n'
)
SERVE = ("serve", "--config", "runs.toml", "--port", "0")


def on_file(folder: Path) -> contextlib.AbstractAsyncContextManager[Serving]:
    return serving(TOML, base_dir=folder, scripts={"bot.py": AGENT}, grace_s=0.0)


@pytest.mark.parametrize(("text", "stands"), [("work", "in_progress"), ("ask", "requires_action")])
async def test_a_server_that_is_told_to_leave_has_lost_no_run(tmp_path: Path, text: str, stands: str) -> None:
    run_id, stops = "", MAX_RESTARTS + 2
    for _ in range(stops):
        async with on_file(tmp_path) as server:
            client = Running(server)
            run_id = run_id or (await client.create(text, model="bot"))["run_id"]
            while (run := await client.run(run_id))["status"] != stands:
                assert run["status"] != "failed", run
    (tmp_path / "go").touch()
    async with on_file(tmp_path) as server:
        client = Running(server)
        while text == "ask" and (await client.post(f"/{run_id}/approval", choice="once")).status != 200:
            pass
        events = await client.events(run_id)
        assert names(events).count("run.restarted") == stops
        assert (events[-1]["event"], events[-1]["output"]) == ("run.completed", "so far so good")
        log = await Asking(server).resume(run_id)
        assert check_stream(log)["output_text"] == "so far so good"


async def test_a_run_that_kills_its_server_is_not_answered_again_for_ever(tmp_path: Path) -> None:
    """Nor is it after stops in between that it did not cause."""
    run_id = _stopped_at_work(tmp_path)
    (tmp_path / "deadly").touch()
    assert cli.run(*SERVE, cwd=tmp_path).returncode == -signal.SIGKILL
    (tmp_path / "deadly").unlink()
    with Program(*SERVE[1:], cwd=tmp_path) as program:
        assert program.stop() == 0
    (tmp_path / "deadly").touch()
    for _ in range(MAX_RESTARTS):
        assert cli.run(*SERVE, cwd=tmp_path).returncode == -signal.SIGKILL
    async with on_file(tmp_path) as server:
        log = await Asking(server).resume(run_id)
        final = check_stream(log)
        assert (final["status"], final["error"]["code"]) == ("failed", "worker_lost")
        assert (await Asking(server).get(run_id)).body == final_of(log)


def _stopped_at_work(folder: Path) -> str:
    """A run whose server was told to leave while it was being answered."""
    (folder / "runs.toml").write_text(TOML)
    (folder / "bot.py").write_text(AGENT)
    with Program(*SERVE[1:], cwd=folder) as program:
        with contextlib.closing(program.connect()) as connection:
            connection.request("POST", "/v1/runs", json.dumps({"model": "bot", "input": "work"}))
            run_id: str = json.loads(connection.getresponse().read())["run_id"]
        with contextlib.closing(program.connect()) as connection:
            connection.request("GET", f"/v1/runs/{run_id}/events")
            answer, line = connection.getresponse(), b""
            while b"so far" not in line:
                line = answer.readline()
        assert program.stop() == 0
    return run_id
