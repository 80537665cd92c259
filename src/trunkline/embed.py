"""Mounts an agent in an ASGI application that is there already: Starlette's, FastAPI's, anybody's.

    app.mount("/ai", create_app(agent, model_name="support"))

A mounted application is never told that the server starts or ends: Starlette tells the outermost one alone. So it starts
with the first request, and ends with the event loop, which cancels what still runs on it. A program that wants its agents
loaded before the first request, and its background work to finish before the last line of its own shutdown, makes
`lifespan` part of its own. Either way start and end happen in a task of their own: a client that leaves during the start
takes nothing with it, and nothing of the first request's context stays in what the start has made.

The program around it owns the process. Nothing here handles signals, opens a port, reads the environment or sets up logging.
"""

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec.structs import fields
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from trunkline.assembly import assemble
from trunkline.config.agent_names import GIVEN
from trunkline.config.expect import unknown
from trunkline.config.load import build_config
from trunkline.config.profiles import PROFILES
from trunkline.config.schema import Config, PythonSettings, ServerSettings
from trunkline.model.errors import ConfigError
from trunkline.server.app import Application

__all__ = ["EmbeddedApp", "create_app"]

BACKEND = "agent"
MEANT = MappingProxyType({"model": "model_name", "name": "model_name"})
"""What others call an argument, where its own name is not the closest."""
PLACES: Mapping[str, tuple[str, type[msgspec.Struct]]] = MappingProxyType(
    {"the server": ("server", ServerSettings), "the agents": ("backend", PythonSettings)}
)
"""Whose settings are in which argument."""
LISTENING = ("host", "port")

ABORT_S = 6.0
POLL_S = 0.02


def create_app(
    agent: object,
    *,
    model_name: str | None = None,
    api_keys: Sequence[str] | None = None,
    profile: str = "openai",
    store_url: str = "memory:",
    backend: Mapping[str, object] = {},
    **tables: object,
) -> "EmbeddedApp":
    """The agent as an ASGI application, to mount or to serve.

    Args:
        agent: whatever `trunkline serve` takes as an agent, or a mapping from model names to several.
        model_name: what clients call a single agent; by default the profile's name for one, or its own.
        api_keys: bearer tokens. Without them, whoever reaches the program around it reaches the agent.
        profile: wire settings to speak with.
        store_url: where sessions and stored responses are kept, as in `sqlite:///agent.db`.
        backend: further settings of every agent, as a configuration file has them below `[backends.NAME]`.
        tables: further tables of a configuration file, such as `server={"cors_origins": […]}`.

    Raises:
        ConfigError: something that is no agent, a setting that does not exist or does not fit.
    """
    agents: Mapping[str, object] = agent if isinstance(agent, Mapping) else {BACKEND: agent}
    _check_agents(agent, agents)
    _check_arguments(tables)
    if api_keys is not None and not api_keys:  # a variable that was not set, and everybody would be let in
        raise ConfigError("there is none in it; leave it out to let in whoever reaches the application", key="api_keys")
    server: dict[str, object] = {"access_log": False, "profile": profile, "api_keys": api_keys or ()}
    if not isinstance(agent, Mapping):
        if model_name == "":
            raise ConfigError(
                "expected what clients call the agent, got ''; leave it out to use its own name", key="model_name"
            )
        server["model_name"] = server["default_model"] = model_name or _name_of(agent, profile)
    elif model_name is not None:
        raise ConfigError("names a single agent; several are named by their mapping's keys", key="model_name")
    elif len(agents) == 1:
        server["default_model"] = next(iter(agents))
    given = tables.get("server")
    listening = [key for key in LISTENING if isinstance(given, Mapping) and key in given]
    if listening:
        raise ConfigError("the program around it listens, and decides where", key=f"server.{listening[0]}")
    settings = {"type": "python", "target": GIVEN, **backend}
    document = {
        **tables,
        "server": _laid_over(server, tables.get("server")),
        "store": _laid_over({"url": store_url}, tables.get("store")),
        "backends": _laid_over(dict.fromkeys(agents, settings), tables.get("backends")),
    }
    config = build_config(msgspec.json.decode(msgspec.json.encode(document), type=dict), environ={})
    return EmbeddedApp(
        lambda: assemble(config, base_dir=Path(), agents=agents, mounted=True), grace_s=config.server.shutdown_grace_s
    )


def _check_agents(given: object, agents: Mapping[str, object]) -> None:
    """Raises ConfigError for what cannot be an agent, in the words of who has called `create_app`."""
    if not agents:
        raise ConfigError("expected at least one agent in the mapping, as in {'support': support}", key="agent")
    for name, one in agents.items():
        which = "" if one is given else f" for {name!r}"
        if not isinstance(name, str):
            raise ConfigError(f"expected names as keys of the mapping, got {name!r}", key="agent")
        if one is None:
            raise ConfigError(f"expected an agent{which}, got None", key="agent")
        if isinstance(one, str):
            raise ConfigError(f"expected the agent itself{which}, got the str {one!r}; import it", key="agent")


def _check_arguments(tables: Mapping[str, object]) -> None:
    """Raises ConfigError for one that is no table, but a setting in one, or an argument under another name."""
    every_table = [field.name for field in fields(Config)]
    for name in [name for name in tables if name not in every_table]:
        for whose, (argument, settings) in PLACES.items():
            if name in {field.name for field in fields(settings)}:
                raise ConfigError(f"is a setting of {whose}: {argument}={{{name!r}: …}}", key=name)
        if name in MEANT:
            raise ConfigError(f"unknown argument {name!r} (did you mean {MEANT[name]!r}?)", key=name)
        own = [*inspect.signature(create_app).parameters][1:-1]
        raise ConfigError(unknown(name, [*own, *every_table], what="argument"), key=name)


def _laid_over(defaults: dict[str, object], table: object) -> object:
    """What is no table is left for the schema to refuse."""
    if table is None:
        return defaults
    return {**defaults, **table} if isinstance(table, Mapping) else table


def _name_of(agent: object, profile: str) -> str:
    """As `trunkline serve` would name it: as the profile's clients know it, else its own name, or its module's where that is just
    `agent`."""
    if profile in PROFILES and (known := PROFILES[profile].agent_name):
        return known
    name = str(getattr(agent, "__name__", type(agent).__name__))
    module = str(getattr(agent, "__module__", "")).rpartition(".")[2]
    return name if name != "agent" or module in ("", "__main__") else module


class EmbeddedApp:
    """An ASGI application that starts itself.

    Args:
        build: makes the application; anew for each start, because one that has ended does not start again.
        grace_s: seconds that what is under way gets to finish when it is ended.
    """

    def __init__(self, build: Callable[[], Application], *, grace_s: float) -> None:
        self._build = build
        self._grace_s = grace_s
        self._built: Application | None = build()
        self._built.check()
        self._life: _Life | None = None
        self._served_alone = Router(lifespan=self.lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._served_alone(scope, receive, send)
            return
        life = self._life
        if life is None or not life.left:
            life = self._begun()
            await life.up()
        await life.application(_below_root(scope), receive, send)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Started inside, ended after it: the `lifespan` of Starlette and FastAPI, or a part of one's own."""
        life = self._begun()
        await life.up()
        try:
            yield
        finally:
            await life.end()

    def _begun(self) -> "_Life":
        """What runs on this loop; begun now, where nothing does."""
        life = self._life
        if life is None or life.ended:
            application, self._built = self._built or self._build(), None
            life = self._life = _Life(application, grace_s=self._grace_s)
        elif life.loop is not asyncio.get_running_loop():
            raise RuntimeError("this application runs on another event loop; make one for each")
        return life


_RUNNING: set[asyncio.Task[None]] = set()
"""Loops hold their tasks weakly. One whose application nobody holds any more would be gone without having closed anything."""


class _Life:
    """One start of an application and its end, in a task of its own that begins when this is made."""

    def __init__(self, application: Application, *, grace_s: float) -> None:
        self.application = application
        self.loop = asyncio.get_running_loop()
        self._grace_s = grace_s
        self._up: asyncio.Future[None] = self.loop.create_future()
        self._leave = asyncio.Event()
        self._task = self.loop.create_task(self._live(), name="trunkline", context=contextvars.Context())
        _RUNNING.add(self._task)
        self._task.add_done_callback(_RUNNING.discard)

    @property
    def ended(self) -> bool:
        return self._task.done()

    @property
    def left(self) -> bool:
        """Whether it was told to end on this loop. It then refuses what still comes; a new start would know nothing of before."""
        return self._leave.is_set() and self.loop is asyncio.get_running_loop()

    async def up(self) -> None:
        """Returns once it has started. Raises what the start raised. Cancelled: the start goes on."""
        if not self._up.done():
            await asyncio.wait({self._up, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not self._up.done():
            self._task.result()

    async def end(self) -> None:
        """What is under way gets its grace, then everything is closed. Raises what closing raised."""
        self._leave.set()
        await asyncio.shield(self._task)

    async def _live(self) -> None:
        async with self.application.running():
            self._up.set_result(None)
            await self._leave.wait()
            self.application.drain()
            if not await self._settled(within_s=self._grace_s):
                self.application.abort()
                await self._settled(within_s=ABORT_S)

    async def _settled(self, *, within_s: float) -> bool:
        """Whether nothing is under way any more."""
        state = self.application.runtime.state
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while state.in_flight or self.application.busy:  # noqa: ASYNC110 - they are plain sets, without an event
                    await asyncio.sleep(POLL_S)
        return not (state.in_flight or self.application.busy)


def _below_root(scope: Scope) -> Scope:
    """The scope as an application at the root of its server would see it, whatever it is mounted below."""
    root, path = scope.get("root_path", ""), scope["path"]
    below = path.removeprefix(root) if path == root or path.startswith(f"{root}/") else path
    return {**scope, "path": below or "/", "root_path": ""}
