"""The command itself: versions, help, exit codes."""

from pathlib import Path

import pytest

from tests.cli.program import run
from trunkline import __version__


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    ended = run("--version", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, f"trunkline {__version__}\n")


def test_without_a_command_it_prints_its_help(tmp_path: Path) -> None:
    ended = run(cwd=tmp_path)
    assert ended.returncode == 0
    assert "serve" in ended.stdout
    assert "check" in ended.stdout


@pytest.mark.parametrize("arguments", [["serve", "--prot", "1"], ["sevre"], ["check"], ["serve", "a", "b"]])
def test_unknown_arguments_exit_with_2(arguments: list[str], tmp_path: Path) -> None:
    ended = run(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert "usage: trunkline" in ended.stderr


def test_an_argument_that_a_command_does_not_know_is_answered_with_those_it_does(tmp_path: Path) -> None:
    said = run("serve", "--prot", "1", cwd=tmp_path).stderr
    assert "--port N" in said
    assert said.endswith("trunkline serve: error: unrecognized arguments: --prot\n")
