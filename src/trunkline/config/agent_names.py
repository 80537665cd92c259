"""What the configuration and its profile call an agent, or else its target alone: told before anything is imported."""

from pathlib import PurePath

from trunkline.config.profiles import PROFILES
from trunkline.config.schema import Config, PythonSettings

GIVEN = "given:agent"
"""The target of an agent that the program around the server hands over: it is called as its backend is."""


def served_name(config: Config, backend: str, target: str) -> str:
    """The model name of the agent behind a backend."""
    return set_name(config, backend) or agent_name(target)


def set_name(config: Config, backend: str) -> str | None:
    """What the configuration or its profile calls the agent behind a backend; None where that is for its target to say."""
    settings = config.backends[backend]
    given = isinstance(settings, PythonSettings) and settings.target == GIVEN
    return config.server.model_name or (backend if given else only_agent_name(config))


def only_agent_name(config: Config) -> str | None:
    """What the only Python agent is called; None where that is for its target to say, or there is another."""
    profile = PROFILES.get(config.server.profile)
    agent_count = sum(isinstance(settings, PythonSettings) for settings in config.backends.values())
    return config.server.model_name or (profile.agent_name if profile is not None and agent_count == 1 else None)


def agent_name(target: str) -> str:
    """Its attribute, or its file or module where that is just called `agent`."""
    place, _, attribute = target.rpartition(":")
    if attribute != "agent":
        return attribute.rpartition(".")[2]
    return PurePath(place).stem if place.endswith(".py") else place.rpartition(".")[2]
