"""README.md and the pages by task: every file, command and example in them does what the page says."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.docs.blocks import ELLIPSIS, Block, Note, commands, pieces, shows
from tests.docs.reader import ROOT, Reader

PAGES = [
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "getting-started",
            "model-servers",
            "embedded",
            "operations",
            "deploying",
            "chat-completions",
            "responses",
            "runs",
            "streaming",
            "cache",
            "idempotency",
            "sessions",
            "usage",
            "ollama",
        )
    ),
]
README_LINES = 120
FIRST_SCREEN_LINES = 32


@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_what_it_says(name: str, tmp_path: Path) -> None:
    page = ROOT / name
    needs = {piece.value for piece in pieces(page) if isinstance(piece, Note) and piece.name == "needs"}
    if "embedded" in needs and importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the embedded runtime is not installed here, so the commands about it cannot be tried")
    with Reader(tmp_path) as reader:
        reader.read(page)


def test_the_first_answer_is_on_the_first_screen() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES
    answers = [piece.line for piece in pieces(ROOT / "README.md") if isinstance(piece, Block) and "curl" in piece.text]
    assert answers[0] <= FIRST_SCREEN_LINES


def test_pages_do_not_show_output_that_says_nothing() -> None:
    for name in PAGES:
        for piece in pieces(ROOT / name):
            if isinstance(piece, Block) and piece.language == "console":
                for command in commands(piece):
                    assert command.output is None or re.sub(rf"[\s{ELLIPSIS}]", "", command.output)


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("one\ntwo", "one\ntwo\n", True),
        ("one\ntwo", "one\nthree\n", False),
        ("one", "one\ntwo\n", False),
        ('{"id":"…","x":1}', '{"id":"abc","x":1}', True),
        ('{"id":"…","x":1}', '{"id":"abc",\n"x":1}', False),
        ("one\n…\nfour", "one\ntwo\nthree\nfour\n", True),
        ("one\n…", "one\n", True),
        ("one\n…", "two\n", False),
    ],
)
def test_output_is_compared_line_by_line(expected: str, actual: str, *, same: bool) -> None:
    assert shows(expected, actual) is same


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (Block("console", "$ echo one\ntwo\n", 1), "shown:\ntwo\nprinted:\none"),
        (Block("console", "$ false\n", 1), "exit code 1"),
        (Block("console", "$ make dinner\n", 1), "dinner"),
        (Block("python", "raise SystemExit('no')", 1), "no"),
        (Block("toml", "[server]", 1), "names its file"),
        (Block("toml", "# a.toml\n[server]\nprot = 1", 1, "a.toml"), "prot"),
        (Block("cobol", "MOVE 1 TO X", 1), "no test runs"),
    ],
)
def test_a_page_that_is_wrong_is_found(block: Block, complaint: str, tmp_path: Path) -> None:
    with Reader(tmp_path) as reader, pytest.raises(AssertionError, match=complaint):
        reader.follow(block)
