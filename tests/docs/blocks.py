"""A Markdown page as what its reader would do with it: its fenced blocks, in order, and notes to the test between them.

Notes are comments that a reader does not see:

    <!-- upstream: 127.0.0.1:11434 llama3.2 -->    a model server listens there, and has that model
    <!-- needs: embedded -->                       the page is about the embedded model
"""

import re
from pathlib import Path
from typing import NamedTuple

PIECE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)```$"
    r"|^<!-- (?P<note>[\w-]+): (?P<value>.*?) -->$",
    re.DOTALL | re.MULTILINE,
)
FILE_NAME = re.compile(r"# ([\w./-]+\.(?:py|toml))\b")
ELLIPSIS = "…"


class Block(NamedTuple):
    """One fenced block. `file` is the name in its first line, if that is a comment with one."""

    language: str
    text: str
    line: int
    file: str | None = None


class Note(NamedTuple):
    """A word to the test."""

    name: str
    value: str
    line: int


class Command(NamedTuple):
    """A line after a prompt, and the output shown below it; None where none is shown."""

    text: str
    output: str | None


def pieces(page: Path) -> list[Block | Note]:
    text = page.read_text(encoding="utf-8")
    found: list[Block | Note] = []
    for match in PIECE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["note"]:
            found.append(Note(match["note"], match["value"], line))
            continue
        content = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        named = FILE_NAME.match(content)
        found.append(Block(match["language"], content, line, named[1] if named else None))
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a `console` block. A backslash continues a command on the next line."""
    found: list[Command] = []
    lines = iter(block.text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command = f"{command[:-1].rstrip()} {next(lines).strip()}"
            found.append(Command(command, None))
        else:
            assert found, f"a console block begins with a command, not with {line!r}"
            last = found[-1]
            found[-1] = Command(last.text, line if last.output is None else f"{last.output}\n{line}")
    return found


def shows(expected: str, actual: str) -> bool:
    """Whether the output is what the page shows. `…` is anything in a line; alone on a line, any lines."""
    pattern = ""
    for line in expected.strip("\n").splitlines():
        if line.strip() == ELLIPSIS:
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += r"[^\n]*".join(re.escape(part) for part in line.rstrip().split(ELLIPSIS)) + r"[ ]*\n"
    return re.fullmatch(pattern + r"\n*", actual.strip("\n") + "\n") is not None
