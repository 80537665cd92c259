"""The names that embedded models and agents have by themselves, before anything is loaded or imported.

They are wanted then: to say what is loading, to show routes without loading anything, and to be what answers when a single
target is served and a request names no model. An embedded model's is asked of a backend that is made but not started.
"""

from pathlib import Path

import msgspec

from trunkline.assembly import only_agent_name
from trunkline.config.agent_names import agent_name
from trunkline.config.profiles import profile_named
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
    for settings in config.backends.values():
        if isinstance(settings, EmbeddedSettings | PythonSettings):
            name = settings.model_name if isinstance(settings, EmbeddedSettings) else served_name(settings, config)
            return msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, default_model=name))
    return config


def served_name(settings: PythonSettings, config: Config) -> str:
    """The model name of an agent: as the configuration or its profile has it, otherwise its own."""
    return only_agent_name(config, profile_named(config.server.profile)) or agent_name(settings.target)
