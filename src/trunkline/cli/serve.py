"""`trunkline serve`: one process, one event loop, one listening socket.

Everything that can be wrong before the port opens is found first, in the order in which a person would fix it: the
arguments, the configuration, the port, the agent or model. Each ends in one sentence on stderr and exit code 1.
"""

import asyncio
import contextlib
import gc
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
from uvicorn.loops.auto import auto_loop_factory

from trunkline.assembly import assemble
from trunkline.cli.lifecycle import CLOSE_S, Application, Stop, log, serve_until_stopped, started
from trunkline.cli.lifespan import Lifespan
from trunkline.cli.listen import base_url, listen
from trunkline.cli.model_names import with_default_model, with_model_names
from trunkline.cli.output import Output
from trunkline.cli.prints import Prints
from trunkline.cli.recognise import with_dialects
from trunkline.cli.target import target_document
from trunkline.cli.welcome import print_welcome, url_line
from trunkline.config.environment import key_variable
from trunkline.config.load import build_config, load_config
from trunkline.config.schema import Config, EmbeddedSettings
from trunkline.model.errors import BackendError, ConfigError

MODELS_WITHIN_S = 5.0
PARENT_FD = 0
LEFT_S = 1.0
EXIT_S = 5.0


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The command line of `serve`. `flags` are the settings given as flags, by flag.

    `listen_fd` and `again` are set by the reloading parent: a socket that listens already, and whether this is a
    restart.
    """

    target: str | None = None
    config: Path | None = None
    flags: Mapping[str, str] = {}
    workers: int = 1
    listen_fd: int | None = None
    again: bool = False


def check_options(options: ServeOptions) -> None:
    """Raises ConfigError where the arguments do not go together."""
    if options.workers != 1:
        raise ConfigError(
            f"expected 1, got {options.workers}: session locks, concurrency slots and leases live in this "
            "process's memory, so a second process would not see them; run several servers behind a balancer instead",
            key="--workers",
        )
    if options.target is not None and options.config is not None:
        raise ConfigError(
            f"TARGET {options.target!r} and --config {options.config} are two ways to say what is served; give one"
        )


def served_config(options: ServeOptions, *, environ: Mapping[str, str]) -> tuple[Config, Path]:
    """The configuration that these options mean, and the folder its relative paths start from."""
    if options.config is not None:
        return load_config(options.config, environ=environ, flags=options.flags), options.config.parent
    return build_config(target_document(options.target), environ=environ, flags=options.flags), Path()


def serve(
    options: ServeOptions,
    *,
    config: Config,
    base_dir: Path,
    environ: Mapping[str, str],
    output: Output,
    prints: Prints,
) -> None:
    """Serves until a signal. `prints` is where the log goes. Raises ConfigError or BackendError where it cannot start."""
    if options.listen_fd is None:
        listener = listen(config.server.host, port=config.server.port)
    else:
        os.set_inheritable(options.listen_fd, False)  # not for what an agent starts
        listener = socket.socket(fileno=options.listen_fd)
    os.register_at_fork(after_in_child=partial(_let_go, listener))
    with contextlib.closing(listener), asyncio.Runner(loop_factory=auto_loop_factory(use_subprocess=False)) as runner:
        config = runner.run(with_model_names(config, base_dir=base_dir))
        if options.config is None:
            config = with_default_model(runner.run(with_dialects(config)))
        application = assemble(config, base_dir=base_dir, only_model_answers=options.config is None)
        given_in = key_variable(environ, profile=config.server.profile, api_keys=config.server.api_keys)
        runner.run(_serve(application, listener, options=options, config=config, given_in=given_in, output=output))
        _exit_in_time(prints, output)
        if runner.run(_left_behind()):
            prints.finish()
            os._exit(0)  # closing the loop would wait for them for ever


def _let_go(listener: socket.socket) -> None:
    """In a process that an agent has forked: it may outlive this one, and the next is to have the port."""
    if listener.fileno() >= 0:
        os.close(listener.fileno())


async def _left_behind() -> bool:
    """Whether some task does not end when it is cancelled, as an agent's may that swallows its cancellation.

    By now everything that had to be written and closed has been, so it is not worth a service that will not stop.
    """
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    left = (await asyncio.wait(tasks, timeout=LEFT_S))[1] if tasks else set()
    if left:
        names = ", ".join(sorted(task.get_name() for task in left))
        log.error("%d tasks did not end when they were cancelled: %s", len(left), names)
    return bool(left)


def _exit_in_time(prints: Prints, output: Output) -> None:
    """Ends the process where it does not end by itself: Python waits for threads of executors and for what `multiprocessing` has
    started, and an agent may have one that never returns. In that time agents can still do what they want done at the exit."""

    def leave() -> None:
        prints.finish()
        others = set(threading.enumerate()) - {threading.main_thread()}
        waiting = sorted(thread.name for thread in others if not thread.daemon)
        what = f"threads that have not ended ({', '.join(waiting)})" if waiting else "processes that have not ended"
        output.note(f"stopped without waiting for {what}; agents started them")
        os._exit(0)

    for after_s, end in ((EXIT_S, leave), (EXIT_S + LEFT_S, partial(os._exit, 0))):  # the note may wait for its reader
        timer = threading.Timer(after_s, end)
        timer.daemon = True
        timer.start()


async def _serve(
    application: Application,
    listener: socket.socket,
    *,
    options: ServeOptions,
    config: Config,
    given_in: str | None,
    output: Output,
) -> None:
    url = base_url(config.server.host, port=listener.getsockname()[1])

    async def announce() -> None:
        output.line(url_line(output, url))
        if not options.again:
            models = await _models(application, output=output)
            print_welcome(output, config=config, url=url, models=models, given_in=given_in)

    stop = Stop()
    lifespan = Lifespan(application)
    with stop.on_signals(), _stopping_with_parent(stop, options=options):
        async with _loading(config, output=output):
            up = await started(lifespan, stop)
        if up:
            _spare_the_collector()
            try:
                await serve_until_stopped(
                    application, listener, stop, grace_s=config.server.shutdown_grace_s, announce=announce
                )
            finally:
                await _shut_down(lifespan)


def _spare_the_collector() -> None:
    """What was loaded stays; only what requests leave behind is worth looking at, and they leave few cycles.

    With the defaults the collector took a tenth of a busy server's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


async def _shut_down(lifespan: Lifespan) -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await lifespan.shutdown()
    except TimeoutError:
        log.error("the backends did not close within %s s", f"{CLOSE_S:g}")
    except Exception:  # noqa: BLE001 - the process ends either way; the reason belongs in the log
        log.exception("a backend failed to close")


async def _models(application: Application, *, output: Output) -> Sequence[str]:
    """The names to show. A model server that is not up yet is no reason not to serve."""
    try:
        async with asyncio.timeout(MODELS_WITHIN_S):
            return await application.models()
    except BackendError as error:
        output.note(f"models are not known yet: {error.message}")
    except TimeoutError:
        output.note(f"models are not known yet: no answer within {MODELS_WITHIN_S:g} s")
    return ()


def _loading(config: Config, *, output: Output) -> contextlib.AbstractAsyncContextManager[None]:
    """Progress while a model is read into memory; nothing else takes long to start."""
    names = [
        str(settings.model_name) for settings in config.backends.values() if isinstance(settings, EmbeddedSettings)
    ]
    return output.progress(f"loading {', '.join(names)}") if names else contextlib.nullcontext()


@contextlib.contextmanager
def _stopping_with_parent(stop: Stop, *, options: ServeOptions) -> Iterator[None]:
    """Under a reloading parent stdin is a pipe that the parent holds open: its end is the parent's end."""
    if options.listen_fd is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def parent_gone() -> None:
        loop.remove_reader(PARENT_FD)
        stop.now()

    loop.add_reader(PARENT_FD, parent_gone)
    try:
        yield
    finally:
        loop.remove_reader(PARENT_FD)
