"""The programs in `node`, which drive the official Node SDK against a running server and print what they saw."""

import asyncio
import json
from pathlib import Path

from scripts.node import find_node
from tests.serving import Serving

NODE = Path(__file__).parent / "node"


async def report_of(program: str, server: Serving) -> object:
    """What the program saw, as the JSON it printed."""
    node = find_node()
    assert node is not None, "no Node.js 20 or newer: run `make test`"
    assert (NODE / "node_modules" / "openai").is_dir(), "the Node clients are not installed: run `make test`"
    process = await asyncio.create_subprocess_exec(
        str(node.binary),
        str(NODE / program),
        f"{server.url}/v1",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return json.loads(out)
