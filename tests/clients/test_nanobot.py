"""The agent of nanobot behind our server: what it shows of its tools, and what it leaves behind with its client."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from scripts.node import ROOT
from tests.clients.install import HERE
from tests.clients.programs import listening, python_of
from tests.serving import Serving, eventually, serving

pytestmark = pytest.mark.clients

MODEL = '[backends.talk]\ntype = "scripted"\nscript = "script.toml"\nmodels = ["gpt-5-mini"]\n'


@pytest.fixture
async def model(tmp_path: Path) -> AsyncIterator[Serving]:
    scripts = {"script.toml": (HERE / "nanobot" / "script.toml").read_text()}
    async with serving(MODEL, base_dir=tmp_path, scripts=scripts) as served:
        yield served


@pytest.fixture
async def nanobot(model: Serving, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of our server with the agent, whose workspace is `work`."""
    defaults = {"workspace": str(tmp_path / "work"), "model": "gpt-5-mini", "provider": "custom"}
    settings = {
        "agents": {"defaults": defaults},
        "providers": {"custom": {"apiKey": "sk-test", "apiBase": f"{model.url}/v1"}},
    }
    (tmp_path / ".nanobot").mkdir()
    (tmp_path / ".nanobot" / "config.json").write_text(json.dumps(settings))
    (tmp_path / "work" / "build").mkdir(parents=True)
    (tmp_path / "work" / "notes.txt").write_text("buy milk\n")
    target = f"{ROOT / 'examples' / 'nanobot' / 'nanobot_agent.py'}:agent"
    command = (python_of("nanobot"), "-m", "trunkline", "serve", target, "--profile", "nanobot", "--port", "0")
    async with listening(*command, home=tmp_path) as url, aiohttp.ClientSession(url) as client:
        yield client


async def told(client: aiohttp.ClientSession, text: str, **more: Any) -> list[Any]:
    """The named events and the words of a stream."""
    body = {"messages": [{"role": "user", "content": text}], "stream": True, **more}
    async with client.post("/v1/chat/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        return [json.loads(line[6:]) async for line in answer.content if line.startswith(b"data: {")]


async def test_its_tools_show(nanobot: aiohttp.ClientSession) -> None:
    chunks = await told(nanobot, "read my notes", stream_options={"include_tool_events": True})
    tools = [(chunk["tool"], chunk["status"]) for chunk in chunks if "tool" in chunk]
    assert tools == [("read_file", "running"), ("read_file", "completed")]
    said = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert said.replace(" ", "") == "Letmelook.Buymilk."


@pytest.mark.parametrize("text", ["hang", "silent"])
async def test_no_request_goes_on_without_its_client(model: Serving, nanobot: aiohttp.ClientSession, text: str) -> None:
    """Neither one that is being answered nor one that waits for its first word."""
    body = {"messages": [{"role": "user", "content": text}], "stream": True}
    answer = await nanobot.post("/v1/chat/completions", json=body)
    if text == "silent":
        await eventually(lambda: model.backend().active == 1)
    else:
        while b"Wait" not in (line := await answer.content.readline()):
            assert line
    answer.close()
    await eventually(lambda: model.backend().active == 0)


async def test_no_command_goes_on_without_its_client(nanobot: aiohttp.ClientSession, tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "sleep"}], "stream": True}
    answer = await nanobot.post("/v1/chat/completions", json=body)
    written = tmp_path / "work" / "pid"
    await eventually(lambda: written.exists() and written.read_text() != "")
    process = Path("/proc", written.read_text().strip())
    await eventually(process.exists)
    answer.close()
    await eventually(lambda: not process.exists())
