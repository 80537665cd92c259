"""`trunkline check FILE`: whether the server would start with this file, and which model would go where.

The file is read as `serve` reads it, environment included. Then the backends are made, which imports agents and looks
for model files; no port is opened, no model is loaded and no server is asked.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import assert_never

from trunkline.assembly import build_endpoints
from trunkline.cli.model_names import with_model_names
from trunkline.cli.output import Output, Style, table
from trunkline.config.checks import doubts, static_models, unlisted_backends, without_password
from trunkline.config.load import load_config
from trunkline.config.schema import Backend, Config, EmbeddedSettings, HttpSettings, PythonSettings, ScriptedSettings
from trunkline.config.store_url import store_file
from trunkline.plugins import check_embedder
from trunkline.ports.backend import Checkable
from trunkline.ports.runtime import SystemClock, SystemEntropy

HEADER = ("MODEL", "BACKEND", "TYPE", "ANSWERED BY")


def check(path: Path, *, environ: Mapping[str, str], output: Output) -> None:
    """Prints the resolved routes. Raises ConfigError for the first thing that is wrong."""
    config = asyncio.run(with_model_names(load_config(path, environ=environ), base_dir=path.parent))
    backends = build_endpoints(config, base_dir=path.parent, clock=SystemClock(), entropy=SystemEntropy())
    for endpoints in backends.values():
        for endpoint in endpoints:
            if isinstance(endpoint.backend, Checkable):
                endpoint.backend.check()
    check_embedder(config.cache, base_dir=path.parent)
    heading, *rows = table(HEADER, route_rows(config))
    output.line(heading, style=Style.STRONG)
    for row in rows:
        output.line(row)
    output.line()
    for doubt in doubts(config):
        output.line(f"{doubt.key}: {doubt.message}")
    output.line(f"{path} is fine: {_summary(config)}")


def route_rows(config: Config) -> list[tuple[str, ...]]:
    """One row for each step of each model's route; fallbacks are indented below the first."""
    rows: list[tuple[str, ...]] = []
    for model in config.models:
        for step, route in enumerate(model.routes):
            settings = config.backends[route.backend]
            shown = model.name if step == 0 else "  then"
            rows.append((_marked(shown, config), route.backend, _type(settings), _answerer(settings, route.model)))
    for name in unlisted_backends(config):
        settings = config.backends[name]
        rows.extend(
            (_marked(model, config), name, _type(settings), _answerer(settings, None))
            for model in static_models(config, name) or ("(whatever it lists)",)
        )
    return rows


def _marked(model: str, config: Config) -> str:
    return f"{model} (default)" if model == config.server.default_model else model


def _type(settings: Backend) -> str:
    return str(type(settings).__struct_config__.tag)


def _answerer(settings: Backend, model: str | None) -> str:
    match settings:
        case HttpSettings():
            where = f"{', '.join(map(without_password, settings.endpoints))} ({settings.dialect})"
        case PythonSettings():
            where = settings.target
        case ScriptedSettings():
            where = settings.script or "repeats the last user message"
        case EmbeddedSettings():
            where = settings.path or "in this process"
        case _:
            assert_never(settings)
    return f"{model} at {where}" if model else where


def _summary(config: Config) -> str:
    server = config.server
    keys = len(server.api_keys) + len(server.keys)
    access = f"{keys} API key{'s' if keys != 1 else ''}" if keys else "no API key (loopback only)"
    store = store_file(config.store.url) or "in memory"
    return f"{server.host}:{server.port}, profile {server.profile}, {access}, store {store}"
