"""What agents print: never on standard output, which is the URL line's, and never in anybody's way."""

import io
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

from openai import OpenAI

from tests.cli.program import Program, clean_environ
from trunkline.cli.prints import LIMIT, Prints

AGENT = """
import os, sys

print("loading, no end of line", end="")

async def agent(turn):
    for _ in range(64):
        print("x" * 100_000)
        print("y" * 100_000, file=sys.stderr)
    yield "done"
"""


class Stuck(io.StringIO):
    """A stream whose reader takes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.writing, self.go_on = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.writing.set()
        self.go_on.wait()
        return super().write(text)

    def __enter__(self) -> Self:
        return self


def ask(url: str) -> str | None:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="bot", messages=[{"role": "user", "content": "hi"}])
        return answer.choices[0].message.content


def test_an_agent_that_prints_megabytes_to_nobody_still_answers(tmp_path: Path) -> None:
    (tmp_path / "bot.py").write_text(AGENT)
    with subprocess.Popen(
        [sys.executable, "-m", "trunkline", "serve", "bot.py:agent", "--port", "0"],
        cwd=tmp_path, env=clean_environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            first = process.stdout.readline()  # and nothing after it, nor of standard error
            assert first.startswith("trunkline")
            url = first.split()[-1]
            assert [ask(url), ask(url)] == ["done", "done"]
        finally:
            process.kill()


def test_what_an_agent_prints_is_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "bot.py").write_text("print('hello from the module')\ndef agent(turn):\n    return 'x'\n")
    with Program("bot.py:agent", "--port", "0", cwd=tmp_path) as program:
        assert program.stop() == 0
        assert "hello from the module" in program.errors()


def test_what_nobody_reads_in_time_is_dropped_and_counted() -> None:
    stream = Stuck()
    prints = Prints(stream)
    print("first", file=prints, end="")
    stream.writing.wait()
    print("a" * (LIMIT - 1), file=prints, end="")
    print("too much", file=prints, end="")
    print("b", file=prints, end="")
    stream.go_on.set()
    prints.finish(within_s=60)
    written = stream.getvalue()
    assert written.startswith("firsta")
    assert written.endswith("ab\n[8 characters were dropped: nobody read them in time]\n")


def test_a_reader_that_is_gone_stops_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    prints = Prints(stream)
    print("to nobody", file=prints)
    prints.finish(within_s=60)
    print("still to nobody", file=prints)
