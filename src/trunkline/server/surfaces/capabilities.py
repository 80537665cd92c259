"""GET /v1/capabilities: what this server offers, for programs that adapt to it.

What is listed is looked up in the routes there are, so it cannot promise what is not served. Some of its members are those that
clients of an agent gateway read; they say no more than is true here.
"""

import re

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline import __version__
from trunkline.server.json_response import send_json
from trunkline.server.runtime import Runtime

ENDPOINTS = (
    ("health", "GET", "/health"),
    ("health_detailed", "GET", "/health/detailed"),
    ("health_ready", "GET", "/health/ready"),
    ("models", "GET", "/v1/models"),
    ("chat_completions", "POST", "/v1/chat/completions"),
    ("responses", "POST", "/v1/responses"),
    ("response", "GET", "/v1/responses/{response_id}"),
    ("response_cancel", "POST", "/v1/responses/{response_id}/cancel"),
    ("conversations", "POST", "/v1/conversations"),
    ("runs", "POST", "/v1/runs"),
    ("run_list", "GET", "/v1/runs"),
    ("run_status", "GET", "/v1/runs/{run_id}"),
    ("run_events", "GET", "/v1/runs/{run_id}/events"),
    ("run_approval", "POST", "/v1/runs/{run_id}/approval"),
    ("run_stop", "POST", "/v1/runs/{run_id}/stop"),
    ("sessions", "GET", "/v1/sessions"),
    ("session_create", "POST", "/v1/sessions"),
    ("session", "GET", "/v1/sessions/{session_id}"),
    ("session_update", "POST", "/v1/sessions/{session_id}"),
    ("session_delete", "DELETE", "/v1/sessions/{session_id}"),
    ("session_messages", "GET", "/v1/sessions/{session_id}/messages"),
    ("session_fork", "POST", "/v1/sessions/{session_id}/fork"),
    # Where a profile has its clients' own, those count.
    ("sessions", "GET", "/api/sessions"),
    ("session_create", "POST", "/api/sessions"),
    ("session", "GET", "/api/sessions/{session_id}"),
    ("session_update", "PATCH", "/api/sessions/{session_id}"),
    ("session_delete", "DELETE", "/api/sessions/{session_id}"),
    ("session_messages", "GET", "/api/sessions/{session_id}/messages"),
    ("session_fork", "POST", "/api/sessions/{session_id}/fork"),
    ("session_chat", "POST", "/api/sessions/{session_id}/chat"),
    ("session_chat_stream", "POST", "/api/sessions/{session_id}/chat/stream"),
    ("skills", "GET", "/v1/skills"),
    ("toolsets", "GET", "/v1/toolsets"),
    ("embeddings", "POST", "/v1/embeddings"),
    ("usage", "GET", "/v1/usage"),
)
"""What may be there, each under the name that clients look for."""

_FEATURES = {
    "chat_completions": "chat_completions",
    "chat_completions_streaming": "chat_completions",
    "responses_api": "responses",
    "responses_streaming": "responses",
    "background_responses": "response_cancel",
    "run_submission": "runs",
    "run_status": "run_status",
    "run_events_sse": "run_events",
    "run_stop": "run_stop",
    "run_approval_response": "run_approval",
    "tool_progress_events": "chat_completions",
    "approval_events": "run_approval",
    "session_resources": "sessions",
    "session_fork": "session_fork",
    "session_chat": "session_chat",
    "session_chat_streaming": "session_chat_stream",
    "skills_api": "skills",
}
"""Each feature, and the endpoint that it needs."""

_ABSENT = (
    "admin_config_rw",
    "jobs_admin",
    "memory_write_api",
    "realtime_voice",
)
"""What clients ask for that is not here."""

_PARAMETER = re.compile(r"{[^}]*}")


class Capabilities:
    """Answers with one object, which does not change while the server runs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = self._runtime
        profile, settings = runtime.profile, runtime.settings
        models = [info.id for info in await runtime.router.models()]
        served = _served(scope["app"].routes)
        endpoints = {
            name: {"method": method, "path": path}
            for name, method, path in ENDPOINTS
            if (method, _PARAMETER.sub("{}", path)) in served
        }
        body = {
            "object": profile.capabilities_object,
            "platform": profile.platform_name or "trunkline",
            "version": __version__,
            "model": next(iter(models), None),
            "models": models,
            "auth": {"type": "bearer", "required": bool(settings.api_keys or settings.keys)},
            "runtime": {
                "mode": "server_agent",
                "tool_execution": "server",
                "split_runtime": False,
                "description": "Tools that an agent runs itself execute on the API-server host. Tools that a client "
                "declares are the client's to run, where what answers can call them.",
            },
            "features": {
                **{feature: endpoint in endpoints for feature, endpoint in _FEATURES.items()},
                **dict.fromkeys(_ABSENT, False),
                "idempotency_key_header": "Idempotency-Key",
                "session_continuity_header": profile.session_header.title(),
                "session_key_header": profile.memory_key_header.title(),
                "cors": bool(settings.cors_origins),
            },
            "endpoints": endpoints,
        }
        await send_json(msgspec.json.encode(body), send)


def _served(routes: list[BaseRoute]) -> set[tuple[str, str]]:
    """Method and path of each route, parameters without their names."""
    return {
        (method, _PARAMETER.sub("{}", route.path))
        for route in routes
        if isinstance(route, Route)
        for method in route.methods or ()
    }


def routes(runtime: Runtime) -> list[BaseRoute]:
    return [Route("/v1/capabilities", Capabilities(runtime), methods=["GET"])]
