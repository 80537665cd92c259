"""Finding what is named in the configuration: backends by their `type`.

This is the one module that imports by name, and therefore lazily: a backend whose library is not installed costs nothing until
it is configured, and then says what to install.
"""

import importlib
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import cast

import msgspec

from trunkline.config.schema import Backend as Settings
from trunkline.config.schema import CacheSettings
from trunkline.engine.cache_semantic import Embedder
from trunkline.model.errors import ConfigError
from trunkline.ports.backend import Backend, BackendSetup


class BackendPlugin(msgspec.Struct, frozen=True):
    """Where a backend type lives, and the extra that brings its dependencies."""

    module: str
    extra: str | None = None


BACKENDS = MappingProxyType(
    {
        "embedded": BackendPlugin("trunkline.backends.embedded", extra="embedded"),
        "http": BackendPlugin("trunkline.backends.http"),
        "python": BackendPlugin("trunkline.backends.callable"),
        "scripted": BackendPlugin("trunkline.backends.scripted"),
    }
)


EMBEDDER = BackendPlugin("trunkline.engine.cache_embedder", extra="semantic-cache")


def build_backend(settings: Settings, setup: BackendSetup) -> Backend:
    """The backend for these settings. Raises ConfigError, also when its extra is not installed."""
    kind = settings.__struct_config__.tag
    module = _load(BACKENDS[str(kind)], wanted=f"type {kind!r}", key=f"backends.{setup.name}.type")
    build = cast("Callable[[Settings, BackendSetup], Backend]", module.build)
    return build(settings, setup)


def build_embedder(settings: CacheSettings, *, base_dir: Path) -> Embedder | None:
    """What the answer cache compares meanings with, where it is to. Raises ConfigError, also when its extra is not installed."""
    if not settings.semantic:
        return None
    module = _load(EMBEDDER, wanted="comparing questions by their meaning", key="cache.semantic")
    build = cast("Callable[[Path | None], Embedder]", module.build)
    return build(None if settings.embedding_model is None else base_dir / settings.embedding_model)


def check_embedder(settings: CacheSettings, *, base_dir: Path) -> None:
    """Raises what building it would raise, without loading a model."""
    if settings.semantic:
        module = _load(EMBEDDER, wanted="comparing questions by their meaning", key="cache.semantic")
        check = cast("Callable[[Path | None], None]", module.check)
        check(None if settings.embedding_model is None else base_dir / settings.embedding_model)


def _load(plugin: BackendPlugin, *, wanted: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(plugin.module)
    except ModuleNotFoundError as error:
        if plugin.extra is None or (error.name or "").startswith("trunkline"):
            raise
        raise ConfigError(
            f"{wanted} needs a package that is not installed ({error}); in trunkline's folder: "
            f'{shlex.quote(sys.executable)} -m pip install -e ".[{plugin.extra}]"',
            key=key,
        ) from error
