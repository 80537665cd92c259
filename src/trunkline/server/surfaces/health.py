"""GET /health, /v1/health (alive, and how busy) and /health/ready (whether anyone can answer)."""

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline import __version__
from trunkline.server.json_response import send_json
from trunkline.server.runtime import Runtime


class Health:
    """Always 200 while the process serves (decision 17). Asks no backend, so it answers at once."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = self._runtime
        admissions = [slots.admission for slots in runtime.slots.values()]
        active = sum(admission.active for admission in admissions)
        models = runtime.router.known()
        body: dict[str, object] = {
            "status": "ok",
            "version": __version__,
            "model": models[0] if models else None,
            "models": models,
            "busy": any(admission.active >= admission.capacity for admission in admissions),
            "active": active,
            "queued": sum(admission.queued for admission in admissions),
            "capacity": sum(admission.capacity for admission in admissions),
        }
        if runtime.profile.platform_name is not None:
            body["platform"] = runtime.profile.platform_name
        await send_json(msgspec.json.encode(body), send)


class Ready:
    """503 while no backend can answer or the server is leaving."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        failures = await self._runtime.router.failures()
        backends = {name: "ok" if name not in failures else failures[name].message for name in self._runtime.slots}
        ready = not self._runtime.state.draining and any(state == "ok" for state in backends.values())
        status = "draining" if self._runtime.state.draining else "ready" if ready else "unavailable"
        body = {"status": status, "backends": backends}
        await send_json(msgspec.json.encode(body), send, status=200 if ready else 503)


def routes(runtime: Runtime) -> list[BaseRoute]:
    health = Health(runtime)
    return [
        Route("/health", health, methods=["GET"]),
        Route("/v1/health", health, methods=["GET"]),
        Route("/health/ready", Ready(runtime), methods=["GET"]),
    ]
