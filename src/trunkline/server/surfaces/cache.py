"""GET and DELETE /v1/cache: what the answer cache holds for a tenant and has done, and how to have it forgotten."""

import msgspec
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from trunkline.engine.cache_entries import CacheRow
from trunkline.model.errors import InvalidParameter
from trunkline.server.exchange import exchange_of
from trunkline.server.json_response import send_json
from trunkline.server.methods import resource
from trunkline.server.privilege import Privilege
from trunkline.server.query import query_of
from trunkline.server.runtime import Runtime

_SUMS = ("entries", "size_bytes", "hits", "similar", "joined", "misses", "input_tokens", "output_tokens")


class Cache:
    """A tenant's own part of it, and all of it for who sees the whole server. Nobody clears another's."""

    def __init__(self, runtime: Runtime) -> None:
        self._cache = runtime.cache
        self._privilege = Privilege(runtime.settings)

    async def show(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant = exchange_of(scope).tenant
        rows = list(self._cache.rows(None if self._privilege.sees_all(tenant) else tenant))
        shown = {
            "object": "cache",
            "ttl_s": self._cache.settings.ttl_s,
            "max_bytes": self._cache.settings.max_bytes,
            **{name: sum([getattr(row, name) for row in rows]) for name in _SUMS},
            "data": [_shown(row) for row in rows],
        }
        await send_json(msgspec.json.encode(shown), send)

    async def forget(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = query_of(scope, blank=True)  # a name left empty must not have everything forgotten
        for name in query:
            if name != "model":
                raise InvalidParameter(
                    f"Unknown parameter: '{name[:100]}'. Only 'model' is known here.", param=name[:100]
                )
        count = self._cache.forget(exchange_of(scope).tenant, query.get("model"))
        await send_json(msgspec.json.encode({"object": "cache.deleted", "deleted": True, "entries": count}), send)


def _shown(row: CacheRow) -> dict[str, object]:
    return {"tenant": row.tenant, "model": row.model, **{name: getattr(row, name) for name in _SUMS}}


def routes(runtime: Runtime) -> list[BaseRoute]:
    cache = Cache(runtime)
    return [resource("/v1/cache", {"GET": cache.show, "DELETE": cache.forget})]
