"""Counts the instructions that one relayed request takes: the same number on a busy machine as on an idle one.

    python -m bench.instructions              needs valgrind (apt install valgrind); takes a minute or two

CPU time is what a user pays, and it depends on who else is there. This says whether a change made the way of a request longer
or shorter, to one or two per cent. It sees neither the kernel's work nor what a cold cache costs, so it is no figure to compare
servers by.
"""

import argparse
import contextlib
import http.client
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import processes
from bench.cases import CASES
from bench.native_tools import BenchError, build_tools
from bench.servers import API_KEY, Server, Setting, body_of, default_launcher, running, running_mock

CASE = CASES["request"]
WARM = 60
TOTAL = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)


def ask(server: Server, *, times: int) -> None:
    """The case's request on one connection, one after the other."""
    body, headers = (
        body_of(CASE).read_bytes(),
        {"content-type": "application/json", "authorization": f"Bearer {API_KEY}"},
    )
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
        for _ in range(times):
            connection.request("POST", CASE.path, body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise BenchError(f"answered {answer.status}")


def read_total(dump: str) -> int:
    """The instructions that a dump of callgrind's has."""
    found = TOTAL.search(dump)
    if found is None:
        raise BenchError("callgrind's dump has no total")
    return int(found[1])


def count(setting: Setting, *, requests: int) -> float:
    """Instructions for each of so many requests, once the server is warm."""
    output = setting.work / "callgrind"
    valgrind = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", "--cache-sim=no", sys.executable)
    setting = setting._replace(launcher=(*valgrind, *setting.launcher))
    assert CASE.pacing is not None
    with running_mock(setting, CASE.pacing) as mock, running(setting, "trunkline", case=CASE, upstream=mock) as server:
        control = ["callgrind_control", str(server.process.pid)]
        ask(server, times=WARM)
        subprocess.run([*control, "--zero"], check=True, capture_output=True)
        ask(server, times=requests)
        subprocess.run([*control, "--dump"], check=True, capture_output=True)
        return read_total(output.with_name("callgrind.1").read_text()) / requests


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description="Counts what a request takes.")
    parser.add_argument("--requests", type=int, default=150, help="how many are counted (150)", metavar="N")
    arguments = parser.parse_args(words)
    if shutil.which("valgrind") is None:
        print("bench: no valgrind here; apt install valgrind", file=sys.stderr)
        return 2
    program = default_launcher()
    launcher = program[1:] if program[0] == sys.executable else program
    with tempfile.TemporaryDirectory(prefix="trunkline-instructions-") as folder:
        setting = Setting(build_tools(), processes.choose_cores(), Path(folder), launcher, None)
        print(f"{count(setting, requests=arguments.requests):,.0f} instructions for a relayed request")
    return 0


if __name__ == "__main__":
    sys.exit(main())
