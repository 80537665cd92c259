"""Installs the clients that `make test-clients` tries, each beside the others and none beside the project.

What is there already is left alone. A client that cannot be had (no network, no build for this machine) is said so, and its
trials are skipped for that reason: unlike the official SDKs, these are no part of what every change is tested with.
"""

import os
import subprocess
import sys
from pathlib import Path

from scripts.node import ROOT, find_node

HERE = Path(__file__).resolve().parent
PYTHON_CLIENTS = ROOT / ".venv-clients"
APART = frozenset({"hermes", "nanobot"})
"""Agents that pin what others need newer, or install modules called `utils` and `tools`: each in an environment of its own."""


def run(*command: str | Path, cwd: Path) -> bool:
    node = find_node()
    path = os.environ.get("PATH", os.defpath)
    if node is not None:  # npm and the programs it starts look for `node` on PATH
        path = os.pathsep.join((str(node.binary.parent), path))
    return subprocess.run(command, cwd=cwd, env={**os.environ, "PATH": path}, check=False).returncode == 0


def environment(name: str) -> Path:
    return ROOT / f".venv-clients-{name}" if name in APART else PYTHON_CLIENTS


def installed(name: str) -> Path:
    """The file that says that it is."""
    return environment(name) / name


def install_python(name: str) -> bool:
    """A client; where it is an agent that our server runs, `-e ../..` among its requirements is that server."""
    requirements, stamp = HERE / name / "requirements.txt", installed(name)
    if stamp.is_file() and stamp.read_bytes() == requirements.read_bytes():
        return True
    python = environment(name) / "bin" / "python"
    if not python.exists() and not run(sys.executable, "-m", "venv", environment(name), cwd=HERE):
        return False
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:")
    if not run(*pip, "-r", requirements, cwd=HERE):
        return False
    stamp.write_bytes(requirements.read_bytes())
    return True


def install_node(name: str) -> bool:
    folder, node = HERE / name, find_node()
    installed, lock = folder / "node_modules" / ".package-lock.json", folder / "package-lock.json"
    if installed.is_file() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return True
    return node is not None and run(*node.npm, "ci", "--loglevel=error", cwd=folder)


CLIENTS = {
    "openai_agents": install_python,
    "adapters": install_python,
    "hermes": install_python,
    "nanobot": install_python,
    "ai_sdk": install_node,
    "codex": install_node,
}


def main() -> int:
    for name, install in CLIENTS.items():
        print(f"{name}: {'installed' if install(name) else 'not to be had here; its trials are skipped'}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
