"""The names that embedded models have by themselves, asked of backends that are made but not started.

A name is wanted before a model is loaded: to say what is loading, to show routes without loading anything, and to be
what answers when a single target is served and a request names no model.
"""

from pathlib import Path

import msgspec

from trunkline.config.schema import Config, EmbeddedSettings
from trunkline.plugins import build_backend
from trunkline.ports.backend import BackendSetup
from trunkline.ports.runtime import SystemClock, SystemEntropy


async def with_model_names(config: Config, *, base_dir: Path) -> Config:
    """The configuration with every embedded model's name in it. Raises ConfigError where there is no model."""
    named = dict(config.backends)
    for name, settings in config.backends.items():
        if isinstance(settings, EmbeddedSettings) and settings.model_name is None:
            setup = BackendSetup(name=name, base_dir=base_dir, clock=SystemClock(), entropy=SystemEntropy())
            models = await build_backend(settings, setup).models()
            named[name] = msgspec.structs.replace(settings, model_name=models[0].id)
    return msgspec.structs.replace(config, backends=named)


def with_default_model(config: Config) -> Config:
    """The configuration whose embedded model, if it has one, answers when a request names none."""
    names = [settings.model_name for settings in config.backends.values() if isinstance(settings, EmbeddedSettings)]
    if not names or config.server.default_model is not None:
        return config
    return msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, default_model=names[0]))
