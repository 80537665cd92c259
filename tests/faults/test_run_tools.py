"""Runs through a restart in the midst of their tools, which are items of the server's: the log is read back as it was written."""

from pathlib import Path
from typing import Any

from tests.responses import Asking, Streamed, check_stream, events_in, final_of
from tests.serving import serving

AGENT = """
import asyncio
from pathlib import Path
from trunkline.agent import ToolFinished, ToolStarted

async def agent(turn):
    yield ToolStarted("c0", "map", {})
    yield ToolFinished("c0", "no map", failed=True)
    yield ToolStarted("c1", "search", {"q": "cats"}, label="cats")
    yield ToolStarted("c2", "shell", {})
    yield "One moment. "
    yield ToolFinished("c2", "done")
    yield "Waiting. "
    if not Path(__file__).with_name("go").exists():
        await asyncio.Event().wait()
    yield ToolFinished("c1", "10 results")
    yield "Ten."
"""
TOML = (
    '[server]\naccess_log = false\ntool_items = "mcp_call"\n[store]\nurl = "sqlite:///runs.db"\n'
    '[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\n'
)
RESTART = TOML + 'on_lost = "restart"\n'
ENDED = [
    ("mcp_call", "failed"),
    ("mcp_call", "completed"),
    ("mcp_call", "completed"),
    *[("message", "completed")] * 3,
]
CUT = [
    ("mcp_call", "failed"),
    ("mcp_call", "incomplete"),
    ("mcp_call", "completed"),
    ("message", "completed"),
    ("message", "incomplete"),
]


async def lost_in_a_tool(folder: Path) -> list[Streamed]:
    """What a run has said when its server stops."""
    async with serving(RESTART, base_dir=folder, scripts={"bot.py": AGENT}, grace_s=0.0) as server:
        client = Asking(server, model="bot")
        running = await client.create("go", background=True)
        async with server.connect() as wire:
            await wire.send(b"GET /v1/responses/%b?stream=true HTTP/1.1\r\nHost: x\r\n\r\n" % running["id"].encode())
            await wire.head()
            said = await wire.until(b"Waiting")
    return events_in(said[: said.rindex(b"\n\n") + 2])


def kinds(output: list[Any]) -> list[tuple[str, str]]:
    return [(item["type"], item["status"]) for item in output]


async def test_a_lost_run_ends_with_what_its_log_says(tmp_path: Path) -> None:
    seen = await lost_in_a_tool(tmp_path)
    run_id = seen[0].json["response"]["id"]
    async with serving(TOML, base_dir=tmp_path, scripts={"bot.py": AGENT}) as server:
        client = Asking(server, model="bot")
        events = await client.resume(run_id)
        assert events[: len(seen)] == seen
        final = check_stream(events)
        assert (final["status"], final["error"]["code"]) == ("failed", "worker_lost")
        assert kinds(final["output"]) == CUT
        assert final["output"][1]["arguments"] == '{"q":"cats"}'
        assert final["output"][0]["error"]["content"] == [{"type": "text", "text": "no map"}]
        assert (await client.get(run_id)).body == final_of(events)


async def test_a_run_that_is_answered_again_counts_on(tmp_path: Path) -> None:
    run_id = (await lost_in_a_tool(tmp_path))[0].json["response"]["id"]
    (tmp_path / "go").touch()
    async with serving(RESTART, base_dir=tmp_path, scripts={"bot.py": AGENT}) as server:
        events = await Asking(server, model="bot").resume(run_id)
    final = check_stream(events)
    assert final["status"] == "completed"
    assert kinds(final["output"]) == ENDED
    done = [event.json for event in events if event.kind == "response.output_item.done"]
    in_order = [one["item"] for one in sorted(done, key=lambda one: int(one["output_index"]))]
    assert kinds(in_order) == [*CUT, *ENDED]
