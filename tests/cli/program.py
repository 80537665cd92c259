"""Runs the real program and talks to it. Nothing here waits by the clock: the URL line says when it serves."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

DEADLINE_S = 90.0
"""After this a program that hangs is killed, so that its test fails instead of hanging."""


def clean_environ(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what changes trunkline's behaviour."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRUNKLINE_", "OPENAI_")) and name != "NO_COLOR"
    }
    return {**kept, **(extra or {})}


def run(*arguments: str, cwd: Path, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The program, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "trunkline", *arguments],
        cwd=cwd,
        env=clean_environ(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


class Program:
    """`trunkline serve …` while the block runs. `merged`: stderr comes among the lines of stdout, to be waited for."""

    def __init__(
        self, *arguments: str, cwd: Path, environ: Mapping[str, str] | None = None, merged: bool = False
    ) -> None:
        self.log = cwd / "stderr.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trunkline", "serve", *arguments],
                cwd=cwd,
                env=clean_environ(environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merged else log,
                text=True,
            )
        self._watchdog = threading.Timer(DEADLINE_S, self.process.kill)
        self._watchdog.daemon = True
        self.url = ""

    def __enter__(self) -> Self:
        self._watchdog.start()
        self.url = self.serving_line().split()[-1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.cancel()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def line(self) -> str:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            raise AssertionError(f"the program ended: {self.process.wait()}\n{self.errors()}")
        return text.rstrip("\n")

    def until(self, text: str) -> list[str]:
        """The lines printed up to and with the one that contains the text."""
        lines = [self.line()]
        while text not in lines[-1]:
            lines.append(self.line())
        return lines

    def serving_line(self) -> str:
        return self.until(" serving on ")[-1]

    def errors(self) -> str:
        return self.log.read_text()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code after one signal."""
        self.send(number)
        return self.process.wait()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=DEADLINE_S)

    def refuses(self) -> None:
        """Returns once nothing accepts connections any more."""
        while True:
            with contextlib.closing(self.connect()) as connection:
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return
                except ConnectionResetError:  # queued in the kernel when the socket closed
                    continue

    def post(self, body: Mapping[str, object], *, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """One chat completion; the status and the decoded body."""
        with contextlib.closing(self.connect()) as connection:
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(body),
                {"content-type": "application/json", **(headers or {})},
            )
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def ask(self, text: str, *, model: str | None = None, max_tokens: int | None = None) -> str:
        """The text of one answer. A real model may talk for minutes: bound it with `max_tokens`."""
        named: dict[str, object] = {} if model is None else {"model": model}
        if max_tokens is not None:
            named["max_tokens"] = max_tokens
        status, answer = self.post({**named, "messages": [{"role": "user", "content": text}]})
        assert status == 200, answer
        content = answer["choices"][0]["message"]["content"]
        assert isinstance(content, str)
        return content

    @contextlib.contextmanager
    def asking(self, text: str) -> Iterator[http.client.HTTPConnection]:
        """A connection on which a streamed answer has been asked for."""
        with contextlib.closing(self.connect()) as connection:
            body = {"stream": True, "messages": [{"role": "user", "content": text}]}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
            yield connection

    @contextlib.contextmanager
    def stream(self, text: str) -> Iterator[Iterator[str]]:
        """The `data:` payloads of one streamed answer, as they arrive."""
        with self.asking(text) as connection:
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            yield (line[6:].decode().strip() for line in answer if line.startswith(b"data: "))
