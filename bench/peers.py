"""Other gateways that relay the same dialect, to be measured in the same run: what each is, and how its users start it.

    python -m bench.peers [--only smg,vllm-router,litellm]      installs them; nginx is Debian's (apt install nginx-light)

Each has an environment of its own under build/peers, so that its dependencies meet neither ours nor another's. One that
cannot be had here is said so and left out of the table. Versions are pinned, because a figure belongs to a version; only
built packages are taken, because building would fetch tools that nothing pins. litellm's is one that stands clear of the
releases that carried malware (1.82.7, 1.82.8, 1.107.0): move it with care.

Each is set up to do the least that it can: one worker, no retries, no log below errors, no check of keys, and limits out of
the way. What that leaves is its relay.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "peers"
LIMITS = ("--max-concurrent-requests", "4096", "--queue-size", "4096")
ROUTER = (
    *("--host", "127.0.0.1", "--port", "{port}", "--prometheus-port", "{other_port}"),
    *("--worker-urls", "{upstream}", "--policy", "round_robin"),
    *("--log-level", "error", "--disable-retries", *LIMITS),
)


class Peer(NamedTuple):
    """A gateway from PyPI. In `arguments`, {port}, {other_port}, {upstream} and {here} are filled in."""

    requirement: str
    arguments: tuple[str, ...]
    environ: dict[str, str]


PEERS = {
    "smg": Peer("smg==1.13.0", ("smg", "launch", *ROUTER), {}),
    "vllm-router": Peer("vllm-router==0.1.17", ("vllm-router", *ROUTER), {}),
    "litellm": Peer(
        "litellm[proxy]==1.102.4",
        ("litellm", "--config", "{here}/baseline/litellm.yaml", "--host", "127.0.0.1", "--port", "{port}"),
        {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    ),
}


def command_of(name: str, *, port: int, other_port: int, upstream: str, build: Path = BUILD) -> list[str]:
    """What starts the peer."""
    program, *words = PEERS[name].arguments
    places = {"port": port, "other_port": other_port, "upstream": upstream, "here": HERE}
    return [str(build / name / "bin" / program), *(word.format_map(places) for word in words)]


def is_installed(name: str, *, build: Path = BUILD) -> bool:
    """Whether this version of the peer is there, whole."""
    stamp = build / name / "installed"
    return stamp.is_file() and stamp.read_text() == PEERS[name].requirement


def install(name: str, *, build: Path = BUILD) -> bool:
    """Makes its environment anew, unless it is there. False where it cannot be had."""
    if is_installed(name, build=build):
        return True
    home, requirement = build / name, PEERS[name].requirement
    shutil.rmtree(home, ignore_errors=True)
    pip = (home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    commands: tuple[tuple[str | Path, ...], ...] = (
        (sys.executable, "-m", "venv", home),
        (*pip, "--only-binary", ":all:", requirement),
    )
    if any(subprocess.run(command, check=False).returncode for command in commands):
        return False
    (home / "installed").write_text(requirement)
    return True


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="Installs the gateways to compare with.")
    parser.add_argument("--only", default=",".join(PEERS), help=f"of {', '.join(PEERS)}; absent: all", metavar="A,B")
    names = [name for name in parser.parse_args(words).only.split(",") if name]
    if unknown := [name for name in names if name not in PEERS]:
        parser.error(f"--only: unknown {unknown[0]!r}; there are {', '.join(PEERS)}")
    for name in names:
        had = install(name)
        print(
            f"{name}: {PEERS[name].requirement if had else 'not to be had here; make bench leaves it out'}", flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
