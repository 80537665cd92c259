"""What clients of hermes-agent's API server ask for and this one has none of, said as that server says it.

Skills and toolsets are lists, and empty: what an agent can do is its own affair here. Scheduled jobs are not kept, which is a 501.
"""

import msgspec
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from trunkline.server.json_response import send_json
from trunkline.server.methods import resource
from trunkline.server.runtime import Runtime

SKILLS, TOOLSETS, JOBS = "/v1/skills", "/v1/toolsets", "/api/jobs"
NOT_IMPLEMENTED = 501


class Fixed:
    """Always the same answer."""

    def __init__(self, body: object, *, status: int = 200) -> None:
        self._body = msgspec.json.encode(body)
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(self._body, send, status=self._status)


def routes(runtime: Runtime) -> list[BaseRoute]:
    """Where the profile has them."""
    skills = Fixed({"object": "list", "data": []})
    toolsets = Fixed({"object": "list", "platform": "api_server", "data": []})
    no_jobs = Fixed({"error": "Cron module not available"}, status=NOT_IMPLEMENTED)
    offered = {
        SKILLS: [resource(SKILLS, {"GET": skills})],
        TOOLSETS: [resource(TOOLSETS, {"GET": toolsets})],
        JOBS: [
            resource(JOBS, {"GET": no_jobs, "POST": no_jobs}),
            resource(f"{JOBS}/{{job_id}}", {"GET": no_jobs, "PATCH": no_jobs, "DELETE": no_jobs}),
            *[resource(f"{JOBS}/{{job_id}}/{verb}", {"POST": no_jobs}) for verb in ("pause", "resume", "run")],
        ],
    }
    return [route for path, own in offered.items() if path in runtime.profile.surfaces for route in own]
