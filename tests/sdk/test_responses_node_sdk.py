"""The official Node SDK's Responses against a running server."""

import asyncio
import json
from pathlib import Path

from scripts.node import find_node
from tests.conftest import Serve
from tests.serving import eventually

NODE = Path(__file__).parent / "node"
SCRIPT = '[[rules]]\nmatch = "hang"\nsteps = [{ text = "on" }, { hang = true }]\n'
TOML = '[server]\napi_keys = ["sk-test"]\n[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n'


async def test_responses(serve: Serve) -> None:
    node = find_node()
    assert node is not None, "no Node.js 20 or newer: run `make test`"
    async with serve(TOML, scripts={"script.toml": SCRIPT}) as server:
        process = await asyncio.create_subprocess_exec(
            str(node.binary),
            str(NODE / "responses.mjs"),
            f"{server.url}/v1",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        await eventually(lambda: server.backend().active == 0)
    assert json.loads(out) == {
        "create": {"text": "hello there", "same": "hello there"},
        "helper": {"text": "one two three", "final": "one two three"},
        "chained": True,
        "resumed": True,
        "cancelled": "cancelled",
        "items": ["hello there"],
        "gone": ["NotFoundError", "response_not_found"],
    }
