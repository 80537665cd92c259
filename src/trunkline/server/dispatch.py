"""Which application answers a request: by its path and method in one look, where the path is a plain one.

The router compares a path with one route after the other, by regular expressions. Most requests are for a handful of fixed paths,
which a dictionary knows. Everything else goes to the router, which alone says 404 and 405: paths with parts that vary, WebSockets,
methods that a path has not.
"""

import re
from collections.abc import Iterator

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Scope

from trunkline.server.methods import ByMethod


class Dispatch:
    """Over a router's routes, in its order: a path that an earlier route would take is left to that one."""

    def __init__(self, router: Router) -> None:
        for route in router.routes:
            if isinstance(route, Route):  # Starlette ends its expressions with `$`, which a line break may follow
                route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z")
        self._router = router
        self._exact = dict(_exact(router))

    def find(self, scope: Scope) -> ASGIApp:
        if scope["type"] != "http" or scope.get("root_path"):
            return self._router
        return self._exact.get((scope["method"], scope["path"]), self._router)

    def beside(self, path: str) -> list[str]:
        """The routes that differ from a path in its last part only, each as its method and path; none of the very first level."""
        *parts, _ = path.split("/")
        if len(parts) < 3:
            return []
        return [
            f"{method} {route.path}"
            for route in self._router.routes
            if isinstance(route, Route) and _leads(route.path.split("/"), parts)
            for method in sorted(route.methods or ())
            if method not in ("HEAD", "OPTIONS")
        ]


def _leads(template: list[str], parts: list[str]) -> bool:
    """Whether a route's path is a path of these parts and one more."""
    return len(template) == len(parts) + 1 and all(
        name == part or name.startswith("{") for name, part in zip(template, parts, strict=False)
    )


def _exact(router: Router) -> Iterator[tuple[tuple[str, str], ASGIApp]]:
    """What each method of each fixed path leads to."""
    before: list[Route] = []
    for route in router.routes:
        if not isinstance(route, Route):
            continue
        if not route.param_convertors and not any(earlier.path_regex.match(route.path) for earlier in before):
            for method in route.methods or ():
                app = route.app
                yield (method, route.path), app.of(method) if isinstance(app, ByMethod) else app
        before.append(route)
