"""GET /health, /v1/health (alive, and how busy), /health/detailed (this process) and /health/ready (whether anyone can answer)."""

import os
from datetime import UTC, datetime

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline import __version__
from trunkline.server.json_response import send_json
from trunkline.server.runtime import Runtime


class Health:
    """Always 200 while the process serves (decision 17), asking no backend, so it answers at once. A profile may want every
    endpoint asked: then 503 while one of them fails."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = self._runtime
        endpoints = runtime.endpoints
        models = runtime.router.known()
        body: dict[str, object] = {
            "status": "ok",
            "version": __version__,
            "model": models[0] if models else None,
            "models": models,
            "busy": any(endpoint.active >= endpoint.capacity for endpoint in endpoints),
            "active": sum(endpoint.active for endpoint in endpoints),
            "queued": sum(endpoint.waiting for endpoint in endpoints),
            "capacity": sum(endpoint.capacity for endpoint in endpoints),
        }
        if runtime.profile.platform_name is not None:
            body["platform"] = runtime.profile.platform_name
        status = 200
        if runtime.profile.health == "endpoints":
            failures = await runtime.router.endpoint_failures()
            body["endpoints"] = {
                one.label: {"status": "error", "detail": failures[one.label].message}
                if one.label in failures
                else {"status": "ok"}
                for one in endpoints
            }
            if failures:
                body["status"], status = "error", 503
        await send_json(msgspec.json.encode(body), send, status=status)


class Detailed:
    """What a dashboard wants to know of the process. Nothing in it says who answers: it needs no key.

    Some members are those that dashboards of an agent gateway read. Here no gateway to other platforms runs beside the server, so
    what they say of it is nothing.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = self._runtime
        active = sum(endpoint.active for endpoint in runtime.endpoints)
        body: dict[str, object] = {
            "status": "draining" if runtime.state.draining else "ok",
            "platform": runtime.profile.platform_name or "trunkline",
            "version": __version__,
            "gateway_state": None,
            "platforms": {},
            "active_agents": active,
            "queued": sum(endpoint.waiting for endpoint in runtime.endpoints),
            "capacity": sum(endpoint.capacity for endpoint in runtime.endpoints),
            "exit_reason": None,
            "updated_at": datetime.fromtimestamp(runtime.clock.now_s(), UTC).isoformat(timespec="seconds"),
            "pid": os.getpid(),
        }
        await send_json(msgspec.json.encode(body), send)


class Ready:
    """503 while no backend can answer or the server is leaving."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        failures = await self._runtime.router.failures()
        names = dict.fromkeys(endpoint.backend_name for endpoint in self._runtime.endpoints)
        backends = {name: "ok" if name not in failures else failures[name].message for name in names}
        ready = not self._runtime.state.draining and any(state == "ok" for state in backends.values())
        status = "draining" if self._runtime.state.draining else "ready" if ready else "unavailable"
        body: dict[str, object] = {"status": status, "backends": backends}
        ejected: dict[str, dict[str, float]] = {}  # who gets nothing now, of what, and for how many seconds more
        half_open: dict[str, list[str]] = {}  # whose time is over: the next request will tell
        for one in self._runtime.endpoints:
            for circuit, left_s in one.breaker.states().items():
                if left_s > 0:
                    ejected.setdefault(one.label, {})[circuit] = left_s
                else:
                    half_open.setdefault(one.label, []).append(circuit)
        if ejected:
            body["ejected"] = ejected
        if half_open:
            body["half_open"] = half_open
        await send_json(msgspec.json.encode(body), send, status=200 if ready else 503)


def routes(runtime: Runtime) -> list[BaseRoute]:
    health = Health(runtime)
    return [
        Route("/health", health, methods=["GET"]),
        Route("/v1/health", health, methods=["GET"]),
        Route("/health/detailed", Detailed(runtime), methods=["GET"]),
        Route("/health/ready", Ready(runtime), methods=["GET"]),
    ]
