"""Starts what is measured, as its users start it, and waits until it has answered once.

Every server listens on a port that the kernel chose. trunkline and the bare stack print theirs; the mock says "port N";
nginx can do neither, so it is given one that was free a moment ago. What a server prints goes to files, as under a
service manager: an access log that nobody reads would stop it once the pipe is full.
"""

import contextlib
import http.client
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import processes
from bench.cases import Case, Pacing, Target
from bench.native_tools import BenchError, Tools

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
API_KEY = "sk-test"
PATH = "/v1/chat/completions"
START_S = 30.0
LOOK_S = 0.002
PRINTED_PORT = re.compile(r"(?:serving on http://[^:/]+:|^port )(\d+)\s")

Process = subprocess.Popen[str]


class Setting(NamedTuple):
    """Where and with what a run is done. `launcher`: the command that is `trunkline`. `nginx`: its program, if any."""

    tools: Tools
    cores: processes.Cores
    work: Path
    launcher: tuple[str, ...]
    nginx: str | None


class Server(NamedTuple):
    process: Process
    port: int

    @property
    def pids(self) -> list[int]:
        return processes.descendants(self.process.pid)


def default_launcher() -> tuple[str, ...]:
    """The console script beside this Python, as users run it; without one, the module."""
    script = Path(sys.executable).with_name("trunkline")
    return (str(script),) if script.exists() else (sys.executable, "-m", "trunkline")


def find_nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def running_mock(setting: Setting, pacing: Pacing) -> Iterator[Server]:
    """The mock upstream, on the core of the load."""
    options = ["-n", str(pacing.events), "-i", str(pacing.interval_ms), "-b", str(pacing.per_write)]
    command: list[str | Path] = [setting.tools.mock, *options]
    with _started("mock", command, setting=setting, core=setting.cores.load) as process:
        yield Server(process, _printed_port(process, setting.work / "mock.out"))


@contextlib.contextmanager
def running(setting: Setting, target: Target, *, case: Case, upstream: Server | None) -> Iterator[Server]:
    """One server, on its own core, having answered one request. Raises BenchError where it does not."""
    if target == "direct":
        if upstream is None:
            raise BenchError(f"{case.title}: nothing to measure directly, the case has no mock upstream")
        yield upstream
        return
    port = _free_port() if target == "nginx" else None
    command = _command(setting, target, case=case, upstream=upstream, port=port)
    environ = {"BENCH_WORK": str(setting.work), "BENCH_UPSTREAM_PORT": str(upstream.port) if upstream else ""}
    with _started(target, command, setting=setting, core=setting.cores.server, environ=environ) as process:
        try:
            server = Server(process, port or _printed_port(process, setting.work / f"{target}.out"))
            wait_for_answer(server, body=body_of(case))
        except BenchError as error:
            raise BenchError(f"{target}: {error}{_tail(setting.work / f'{target}.err')}") from None
        yield server


@contextlib.contextmanager
def _started(
    name: str,
    command: Sequence[str | Path],
    *,
    setting: Setting,
    core: int,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    with (setting.work / f"{name}.out").open("w") as output, (setting.work / f"{name}.err").open("w") as errors:
        process = processes.start(command, core=core, folder=ROOT, environ=environ, output=output, errors=errors)
        try:
            yield process
        finally:
            processes.stop(process)


def body_of(case: Case) -> Path:
    return BENCH / "bodies" / f"{case.body}.json"


def wait_for_answer(server: Server, *, body: Path) -> None:
    """Asks until the answer is 200. A connection refused is asked again, any other answer is final."""
    end = time.monotonic() + START_S
    headers = {"content-type": "application/json", "authorization": f"Bearer {API_KEY}"}
    while time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=START_S)
        try:
            connection.request("POST", PATH, body.read_bytes(), headers)
            answer = connection.getresponse()
            if answer.status == 200:
                return
            raise BenchError(f"answered {answer.status}: {answer.read(500).decode(errors='replace')}")
        except (OSError, http.client.HTTPException):
            if server.process.poll() is not None:
                raise BenchError("stopped before its first answer") from None
            time.sleep(LOOK_S)
        finally:
            connection.close()
    raise BenchError(f"no answer within {START_S:g} s")


def _command(
    setting: Setting, target: Target, *, case: Case, upstream: Server | None, port: int | None
) -> Sequence[str | Path]:
    if target == "trunkline":
        return [*setting.launcher, "serve", "--config", BENCH / f"{case.config}.toml"]
    if target == "bare":
        upstreams = [f"http://127.0.0.1:{upstream.port}"] if upstream else []
        return [sys.executable, "-m", "bench.baseline.bare", case.config, *upstreams]
    if setting.nginx is None or upstream is None or port is None:
        raise BenchError("nginx needs its program and an upstream")
    text = (BENCH / "baseline" / "nginx.conf").read_text()
    for name, value in {"WORK": setting.work, "PORT": port, "UPSTREAM": f"127.0.0.1:{upstream.port}"}.items():
        text = text.replace(name, str(value))
    config = setting.work / "nginx.conf"
    config.write_text(text)
    return [setting.nginx, "-p", setting.work, "-e", setting.work / "nginx.err", "-c", config]


def _printed_port(process: Process, output: Path) -> int:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        ended = process.poll() is not None
        if printed := PRINTED_PORT.search(output.read_text(errors="replace")):
            return int(printed[1])
        if ended:
            raise BenchError(f"{output.stem} stopped before it listened")
        time.sleep(LOOK_S)
    raise BenchError(f"{output.stem} did not say within {START_S:g} s where it listens")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(log: Path, *, lines: int = 12) -> str:
    return "".join(f"\n  {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])
