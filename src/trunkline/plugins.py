"""Finding what is named in the configuration: backends by their `type`.

This is the one module that imports by name, and therefore lazily: a backend whose library is not installed costs nothing until
it is configured, and then says what to install.
"""

import importlib
from collections.abc import Callable
from types import MappingProxyType
from typing import cast

import msgspec

from trunkline.config.schema import Backend as Settings
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


def build_backend(settings: Settings, setup: BackendSetup) -> Backend:
    """The backend for these settings. Raises ConfigError, also when its extra is not installed."""
    kind = settings.__struct_config__.tag
    plugin = BACKENDS[str(kind)]
    try:
        module = importlib.import_module(plugin.module)
    except ModuleNotFoundError as error:
        if plugin.extra is None or (error.name or "").startswith("trunkline"):
            raise
        raise ConfigError(
            f"type {kind!r} needs a package that is not installed ({error}); install trunkline[{plugin.extra}]",
            key=f"backends.{setup.name}.type",
        ) from error
    build = cast("Callable[[Settings, BackendSetup], Backend]", module.build)
    return build(settings, setup)
