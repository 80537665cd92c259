"""Does what a page says, as its reader would: saves its files, runs its commands, starts its servers.

What differs from the reader's machine, and only that:

- ports are the kernel's choice: `127.0.0.1:8400` in a command is wherever the server of the page listens;
- `make serve ARGS="…"` is what it runs after setting up, `trunkline serve …`; that make knows the target is checked;
- commands that install something on the machine are not run (SET_UP);
- a model server that the page has beside it is a scripted one.
"""

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cli.program import DEADLINE_S, Program, clean_environ, run
from tests.docs.blocks import Block, Command, Note, commands, pieces, shows

ROOT = Path(__file__).resolve().parents[2]
SET_UP = ("apt ", "brew ", "sudo ", "git clone ", "cd ")
NOT_RUN = {"text", "json", "nginx", "ini"}
PORT = "127.0.0.1:8400"
LAST_LINE = "print(answer.choices[0].message.content)"


class Reader:
    """One reader in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Program | None = None
        self._beside: list[Program] = []
        self._addresses: dict[str, str] = {}
        self._shell: dict[str, str] = {}
        self._output: str | None = None

    def __enter__(self) -> Self:
        programs = self._folder / ".bin"
        programs.mkdir()
        self._program(programs / "python", f'exec {shlex.quote(sys.executable)} "$@"')
        self._program(programs / "trunkline", f'exec {shlex.quote(sys.executable)} -m trunkline "$@"')
        if shutil.which("curl") is None:
            stand_in = Path(__file__).with_name("curl_stand_in.py")
            self._program(programs / "curl", f'exec {shlex.quote(sys.executable)} {shlex.quote(str(stand_in))} "$@"')
        shutil.copytree(ROOT / "examples", self._folder / "examples")
        self._shell["PATH"] = f"{programs}:{clean_environ()['PATH']}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in [*self._beside, *filter(None, [self._server])]:
            program.__exit__(None, None, None)

    @staticmethod
    def _program(path: Path, script: str) -> None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def read(self, page: Path) -> None:
        """Raises AssertionError with the page's line where what it says is not so."""
        for piece in pieces(page):
            try:
                if isinstance(piece, Note):
                    self._note(piece)
                else:
                    self.follow(piece)
            except AssertionError as error:
                raise AssertionError(f"{page.relative_to(ROOT)}:{piece.line}: {error}") from error

    def _note(self, note: Note) -> None:
        if note.name != "upstream":
            return
        address, model = note.value.split()
        folder = self._folder / f".upstream-{len(self._beside)}"
        folder.mkdir()
        (folder / "up.toml").write_text(f'[backends.up]\ntype = "scripted"\nmodels = ["{model}"]\n')
        program = Program("--config", "up.toml", "--port", "0", cwd=folder)
        self._beside.append(program.__enter__())
        self._addresses[address] = program.url.removeprefix("http://")

    def follow(self, block: Block) -> None:
        """Does what one block says."""
        if block.language == "text" and self._output is not None:
            assert shows(block.text, self._output), f"shown:\n{block.text}\nprinted:\n{self._output}"
        self._output = None
        if block.file is not None:
            path = self._folder / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(self._here(block.text))
        match block.language:
            case "console":
                for command in commands(block):
                    self._command(command)
            case "python":
                if block.file is None:
                    self._output = self._python(block.text)
                else:
                    compile(block.text, block.file, "exec")
            case "toml":
                assert block.file is not None, "a TOML block names its file in its first line: # trunkline.toml"
                if "rules" in tomllib.loads(block.text):
                    return  # a script: the configuration that names it is checked, and reads it
                checked = run("check", block.file, cwd=self._folder, environ=self._shell)
                lacking = '-m pip install -e ".[' in checked.stderr  # an extra that is not installed here
                assert checked.returncode == 0 or lacking, checked.stderr
            case language:
                assert language in NOT_RUN, f"{language or 'an unnamed language'!r} is a language that no test runs"

    def _python(self, text: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", self._here(text)],
            cwd=self._folder,
            env=clean_environ(self._shell),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return self._there(done.stdout)

    def _command(self, command: Command) -> None:
        text = command.text
        if text.startswith(SET_UP):
            return
        if text.startswith("make "):
            text = self._made(text)
            if not text:
                return
        words = shlex.split(text)
        if words[0].endswith("bin/trunkline"):
            text = text.replace(words[0], "trunkline", 1)
            words[0] = "trunkline"
        refused = command.output is not None and command.output.startswith("trunkline: error:")
        if words[:2] == ["trunkline", "serve"] and not refused:
            output = self._serve(words[2:])
            assert command.output is None or shows(command.output, output), _differs(command.output, output)
        elif words[0] == "export":
            for word in words[1:]:
                name, _, value = self._here(word).partition("=")
                self._shell[name] = value
        else:
            self._run(text, command.output)

    def _made(self, text: str) -> str:
        """What a make target runs after it has set up; empty where that is all, or where it runs these very tests."""
        _, target, *settings = shlex.split(text)
        known = subprocess.run(
            ["make", "--dry-run", target],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert known.returncode == 0, known.stderr
        if target != "serve":
            return ""
        arguments = "".join(setting.removeprefix("ARGS=") for setting in settings)
        return f"trunkline serve {arguments}".strip()

    def _serve(self, arguments: list[str]) -> str:
        """Starts the page's server, in place of the one before."""
        if self._server is not None:
            self._server.__exit__(None, None, None)
        arguments = [self._here(argument) for argument in arguments]
        with contextlib.suppress(ValueError):
            position = arguments.index("--port")
            del arguments[position : position + 2]
        program = Program(*arguments, "--port", "0", cwd=self._folder, environ=self._shell)
        lines: list[str] = []
        program._watchdog.start()
        self._server = program
        lines.append(program.serving_line())
        program.url = lines[0].split()[-1]
        self._addresses[PORT] = program.url.removeprefix("http://")
        lines += program.until(LAST_LINE)
        return self._there("\n".join(lines))

    def _run(self, text: str, shown: str | None) -> None:
        done = subprocess.run(
            ["sh", "-c", self._here(text)],
            cwd=self._folder,
            env=clean_environ(self._shell),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        output = self._there(done.stdout + done.stderr)
        assert shown is not None or done.returncode == 0, f"$ {text}\nexit code {done.returncode}\n{output}"
        assert shown is None or shows(shown, output), f"$ {text}\n{_differs(shown, output)}"

    def _here(self, text: str) -> str:
        """The page's addresses as the ones of this run."""
        for address, actual in self._addresses.items():
            text = text.replace(address, actual)
        return text

    def _there(self, text: str) -> str:
        """The addresses of this run as the page's, and any version as the one that pages show."""
        for address, actual in self._addresses.items():
            text = text.replace(actual, address)
        return re.sub(r"^trunkline \d+\.\d+\.\d+\S*", "trunkline 0.1.0", text.replace("\r\n", "\n"))


def _differs(shown: str | None, printed: str) -> str:
    return f"shown:\n{shown}\nprinted:\n{printed}"
