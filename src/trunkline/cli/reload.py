"""`trunkline serve --reload`: a parent that holds the port, and a child that serves on it.

The parent listens and never accepts; each child inherits the socket. While a new child starts, connections wait in the
kernel's queue, so that no client sees a refusal. On a change the old child drains and the new one starts beside it: a
long answer does not delay the next version. A child that cannot start has said why on stderr; the parent waits for the
next change. A child whose parent is gone sees the end of its stdin and stops.
"""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from trunkline.cli.lifecycle import CANCEL_S, CLOSE_S, Stop
from trunkline.cli.listen import listen
from trunkline.cli.output import Output
from trunkline.cli.serve import ServeOptions, check_options, served_config
from trunkline.cli.watch import Snapshot, changed, snapshot, watched
from trunkline.model.errors import ConfigError

POLL_S = 0.3
SCAN_SHARE = 10
"""A slow walk is repeated rarely: at most a tenth of the time is spent in it."""


class Reloader:
    """Runs children until `stop`."""

    def __init__(self, options: ServeOptions, *, environ: Mapping[str, str], output: Output) -> None:
        self._options = options
        self._environ = environ
        self._output = output
        self._listener: socket.socket | None = None
        self._address: tuple[str, int] | None = None
        self._paths: list[Path] = [options.config] if options.config else []
        self._grace_s = 0.0
        self._served = False
        self._leaving: set[asyncio.subprocess.Process] = set()

    async def run(self, stop: Stop) -> None:
        """Raises ConfigError only where no change of a file could help."""
        check_options(self._options)
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            while not stopping.done():
                await self._one_version(stopping)
            await self._end_children()
        finally:
            stopping.cancel()
            if self._listener is not None:
                self._listener.close()

    async def _one_version(self, stopping: asyncio.Task[None]) -> None:
        """Serves the files as they are now, until they change or `stopping` is done."""
        child: asyncio.subprocess.Process | None = None
        paths = self._paths
        before = snapshot(paths)  # before anything reads the files: a change meanwhile is seen
        listener = self._prepared()
        if self._paths != paths:
            before = {path: before.get(path, state) for path, state in snapshot(self._paths).items()}
        if listener is not None:
            child = await self._start(listener)
        differing = await self._until_changed(before, child, stopping)
        if child is not None and child.returncode is None:
            child.send_signal(signal.SIGTERM)
            self._leaving.add(child)
        if differing:
            self._output.note(f"{_listing(differing)} changed; restarting")

    def _prepared(self) -> socket.socket | None:
        """The socket for the present configuration; None where that is wrong, which has been said."""
        try:
            config, base_dir = served_config(self._options, environ=self._environ)
            address = (config.server.host, config.server.port)
            if self._listener is None or address != self._address:
                if self._listener is not None:
                    self._listener.close()
                    self._listener = None
                self._listener = listen(config.server.host, port=config.server.port)
                self._address = address
        except ConfigError as error:
            fixable = self._served or (self._options.config is not None and error.file is not None)
            if not fixable:  # a flag, a variable or a taken port: no change of a file would help
                raise
            self._output.error(error.message)
            self._output.note("waiting for a change")
            return None
        own = [self._options.config] if self._options.config else []
        self._paths = own + watched(config, base_dir=base_dir)
        self._grace_s = config.server.shutdown_grace_s
        return self._listener

    async def _start(self, listener: socket.socket) -> asyncio.subprocess.Process:
        descriptor = listener.fileno()
        arguments = [*_arguments(self._options), f"--listen-fd={descriptor}", *(["--again"] if self._served else [])]
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "trunkline",
            *arguments,
            stdin=asyncio.subprocess.PIPE,  # held open; its end tells the child that this process is gone
            pass_fds=[descriptor],
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
        )
        self._served = True
        return child

    async def _until_changed(
        self, before: Snapshot, child: asyncio.subprocess.Process | None, stopping: asyncio.Task[None]
    ) -> list[Path]:
        pause_s = POLL_S
        waiting = False
        while True:
            await asyncio.wait({stopping}, timeout=pause_s)
            if stopping.done():
                return []
            began = time.monotonic()
            after = snapshot(self._paths)
            pause_s = max(POLL_S, SCAN_SHARE * (time.monotonic() - began))
            differing = changed(before, after)
            if differing:
                return await self._settled(before, after)
            if child is not None and child.returncode is not None and not waiting:
                waiting = True
                self._output.note("waiting for a change")

    async def _settled(self, before: Snapshot, after: Snapshot) -> list[Path]:
        """What differs once nothing has changed between two looks: editors and checkouts write several times."""
        while True:
            await asyncio.sleep(POLL_S / 3)
            latest = snapshot(self._paths)
            if latest == after:
                return changed(before, latest)
            after = latest

    async def _end_children(self) -> None:
        """Waits for the children to drain; they were told. One that does not end is killed."""
        for child in self._leaving:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), timeout=self._grace_s + 2 * CANCEL_S + CLOSE_S)
            if child.returncode is None:
                child.kill()
                await child.wait()


def _arguments(options: ServeOptions) -> list[str]:
    """The command line that means these options."""
    arguments = ["serve", *(f"{flag}={value}" for flag, value in options.flags.items())]
    if options.config is not None:
        arguments.append(f"--config={options.config}")
    if options.target is not None:
        arguments.append(options.target)
    return arguments


def _listing(paths: list[Path]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{paths[0]}{more}"


def serve_reloading(options: ServeOptions, *, environ: Mapping[str, str], output: Output) -> None:
    """Serves until a signal, each version of the files in turn."""

    async def run() -> None:
        stop = Stop()
        with stop.on_signals():
            await Reloader(options, environ=environ, output=output).run(stop)

    asyncio.run(run())
