"""Browser origins: denied unless listed (decision 25).

A request with an Origin header comes from a browser page. One whose origin is not listed is refused with 403 and without any
CORS header, preflight or not: a page the operator does not know must not reach a server on the operator's machine. `*` allows
every origin, but never with credentials. A page of a listed origin may send whatever headers it likes: the official SDK alone
sends a dozen `x-stainless-*` headers, and a list of them here would break with its next version.
"""

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from trunkline.model.errors import PermissionDenied
from trunkline.server.exchange import Header, exchange_of, header

_METHODS = b"GET, POST, DELETE, OPTIONS"
_REQUEST_HEADERS = b"Authorization, Content-Type, Idempotency-Key, X-Request-Id, X-Session-Id"
_HEADER_NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
MAX_HEADERS = 40
_EXPOSED = b"X-Request-Id, X-Session-Id, X-Trunkline-Route, X-Trunkline-Ignored, X-Trunkline-Cache, Retry-After"
MAX_AGE_S = 600


class Cors:
    """Answers preflights, adds the headers for listed origins, refuses the rest."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._any = "*" in origins
        self._origins = frozenset(origin.rstrip("/").encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = header(scope, b"origin")
        if origin is None:
            await self._app(scope, receive, send)
            return
        if not self._any and origin not in self._origins:
            raise PermissionDenied(
                "this origin is not allowed; list it in server.cors_origins", code="origin_not_allowed"
            )
        headers: list[Header] = [
            (b"access-control-allow-origin", b"*" if self._any else origin),
            (b"access-control-expose-headers", _EXPOSED),
        ]
        if not self._any:
            headers.append((b"vary", b"Origin"))
        exchange = exchange_of(scope)
        exchange.headers.extend(headers)
        if scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") is not None:
            preflight = [
                (b"access-control-allow-methods", _METHODS),
                (b"access-control-allow-headers", _allowed(header(scope, b"access-control-request-headers") or b"")),
                (b"access-control-max-age", str(MAX_AGE_S).encode()),
                (b"content-length", b"0"),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": preflight})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send)


def _allowed(asked: bytes) -> bytes:
    """What every client may send, and what this one asks for as far as it is header names."""
    names = [name.strip() for name in asked.split(b",")[:MAX_HEADERS]]
    return b", ".join([_REQUEST_HEADERS, *[name for name in names if _HEADER_NAME.fullmatch(name)]])
