"""Starts what is measured, as its users start it, and waits until it has answered once.

Every server listens on a port that the kernel chose. trunkline and the bare stack print theirs; the mock says "port N";
nginx and the peers can do neither, so each is given one that was free a moment ago. What a server prints goes to files, as under a
service manager: an access log that nobody reads would stop it once the pipe is full.
"""

import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import peers, processes
from bench.cases import Case, Pacing, Target
from bench.native_tools import BenchError, Tools

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
API_KEY = "sk-test"
START_S = 120.0
NOT_YET = (404, 503)
LOOK_S = 0.002
PRINTERS = ("bare", "trunkline")  # they take a port that is free and say which
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


def missing(target: Target, *, nginx: str | None) -> str | None:
    """What to do before this server can be measured, where it cannot be yet."""
    if target == "nginx" and nginx is None:
        return "apt install nginx-light"
    if target in peers.PEERS and not peers.is_installed(target):
        return "make bench-peers"
    return None


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
    port = None if target in PRINTERS else _free_port()
    command = _command(setting, target, case=case, upstream=upstream, port=port)
    environ = _environ(setting, target, upstream=upstream)
    with _started(target, command, setting=setting, core=setting.cores.server, environ=environ) as process:
        try:
            server = Server(process, port or _printed_port(process, setting.work / f"{target}.out"))
            wait_for_answer(server, path=case.path, body=body_of(case))
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


def wait_for_answer(server: Server, *, path: str, body: Path) -> None:
    """Asks until the answer is 200. Asks again where nobody listens, or a router has not found its upstream yet."""
    end = time.monotonic() + START_S
    headers = {"content-type": "application/json", "authorization": f"Bearer {API_KEY}"}
    while time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=START_S)
        try:
            connection.request("POST", path, body.read_bytes(), headers)
            answer = connection.getresponse()
            if answer.status == 200:
                return
            if answer.status in NOT_YET:
                raise ConnectionError
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
        upstreams = [_address(upstream)] if upstream else []
        return [sys.executable, "-m", "bench.baseline.bare", case.config, *upstreams]
    if upstream is None or port is None:
        raise BenchError(f"{target} needs an upstream")
    if target in peers.PEERS:
        return peers.command_of(target, port=port, other_port=_free_port(), upstream=_address(upstream))
    if setting.nginx is None:
        raise BenchError("nginx needs its program")
    text = (BENCH / "baseline" / "nginx.conf").read_text()
    for name, value in {"WORK": setting.work, "PORT": port, "UPSTREAM": f"127.0.0.1:{upstream.port}"}.items():
        text = text.replace(name, str(value))
    config = setting.work / "nginx.conf"
    config.write_text(text)
    return [setting.nginx, "-p", setting.work, "-e", setting.work / "nginx.err", "-c", config]


def _environ(setting: Setting, target: Target, *, upstream: Server | None) -> Mapping[str, str]:
    """Ours, for the configurations; a peer sees its own programs first, and never ours."""
    environ = {"BENCH_WORK": str(setting.work), "BENCH_UPSTREAM_PORT": str(upstream.port) if upstream else ""}
    if target in peers.PEERS and upstream:
        path = os.pathsep.join((str(peers.BUILD / target / "bin"), os.environ.get("PATH", os.defpath)))
        environ |= {"PATH": path, "PYTHONPATH": "", "BENCH_UPSTREAM": f"{_address(upstream)}/v1"}
        environ |= peers.PEERS[target].environ
    return environ


def _address(upstream: Server) -> str:
    return f"http://127.0.0.1:{upstream.port}"


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
