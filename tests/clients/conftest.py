"""What the clients in front talk to."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clients.install import HERE
from tests.serving import Serving, serving

MODELS = ["scripted", "gpt-5.5", "gpt-6-sol"]
SCRIPTED = f"""
[server]
api_keys = ["sk-test"]
[backends.talk]
type = "scripted"
script = "script.toml"
models = {json.dumps(MODELS)}
"""
THROUGH = """
[server]
api_keys = ["sk-test"]
[backends.up]
type = "http"
dialect = "{dialect}"
endpoints = ["{url}/v1"]
api_key = "sk-test"
"""


@pytest.fixture(params=["scripted", "openai_chat", "openai_responses"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Serving]:
    scripts = {"script.toml": (HERE / "script.toml").read_text()}
    async with contextlib.AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(SCRIPTED, base_dir=tmp_path, scripts=scripts))
        if request.param != "scripted":
            toml = THROUGH.format(dialect=request.param, url=served.url)
            served = await stack.enter_async_context(serving(toml, base_dir=tmp_path))
        yield served
