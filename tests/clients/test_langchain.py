"""LangChain's ChatOpenAI in front: chat completions and Responses, over the scripted model and through a second server."""

import json
from pathlib import Path

import pytest

from scripts.node import ROOT
from tests.clients.install import HERE
from tests.clients.programs import node, python_of, run
from tests.clients.test_clients import GREETED
from tests.docs.blocks import Block, pieces
from tests.serving import Serving, serving

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


@pytest.mark.parametrize("language", ["python", "js"])
async def test_the_page_s_program_prints_what_it_says(tmp_path: Path, language: str) -> None:
    """docs/chat-uis.md: ChatOpenAI, and the reader of a stream in a page, which Node has the means for but the page itself."""
    blocks = [piece for piece in pieces(ROOT / "docs" / "chat-uis.md") if isinstance(piece, Block)]
    (toml,) = [block.text for block in blocks if block.file == "trunkline.toml"]
    (agent,) = [block.text for block in blocks if block.file == "support.py"]
    (program,) = [block.text for block in blocks if block.language == language and block.file is None]
    (printed,) = [block.text for block in blocks if block.language == "text"]
    async with serving(toml, base_dir=tmp_path, scripts={"support.py": agent}) as server:
        program = program.replace("http://127.0.0.1:8400", server.url)
        if language == "python":
            out = await run(python_of("adapters"), "-c", program, home=tmp_path)
        else:
            shown = "globalThis.document = { body: { append: (text) => process.stdout.write(text) } };\n"
            (tmp_path / "page.mjs").write_text(shown + program)
            out = await run(node(), tmp_path / "page.mjs", home=tmp_path)
    assert out.strip() == printed.strip()
