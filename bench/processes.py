"""Processes seen from outside: CPU time and memory of one and its descendants, cores, limits, start and stop.

Nothing here asks the measured program anything: the figures are the kernel's, and hold for any gateway in any language.
CPU time comes in clock ticks (10 ms); a window of seconds keeps their error below a few per cent.
"""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

PROC = Path("/proc")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STOP_S = 8.0


class CpuTime(NamedTuple):
    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        return self.user_s + self.system_s

    def since(self, before: "CpuTime") -> "CpuTime":
        return CpuTime(self.user_s - before.user_s, self.system_s - before.system_s)


class Stat(NamedTuple):
    """What is read of one /proc/PID/stat."""

    parent: int
    user_ticks: int
    system_ticks: int


class Cores(NamedTuple):
    """Where the measured program runs, and where what drives it runs."""

    server: int
    load: int


def parse_stat(text: str) -> Stat:
    """Reads /proc/PID/stat. Its second field, the name in parentheses, may itself hold spaces and parentheses."""
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(parent=int(fields[1]), user_ticks=int(fields[11]), system_ticks=int(fields[12]))


def descendants(pid: int, *, proc: Path = PROC) -> list[int]:
    """The process and everything that it has started and that still runs."""
    children: dict[int, list[int]] = {}
    for folder in proc.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                children.setdefault(parse_stat((folder / "stat").read_text()).parent, []).append(int(folder.name))
    found = [pid]
    for known in found:
        found += children.get(known, [])
    return found


def cpu_time(pids: Sequence[int], *, proc: Path = PROC) -> CpuTime:
    user = system = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            stat = parse_stat((proc / str(pid) / "stat").read_text())
            user += stat.user_ticks
            system += stat.system_ticks
    return CpuTime(user * TICK_S, system * TICK_S)


def resident_bytes(pids: Sequence[int], *, proc: Path = PROC) -> int:
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            pages += int((proc / str(pid) / "statm").read_text().split()[1])
    return pages * PAGE_BYTES


def choose_cores() -> Cores:
    """The first and the last core this process may use. On a machine with one they are the same, and figures suffer."""
    cores = sorted(os.sched_getaffinity(0))
    return Cores(server=cores[0], load=cores[-1])


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Processes started inside run on this core alone: affinity is inherited."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_open_files() -> int:
    """Raises the limit on open files as far as it goes, for us and what we start. Returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def start(
    command: Sequence[str | Path],
    *,
    core: int,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    output: IO[str] | int = subprocess.PIPE,
    errors: IO[str] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> "subprocess.Popen[str]":
    """Starts a program on one core."""
    with on_core(core):
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environ or {})},
            stdin=stdin,
            stdout=output,
            stderr=errors,
            text=True,
        )


def probe_ms(core: int, *, steps: int = 200_000) -> float:
    """CPU time of a fixed piece of work on a core: what else the machine, or the host under it, does shows here too."""
    with on_core(core):
        before = time.process_time()
        kept = {}
        for step in range(steps):
            kept[step & 1023] = (step, before)
        return (time.process_time() - before) * 1000


def settle(pid: int, *, within_s: float = 6.0, look_s: float = 0.2) -> None:
    """Waits until the process idles: work left from its start must not be charged to what is measured next."""
    end = time.monotonic() + within_s
    pids = descendants(pid)
    before = cpu_time(pids)
    while time.monotonic() < end:
        time.sleep(look_s)
        now = cpu_time(pids)
        if now.since(before).total_s <= TICK_S:
            return
        before = now


def stop(process: "subprocess.Popen[str]") -> None:
    """Ends the process, kindly first, and whatever it has started."""
    pids = descendants(process.pid)
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    for pid in pids if process.poll() is None else pids[1:]:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
