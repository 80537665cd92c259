"""What an agent is called that nobody has named: told by its target alone, before anything is imported."""

from pathlib import PurePath


def agent_name(target: str) -> str:
    """Its attribute, or its file or module where that is just called `agent`."""
    place, _, attribute = target.rpartition(":")
    if attribute != "agent":
        return attribute.rpartition(".")[2]
    return PurePath(place).stem if place.endswith(".py") else place.rpartition(".")[2]
