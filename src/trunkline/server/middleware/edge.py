"""The outermost layer: gives the exchange its id, adds the headers every response has, turns whatever was raised into an
envelope, and accounts for the request when it has ended. It is the only layer that wraps `send`."""

import asyncio
import logging
import re

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trunkline.model.errors import BackendUnavailable, InternalError, MethodNotAllowed, NotFound, TrunklineError
from trunkline.model.ids import new_id
from trunkline.server.errors import ErrorEncoder, send_error
from trunkline.server.exchange import KEY, Exchange, Header, header
from trunkline.server.runtime import Runtime
from trunkline.telemetry.logs import AccessLog, logfmt

logger = logging.getLogger("trunkline.server")
LOGGED_CHARACTERS = 200
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_SECURITY: list[Header] = [
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"x-xss-protection", b"0"),
]


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, runtime: Runtime, *, errors: ErrorEncoder, access_log: AccessLog | None) -> None:
        self._app = app
        self._clock = runtime.clock
        self._entropy = runtime.entropy
        self._state = runtime.state
        self._usage = runtime.usage
        self._errors = errors
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = scope[KEY] = Exchange(
            request_id=self._request_id(scope), started_s=self._clock.monotonic_s(), send=send
        )

        async def send_out(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    *exchange.headers,
                    (b"x-request-id", exchange.request_id.encode()),
                    *_SECURITY,
                ]
            await send(message)

        task = asyncio.current_task()
        if task is not None:
            self._state.in_flight.add(task)
        try:
            await self._app(scope, receive, send_out)
        except TrunklineError as error:
            await self._render(error, exchange, send_out)
        except HTTPException as error:
            await self._render(_from_router(error, scope), exchange, send_out)
        except asyncio.CancelledError:
            exchange.outcome.error_code = exchange.outcome.error_code or "cancelled"
            if not self._state.aborting:
                raise
            leaving = BackendUnavailable("the server is shutting down", code="server_shutting_down")
            await self._render(leaving, exchange, send_out)
        except Exception as error:
            logger.error("request %s failed", exchange.request_id, exc_info=error)
            await self._render(InternalError(request_id=exchange.request_id), exchange, send_out)
        finally:
            if task is not None:
                self._state.in_flight.discard(task)
            del scope[KEY]  # it holds the server's `send`, which holds the scope: a cycle would outlive the request
            self._account(scope, exchange)

    def _request_id(self, scope: Scope) -> str:
        given = header(scope, b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode("ascii")
        return new_id("req_", self._entropy)

    async def _render(self, error: TrunklineError, exchange: Exchange, send: Send) -> None:
        if exchange.status == 0:
            await send_error(error, exchange, self._errors, send)

    def _account(self, scope: Scope, exchange: Exchange) -> None:
        ended_s = self._clock.monotonic_s()
        outcome = exchange.outcome
        failed = exchange.status >= 400 or outcome.error_code is not None
        self._usage.add(outcome, tenant=exchange.tenant, started_s=exchange.started_s, ended_s=ended_s, failed=failed)
        if self._access_log is None:
            return
        usage = outcome.usage
        first_s = outcome.first_content_s
        self._access_log.write(
            logfmt(
                "access",
                {
                    "id": exchange.request_id,
                    "method": scope["method"],
                    "path": _short(scope["path"]),
                    "status": exchange.status,
                    "ms": (ended_s - exchange.started_s) * 1000,
                    "tenant": exchange.tenant,
                    "model": None if outcome.model is None else _short(outcome.model),
                    "route": outcome.route or outcome.backend,
                    "stream": True if outcome.stream else None,
                    "relayed": True if outcome.relayed else None,
                    "first_ms": (first_s - exchange.started_s) * 1000
                    if outcome.stream and first_s is not None
                    else None,
                    "input_tokens": usage.input_tokens if usage is not None else None,
                    "output_tokens": usage.output_tokens if usage is not None else None,
                    "finish": outcome.finish_reason,
                    "error": outcome.error_code,
                },
                at_s=self._clock.now_s(),
            )
        )


def _short(text: str) -> str:
    """A client's own text for the log: bounded, so that nobody fills the disk with one request."""
    return text if len(text) <= LOGGED_CHARACTERS else f"{text[:LOGGED_CHARACTERS]}…"


def _from_router(error: HTTPException, scope: Scope) -> TrunklineError:
    """The router's own refusals: no such path, or not with this method."""
    path = str(scope["path"])[:200]
    if error.status_code == 405:
        allow = tuple(sorted((error.headers or {}).get("Allow", "").split(", ")))
        return MethodNotAllowed(
            f"{scope['method'][:20]} is not allowed on {path}; allowed: {', '.join(allow)}", allow=allow
        )
    return NotFound(
        f"unknown route {scope['method'][:20]} {path}; see GET /v1/models, POST /v1/chat/completions, GET /health"
    )
