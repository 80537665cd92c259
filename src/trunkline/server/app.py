"""The ASGI application: surfaces behind a router, middleware around it, backends started and closed with it."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from trunkline.model.errors import shutting_down
from trunkline.ports.backend import Checkable
from trunkline.routing.catalog import Catalog
from trunkline.server.dispatch import Dispatch
from trunkline.server.errors import ErrorsFor
from trunkline.server.exchange import Exchange
from trunkline.server.middleware.auth import Authentication, tenants_by_digest
from trunkline.server.middleware.cors import Cors
from trunkline.server.middleware.edge import Edge, Gate
from trunkline.server.runtime import ResponseState, Runtime
from trunkline.telemetry.logs import AccessLog
from trunkline.telemetry.loop_lag import LoopLag

logger = logging.getLogger("trunkline.server")

Routes = Sequence[BaseRoute]


class Application:
    """Serves HTTP. `drain` is called when the server is told to leave, `models` when it says hello."""

    def __init__(
        self,
        runtime: Runtime,
        kept: ResponseState,
        *,
        routes: Routes,
        catalog: Catalog,
        errors: ErrorsFor,
        access_log: AccessLog | None,
        lag: LoopLag,
        mounted: bool,
    ) -> None:
        self.runtime = runtime
        self._backends = [endpoint.backend for endpoint in runtime.endpoints]
        self._catalog = catalog
        self._store = kept.store
        self._runs = kept.runs
        self._access_log = access_log
        self._lag = lag
        self._router = Router(
            routes=routes, redirect_slashes=False, default=_no_route, lifespan=lambda _app: self.running()
        )
        self._gates: list[Gate] = [
            Cors(runtime.settings.cors_origins, runtime.profile),
            Authentication(tenants_by_digest(runtime.settings), runtime.profile),
        ]
        self._edge = Edge(Dispatch(self._router), runtime, gates=self._gates, errors=errors, mounted=mounted)

    @property
    def routes(self) -> Sequence[BaseRoute]:
        return self._router.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._router(scope, receive, send)
            return
        scope["app"] = self  # the router raises its 405 for us to render only if it finds an app here
        scope.setdefault("method", "GET")  # of a WebSocket's opening handshake, which ASGI does not mention
        await self._edge(scope, receive, send)

    @property
    def max_message_bytes(self) -> int:
        """What one message of a WebSocket may have at most."""
        return self.runtime.settings.max_body_bytes

    async def models(self) -> list[str]:
        """The names a client may ask for, as far as the backends say."""
        return [info.id for info in await self.runtime.router.models()]

    @property
    def busy(self) -> bool:
        """Whether work goes on that no connection waits for."""
        return self.runs > 0 or self.runtime.idempotency.busy

    @property
    def runs(self) -> int:
        """How many runs are being answered."""
        return self._runs.answered

    def drain(self) -> None:
        """The server has been told to leave: it is no longer ready, what is in flight goes on."""
        self.runtime.state.drain()
        self.runtime.approvals.drain(self._runs.let_go)
        self._runs.drain()

    def abort(self) -> None:
        """The time to finish is over: every answer in flight ends now, with an error."""
        self.runtime.state.abort()
        self.runtime.idempotency.abort()
        self._runs.abort()

    def check(self) -> None:
        """Raises ConfigError for a backend that could not be started, as far as it can tell before that."""
        for backend in self._backends:
            if isinstance(backend, Checkable):
                backend.check()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything is started, and closed in the end."""
        async with AsyncExitStack() as stack:
            if self._access_log is not None:
                stack.callback(self._access_log.close)
            stack.callback(self.runtime.cache.close)
            stack.push_async_callback(self._store.close)
            await self._store.start()
            stack.push_async_callback(self.runtime.usage.close)
            await self.runtime.usage.start()
            stack.callback(self._lag.close)
            self._lag.start()
            for backend in self._backends:
                stack.push_async_callback(backend.close)
                await backend.start()
            stack.push_async_callback(self._catalog.close)
            stack.push_async_callback(self.runtime.idempotency.close)
            stack.push_async_callback(self._runs.close)
            await self._runs.start()
            stack.callback(self._gates.insert, 0, _ended)
            yield


def _ended(_scope: Scope, _exchange: Exchange) -> ASGIApp | None:
    """The gate of an application whose backends and store are closed, or about to be."""
    raise shutting_down()


async def _no_route(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Also where a WebSocket was asked for, which the router would refuse in its own way."""
    raise HTTPException(404)
