"""Browser origins: denied unless listed (decision 25).

A request with an Origin header comes from a browser page. One whose origin is not listed is refused with 403 and without any
CORS header, preflight or not: a page the operator does not know must not reach a server on the operator's machine. `*` allows
every origin, but never with credentials. A page of a listed origin may send whatever headers it likes: the official SDK alone
sends a dozen `x-stainless-*` headers, and a list of them here would break with its next version.
"""

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from trunkline.config.profiles import Profile
from trunkline.model.errors import PermissionDenied
from trunkline.server.exchange import Exchange, Header, header_text

_METHODS = b"GET, POST, PATCH, DELETE, OPTIONS"
_REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id"
_HEADER_NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
MAX_HEADERS = 40
_OWN = ("Route", "Ignored", "Cache", "Idempotent", "Warning")
_EXPOSED = ", ".join(["X-Request-Id", *[f"X-Trunkline-{name}" for name in _OWN], "Retry-After", "X-Should-Retry"])
MAX_AGE_S = 600


class Cors:
    """Answers preflights, adds the headers for listed origins, refuses the rest."""

    def __init__(self, origins: Sequence[str], profile: Profile) -> None:
        sessions = f"{profile.session_header}, {profile.memory_key_header}"
        results = ", ".join([f"x-{profile.own_name}-{name}" for name in ("completed", "partial", "error")])
        self._request_headers = f"{_REQUEST_HEADERS}, {sessions.title()}".encode()
        self._exposed = f"{_EXPOSED}, {sessions.title()}, {results.title()}".encode()
        self._any = "*" in origins
        self._origins = frozenset(origin.rstrip("/").encode() for origin in origins)

    def __call__(self, scope: Scope, exchange: Exchange) -> ASGIApp | None:
        received = exchange.received
        origin = received.get(b"origin")
        if origin is None:
            return None
        if not self._any and origin not in self._origins:
            named = exchange.outcome.origin = header_text(origin.decode("latin-1")).decode("ascii")
            raise PermissionDenied(_refusal(named), code="origin_not_allowed")
        headers: list[Header] = [
            (b"access-control-allow-origin", b"*" if self._any else origin),
            (b"access-control-expose-headers", self._exposed),
        ]
        if not self._any:
            headers.append((b"vary", b"Origin"))
        exchange.headers.extend(headers)
        if scope["method"] != "OPTIONS" or b"access-control-request-method" not in received:
            return None
        return _preflight(_allowed(self._request_headers, received.get(b"access-control-request-headers", b"")))


def _refusal(origin: str) -> str:
    if origin == "null":  # of a file, a sandbox or a redirect: it may be anybody's
        remedy = "have the page served by a web server, and list its origin"
    else:
        remedy = "list it in server.cors_origins"
    return f"the origin {origin!r} is not allowed; {remedy}"


def _preflight(allowed: bytes) -> ASGIApp:
    """Answers what a browser asks before it asks."""
    headers = [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", allowed),
        (b"access-control-max-age", str(MAX_AGE_S).encode()),
        (b"content-length", b"0"),
    ]

    async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return answer


def _allowed(always: bytes, asked: bytes) -> bytes:
    """What every client may send, and what this one asks for as far as it is header names."""
    names = [name.strip() for name in asked.split(b",")[:MAX_HEADERS]]
    return b", ".join([always, *[name for name in names if _HEADER_NAME.fullmatch(name)]])
