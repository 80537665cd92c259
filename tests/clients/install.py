"""Installs the clients that `make test-clients` tries, each beside the others and none beside the project.

What is there already is left alone. A client that cannot be had (no network, no build for this machine) is said so, and its
trials are skipped for that reason: unlike the official SDKs, these are no part of what every change is tested with.
"""

import os
import subprocess
import sys
from pathlib import Path

from scripts.node import ROOT, Node, find_node, machine_node, packaged_node

HERE = Path(__file__).resolve().parent
PYTHON_CLIENTS = ROOT / ".venv-clients"
APART = frozenset({"hermes", "nanobot", "open_webui"})
"""What pins what others need newer, or installs modules called `utils` and `tools`: each in an environment of its own."""

NEWER_NODE = {"ai_sdk": 22, "librechat": 24}
"""Clients that run on no older Node.js. Where the machine has none, they have the one that is locked for `make test`."""


def node_of(name: str) -> Node | None:
    """The Node.js that runs a client."""
    if name not in NEWER_NODE:
        return find_node()
    return machine_node(NEWER_NODE[name]) or packaged_node() or packaged_node(PYTHON_CLIENTS)


def run(*command: str | Path, cwd: Path, node: Node | None = None) -> bool:
    path = os.environ.get("PATH", os.defpath)
    if node is not None:  # npm and the programs it starts look for `node` on PATH
        path = os.pathsep.join((str(node.binary.parent), path))
    return subprocess.run(command, cwd=cwd, env={**os.environ, "PATH": path}, check=False).returncode == 0


def environment(name: str) -> Path:
    return ROOT / f".venv-clients-{name}" if name in APART else PYTHON_CLIENTS


def installed(name: str) -> Path:
    """The file that says that it is."""
    return environment(name) / name


def pip(environment: Path, *arguments: str | Path) -> bool:
    python = environment / "bin" / "python"
    if not python.exists() and not run(sys.executable, "-m", "venv", environment, cwd=HERE):
        return False
    quietly = ("--quiet", "--disable-pip-version-check", "--only-binary", ":all:")
    return run(python, "-m", "pip", "install", *quietly, *arguments, cwd=HERE)


def install_python(name: str) -> bool:
    """A client; where it is an agent that our server runs, `-e ../..` among its requirements is that server."""
    requirements, stamp = HERE / name / "requirements.txt", installed(name)
    if stamp.is_file() and stamp.read_bytes() == requirements.read_bytes():
        return True
    if not pip(environment(name), "-r", requirements):
        return False
    stamp.write_bytes(requirements.read_bytes())
    return True


def install_node(name: str) -> bool:
    folder = HERE / name
    if node_of(name) is None and name in NEWER_NODE:
        pip(PYTHON_CLIENTS, "--require-hashes", "-r", ROOT / "requirements" / "node.txt")
    node = node_of(name)
    installed, lock = folder / "node_modules" / ".package-lock.json", folder / "package-lock.json"
    if node is None or (installed.is_file() and installed.stat().st_mtime >= lock.stat().st_mtime):
        return node is not None
    return run(*node.npm, "ci", "--loglevel=error", cwd=folder, node=node)


CLIENTS = {
    "openai_agents": install_python,
    "adapters": install_python,
    "hermes": install_python,
    "nanobot": install_python,
    "ai_sdk": install_node,
    "codex": install_node,
    "librechat": install_node,
}


LARGE = {"open_webui": install_python}
"""Installed only where they are named."""


def main() -> int:
    for name in sys.argv[1:] or CLIENTS:
        install = (CLIENTS | LARGE)[name]
        print(f"{name}: {'installed' if install(name) else 'not to be had here; its trials are skipped'}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
