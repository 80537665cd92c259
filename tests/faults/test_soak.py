"""Two hundred streams at once, again and again: no event is lost, none is another's, and memory comes to rest."""

import asyncio
import os
from pathlib import Path

import aiohttp

from tests.cli.program import Program
from tests.serving import read_frames, text_of, user

STREAMS = 200
EVENTS = 60
ROUNDS = 10
SCRIPT = f'[[rules]]\nsteps = [{{ text = "word ", repeat = {EVENTS} }}]\nbatch = 5\n'
CONFIG = """
[server]
port = 0
[backends.talk]
type = "scripted"
script = "script.toml"
max_concurrency = 200
[backends.echo]
type = "scripted"
models = ["echo"]
max_concurrency = 200
"""


async def one(session: aiohttp.ClientSession, url: str, number: int) -> None:
    """A stream whose every event is checked. Odd ones repeat what only they were told."""
    told = " ".join([f"w{number}-{position}" for position in range(EVENTS)])
    model, expected = ("echo", told) if number % 2 else ("scripted", "word " * EVENTS)
    body = {"model": model, "messages": user(told), "stream": True}
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        assert answer.status == 200, await answer.read()
        frames = read_frames(await answer.read())
    assert text_of(frames) == expected
    said = [frame for frame in frames[:-1] if frame["choices"][0]["delta"].get("content")]
    assert len(said) == EVENTS
    assert len({frame["id"] for frame in frames[:-1]}) == 1
    assert frames[-1] == "[DONE]"


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def rounds(url: str, pid: int) -> list[int]:
    """What the process holds after each round."""
    held = []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        for _ in range(ROUNDS):
            await asyncio.gather(*[one(session, url, number) for number in range(STREAMS)])
            held.append(resident_bytes(pid))
    return held


def test_two_hundred_streams_lose_nothing_and_memory_comes_to_rest(tmp_path: Path) -> None:
    (tmp_path / "script.toml").write_text(SCRIPT)
    (tmp_path / "trunkline.toml").write_text(CONFIG)
    with Program("--config", "trunkline.toml", cwd=tmp_path) as program:
        held = asyncio.run(rounds(program.url, program.process.pid))
        assert held[-1] <= held[1] * 1.05, [f"{size / 2**20:.1f} MiB" for size in held]
