"""Measures the cases and prints a table.

Each case is run against each server in a fresh process, on a core of its own, with mock upstream and load generator
on the other; repeats go round all of them rather than each in a row, so that what else the machine does falls on all
alike. CPU time is user plus system of the server and its descendants over the window, divided by the units the load
received. A run in which anything was refused, lost or cut gives no figure: it is named below the table, and the exit
status says so.
"""

import argparse
import contextlib
import importlib.metadata
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench import peers, processes
from bench.background import BackgroundFigures
from bench.cases import CASES, TARGETS, Case, Kind, Pacing, Target
from bench.native_tools import BenchError, build_tools
from bench.readers import ReaderFigures
from bench.servers import (
    API_KEY,
    BENCH,
    ROOT,
    Server,
    Setting,
    body_of,
    default_launcher,
    find_nginx,
    missing,
    running,
    running_mock,
)
from bench.sessions import SessionFigures
from bench.store import StoreRow
from bench.table import Figure, render

SPARE_FILES = 200
UNITS: dict[Kind, str] = {
    "cpu": "µs CPU",
    "memory": "KB",
    "latency": "ms",
    "start": "s",
    "translate": "µs CPU",
    "store": "µs CPU",
    "background": "µs CPU",
    "readers": "µs CPU",
    "sessions": "KB",
}


class LoadReport(msgspec.Struct, frozen=True):
    """What native/load.c reports."""

    seconds: float
    completed: int
    events: int
    stamped: int
    bytes: int
    errors: int
    broken: int
    dead: int
    latency_p50_us: int
    latency_p99_us: int
    first_event_p50_us: int
    first_event_p99_us: int
    first_events: int
    first_error: str

    @property
    def units(self) -> int:
        """Events, where there are any: the stamped ones, which are the same behind every server; else answers."""
        return self.stamped or self.events or self.completed


class Window(msgspec.Struct, frozen=True):
    """One measured window: what the load saw, and the server's CPU time and growth from before the load to its end."""

    load: LoadReport
    user_s: float
    system_s: float
    grown_bytes: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON file of one run."""

    command: str
    machine: dict[str, str]
    figures: list[Figure]
    problems: list[str]
    windows: dict[str, list[Window]]
    probes_ms: list[float]


def drive(setting: Setting, server: Server, *, case: Case) -> Window:
    """Puts the load on a server and measures it over the window. Raises BenchError where anything was lost."""
    processes.settle(server.process.pid)
    pids = server.pids
    memory = processes.resident_bytes(pids)
    expected = case.pacing.events if case.pacing and case.kind != "memory" else case.events
    options = {
        "-u": server.port,
        "-P": case.path,
        "-B": body_of(case),
        "-m": "stream" if case.streamed else "request",
        "-k": API_KEY,
        "-c": case.connections,
        "-r": round(case.ramp_s * 1000),
        "-w": round(case.warm_s * 1000),
        "-d": round(case.measured_s * 1000),
        "-e": expected,
    }
    command: list[str | Path] = [setting.tools.load, *(str(word) for option in options.items() for word in option)]
    command += ["-t"] if case.together else []
    load = processes.start(command, core=setting.cores.load, folder=ROOT, stdin=subprocess.PIPE)
    try:
        _expect(load, "begin")
        before = processes.cpu_time(pids)
        _expect(load, "end")
        cpu = processes.cpu_time(pids).since(before)
        grown = processes.resident_bytes(server.pids) - memory
        report = msgspec.json.decode(_line_of(load), type=LoadReport)
    finally:
        processes.stop(load)
    if report.errors or report.broken or report.dead or not (report.units or case.kind == "memory"):
        raise BenchError(
            f"{report.errors} errors {report.first_error!r}, {report.broken} streams cut or with events lost, "
            f"{report.dead} connections refused, {report.units} {case.unit}s"
        )
    if case.together and report.completed < case.connections:
        raise BenchError(f"{report.completed} of {case.connections} streams had ended after a minute")
    return Window(report, cpu.user_s, cpu.system_s, grown)


def figures_of(window: Window, *, case: Case, target: Target, run: int) -> Iterator[Figure]:
    """The rows that one window adds to."""
    unit = UNITS[case.kind]
    if case.kind == "memory":
        yield Figure(
            measure=case.title, unit=unit, target=target, run=run, value=window.grown_bytes / 1024 / case.connections
        )
    elif case.kind == "latency":
        for name, value_us in (("p50", window.load.first_event_p50_us), ("p99", window.load.first_event_p99_us)):
            yield Figure(measure=f"{case.title}, {name}", unit=unit, target=target, run=run, value=value_us / 1000)
    else:
        cpu_us = (window.user_s + window.system_s) * 1e6 / window.load.units
        yield Figure(measure=case.title, unit=unit, target=target, run=run, value=cpu_us)


def measure_start(setting: Setting, target: Target, *, case: Case, run: int) -> Iterator[Figure]:
    """From the start of the process to its first answer: wall time, and the CPU time that it took."""
    began = time.monotonic()
    with running(setting, target, case=case, upstream=None) as server:
        took_s = time.monotonic() - began
        cpu = processes.cpu_time(server.pids)
    yield Figure(measure=case.title, unit="s", target=target, run=run, value=took_s)
    yield Figure(measure=case.title, unit="s CPU", target=target, run=run, value=cpu.total_s)


def measure_translation(setting: Setting, target: Target, *, case: Case, run: int) -> Figure:
    """CPU time per event of translating from one dialect to another, in a process of its own on the server's core."""
    command = [sys.executable, "-m", "bench.translate"]
    process = processes.start(command, core=setting.cores.server, folder=ROOT)
    try:
        said = process.communicate()[0]
    finally:
        processes.stop(process)
    try:
        value = float(said)
    except ValueError:
        raise BenchError(f"python -m bench.translate failed; it said {said!r}") from None
    return Figure(measure=case.title, unit=UNITS[case.kind], target=target, run=run, value=value)


def measure_store(target: Target, *, case: Case, run: int) -> Iterator[Figure]:
    """Rate and CPU time of the store's calls, in a process of its own on both cores: its threads are part of the design."""
    results = BENCH / "results"  # on a disk, where the folder for temporary files may be memory
    results.mkdir(exist_ok=True)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "bench.store",
        "--seconds",
        str(case.measured_s),
        "--folder",
        results,
        "--json",
    ]
    measured = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if measured.returncode != 0:
        raise BenchError(f"python -m bench.store failed; it said {measured.stderr[-500:]!r}")
    for row in msgspec.json.decode(measured.stdout, type=list[StoreRow]):
        for unit, value in (("per second", row.per_second), (UNITS[case.kind], row.cpu_us), ("ms", row.late_p99_ms)):
            if value is not None:
                name = f"{row.what}, producer to reader p99" if unit == "ms" else row.what
                yield Figure(measure=name, unit=unit, target=target, run=run, value=value)


def _printed(program: str, *options: str) -> bytes:
    """The JSON that a program of the bench prints."""
    measured = subprocess.run([sys.executable, "-m", program, *options], cwd=ROOT, capture_output=True, check=False)
    if measured.returncode != 0:
        raise BenchError(f"python -m {program} failed; it said {measured.stderr[-500:]!r}")
    return measured.stdout


def measure_background(target: Target, *, case: Case, run: int) -> Iterator[Figure]:
    """From an agent to a reader by way of the disk. Server and readers share the cores, as its threads do."""
    found = msgspec.json.decode(_printed("bench.background", "--seconds", str(case.measured_s)), type=BackgroundFigures)
    yield Figure(measure=case.title, unit=UNITS[case.kind], target=target, run=run, value=found.cpu_us_per_event)
    for name, value_ms in (("p50", found.p50_ms), ("p99", found.p99_ms)):
        measure = f"{case.title}, agent to reader, {name}"
        yield Figure(measure=measure, unit="ms", target=target, run=run, value=value_ms)


def measure_readers(target: Target, *, case: Case, run: int) -> Iterator[Figure]:
    """CPU time for each reader, and memory while all of them read."""
    for found in msgspec.json.decode(_printed("bench.readers"), type=list[ReaderFigures]):
        measure = f"{case.title}, {found.what}"
        yield Figure(measure=measure, unit=UNITS[case.kind], target=target, run=run, value=found.cpu_us_per_reader)
        yield Figure(measure=measure, unit="KB", target=target, run=run, value=found.grown_kb_per_reader)


def measure_sessions(target: Target, *, case: Case, run: int) -> Iterator[Figure]:
    """Memory of sessions that rest, and the CPU time of the turn that each of them had."""
    for found in msgspec.json.decode(_printed("bench.sessions"), type=list[SessionFigures]):
        measure = f"{case.title}, {found.what}"
        yield Figure(measure=measure, unit=UNITS[case.kind], target=target, run=run, value=found.grown_kb_per_session)
        measure = f"turn of an agent in a session of its own, {found.what}"
        yield Figure(measure=measure, unit="µs CPU", target=target, run=run, value=found.cpu_us_per_turn)


def added_latency(figures: Sequence[Figure]) -> list[Figure]:
    """What each server adds to the mock's own first-event latency, per repeat, from the median of the mock's."""
    added = []
    for figure in figures:
        direct = [f.value for f in figures if f.measure == figure.measure and f.target == "direct" and f.unit == "ms"]
        if figure.unit == "ms" and figure.target != "direct" and direct:
            value = figure.value - statistics.median(direct)
            added.append(msgspec.structs.replace(figure, measure=f"added to the {figure.measure}", value=value))
    return added


def compared(figures: Sequence[Figure]) -> list[Figure]:
    """How many times the other case's figure each case's is that is compared with one, in the same repeat."""
    values = {(figure.measure, figure.target, figure.run): figure.value for figure in figures}
    ratios = []
    for case in CASES.values():
        for figure in figures:
            if case.against is None or figure.measure != case.title:
                continue
            other = CASES[case.against].title
            below = values.get((other, figure.target, figure.run))
            if below:
                ratios.append(msgspec.structs.replace(figure, unit="× relayed", value=figure.value / below))
    return ratios


def above_one(figures: Sequence[Figure]) -> list[Figure]:
    """How much later than a single stream's an event comes in each case that is compared with one, in the same repeat."""
    values = {(figure.measure, figure.target, figure.run): figure.value for figure in figures}
    later = []
    for case in CASES.values():
        for figure in figures:
            if case.above is None or figure.measure != f"{case.title}, p50":
                continue
            alone = values.get((f"{CASES[case.above].title}, p50", figure.target, figure.run))
            if alone is not None:
                measure = f"{figure.measure}, above one stream's"
                later.append(msgspec.structs.replace(figure, measure=measure, value=figure.value - alone))
    return later


class Run:
    """One go at the cases: measures, and remembers figures, windows and problems."""

    def __init__(self, setting: Setting, *, open_files: int) -> None:
        self._setting = setting
        self._open_files = open_files
        self.figures: list[Figure] = []
        self.problems: list[str] = []
        self.windows: dict[str, list[Window]] = {}
        self.probes_ms: list[float] = []

    def measure(self, name: str, case: Case, *, target: Target, run: int) -> None:
        """Adds the figures of one case against one server, or the reason why there are none."""
        needed = 2 * case.connections + SPARE_FILES
        self.probes_ms.append(processes.probe_ms(self._setting.cores.server))
        try:
            if needed > self._open_files:
                raise BenchError(
                    f"needs {needed:,} open files and the limit is {self._open_files:,}; raise it with ulimit -n"
                )
            if case.kind == "start":
                self.figures += measure_start(self._setting, target, case=case, run=run)
                return
            if case.kind == "store":
                self.figures += measure_store(target, case=case, run=run)
                return
            if case.kind == "background":
                self.figures += measure_background(target, case=case, run=run)
                return
            if case.kind == "readers":
                self.figures += measure_readers(target, case=case, run=run)
                return
            if case.kind == "sessions":
                self.figures += measure_sessions(target, case=case, run=run)
                return
            if case.kind == "translate":
                self.figures.append(measure_translation(self._setting, target, case=case, run=run))
                return
            with contextlib.ExitStack() as stack:
                mock = stack.enter_context(running_mock(self._setting, case.pacing)) if case.pacing else None
                server = stack.enter_context(running(self._setting, target, case=case, upstream=mock))
                window = drive(self._setting, server, case=case)
            self.windows.setdefault(f"{name} {target}", []).append(window)
            self.figures += figures_of(window, case=case, target=target, run=run)
        except BenchError as error:
            self.problems.append(f"{name}, {target}: {error}")


def quick(case: Case) -> Case:
    """The same case, short: streams of one second."""
    if case.kind == "memory":
        return case
    if case.pacing and case.streamed:
        pacing = Pacing(events=50, interval_ms=case.pacing.interval_ms, per_write=case.pacing.per_write)
        return msgspec.structs.replace(case, pacing=pacing, warm_s=0.3, window_s=None)
    return msgspec.structs.replace(case, warm_s=0.3, window_s=1.0)


def steadiness(probes_ms: Sequence[float]) -> str:
    """How steady the processor was: below ten per cent single figures can be compared, above it only ratios."""
    least, most = min(probes_ms, default=0.0), max(probes_ms, default=0.0)
    return f"The same fixed work, before each measurement, took {least:.0f} to {most:.0f} ms of CPU time."


def describe_machine(setting: Setting) -> dict[str, str]:
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    packages = ("uvicorn", "starlette", "aiohttp", "uvloop", "httptools", "msgspec")
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": f"{len(cpu)} × {cpu[0]}" if cpu else platform.processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cores": f"server on {setting.cores.server}, mock and load on {setting.cores.load}",
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "launcher": shlex.join(setting.launcher),
        **{name: importlib.metadata.version(name) for name in packages},
        **{name: peer.requirement for name, peer in peers.PEERS.items() if peers.is_installed(name)},
    }


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures what trunkline costs.")
    parser.add_argument("--cases", default="", help=f"of {', '.join(CASES)}; absent: all", metavar="A,B")
    parser.add_argument("--targets", default="", help=f"of {', '.join(TARGETS)}; absent: all there are", metavar="A,B")
    parser.add_argument("--repeats", type=int, help="how often each is measured (3)", metavar="N")
    parser.add_argument("--quick", action="store_true", help="the main cases once, for about 20 s")
    parser.add_argument("--launcher", help="the command that is `trunkline` (absent: the one beside this Python)")
    parser.add_argument("--nginx", help="nginx's program (absent: as found)")
    parser.add_argument("--output", type=Path, help="where the JSON goes (absent: bench/results/TIME.json)")
    arguments = parser.parse_args(words)
    for option, known in (("cases", CASES), ("targets", TARGETS)):
        chosen = [name for name in getattr(arguments, option).split(",") if name]
        if unknown := [name for name in chosen if name not in known]:
            parser.error(f"--{option}: unknown {unknown[0]!r}; there are {', '.join(known)}")
        setattr(arguments, option, chosen)
    return arguments


def _expect(load: "subprocess.Popen[str]", word: str) -> None:
    if (line := _line_of(load).strip()) != word:
        raise BenchError(f"the load generator said {line!r} where {word!r} was due")


def _line_of(load: "subprocess.Popen[str]") -> str:
    return load.stdout.readline() if load.stdout else ""


def main(words: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(words)
    names = arguments.cases or [name for name, case in CASES.items() if case.quick or not arguments.quick]
    repeats = arguments.repeats or (1 if arguments.quick else 3)
    with tempfile.TemporaryDirectory(prefix="trunkline-bench-") as folder:
        try:
            tools = build_tools()
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        launcher = shlex.split(arguments.launcher or "") or default_launcher()
        nginx = arguments.nginx or find_nginx()
        setting = Setting(tools, processes.choose_cores(), Path(folder), tuple(launcher), nginx)
        lacks = {target: what for target in TARGETS if (what := missing(target, nginx=nginx))}
        for target, what in lacks.items():
            print(f"bench: no {target} here, so nothing to compare with it; {what}", file=sys.stderr)
        run = Run(setting, open_files=processes.raise_open_files())
        machine = describe_machine(setting)
        todo = [
            (repeat, name, target)
            for repeat in range(repeats)
            for name in names
            for target in CASES[name].targets
            if (not arguments.targets or target in arguments.targets) and target not in lacks
        ]
        for number, (repeat, name, target) in enumerate(todo, 1):
            print(f"bench: {number}/{len(todo)} {name}, {target}", file=sys.stderr, flush=True)
            case = quick(CASES[name]) if arguments.quick else CASES[name]
            run.measure(name, case, target=target, run=repeat)
    figures = [*run.figures, *added_latency(run.figures), *compared(run.figures), *above_one(run.figures)]
    print(render(figures))
    print(f"\n{steadiness(run.probes_ms)}")
    for problem in run.problems:
        print(f"\nno figure: {problem}")
    output = arguments.output or BENCH / "results" / f"{machine['date'].replace(':', '')}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "bench", *(sys.argv[1:] if words is None else words)])
    report = Report(
        command=command,
        machine=machine,
        figures=figures,
        problems=run.problems,
        windows=run.windows,
        probes_ms=run.probes_ms,
    )
    output.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    print(f"bench: {output}", file=sys.stderr)
    return 1 if run.problems else 0
