"""Which files a reloading server depends on, and what they look like now.

Looked at, not subscribed to: a walk over the few folders that hold agents costs less than a millisecond, and works the
same on every system, in containers and on network file systems.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from trunkline.config.schema import Config, PythonSettings, ScriptedSettings

Snapshot: TypeAlias = Mapping[Path, tuple[int, int]]
"""Modification time in nanoseconds and size in bytes, by file."""

SKIPPED = frozenset({"node_modules", "site-packages", "__pycache__"})


def watched(config: Config, *, base_dir: Path) -> list[Path]:
    """Folders of agents and files of scripts, of this configuration."""
    found: list[Path] = []
    for settings in config.backends.values():
        match settings:
            case PythonSettings(target=target):
                where = target.rpartition(":")[0]
                found.append((base_dir / Path(where).expanduser()).parent if where.endswith(".py") else base_dir)
            case ScriptedSettings(script=str(script)):
                found.append(base_dir / script)
            case _:
                pass
    return found


def snapshot(paths: Iterable[Path]) -> Snapshot:
    """The state of each file, and of each Python file below each folder. What is not there has no entry."""
    state: dict[Path, tuple[int, int]] = {}
    for path in paths:
        for file in _python_files(path) if path.is_dir() else [path]:
            try:
                status = file.stat()
            except OSError:
                continue  # gone since it was listed, or not there yet: it will differ when it appears
            state[file] = (status.st_mtime_ns, status.st_size)
    return state


def changed(before: Snapshot, after: Snapshot) -> list[Path]:
    """Files that appeared, went or differ."""
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))


def _python_files(folder: Path) -> Iterator[Path]:
    """Below the folder, but not in hidden folders, caches and virtual environments."""
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and name not in SKIPPED and not (here / name / "pyvenv.cfg").exists()
        ]
        yield from (here / name for name in files if name.endswith(".py"))
