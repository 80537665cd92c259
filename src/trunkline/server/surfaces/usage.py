"""GET /v1/usage: what has been used since the server started, per model and backend."""

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline.server.exchange import exchange_of
from trunkline.server.json_response import send_json
from trunkline.server.runtime import Runtime


class Usage:
    """A tenant sees its own rows; one whose key is an admin's sees everybody's."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        settings = runtime.settings
        self._admins = frozenset(key.name for key in settings.keys if key.admin)
        self._open = not settings.api_keys and not settings.keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant = exchange_of(scope).tenant
        rows = self._runtime.usage.rows(None if self._open or tenant in self._admins else tenant)
        await send_json(msgspec.json.encode({"object": "list", "data": list(rows)}), send)


def routes(runtime: Runtime) -> list[BaseRoute]:
    return [Route("/v1/usage", Usage(runtime), methods=["GET"])]
