"""What a signal does before the server has begun: while the program is imported, and while it imports an agent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import DEADLINE_S, clean_environ

WAITS = "open('reached', 'w').close()\nopen('go').close()\n"


def end(arguments: list[str], number: signal.Signals, *, cwd: Path, go: bool = False) -> tuple[int, str, str]:
    """The program sent that signal while it is in `WAITS`, and then let go on: exit code, stdout and stderr."""
    os.mkfifo(cwd / "reached")
    os.mkfifo(cwd / "go")
    with subprocess.Popen(
        [sys.executable, "-m", "trunkline", *arguments],
        cwd=cwd,
        env=clean_environ({"PYTHONPATH": os.pathsep.join([str(cwd), *sys.path])}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        (cwd / "reached").read_text()  # returns once the other end has been opened and closed
        process.send_signal(number)
        if go:
            (cwd / "go").write_text("")
        try:
            stdout, stderr = process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("arguments", [["serve", "scripted", "--port", "0"], ["check", "trunkline.toml"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_program_is_imported_ends_it_in_silence(
    number: signal.Signals, arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "uvicorn.py").write_text(WAITS)  # what the program imports late
    assert end(arguments, number, cwd=tmp_path) == (128 + number, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_check_imports_an_agent_ends_it_in_silence(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(WAITS)
    (tmp_path / "trunkline.toml").write_text("[backends.a]\ntype = 'python'\ntarget = 'my_agent.py:agent'\n")
    assert end(["check", "trunkline.toml"], number, cwd=tmp_path) == (128 + number, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_serve_imports_an_agent_ends_it_after_that(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(WAITS + "def agent(turn): return ''\n")
    code, _, stderr = end(["serve", "my_agent.py:agent", "--port", "0"], number, cwd=tmp_path, go=True)
    assert (code, stderr) == (0, "")
