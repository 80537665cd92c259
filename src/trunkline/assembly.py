"""From a configuration to an application: the one place that knows every part."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from trunkline.config.agent_names import only_agent_name, set_name
from trunkline.config.profiles import Profile, profile_named
from trunkline.config.schema import Backend as Settings
from trunkline.config.schema import BackendSettings, Config, HttpSettings
from trunkline.dialects.openai_chat import ChatSurface
from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.engine.approvals import ApprovalRegistry
from trunkline.engine.cache import AnswerCache
from trunkline.engine.chaining import Chaining
from trunkline.engine.gateway import Gateway
from trunkline.engine.idempotency import Idempotency
from trunkline.engine.operations import OperationGateway
from trunkline.engine.runs import Runs
from trunkline.engine.sessions import Sessions
from trunkline.plugins import build_backend, build_embedder
from trunkline.ports.backend import BackendSetup
from trunkline.ports.runtime import Clock, Entropy, SystemClock, SystemEntropy
from trunkline.ports.stores import Store
from trunkline.routing.balancer import Balancer, Endpoint
from trunkline.routing.catalog import Catalog
from trunkline.routing.router import Router
from trunkline.server.app import Application, Routes
from trunkline.server.errors import ErrorEncoder, ErrorsFor
from trunkline.server.runtime import ResponseState, Runtime, State
from trunkline.server.surfaces import cache as cache_surface
from trunkline.server.surfaces import (
    capabilities,
    chat_completions,
    conversations,
    health,
    hermes_absent,
    hermes_sessions,
    metrics,
    models,
    ollama,
    operations,
    response_context,
    responses,
    responses_socket,
    stored_completions,
    stored_responses,
    usage,
)
from trunkline.server.surfaces import runs as runs_surface
from trunkline.server.surfaces import sessions as session_resources
from trunkline.server.surfaces.stored_completions import StoredCompletions
from trunkline.stores import sqlite
from trunkline.telemetry.accounts import Accounts
from trunkline.telemetry.logs import AccessLog
from trunkline.telemetry.loop_lag import LoopLag
from trunkline.telemetry.metrics import Source
from trunkline.telemetry.process import Process
from trunkline.telemetry.usage import UsageMeter


class _Ground(msgspec.Struct, frozen=True):
    """What every step stands on."""

    config: Config
    profile: Profile
    base_dir: Path
    clock: Clock
    entropy: Entropy


class _Records(msgspec.Struct, frozen=True):
    """What outlives a call: what is kept of it, and the lines and sums it leaves."""

    store: Store
    usage: UsageMeter
    access_log: AccessLog | None
    accounts: Accounts


class _Routing(msgspec.Struct, frozen=True):
    """Who answers which model."""

    endpoints: tuple[Endpoint, ...]
    catalog: Catalog
    balancer: Balancer
    router: Router


def assemble(
    config: Config,
    *,
    base_dir: Path,
    agents: Mapping[str, object] = {},
    clock: Clock | None = None,
    entropy: Entropy | None = None,
    only_model_answers: bool = False,
    mounted: bool = False,
) -> Application:
    """The application for a configuration. Raises ConfigError.

    From the bottom up, as the layers are: backends and who of them answers, what is kept, the engine between those, what keeps
    responses, and the surfaces on top.

    Args:
        base_dir: what relative paths in the configuration are relative to.
        agents: by the name of their backend, what an embedding program has at hand instead of a target.
        only_model_answers: without a default model the only one there is answers where a request names none.
        mounted: the host that it answers on is another application's.
    """
    profile = profile_named(config.server.profile)
    ground = _Ground(config, profile, base_dir, clock or SystemClock(), entropy or SystemEntropy())
    routing = _routing(ground, agents, only_model_answers=only_model_answers)
    records = _records(ground)
    runtime = _engine(ground, routing, records)
    chat = ChatSurface(profile, tool_events=config.server.tool_events)
    responses_codec = ResponsesSurface(
        profile, now=runtime.clock.now_s, tool_events=config.server.tool_events, tool_items=config.server.tool_items
    )
    kept = _response_state(ground, records.store, runtime, responses_codec)
    lag, process = LoopLag(), Process(started_at=runtime.clock.now_s())
    return Application(
        runtime,
        kept,
        routes=_routes(
            runtime,
            kept,
            _operations(ground, routing),
            chat=chat,
            responses_codec=responses_codec,
            sources=(lag.families, process.families, runtime.cache.families),
        ),
        catalog=routing.catalog,
        errors=_errors(profile, chat),
        access_log=records.access_log,
        lag=lag,
        mounted=mounted,
    )


def _routing(ground: _Ground, agents: Mapping[str, object], *, only_model_answers: bool) -> _Routing:
    config, profile, clock = ground.config, ground.profile, ground.clock
    backends = build_endpoints(config, base_dir=ground.base_dir, agents=agents, clock=clock, entropy=ground.entropy)
    endpoints = tuple([endpoint for of_backend in backends.values() for endpoint in of_backend])
    catalog = Catalog(endpoints, clock=clock)
    router = Router(
        backends,
        config.models,
        catalog,
        default_model=_default_model(config, profile),
        choice=profile.model_choice,
        unknown_status=profile.unknown_model_status,
        only_model_answers=only_model_answers,
    )
    return _Routing(endpoints, catalog, Balancer(), router)


def _records(ground: _Ground) -> _Records:
    config, clock = ground.config, ground.clock
    store = sqlite.build(
        config.store, base_dir=ground.base_dir, clock=clock, keyed=config.idempotency, max_run_age_s=config.runs.keep_s
    )
    usage_meter = UsageMeter(store, clock=clock)
    access_log = AccessLog(sys.stderr) if config.server.access_log else None
    return _Records(store, usage_meter, access_log, Accounts(usage_meter, access_log, clock=clock))


def _engine(ground: _Ground, routing: _Routing, records: _Records) -> Runtime:
    """The path of one call, and all else that surfaces work with."""
    config, profile, clock, entropy = ground.config, ground.profile, ground.clock, ground.entropy
    store, accounts = records.store, records.accounts
    embedder = build_embedder(config.cache, base_dir=ground.base_dir)
    cache = AnswerCache(config.cache, config.models, clock=clock, entropy=entropy, accounts=accounts, embedder=embedder)
    approvals, sessions = ApprovalRegistry(), Sessions(store.sessions, config.sessions, clock=clock)
    gateway = Gateway(
        routing.router,
        routing.balancer,
        cache,
        approvals,
        sessions,
        clock=clock,
        entropy=entropy,
        # A profile that spaces its JSON needs every frame written anew; bytes of an upstream would not be.
        may_relay=not profile.json_spacing,
        lightens=profile.lightens_requests,
    )
    return Runtime(
        settings=config.server,
        profile=profile,
        gateway=gateway,
        router=routing.router,
        endpoints=routing.endpoints,
        usage=records.usage,
        clock=clock,
        entropy=entropy,
        state=State(),
        accounts=accounts,
        cache=cache,
        idempotency=Idempotency(
            store, gateway.answer, accounts=accounts, clock=clock, replaces=profile.reused_key == "replace"
        ),
        approvals=approvals,
        sessions=sessions,
    )


def _operations(ground: _Ground, routing: _Routing) -> OperationGateway:
    """What is no turn goes past the gateway, to the same endpoints."""
    return OperationGateway(
        routing.router, routing.balancer, routing.endpoints, clock=ground.clock, entropy=ground.entropy
    )


def _response_state(ground: _Ground, store: Store, runtime: Runtime, codec: ResponsesSurface) -> ResponseState:
    profile = ground.profile
    chaining = Chaining(store, inherits_instructions=profile.inherits_instructions, max_messages=profile.max_messages)
    runs = Runs(
        store,
        runtime.gateway,
        chaining,
        codec,
        accounts=runtime.accounts,
        clock=ground.clock,
        max_runs=ground.config.runs.max_runs,
    )
    return ResponseState(store, chaining, runs)


def _errors(profile: Profile, chat: ChatSurface) -> ErrorsFor:
    """The envelope of each path's errors: Ollama's under its prefix, but for what the profile serves there."""
    of_ollama = ollama.OllamaErrors()

    def errors(path: str) -> ErrorEncoder:
        return of_ollama if path.startswith(ollama.PREFIX) and not path.startswith(profile.surfaces) else chat

    return errors


def _routes(
    runtime: Runtime,
    kept: ResponseState,
    operating: OperationGateway,
    *,
    chat: ChatSurface,
    responses_codec: ResponsesSurface,
    sources: Sequence[Source],
) -> Routes:
    """Every surface's."""
    stored = StoredCompletions(runtime, kept.store)
    return [
        *chat_completions.routes(runtime, chat, kept.store, listed=stored.list),
        *stored_completions.routes(stored),
        *conversations.routes(runtime, kept.store),
        *session_resources.routes(runtime, kept.store.sessions),
        *response_context.routes(runtime, responses_codec, kept),
        *responses.routes(runtime, responses_codec, kept),
        *responses_socket.routes(runtime, responses_codec, kept),
        *stored_responses.routes(runtime, kept),
        *runs_surface.routes(runtime, responses_codec, kept),
        *operations.routes(runtime, operating, chat),
        *models.routes(runtime),
        *ollama.routes(runtime, operating),
        *hermes_sessions.routes(runtime, kept.store.sessions, chat),
        *hermes_absent.routes(runtime),
        *cache_surface.routes(runtime),
        *health.routes(runtime),
        *capabilities.routes(runtime),
        *usage.routes(runtime, kept.store),
        *metrics.routes(runtime, kept.store, sources=sources),
    ]


def _default_model(config: Config, profile: Profile) -> str | None:
    """The model of a request that names none, as far as that is known before anybody is asked."""
    if config.server.default_model is not None or profile.model_choice == "known":
        return config.server.default_model
    return config.models[0].name if config.models else only_agent_name(config)


def build_endpoints(
    config: Config, *, base_dir: Path, clock: Clock, entropy: Entropy, agents: Mapping[str, object] = {}
) -> dict[str, tuple[Endpoint, ...]]:
    """Every configured backend's endpoints, built but not started."""
    profile = profile_named(config.server.profile)
    return {
        name: tuple(
            [
                Endpoint(
                    label,
                    build_backend(
                        single,
                        BackendSetup(
                            name=name,
                            base_dir=base_dir,
                            clock=clock,
                            entropy=entropy,
                            model_name=set_name(config, name),
                            agent=agents.get(name),
                            ignores_tools=profile.ignores_tools,
                        ),
                    ),
                    clock=clock,
                    backend_name=name,
                    capacity=settings.max_concurrency,
                    max_queue=settings.max_queue,
                    weight=settings.weight if isinstance(settings, HttpSettings) else 1.0,
                    timeout_s=settings.timeout_s,
                    grace_s=_grace_s(settings),
                    retries=settings.retries if isinstance(settings, HttpSettings) else 0,
                    restarts=settings.on_lost == "restart",
                    sessions=settings.sessions,
                )
                for label, single in _each(name, settings)
            ]
        )
        for name, settings in config.backends.items()
    }


def _each(name: str, settings: Settings) -> list[tuple[str, Settings]]:
    """The settings of each endpoint of a backend, by its label."""
    if not isinstance(settings, HttpSettings) or len(settings.endpoints) == 1:
        return [(name, settings)]
    hosts = [urlsplit(url).netloc.rpartition("@")[2] for url in settings.endpoints]
    return [
        (
            f"{name}@{host}" if hosts.count(host) == 1 else f"{name}@{host}{urlsplit(url).path.rstrip('/')}",
            msgspec.structs.replace(settings, endpoints=(url,)),
        )
        for host, url in zip(hosts, settings.endpoints, strict=True)
    ]


def _grace_s(settings: BackendSettings) -> float:
    """How long a turn may go on without its client."""
    if settings.on_disconnect == "finish":
        return settings.timeout_s
    return 0.0 if settings.on_disconnect == "cancel" else settings.on_disconnect
