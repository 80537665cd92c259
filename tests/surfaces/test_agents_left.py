"""An agent whose client leaves: stopped, or left to its end, on whatever surface it was asked."""

import json
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.serving import eventually

AGENT = """
import asyncio
from pathlib import Path

HERE = Path(__file__).parent

async def agent(turn):
    try:
        yield "so far "
        while not (HERE / "go").exists():
            await asyncio.sleep(0.001)
        yield "so good"
        (HERE / "ended").touch()
    except (asyncio.CancelledError, GeneratorExit):
        (HERE / "stopped").touch()
        raise
"""
TOML = '[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\non_disconnect = {}\n'
SURFACES: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "go"}]},
    "/v1/responses": {"input": "go"},
    "/api/chat": {"messages": [{"role": "user", "content": "go"}]},
}


@pytest.mark.parametrize("path", SURFACES)
@pytest.mark.parametrize(
    ("setting", "end"), [('"cancel"', "stopped"), ("0.01", "stopped"), ('"finish"', "ended"), ("60", "ended")]
)
async def test_what_becomes_of_an_agent_whose_client_leaves(
    serve: Serve, tmp_path: Path, path: str, setting: str, end: str
) -> None:
    async with serve(TOML.format(setting), scripts={"bot.py": AGENT}) as server:
        data = json.dumps({"model": "bot", "stream": True, **SURFACES[path]}).encode()
        endpoint = server.application.runtime.endpoints[0]
        async with server.connect() as wire:
            await wire.send(
                b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data
            )
            await wire.head()
            await wire.until(b"so far")
            assert endpoint.active == 1
        if end == "ended":
            (tmp_path / "go").touch()
        await eventually(lambda: endpoint.active == 0)
        assert {name for name in ("stopped", "ended") if (tmp_path / name).exists()} == {end}
