"""Profiles: small frozen sets of wire settings, one per system whose clients trunkline serves (decisions.md).

A profile is data. No code asks which profile is in force; it reads a setting. The default is what OpenAI's own clients
expect. Further profiles come with the systems they speak for; docs/profiles.md is generated from this table.
"""

from types import MappingProxyType
from typing import Literal

import msgspec

from trunkline.model.errors import ConfigError


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Wire settings.

    Attributes:
        json_spacing: JSON in streams is written `"key": value` instead of `"key":value`.
        error_style: `openai` is `{"error": {message, type, param, code}}`; `plain` is `{"error": type, "detail": message}`.
        platform_name: What `/health` gives as `platform`; absent: the key is left out.
        session_header: Request and response header that carries the session id.
    """

    json_spacing: bool = False
    error_style: Literal["openai", "plain"] = "openai"
    platform_name: str | None = None
    session_header: str = "x-session-id"


PROFILES = MappingProxyType({"openai": Profile()})


def profile_named(name: str) -> Profile:
    """The profile of that name. Raises ConfigError that lists what exists."""
    try:
        return PROFILES[name]
    except KeyError:
        known = ", ".join(repr(known) for known in PROFILES)
        raise ConfigError(f"unknown profile {name!r}; known: {known}", key="server.profile") from None
