"""The names that embedded models and agents have by themselves, before anything is loaded or imported.

They are wanted then: to say what is loading, to show routes without loading anything, and to be what answers when a single
target is served and a request names no model. An embedded model's is asked of a backend that is made but not started.
"""

from pathlib import Path

import msgspec

from trunkline.config.agent_names import served_name
from trunkline.config.schema import Config, EmbeddedSettings, PythonSettings
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
    """The configuration whose embedded model or agent, if it has one, answers when a request names none."""
    if config.server.default_model is not None:
        return config
    for backend, settings in config.backends.items():
        match settings:
            case EmbeddedSettings(model_name=name):
                pass
            case PythonSettings(target=target):
                name = served_name(config, backend, target)
            case _:
                continue
        return msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, default_model=name))
    return config
