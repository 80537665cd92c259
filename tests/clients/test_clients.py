"""Agent frameworks and command lines, unmodified, against a running server: `make test-clients`, not part of `make test`.

Each trial is run against the scripted model itself, and through a second server that asks it in either of OpenAI's APIs.
The clients run as programs of their own, with a home of their own; nothing of theirs leaves this machine.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from scripts.node import ROOT
from tests.clients.conftest import MODELS
from tests.clients.install import HERE
from tests.clients.programs import available, node, python_of, run
from tests.docs.blocks import Block, commands, pieces, shows
from tests.serving import Serving, serving

pytestmark = pytest.mark.clients

GREETED = "Good morning."
CODEX_CONFIG = """
model_provider = "trunkline"
check_for_update_on_startup = false
[analytics]
enabled = false
[model_providers.trunkline]
name = "trunkline"
base_url = "{url}/v1"
env_key = "TRUNKLINE_API_KEY"
wire_api = "responses"
stream_max_retries = 0
supports_websockets = {socket}
"""


async def test_openai_agents(server: Serving, tmp_path: Path) -> None:
    out = await run(python_of("openai_agents"), HERE / "openai_agents" / "trial.py", f"{server.url}/v1", home=tmp_path)
    assert json.loads(out) == {
        "run": GREETED,
        "tools": [
            "message_output_item",
            *["tool_call_item"] * 2,
            *["tool_call_output_item"] * 2,
            "message_output_item",
        ],
        "stream": ["tool_called", "tool_output", "message_output_created", "Snow."],
        "chained": GREETED,
        "handoff": ["spanish", "Hola."],
        "structured": {"name": "Ada", "age": 36},
        "session": [GREETED, 4],
        "conversation": [GREETED, 4],
        "guardrail": "tripped",
        "approved": "Deleted.",
        "settings": GREETED,
        "failure": "backend_unavailable",
        "socket": ["Snow.", GREETED],
        "chat": ["message_output_created", GREETED],
    }


@pytest.mark.parametrize("api", ["responses", "chat"])
async def test_ai_sdk(server: Serving, tmp_path: Path, api: str) -> None:
    available(HERE / "ai_sdk" / "node_modules" / "ai")
    out = await run(node("ai_sdk"), HERE / "ai_sdk" / "trial.mjs", f"{server.url}/v1", api, home=tmp_path)
    seen = json.loads(out)
    assert seen.pop("reasoning") in ("They greet.", "")
    assert seen == {
        "generate": [GREETED, "stop", True],
        "tools": ["Sunny in both.", ["sunny in Paris", "sunny in Rome"]],
        "stream": ["Snow.", 2, True, False],
        "output": {"name": "Ada", "age": 36},
        "streamedOutput": {"name": "Ada", "age": 36},
        "messages": GREETED,
        "failure": ["gone"],
        **({"chained": GREETED, "hosted": GREETED} if api == "responses" else {}),
    }


class Codex:
    """`codex exec` in a folder of its own."""

    def __init__(self, server: Serving, home: Path, *, over_socket: bool) -> None:
        self._program = available(HERE / "codex" / "node_modules" / "@openai" / "codex" / "bin" / "codex.js")
        self.home = home
        self._environ = {"CODEX_HOME": str(home), "TRUNKLINE_API_KEY": "sk-test"}
        (home / "config.toml").write_text(CODEX_CONFIG.format(url=server.url, socket=json.dumps(over_socket)))

    async def exec(self, text: str, *options: str, model: str = "scripted", command: tuple[str, ...] = ()) -> list[Any]:
        """The items of one turn that has completed."""
        fixed = ("--json", "--skip-git-repo-check", "--sandbox", "danger-full-access", "--model", model)
        called = (node(), self._program, "exec", *fixed, *options, *command, text)
        out = await run(*called, home=self.home, environ=self._environ)
        events = [json.loads(line) for line in out.splitlines()]
        assert events[-1]["type"] == "turn.completed", events
        items = [event["item"] for event in events if event["type"] == "item.completed"]
        warnings = [item["message"] for item in items if item["type"] == "error"]
        assert not [text for text in warnings if "Falling back from WebSockets" in text], warnings
        return [item for item in items if item["type"] != "error"]


@pytest.fixture(params=["http", "websocket"])
def codex(request: pytest.FixtureRequest, server: Serving, tmp_path: Path) -> Codex:
    home = tmp_path / "home"
    home.mkdir()
    return Codex(server, home, over_socket=request.param == "websocket")


async def test_codex_answers(codex: Codex) -> None:
    for model in MODELS:
        items = await codex.exec("hello", model=model)
        assert items[-1]["text"] == GREETED


async def test_codex_runs_a_command(codex: Codex) -> None:
    said, ran, answer = await codex.exec("run a command")
    assert said["text"] == "Let me look."
    assert (ran["type"], ran["exit_code"], ran["aggregated_output"]) == ("command_execution", 0, "trunk-line\n")
    assert answer["text"] == "It says trunk-line."
    assert (codex.home / "made.txt").read_text() == "trunk-line\n"


async def test_codex_applies_a_patch(codex: Codex) -> None:
    changed, answer = await codex.exec("patch it", model="gpt-5.5")
    assert (changed["type"], changed["status"]) == ("file_change", "completed")
    assert answer["text"] == "Patched."
    assert (codex.home / "patched.txt").read_text() == "by trunkline\n"


async def test_codex_holds_to_a_schema(codex: Codex) -> None:
    schema = codex.home / "schema.json"
    schema.write_text('{"type": "object", "properties": {"name": {"type": "string"}}, "additionalProperties": false}')
    items = await codex.exec("as json", "--output-schema", str(schema))
    assert json.loads(items[-1]["text"]) == {"name": "Ada", "age": 36}


async def test_codex_goes_on(codex: Codex) -> None:
    """A session that began with a model whose tools come as an item of the input goes on with another."""
    await codex.exec("hello", model="gpt-6-sol")
    items = await codex.exec("run a command", command=("resume", "--last"))
    assert items[-1]["text"] == "It says trunk-line."


async def test_codex_makes_its_session_shorter(codex: Codex) -> None:
    """Where a session outgrows what it may, Codex has it summed up in a turn without tools, and goes on from that."""
    await codex.exec("hello")
    items = await codex.exec("hello", command=("-c", "model_auto_compact_token_limit=200", "resume", "--last"))
    assert items[-1]["text"] == GREETED


async def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    """docs/clients.md: its files beside each other, its programs as they stand there, and what they print."""
    home, page = tmp_path, pieces(ROOT / "docs" / "clients.md")
    blocks = [piece for piece in page if isinstance(piece, Block)]
    (home / "node_modules").symlink_to(available(HERE / "ai_sdk" / "node_modules"))
    codex = available(HERE / "codex" / "node_modules" / ".bin" / "codex")
    python, javascript = python_of("openai_agents"), node("ai_sdk")
    environ = {"PATH": f"{codex.parent}:{javascript.parent}:{os.environ.get('PATH', os.defpath)}"}
    (home / ".codex").mkdir()
    for block in blocks[:2]:
        assert block.file is not None
        (home / block.file).write_text(block.text)
    shown = 0
    async with serving((home / "trunkline.toml").read_text(), base_dir=home) as server:
        programs = [block._replace(text=block.text.replace("http://127.0.0.1:8400", server.url)) for block in blocks]
        printed = ""
        for block in programs[2:]:
            if block.file is not None:
                (home / block.file).write_text(block.text)
            elif block.language == "python":
                printed = await run(python, "-c", block.text, home=home, environ=environ)
            elif block.language == "js":
                (home / "example.mjs").write_text(block.text)
                printed = await run(javascript, home / "example.mjs", home=home, environ=environ)
            elif block.language == "text":
                assert shows(block.text, printed)
                shown += 1
            elif any("codex" in command.text for command in commands(block)):
                script = "\n".join(command.text for command in commands(block))
                printed = await run("sh", "-e", "-c", script, home=home, environ=environ)
                assert shows(commands(block)[-1].output or "", printed)
                shown += 1
    assert shown == 3
