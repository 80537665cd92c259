"""What `make` promises before anything is installed: clear refusals, no work done twice, locks that hold everywhere."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import set_up

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the set-up needs, in a folder with a space in its name."""
    folder = tmp_path / "a checkout"
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "src/trunkline/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def make(checkout: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    unset = {"PYTHON", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "ARGS"}
    env = {name: value for name, value in os.environ.items() if name not in unset}
    if path is not None:
        env["PATH"] = path
    program = shutil.which("make")
    assert program is not None, "these tests need make"
    return subprocess.run(
        [program, *arguments],
        cwd=checkout,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def all_done(checkout: Path) -> Path:
    """A .venv in the state that a finished `make install` leaves, without its packages."""
    state = checkout / ".venv" / ".trunkline"
    state.mkdir(parents=True)
    (checkout / ".venv" / "bin").mkdir()
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    tag, _, base = set_up.identity()
    (state / "made-from").write_text("\n".join((tag, str(checkout / ".venv"), base)))
    for step in set_up.TARGETS["install"]:
        stamp = b"\0".join((checkout / path.relative_to(ROOT)).read_bytes() for path in step.made_from)
        (state / f"{step.name}.stamp").write_bytes(stamp)
    return state


def test_a_python_that_is_not_there_is_named(checkout: Path) -> None:
    done = make(checkout, "install", "PYTHON=/nowhere/python3")
    assert done.returncode != 0
    assert "PYTHON=/nowhere/python3 is not a program" in done.stderr


def test_what_belongs_into_args_is_not_taken_for_a_target_after_the_server_has_ended(checkout: Path) -> None:
    done = make(checkout, "serve", "my_agent.py:agent", "PYTHON=/nowhere/python3")
    assert done.returncode != 0
    assert (
        'make knows no target my_agent.py:agent, see make help; arguments are given as ARGS="my_agent.py:agent"'
        in done.stderr
    )
    assert "/nowhere/python3" not in done.stderr


def test_an_old_python_is_named_with_what_would_be_right(checkout: Path, tmp_path: Path) -> None:
    old = program(tmp_path / "old", 'case "$*" in *--version*) echo "Python 3.9.2" ;; *) exit 1 ;; esac')
    done = make(checkout, "install", f"PYTHON={old}")
    assert done.returncode != 0
    assert "Python 3.9.2" in done.stderr
    assert "needs Python 3.11 or newer" in done.stderr


def test_a_machine_without_a_suitable_python_is_told_what_to_install(checkout: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    old = program(programs / "python3", 'case "$*" in *--version*) echo "Python 3.9.2" ;; *) exit 1 ;; esac')
    for name in ("sh", "head"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    done = make(checkout, "install", path=str(programs))
    assert done.returncode != 0
    assert f"{old}: Python 3.9.2" in done.stderr
    assert "apt install python3 python3-venv" in done.stderr


def test_a_python_without_ensurepip_is_refused_before_anything_is_made(checkout: Path, tmp_path: Path) -> None:
    hide = (
        "import runpy, sys; sys.modules['ensurepip'] = None; sys.path.insert(0, ''); sys.argv = ['set_up', 'install'];"
        " runpy.run_module('scripts.set_up', run_name='__main__', alter_sys=True)"
    )
    real = f"'{sys.executable}'"
    lacking = program(
        tmp_path / "lacking",
        f'case "$*" in *scripts.set_up*) exec {real} -S -c "{hide}" ;; *) exec {real} "$@" ;; esac',
    )
    done = make(checkout, "install", f"PYTHON={lacking}")
    assert done.returncode != 0
    assert "apt install python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_environment_made_by_someone_else_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "precious").touch()
    done = make(checkout, "install", f"PYTHON={sys.executable}")
    assert done.returncode != 0
    assert "was not made by make" in done.stderr
    assert [entry.name for entry in (checkout / ".venv").iterdir()] == ["precious"]


def test_a_finished_set_up_starts_nothing(checkout: Path) -> None:
    all_done(checkout)
    program(checkout / ".venv" / "bin" / "trunkline", 'printf "%s|" "$@"')
    done = make(checkout, "serve", "ARGS='my agent.py:agent' --port 0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "serve|my agent.py:agent|--port|0|"


def test_serve_reports_a_failed_runtime_without_trying_again(checkout: Path) -> None:
    state = all_done(checkout)
    (state / "embedded.stamp").unlink()
    wanted = (checkout / "requirements" / "embedded.txt").read_bytes()
    (state / "embedded.failed").write_bytes(b"no package for this machine\0" + wanted)
    program(checkout / ".venv" / "bin" / "trunkline", "echo serving")
    done = make(checkout, "serve")
    assert (done.returncode, done.stdout) == (0, "serving\n")
    assert "warning: the embedded model is not available: no package for this machine" in done.stderr
    assert "make install" in done.stderr


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("WARNING: Retrying (Retry(total=4, connect=None)) after connection broken", "could not be reached"),
        ("Ignoring indexes: \nERROR: No matching distribution found for aiohttp==1", "could not be reached"),
        ("Skipping link: none of the wheel's tags (cp311-win) are compatible", "no built package for this machine"),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE",
            "not the file that the lock names",
        ),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("something else", "its words are above"),
    ],
)
def test_a_failed_pip_is_explained(log: str, told: str) -> None:
    assert told in set_up.explain(log)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_pins_and_hashes_everything_and_names_no_place(lock: Path) -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.read_text())[1:]
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.]+( ; [^\\\n]+)? \\\n    --hash=sha256:[0-9a-f]{64}", entry), entry
    assert "://" not in lock.read_text()
    assert "index" not in re.sub(r"(?m)#.*", "", lock.read_text())


def test_the_locks_hold_every_direct_requirement() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {
        "base": project["project"]["dependencies"] + project["build-system"]["requires"],
        **project["project"]["optional-dependencies"],
        **project["dependency-groups"],
    }
    assert {lock.stem for lock in LOCKS} == set(wanted)
    for name, requirements in wanted.items():
        held = set_up.locked_names((ROOT / "requirements" / f"{name}.txt").read_bytes())
        direct = {re.split(r"[^\w.-]", requirement)[0].replace("_", "-") for requirement in requirements}
        assert direct <= held, name


def test_the_node_lock_names_no_place() -> None:
    text = (ROOT / "tests" / "sdk" / "node" / "package-lock.json").read_text()
    packages = {name: entry for name, entry in json.loads(text)["packages"].items() if name}
    assert "://" not in text
    assert packages
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
