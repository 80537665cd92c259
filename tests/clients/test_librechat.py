"""LibreChat: the recipe of docs/chat-uis.md is what its configuration takes, and what it does with that works.

Its server is no package. Its parts are: the reader of its configuration, and the layer that makes its requests.
"""

import json
from pathlib import Path

import pytest

from scripts.node import ROOT
from tests.clients.install import HERE
from tests.clients.programs import available, node, run
from tests.docs.blocks import Block, pieces
from tests.serving import eventually, serving

pytestmark = pytest.mark.clients

TOML = """
[server]
api_keys = ["sk-mine"]
tool_events = "reasoning"
[backends.support]
type = "python"
target = "agents.py:support"
sessions = true
[backends.broken]
type = "python"
target = "agents.py:broken"
[backends.endless]
type = "python"
target = "agents.py:endless"
[backends.talk]
type = "scripted"
script = "script.toml"
models = ["scripted"]
"""
AGENTS = """
import asyncio
from pathlib import Path

from trunkline.agent import Reasoning, ToolFinished, ToolStarted, Usage


async def support(turn):
    yield Reasoning("They ask. ")
    yield ToolStarted("call_1", "search", {"q": "cats"}, label="cats")
    yield ToolFinished("call_1", output={"hits": 10})
    session = turn.session_id.partition("-")[0]
    yield f"{session} of {turn.memory_key}: "
    yield f"{sum(message['role'] == 'user' for message in turn.history)} questions before."
    yield Usage(input_tokens=3, output_tokens=5)


async def broken(turn):
    if turn.input == "midway":
        yield "part"
    raise RuntimeError("It broke.")


async def endless(turn):
    yield "one"
    try:
        await asyncio.Event().wait()
    finally:
        Path(__file__).with_name("stopped").touch()
"""
RULES = """
[[rules]]
match = "think"
steps = [{ reasoning = "Hm." }, { text = "Well." }]
[[rules]]
match = "too much"
steps = [{ error = "rate_limited", message = "slow down" }]
"""
THOUGHT = "They ask. \nsearch: cats\n"


async def test_librechat(tmp_path: Path) -> None:
    available(HERE / "librechat" / "node_modules" / "@librechat" / "agents")
    blocks = [piece for piece in pieces(ROOT / "docs" / "chat-uis.md") if isinstance(piece, Block)]
    (recipe,) = [block.text for block in blocks if block.language == "yaml"]
    (tmp_path / "librechat.yaml").write_text(recipe)
    scripts = {"agents.py": AGENTS, "script.toml": (HERE / "script.toml").read_text() + RULES}
    async with serving(TOML, base_dir=tmp_path, scripts=scripts) as server:
        trial = (HERE / "librechat" / "trial.mjs", tmp_path / "librechat.yaml", f"{server.url}/v1")
        seen = json.loads(await run(node("librechat"), *trial, home=tmp_path))
        await eventually((tmp_path / "stopped").exists)
        kept = await server.get("/v1/sessions/talk-1/messages", headers={"authorization": "Bearer sk-mine"})
    asked = [item["content"][0]["text"] for item in kept.json()["data"] if item.get("role") == "user"]
    assert asked == ["hello", "and now?", "and then?"]
    assert seen.pop("unknown")[:2] == [404, "model_not_found"]
    assert seen.pop("stranger")[:2] == [401, "invalid_api_key"]
    assert seen.pop("limited")[:2] == [429, "rate_limit_exceeded"]
    assert seen.pop("refused")[:2] == [400, "unsupported_parameter"]
    assert seen == {
        "version": True,
        "first": [[THOUGHT, "talk of ada: 0 questions before."], [[3, 5]]],
        "title": ["api of ada: 0 questions before.", 5],
        "structured": 400,
        "second": [THOUGHT, "talk of ada: 1 questions before."],
        "summarized": ["api of ada: 2 questions before.", THOUGHT, "talk of ada: 2 questions before."],
        "tools": [
            "One moment. ",
            ["weather", '{"city":"Paris"}', "sunny in Paris"],
            ["weather", '{"city":"Rome"}', "sunny in Rome"],
            "Sunny in both.",
        ],
        "thought": ["Hm.", "Well."],
        "broken": [500, "agent_error", "500 It broke."],
        "midway": [["part"], [None, "agent_error", "It broke."]],
        "left": [["one"], "AbortError"],
    }
