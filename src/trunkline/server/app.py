"""The ASGI application: surfaces behind a router, middleware around it, backends started and closed with it."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from trunkline.engine.runs import Runs
from trunkline.ports.backend import Backend
from trunkline.ports.stores import Store
from trunkline.routing.catalog import Catalog
from trunkline.server.errors import ErrorEncoder
from trunkline.server.middleware.auth import Authentication, tenants_by_digest
from trunkline.server.middleware.cors import Cors
from trunkline.server.middleware.edge import Edge
from trunkline.server.runtime import Runtime
from trunkline.telemetry.logs import AccessLog

logger = logging.getLogger("trunkline.server")


class Application:
    """Serves HTTP. `drain` is called when the server is told to leave, `models` when it says hello."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        routes: Sequence[BaseRoute],
        backends: Sequence[Backend],
        catalog: Catalog,
        store: Store,
        runs: Runs,
        errors: ErrorEncoder,
        access_log: AccessLog | None,
    ) -> None:
        self.runtime = runtime
        self._backends = backends
        self._catalog = catalog
        self._store = store
        self._runs = runs
        self._access_log = access_log
        self._router = Router(routes=routes, redirect_slashes=False, lifespan=self._lifespan)
        inner: ASGIApp = Authentication(self._router, tenants_by_digest(runtime.settings))
        inner = Cors(inner, runtime.settings.cors_origins)
        self._edge = Edge(inner, runtime, errors=errors, access_log=access_log)

    @property
    def routes(self) -> Sequence[BaseRoute]:
        return self._router.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["app"] = self  # the router raises its 404 and 405 for us to render only if it finds an app here
            await self._edge(scope, receive, send)
        else:
            await self._router(scope, receive, send)

    async def models(self) -> list[str]:
        """The names a client may ask for, as far as the backends say."""
        return [info.id for info in await self.runtime.router.models()]

    def drain(self) -> None:
        """The server has been told to leave: it is no longer ready, what is in flight goes on."""
        self.runtime.state.draining = True

    def abort(self) -> None:
        """The time to finish is over: every answer in flight ends now, with an error."""
        self.runtime.state.abort()

    @asynccontextmanager
    async def _lifespan(self, app: object) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if self._access_log is not None:
                stack.callback(self._access_log.close)
            stack.push_async_callback(self._store.close)
            await self._store.start()
            for backend in self._backends:
                stack.push_async_callback(backend.close)
                await backend.start()
            stack.push_async_callback(self._catalog.close)
            stack.push_async_callback(self._runs.close)
            await self._runs.start()
            yield
