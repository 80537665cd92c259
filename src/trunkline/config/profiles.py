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
        done_sentinel: `[DONE]` follows the last event of a stream of the Responses API.
        usage_details: The usage of a response always has its details, 0 where unknown; otherwise as far as they are known.
        unknown_reference_status: Status of a response asked of an unknown model, or after an unknown response.
        open_paths: What needs no key.
        key_parameter: Query parameter that may carry the key in place of the header; absent: none.
        wrong_key_status: Status for a key that is nobody's; a missing one is 401.
        auth_errors: `openai` as other errors; `detail` is `{"detail": message}`.
        health: `alive`: `/health` asks nobody and is 200 while the process serves. `endpoints`: it asks every endpoint, and is 503
            while one of them cannot say what it offers.
        cache_member: Member of a request's body whose `cache` says whether the answer cache is wanted; absent: none.
        lightens_requests: What a model refuses is left out and asked again: tools, images, and the oldest turns of a conversation
            that is too long, where the client said nothing of `truncation`.
    """

    json_spacing: bool = False
    error_style: Literal["openai", "plain"] = "openai"
    platform_name: str | None = None
    session_header: str = "x-session-id"
    done_sentinel: bool = True
    usage_details: bool = True
    unknown_reference_status: Literal[400, 404] = 400
    open_paths: frozenset[str] = frozenset({"/health", "/health/ready", "/v1/health"})
    key_parameter: str | None = None
    wrong_key_status: Literal[401, 403] = 401
    auth_errors: Literal["openai", "detail"] = "openai"
    health: Literal["alive", "endpoints"] = "alive"
    cache_member: str | None = None
    lightens_requests: bool = False


PROFILES = MappingProxyType(
    {
        "openai": Profile(),
        "nomyo": Profile(
            done_sentinel=False,
            usage_details=False,
            unknown_reference_status=404,
            open_paths=frozenset({"/", "/favicon.ico"}),
            key_parameter="api_key",
            wrong_key_status=403,
            auth_errors="detail",
            health="endpoints",
            cache_member="nomyo",
            lightens_requests=True,
        ),
    }
)


def profile_named(name: str) -> Profile:
    """The profile of that name. Raises ConfigError that lists what exists."""
    try:
        return PROFILES[name]
    except KeyError:
        known = ", ".join(repr(known) for known in PROFILES)
        raise ConfigError(f"unknown profile {name!r}; known: {known}", key="server.profile") from None
