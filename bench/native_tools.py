"""The mock upstream and the load generator, in C because they must cost next to nothing beside what they measure.

There is no second implementation in Python: it would take more CPU than the server and measure itself. Without a C
compiler there is no benchmark, and the message says how to get one. What is built is named after its source's hash.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).resolve().parent / "native"
BUILD = SOURCES.parent.parent / "build" / "bench"
COMPILERS = ("cc", "gcc", "clang")


class BenchError(Exception):
    """The benchmark cannot go on; the message says why and what to do."""


class Tools(NamedTuple):
    mock: Path
    load: Path


def find_compiler() -> str | None:
    """The C compiler that CC names, or the first one there is."""
    return next(filter(None, map(shutil.which, (os.environ.get("CC", ""), *COMPILERS))), None)


def build_tools(folder: Path = BUILD) -> Tools:
    """Compiles what is not compiled yet. Raises BenchError without a compiler."""
    return Tools(mock=_build("mock", folder=folder), load=_build("load", folder=folder))


def _build(name: str, *, folder: Path) -> Path:
    source = SOURCES / f"{name}.c"
    program = folder / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if program.exists():
        return program
    compiler = find_compiler()
    if compiler is None:
        raise BenchError("the load generator is written in C and no C compiler was found; apt install gcc, or set CC")
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(f".{os.getpid()}")
    done = subprocess.run([compiler, "-O2", "-o", unfinished, source], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{compiler} could not build {source}:\n{done.stderr}")
    unfinished.replace(program)
    return program
