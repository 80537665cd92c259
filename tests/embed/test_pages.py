"""docs/embedding.md, docs/frameworks.md and docs/chat-uis.md: what runs without another framework runs here.

The rest is the examples' own text, which the trials of the clients run (`make test-clients`).
"""

import asyncio
import contextlib
import io
import tomllib
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.docs.blocks import Block, pieces
from tests.embed.uvicorn_server import on_uvicorn
from trunkline.backends.scripted import parse_script
from trunkline.config.load import build_config

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {path.name: path for path in (ROOT / "examples").rglob("*.py")}


def blocks(page: str, language: str) -> list[Block]:
    return [piece for piece in pieces(ROOT / "docs" / page) if isinstance(piece, Block) and piece.language == language]


APPLICATIONS = [block for block in blocks("embedding.md", "python") if "app = Starlette" in block.text]
(CLIENT,) = [block for block in blocks("embedding.md", "python") if "OpenAI(" in block.text]


@pytest.mark.parametrize("block", APPLICATIONS, ids=lambda block: f"line {block.line}")
async def test_an_application_of_the_page_answers_its_client(block: Block) -> None:
    names: dict[str, Any] = {}
    exec(compile(block.text, "app.py", "exec"), names)
    key = "sk-mine" if "sk-mine" in block.text else "none"
    printed = io.StringIO()
    async with on_uvicorn(names["app"]) as url:
        program = CLIENT.text.replace("http://127.0.0.1:8000", url).replace('"none"', repr(key))
        with contextlib.redirect_stdout(printed):
            await asyncio.to_thread(exec, compile(program, "client.py", "exec"), {})
    assert printed.getvalue() == "You said: hello\n"


async def test_the_page_of_an_application_may_ask_its_agent() -> None:
    (block,) = [block for block in APPLICATIONS if "PAGE = " in block.text]
    names: dict[str, Any] = {}
    exec(compile(block.text, "app.py", "exec"), names)
    body = {"messages": [{"role": "user", "content": "hello"}]}
    async with on_uvicorn(names["app"]) as url, aiohttp.ClientSession() as session:
        async with session.get(url) as page:
            assert await page.text() == names["PAGE"]
        for origin, status in (("http://127.0.0.1:8000", 200), ("http://evil.example", 403)):
            sent = session.post(f"{url}/ai/v1/chat/completions", json=body, headers={"Origin": origin})
            async with sent as answer:
                assert answer.status == status


@pytest.mark.parametrize(
    "block",
    [block for page in ("embedding.md", "frameworks.md") for block in blocks(page, "python") if block.file is not None],
    ids=lambda block: block.file,
)
def test_a_program_of_a_page_is_an_example(block: Block) -> None:
    assert block.file is not None
    shown = block.text.partition("\n")[2].strip()
    assert shown in EXAMPLES[block.file].read_text()


@pytest.mark.parametrize("page", ["frameworks.md", "chat-uis.md"])
def test_its_configurations_are_right(page: str) -> None:
    for block in blocks(page, "toml"):
        table = tomllib.loads(block.text)
        if "rules" in table:
            parse_script(table)
        else:
            build_config(table, environ={})
