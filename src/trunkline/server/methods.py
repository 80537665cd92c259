"""One path, several methods, each an application of its own.

The router compares paths first and asks for the method afterwards. Two routes of one path would make it name only one of their
methods in `Allow`, so a path is one route here.
"""

from collections.abc import Mapping

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send


class ByMethod:
    """Asks the application of the request's method; HEAD is answered as GET, without its body, by the server."""

    def __init__(self, applications: Mapping[str, ASGIApp]) -> None:
        self._applications = applications

    def of(self, method: str) -> ASGIApp:
        return self._applications["GET" if method == "HEAD" else method]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.of(scope["method"])(scope, receive, send)


def resource(path: str, applications: Mapping[str, ASGIApp]) -> Route:
    return Route(path, ByMethod(applications), methods=list(applications))
