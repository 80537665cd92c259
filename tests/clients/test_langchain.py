"""LangChain's ChatOpenAI in front: chat completions and Responses, over the scripted model and through a second server."""

import json
from pathlib import Path

import pytest

from tests.clients.install import HERE
from tests.clients.programs import python_of, run
from tests.clients.test_clients import GREETED
from tests.serving import Serving

pytestmark = pytest.mark.clients


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_langchain(server: Serving, tmp_path: Path, api: str) -> None:
    out = await run(python_of("adapters"), HERE / "langchain" / "trial.py", f"{server.url}/v1", api, home=tmp_path)
    assert json.loads(out) == {
        "invoke": [GREETED, 4],
        "stream": [GREETED, 2, 4],
        "batch": [GREETED, GREETED],
        "tools": [["weather", {"city": "Paris"}]],
        "agent": [["human", "ai", "tool", "tool", "ai"], "Sunny in both."],
        "structured": {"name": "Ada", "age": 36},
        "failure": True,
        **({"chained": [GREETED, True]} if api == "responses" else {}),
    }
