"""From a listening socket to a clean exit: start, announce, serve, drain.

uvicorn parses HTTP and keeps the connections; when the process starts, stops and with which exit code is decided
here, because uvicorn's own run loop repeats the signal after a graceful stop (so that a stopped service looks killed),
cancels answers without waiting for their last words, and gives a failed start no exception.

    starting ── lifespan up ──> serving ── first signal ──> draining ── all ended, or grace over ──> stopped, exit 0
        └── first signal or failure ──> stopped                └── second signal ──> exit at once, 128 + signal

While draining nothing new is accepted, idle connections close, and the application has been told. When the grace is
over the application ends each answer left with an error; what has not ended CANCEL_S later is cut.

A process that an agent forks, as `multiprocessing` does, is none of this: signals end it, and it holds no connection.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any, Protocol

import uvicorn

from trunkline.cli.http_protocol import BoundedHttp
from trunkline.cli.lifespan import Lifespan, Message
from trunkline.cli.listen import BACKLOG
from trunkline.cli.socket_protocol import PING_INTERVAL_S, OrderlySocket

CANCEL_S = 6.0
CLOSE_S = 15.0
KEEP_ALIVE_S = 75
POLL_S = 0.02
SIGNALS = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger("trunkline.cli")


class Application(Protocol):
    """What `assembly` makes of a configuration: an ASGI application with a beginning and an end."""

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
        /,
    ) -> None: ...

    @property
    def busy(self) -> bool:
        """Whether work goes on that no connection waits for."""
        ...

    @property
    def runs(self) -> int:
        """How much of that work is a run's."""
        ...

    @property
    def max_message_bytes(self) -> int:
        """The most that one message of a WebSocket may have."""
        ...

    def drain(self) -> None:
        """The server is shutting down: refuse what is new, let what is under way finish."""
        ...

    def abort(self) -> None:
        """The grace is over: end every answer with an error, now."""
        ...

    async def models(self) -> Sequence[str]: ...


class _Server(uvicorn.Server):
    """uvicorn's connections and its once-a-second tick, without its signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def fork(self) -> None:
        """In a process that an agent has forked: a connection is closed for its client when no process has it any more."""
        for connection in self.server_state.connections:
            if not connection.transport.is_closing():  # else its number may be another file's by now
                os.close(connection.transport.get_extra_info("socket").fileno())


class Stop:
    """Whether to stop, as SIGINT and SIGTERM say it. A second one exits at once, whatever the loop is doing."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._signalled = False
        self._handling = False

    def now(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Handlers of the interpreter, not of the loop: they run also while a blocked loop runs nothing else."""
        hold = partial(signal.pthread_sigmask, signal.SIG_BLOCK, SIGNALS)
        os.register_at_fork(before=hold, after_in_parent=_release, after_in_child=self._fork)
        self._handling = True
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            self._handling = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def _fork(self) -> None:
        """In a process that an agent has forked. A signal that came meanwhile has been held back until now, or it would be lost."""
        if self._handling:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
        _release()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._signalled:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(128 + number)
        self._signalled = True
        self._loop.call_soon_threadsafe(self._event.set)


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


async def started(lifespan: Lifespan, stop: Stop) -> bool:
    """Starts the application. False: a signal came first, and the start was undone. Raises what the start raised."""
    starting = asyncio.create_task(lifespan.startup(), name="start")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return False
        starting.result()
        return True
    finally:
        stopping.cancel()
        starting.cancel()
        await asyncio.wait({starting, stopping}, timeout=CLOSE_S)


async def serve_until_stopped(
    application: Application,
    listener: socket.socket,
    stop: Stop,
    *,
    grace_s: float,
    announce: Callable[[], Awaitable[None]],
) -> None:
    """Answers on the socket until `stop`, then drains. `announce` is awaited as soon as connections are accepted."""
    server = _Server(_uvicorn_config(application))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup(sockets=[listener])
    os.register_at_fork(after_in_child=server.fork)
    async with asyncio.TaskGroup() as tasks:
        ticking = tasks.create_task(server.main_loop(), name="tick")
        announcing = tasks.create_task(_waiting_for(announce()), name="announce")
        await stop.wait()
        announcing.cancel()
        await _drain(server, application, grace_s=grace_s)
        ticking.cancel()


async def _waiting_for(work: Awaitable[None]) -> None:
    await work


def _uvicorn_config(application: Application) -> uvicorn.Config:
    app: Any = application  # uvicorn's own ASGI types are narrower than ASGI
    return uvicorn.Config(
        app,
        http=BoundedHttp,
        ws=OrderlySocket,
        ws_max_size=2 * application.max_message_bytes,  # up to here it is refused and the connection stays
        ws_ping_interval=PING_INTERVAL_S,
        ws_ping_timeout=None,
        ws_per_message_deflate=False,  # costs memory for each connection, and every small event a run of the compressor
        lifespan="off",  # driven by Lifespan
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        workers=1,
    )


async def _drain(server: uvicorn.Server, application: Application, *, grace_s: float) -> None:
    application.drain()
    for accepting in server.servers:
        accepting.close()
    if await _settled(server, application, within_s=grace_s):
        return
    answers = len(server.server_state.tasks)
    log.warning("shutdown grace of %g s is over; answers ended: %d, runs cut: %d", grace_s, answers, application.runs)
    application.abort()
    if await _settled(server, application, within_s=CANCEL_S):
        return
    for task in list(server.server_state.tasks):
        task.cancel()
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    await _settled(server, application, within_s=CANCEL_S)


async def _settled(server: uvicorn.Server, application: Application, *, within_s: float) -> bool:
    """Whether every answer has ended, every connection has closed, and nothing goes on in the background.

    Connections are told each time: one that was accepted when the end began turns up only after that.
    """
    state = server.server_state
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while state.tasks or state.connections or application.busy:  # uvicorn keeps plain sets, without an event
                for connection in list(state.connections):
                    connection.shutdown()
                await asyncio.sleep(POLL_S)
    return not (state.tasks or state.connections or application.busy)
