"""The files beside an agent's file that it imports, and whether it would get them.

Python keeps one module for each name. Where the folders of two agents both have a `helper.py`, or a helper is called as a library
is, whoever comes second is given the first one's in silence. That is found here, before the file is run and after it, and refused.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trunkline.model.errors import ConfigError


class _Claim(msgspec.Struct, frozen=True):
    """The file that an agent means by a name; it holds for as long as the agent's own module is loaded."""

    file: Path
    agent_module: str


_CLAIMED: dict[str, _Claim] = {}
"""By the imported name. An import inside a function is not done yet when the next agent's file is loaded."""


def neighbours(path: Path) -> dict[str, Path]:
    """What the file imports of what is beside it, by name."""
    found = {name: _beside(path.parent, name) for name in _imported(path)}
    return {name: file for name, file in found.items() if file is not None and file != path}


def check_neighbours(path: Path, found: dict[str, Path], *, as_module: str | None) -> None:
    """Raises ConfigError where one of them is another file to Python. `as_module`: the target that has the file in a package."""
    for name, beside in found.items():
        file = _known_as(name)
        if file is not None and file != beside:
            package = "served from the one above it"
            if as_module is not None:
                package = f"target {as_module!r}, and in the file 'from .{name} import …'"
            raise ConfigError(
                f"agent {path.name!r} imports {name!r}, which is {file} here already, not {beside} beside it; "
                f"give one of them another name, or have the folder as a package: {package}"
            )


def claim(found: dict[str, Path], *, agent_module: str) -> None:
    """What an agent that has been loaded goes on to mean by these names."""
    _CLAIMED.update({name: _Claim(file, agent_module) for name, file in found.items()})


def _imported(path: Path) -> Iterator[str]:
    """The names of modules in its import statements, wherever these are. A file that is no Python says so when it is run."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                dotted = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), names=names, level=0):
                dotted = [f"{module}.{alias.name}" for alias in names]
            case _:
                continue
        for name in dotted:
            parts = name.split(".")
            if parts[0] not in sys.stdlib_module_names:
                yield from (".".join(parts[: count + 1]) for count in range(len(parts)))


def _beside(folder: Path, name: str) -> Path | None:
    """The module of this name in the folder."""
    place = folder.joinpath(*name.split("."))
    return next((file.resolve() for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


def _known_as(name: str) -> Path | None:
    """What Python has under this name, or an agent before has claimed."""
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
        return None if file is None else Path(file).resolve()
    claimed = _CLAIMED.get(name)
    return claimed.file if claimed is not None and claimed.agent_module in sys.modules else None
