"""Says where the time goes: samples trunkline under one case's load and adds the samples up by package and by function.

    python -m bench.profile stream          needs py-spy (pip install py-spy), and the right to trace a child process

Each sample counts for the innermost Python function; what it calls in C (a socket write, a JSON decoder) is its own
time. What runs in the event loop itself, outside any Python function, is named as such. Where each stream has a thread,
only the one that holds the interpreter's lock counts: the others sleep or wait. Sampling costs time too: read the
shares, and take the figures from `python -m bench`.
"""

import argparse
import collections
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import processes
from bench.cases import CASES
from bench.native_tools import BenchError, build_tools
from bench.run import drive
from bench.servers import Setting, default_launcher, find_nginx, running, running_mock

SAMPLES_PER_S = 400
PROFILED_S = 8.0
FRAME = re.compile(r"^(?P<function>.*?) \((?P<file>.*?)(?::\d+)?\)$")
LOOP = "event loop"


class Frame(NamedTuple):
    package: str
    function: str


def read_frame(text: str) -> Frame:
    """A frame as py-spy writes it, `function (file:line)`, by the package that its file belongs to."""
    found = FRAME.match(text)
    if found is None:
        return Frame(LOOP, text)
    file, function = found["file"], found["function"]
    if file.endswith("asyncio/runners.py"):
        return Frame(LOOP, function)
    parts = Path(file).with_suffix("").parts
    for root in ("site-packages", "src"):
        if root in parts:
            package, *rest = parts[parts.index(root) + 1 :]
            if package == "trunkline" and len(rest) > 1:
                package = f"{package}.{rest.pop(0)}"
            return Frame(package, ".".join([*rest, function]))
    return Frame("standard library", ".".join([*parts[-2:], function]))


def shares(stacks: str) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Samples by package and by function, of py-spy's raw output: one stack and its count a line."""
    packages: collections.Counter[str] = collections.Counter()
    functions: collections.Counter[str] = collections.Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frame = read_frame(stack.rsplit(";", 1)[-1])
        packages[frame.package] += int(count)
        functions[f"{frame.package}: {frame.function}"] += int(count)
    return packages, functions


def render(counter: "collections.Counter[str]", *, title: str, limit: int) -> str:
    total = sum(counter.values()) or 1
    rows = [f"| {name} | {count / total:.1%} |" for name, count in counter.most_common(limit)]
    return "\n".join([f"| {title} | share |", "| --- | ---: |", *rows])


def profile(setting: Setting, name: str, *, py_spy: str) -> str:
    """The stacks, in py-spy's raw format, of trunkline under the load of one case."""
    case = msgspec.structs.replace(CASES[name], window_s=PROFILED_S)
    output = setting.work / "stacks"
    with contextlib.ExitStack() as stack:
        mock = stack.enter_context(running_mock(setting, case.pacing)) if case.pacing else None
        server = stack.enter_context(running(setting, "trunkline", case=case, upstream=mock))
        options = ["-p", str(server.process.pid), "-d", str(round(PROFILED_S)), "-r", str(SAMPLES_PER_S)]
        command = [py_spy, "record", *options, "-f", "raw", "-o", str(output), "--nonblocking", "--full-filenames"]
        command += ["--gil"] if case.config == "agent_threads" else []
        sampling = processes.start(command, core=setting.cores.load, folder=setting.work, output=subprocess.DEVNULL)
        stack.callback(processes.stop, sampling)
        drive(setting, server, case=case)
        sampling.wait(PROFILED_S)
    if not output.exists():
        raise BenchError("py-spy wrote nothing; may it trace a process that it did not start? (ptrace_scope, root)")
    return output.read_text()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description="Says where trunkline's time goes.")
    parser.add_argument("case", choices=[name for name, case in CASES.items() if case.kind == "cpu"])
    parser.add_argument("--py-spy", default=shutil.which("py-spy"), help="its program (absent: as found)")
    parser.add_argument("--functions", type=int, default=25, help="how many to name (25)", metavar="N")
    arguments = parser.parse_args(words)
    if arguments.py_spy is None:
        print("bench: no py-spy here; pip install py-spy", file=sys.stderr)
        return 2
    processes.raise_open_files()
    with tempfile.TemporaryDirectory(prefix="trunkline-profile-") as folder:
        setting = Setting(build_tools(), processes.choose_cores(), Path(folder), default_launcher(), find_nginx())
        packages, functions = shares(profile(setting, arguments.case, py_spy=arguments.py_spy))
    print(render(packages, title="package", limit=len(packages)))
    print(f"\n{render(functions, title='function', limit=arguments.functions)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
