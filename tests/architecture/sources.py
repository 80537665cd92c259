"""The package's own source, parsed once, in the form that the rules of this folder read."""

import ast
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "trunkline"

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Finding(NamedTuple):
    """One place that breaks a rule. `place` is the file and the innermost function or class, as exceptions name it."""

    place: str
    line: int
    what: str


class Source:
    """One module: `path` is relative to src/trunkline."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.lines = text.splitlines()
        self.tree = ast.parse(text)

    @cached_property
    def _owners(self) -> dict[ast.AST, str]:
        """The dotted name of the function or class each node stands in; empty at the top of the module."""
        owners: dict[ast.AST, str] = {}

        def walk(node: ast.AST, owner: str) -> None:
            owners[node] = owner
            inside = f"{owner}.{node.name}".lstrip(".") if isinstance(node, Definition) else owner
            for child in ast.iter_child_nodes(node):
                walk(child, inside)

        walk(self.tree, "")
        return owners

    def owner(self, node: ast.AST) -> str:
        return self._owners[node]

    def finding(self, node: ast.stmt | ast.expr | ast.ExceptHandler | ast.arg, what: str) -> Finding:
        named = node.name if isinstance(node, Definition) else ""
        inside = ".".join(filter(None, (self.owner(node), named)))
        return Finding(f"{self.path}:{inside}" if inside else self.path, node.lineno, what)


def package_sources() -> list[Source]:
    """Every module of the package, in the order of its path."""
    return [
        Source(path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]
