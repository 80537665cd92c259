"""What clients of hermes-agent's API server ask for and this one has none of, said as that server says it.

Skills and toolsets are lists, and empty: what an agent can do is its own affair here. Scheduled jobs are neither kept nor fired,
which is a 501. No chat platform is connected (503), and there are no profiles with paths of their own (404).
"""

import msgspec
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from trunkline.model.errors import NotFound
from trunkline.server.json_response import send_json
from trunkline.server.methods import resource
from trunkline.server.runtime import Runtime

SKILLS, TOOLSETS, JOBS, FIRE, PLATFORMS, PROFILES = (
    "/v1/skills",
    "/v1/toolsets",
    "/api/jobs",
    "/api/cron",
    "/api/platforms",
    "/p",
)
NOT_IMPLEMENTED, UNAVAILABLE = 501, 503
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class Fixed:
    """Always the same answer."""

    def __init__(self, body: object, *, status: int = 200) -> None:
        self._body = msgspec.json.format(msgspec.json.encode(body), indent=0)
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(self._body, send, status=self._status)


async def no_profile(scope: Scope, _receive: Receive, _send: Send) -> None:
    name = scope["path_params"]["profile"][:200]
    raise NotFound(
        f"Unknown or unconfigured profile '{name}': this server has none, leave out '/p/{name}'; 'model' says who answers.",
        code="profile_not_found",
    )


def routes(runtime: Runtime) -> list[BaseRoute]:
    """Where the profile has them."""
    skills = Fixed({"object": "list", "data": []})
    toolsets = Fixed({"object": "list", "platform": "api_server", "data": []})
    no_jobs = Fixed({"error": "Cron module not available"}, status=NOT_IMPLEMENTED)
    unconnected = {
        "message": "Platform adapter is not connected: this server talks to no chat platforms.",
        "type": "server_error",
        "param": None,
        "code": "platform_unavailable",
    }
    no_platform = Fixed({"error": unconnected}, status=UNAVAILABLE)
    offered = {
        SKILLS: [resource(SKILLS, {"GET": skills})],
        TOOLSETS: [resource(TOOLSETS, {"GET": toolsets})],
        JOBS: [
            resource(JOBS, {"GET": no_jobs, "POST": no_jobs}),
            resource(f"{JOBS}/{{job_id}}", {"GET": no_jobs, "PATCH": no_jobs, "DELETE": no_jobs}),
            *[resource(f"{JOBS}/{{job_id}}/{verb}", {"POST": no_jobs}) for verb in ("pause", "resume", "run")],
        ],
        FIRE: [resource(f"{FIRE}/fire", {"POST": no_jobs})],
        PLATFORMS: [resource(f"{PLATFORMS}/{{platform}}/events", {"POST": no_platform})],
        PROFILES: [resource(f"{PROFILES}/{{profile}}/{{rest:path}}", dict.fromkeys(METHODS, no_profile))],
    }
    return [route for path, own in offered.items() if path in runtime.profile.surfaces for route in own]
