"""From a configuration to an application: the one place that knows every part."""

import sys
from pathlib import Path

from trunkline.config.profiles import profile_named
from trunkline.config.schema import BackendSettings, Config
from trunkline.dialects.openai_chat import ChatSurface
from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.engine.admission import Admission
from trunkline.engine.chaining import Chaining
from trunkline.engine.gateway import Gateway, Slots
from trunkline.engine.runs import Runs
from trunkline.plugins import build_backend
from trunkline.ports.backend import Backend, BackendSetup
from trunkline.ports.runtime import Clock, Entropy, SystemClock, SystemEntropy
from trunkline.routing.catalog import Catalog
from trunkline.routing.router import Router
from trunkline.server.app import Application
from trunkline.server.runtime import Runtime, State
from trunkline.server.surfaces import (
    chat_completions,
    conversations,
    health,
    models,
    responses,
    stored_completions,
    usage,
)
from trunkline.server.surfaces.responses import ResponseState
from trunkline.server.surfaces.stored_completions import StoredCompletions
from trunkline.stores import sqlite
from trunkline.telemetry.logs import AccessLog
from trunkline.telemetry.usage import UsageMeter


def assemble(
    config: Config, *, base_dir: Path, clock: Clock | None = None, entropy: Entropy | None = None
) -> Application:
    """The application for a configuration. Relative paths in it are relative to `base_dir`. Raises ConfigError."""
    clock, entropy = clock or SystemClock(), entropy or SystemEntropy()
    profile = profile_named(config.server.profile)
    backends = build_backends(config, base_dir=base_dir, clock=clock, entropy=entropy)
    catalog = Catalog(backends, clock=clock)
    router = Router(backends, config.models, catalog, default_model=config.server.default_model)
    slots = {
        name: Slots(
            Admission(name, max_concurrency=settings.max_concurrency, max_queue=settings.max_queue),
            settings.timeout_s,
            _grace_s(settings),
        )
        for name, settings in config.backends.items()
    }
    # A profile that spaces its JSON needs every frame written anew; bytes of an upstream would not be.
    gateway = Gateway(router, slots, clock=clock, entropy=entropy, may_relay=not profile.json_spacing)
    store = sqlite.build(config.store, base_dir=base_dir, clock=clock)
    chaining = Chaining(store)
    responses_codec = ResponsesSurface(profile, now=clock.now_s)
    runs = Runs(store, gateway, chaining, responses_codec, clock=clock)
    runtime = Runtime(
        settings=config.server,
        profile=profile,
        gateway=gateway,
        router=router,
        slots=slots,
        usage=UsageMeter(),
        clock=clock,
        entropy=entropy,
        state=State(),
    )
    chat = ChatSurface(profile)
    stored = StoredCompletions(runtime, store)
    routes = [
        *chat_completions.routes(runtime, chat, store, listed=stored.list),
        *stored_completions.routes(stored),
        *conversations.routes(runtime, store),
        *responses.routes(runtime, responses_codec, ResponseState(store, chaining, runs)),
        *models.routes(runtime),
        *health.routes(runtime),
        *usage.routes(runtime),
    ]
    return Application(
        runtime,
        routes=routes,
        backends=tuple(backends.values()),
        catalog=catalog,
        store=store,
        runs=runs,
        errors=chat,
        access_log=AccessLog(sys.stderr) if config.server.access_log else None,
    )


def build_backends(config: Config, *, base_dir: Path, clock: Clock, entropy: Entropy) -> dict[str, Backend]:
    """Every configured backend, built but not started."""
    return {
        name: build_backend(
            settings,
            BackendSetup(
                name=name, base_dir=base_dir, clock=clock, entropy=entropy, model_name=config.server.model_name
            ),
        )
        for name, settings in config.backends.items()
    }


def _grace_s(settings: BackendSettings) -> float:
    """How long a turn may go on without its client."""
    if settings.on_disconnect == "finish":
        return settings.timeout_s
    return 0.0 if settings.on_disconnect == "cancel" else settings.on_disconnect
