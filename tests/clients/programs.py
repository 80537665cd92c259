"""Runs what is installed for the trials, as programs with a home of their own; nothing of theirs leaves this machine."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from scripts.node import MIN_MAJOR
from tests.clients.install import NEWER_NODE, environment, installed, node_of

URL = re.compile(rb"http://[\d.]+:\d+")


def _environ(home: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Nothing of this process's environment but the path."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), **environ}


async def run(*command: object, home: Path, environ: Mapping[str, str] = {}) -> str:
    """What the program prints."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=home,
        env=_environ(home, environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, (out + errors).decode()
    return out.decode()


@contextlib.asynccontextmanager
async def listening(*command: object, home: Path, environ: Mapping[str, str] = {}) -> AsyncIterator[str]:
    """A server program, and the URL it prints. It has to end well when it is told to."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=home,
        env=_environ(home, environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    printed, url = bytearray(), None
    reading: asyncio.Task[bytes] | None = None
    try:
        while url is None:
            line = await process.stdout.readline()
            assert line, printed.decode()
            printed += line
            url = URL.search(line)
        reading = asyncio.create_task(process.stdout.read())  # else it would wait for a reader
        yield url[0].decode()
        process.terminate()
        # uvicorn's own program ends as the signal would have ended it.
        assert await process.wait() in (0, -signal.SIGTERM), (printed + await reading).decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if reading is not None:
            await reading


def available(marker: Path) -> Path:
    if not marker.exists():
        pytest.skip("not installed: run `make test-clients` where packages can be had")
    return marker


def python_of(name: str) -> Path:
    """The interpreter that has this client."""
    available(installed(name))
    return environment(name) / "bin" / "python"


def node(name: str = "") -> Path:
    """The Node.js that runs this client, or any."""
    found = node_of(name)
    if found is None:
        pytest.skip(f"no Node.js {NEWER_NODE.get(name, MIN_MAJOR)} or newer")
    return found.binary
