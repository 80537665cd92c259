"""From a configuration to an application: the one place that knows every part."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from trunkline.config.profiles import Profile, profile_named
from trunkline.config.schema import Backend as Settings
from trunkline.config.schema import BackendSettings, Config, HttpSettings, PythonSettings
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
from trunkline.routing.balancer import Balancer, Endpoint
from trunkline.routing.catalog import Catalog
from trunkline.routing.router import Router
from trunkline.server.app import Application, Routes
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

    Args:
        base_dir: what relative paths in the configuration are relative to.
        agents: by the name of their backend, what an embedding program has at hand instead of a target.
        only_model_answers: without a default model the only one there is answers where a request names none.
        mounted: the host that it answers on is another application's.
    """
    clock, entropy = clock or SystemClock(), entropy or SystemEntropy()
    profile = profile_named(config.server.profile)
    backends = build_endpoints(config, base_dir=base_dir, agents=agents, clock=clock, entropy=entropy)
    endpoints = tuple([endpoint for of_backend in backends.values() for endpoint in of_backend])
    catalog, balancer = Catalog(endpoints, clock=clock), Balancer()
    router = Router(
        backends,
        config.models,
        catalog,
        default_model=_default_model(config, profile),
        choice=profile.model_choice,
        unknown_status=profile.unknown_model_status,
        only_model_answers=only_model_answers,
    )
    store = sqlite.build(
        config.store, base_dir=base_dir, clock=clock, keyed=config.idempotency, max_run_age_s=config.runs.keep_s
    )
    usage_meter = UsageMeter(store, clock=clock)
    access_log = AccessLog(sys.stderr) if config.server.access_log else None
    accounts = Accounts(usage_meter, access_log, clock=clock)
    embedder = build_embedder(config.cache, base_dir=base_dir)
    cache = AnswerCache(config.cache, config.models, clock=clock, entropy=entropy, accounts=accounts, embedder=embedder)
    approvals = ApprovalRegistry()
    sessions = Sessions(store.sessions, config.sessions, clock=clock)
    gateway = Gateway(
        router,
        balancer,
        cache,
        approvals,
        sessions,
        clock=clock,
        entropy=entropy,
        # A profile that spaces its JSON needs every frame written anew; bytes of an upstream would not be.
        may_relay=not profile.json_spacing,
        lightens=profile.lightens_requests,
    )
    chaining = Chaining(store, inherits_instructions=profile.inherits_instructions, max_messages=profile.max_messages)
    responses_codec = ResponsesSurface(
        profile, now=clock.now_s, tool_events=config.server.tool_events, tool_items=config.server.tool_items
    )
    lag, process = LoopLag(), Process(started_at=clock.now_s())
    runs = Runs(
        store, gateway, chaining, responses_codec, accounts=accounts, clock=clock, max_runs=config.runs.max_runs
    )
    idempotency = Idempotency(
        store, gateway.answer, accounts=accounts, clock=clock, replaces=profile.reused_key == "replace"
    )
    runtime = Runtime(
        settings=config.server,
        profile=profile,
        gateway=gateway,
        router=router,
        endpoints=endpoints,
        usage=usage_meter,
        clock=clock,
        entropy=entropy,
        state=State(),
        accounts=accounts,
        cache=cache,
        idempotency=idempotency,
        approvals=approvals,
        sessions=sessions,
    )
    chat, ollama_errors = ChatSurface(profile, tool_events=config.server.tool_events), ollama.OllamaErrors()
    operating = OperationGateway(router, balancer, endpoints, clock=clock, entropy=entropy)
    return Application(
        runtime,
        routes=_routes(
            runtime,
            ResponseState(store, chaining, runs),
            operating,
            chat=chat,
            responses_codec=responses_codec,
            sources=(lag.families, process.families, cache.families),
        ),
        backends=tuple([endpoint.backend for endpoint in endpoints]),
        catalog=catalog,
        store=store,
        runs=runs,
        errors=lambda path: (
            ollama_errors if path.startswith(ollama.PREFIX) and not path.startswith(profile.surfaces) else chat
        ),
        access_log=access_log,
        accounts=accounts,
        lag=lag,
        mounted=mounted,
    )


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
    return config.models[0].name if config.models else only_agent_name(config, profile)


def only_agent_name(config: Config, profile: Profile) -> str | None:
    """What the only Python agent is called; None where that is for its target to say, or there is another."""
    agent_count = sum(isinstance(settings, PythonSettings) for settings in config.backends.values())
    return config.server.model_name or (profile.agent_name if agent_count == 1 else None)


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
                            model_name=config.server.model_name
                            or (name if name in agents else only_agent_name(config, profile)),
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
