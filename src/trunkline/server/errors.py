"""Errors as responses, for every route and every way to fail."""

import math
from collections.abc import Callable
from typing import Protocol

from starlette.types import Send

from trunkline.model.errors import AuthenticationError, ErrorInfo, MethodNotAllowed, TrunklineError
from trunkline.server.exchange import Exchange, Header, header_text
from trunkline.server.json_response import send_json


class ErrorEncoder(Protocol):
    """The part of a surface codec that writes its error envelope."""

    def encode_error(self, error: ErrorInfo) -> bytes: ...


_AFTER_ACTING = frozenset({500, 502, 504})
"""With 429 and 503 clients may well ask again: nothing has been done, or the server is leaving."""
_NOT_STORED = frozenset({"store_error", "store_full", "store_locked"})
"""But not where something has been done and only its answer could not be kept. By its code: a failure that ends a turn is told
again as a TurnFailure."""

ErrorsFor = Callable[[str], ErrorEncoder]
"""The envelope of each path's errors."""


async def send_error(error: TrunklineError, exchange: Exchange, encoder: ErrorEncoder, send: Send) -> None:
    """The error's status, its own headers and its envelope."""
    headers: list[Header] = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    if isinstance(error, AuthenticationError):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allow).encode()))
    outcome = exchange.outcome
    if outcome.acted and (error.status in _AFTER_ACTING or error.code in _NOT_STORED):
        headers.append((b"x-should-retry", b"false"))  # the official SDKs repeat a 5xx by themselves, and obey this
    refused_by = outcome.route or outcome.endpoint
    if refused_by is not None:  # somebody was asked: whose error it is
        headers.append((b"x-trunkline-route", header_text(refused_by)))
    outcome.error_code = error.code or error.type
    await send_json(encoder.encode_error(error.info()), send, status=error.status, headers=headers)
