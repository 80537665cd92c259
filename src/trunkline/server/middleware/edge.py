"""The outermost layer: gives the exchange its id, adds the headers every response has, turns whatever was raised into an
envelope, and accounts for the request when it has ended. It is the only layer that wraps `send`.

What stands before a surface are gates, called in order and not wrapped around one another: whatever a surface waits for, each
layer around it would be gone through once more when that arrives.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trunkline.model.errors import InternalError, MethodNotAllowed, NotFound, TrunklineError, shutting_down
from trunkline.model.ids import new_id
from trunkline.server.accounting import account
from trunkline.server.dispatch import Dispatch
from trunkline.server.errors import ErrorsFor, send_error
from trunkline.server.exchange import KEY, Exchange, Header, received_headers
from trunkline.server.runtime import Runtime

logger = logging.getLogger("trunkline.server")
SWITCHING_PROTOCOLS = 101
_BASE_URL_LACKING = re.compile(r"/(?:(?:chat/)?completions|responses|embeddings|models|conversations|runs|sessions)\Z")
"""How a path ends that an SDK makes of its base URL."""
_MAIN = ("GET /v1/models", "POST /v1/chat/completions", "POST /v1/responses", "GET /health")
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_HEADS = frozenset({"http.response.start", "websocket.accept"})
_SECURITY: list[Header] = [
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"x-xss-protection", b"0"),
]
_WHOLE_HOST: list[Header] = [(b"strict-transport-security", b"max-age=31536000; includeSubDomains")]
"""What binds the whole host of an answer and those below it: not an application's to say that is mounted in another."""


Gate = Callable[[Scope, Exchange], ASGIApp | None]
"""Lets a request pass, or gives what answers it instead. Raises a TrunklineError to refuse it."""


class Edge:
    """Around everything that answers. `dispatch` gives the surface for a request that has passed the gates; `mounted`: the host is
    another application's."""

    def __init__(
        self,
        dispatch: Dispatch,
        runtime: Runtime,
        *,
        gates: Sequence[Gate],
        errors: ErrorsFor,
        mounted: bool,
    ) -> None:
        self._dispatch = dispatch
        self._security = _SECURITY if mounted else [*_SECURITY, *_WHOLE_HOST]
        self._gates = gates
        self._clock = runtime.clock
        self._entropy = runtime.entropy
        self._state = runtime.state
        self._errors = errors
        self._accounts = runtime.accounts
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = received_headers(scope)
        exchange = scope[KEY] = Exchange(
            request_id=self._request_id(received),
            started_s=self._clock.monotonic_s(),
            send=send,
            received=received,
        )

        websocket = scope["type"] == "websocket"

        async def send_out(message: Message) -> None:
            if message["type"] in _HEADS:
                exchange.status = message.get("status", SWITCHING_PROTOCOLS)
                message["headers"] = [
                    *message.get("headers", ()),
                    *exchange.headers,
                    (b"x-request-id", exchange.request_id.encode()),
                    *self._security,
                ]
            if websocket and message["type"].startswith("http."):
                message["type"] = f"websocket.{message['type']}"  # refused before it became one
            await send(message)

        if self._loop is None:  # up to Python 3.11 it is a system call, so made once and not with each request
            self._loop = asyncio.get_running_loop()
        task = asyncio.current_task(self._loop)
        if task is not None:
            self._state.in_flight.add(task)
        try:
            await self._answering(scope, exchange)(scope, receive, send_out)
        except TrunklineError as error:
            await self._render(error, exchange, scope, send_out)
        except HTTPException as error:
            await self._render(_from_router(error, scope, self._dispatch), exchange, scope, send_out)
        except asyncio.CancelledError:
            exchange.outcome.error_code = exchange.outcome.error_code or "cancelled"
            if not self._state.aborting:
                raise
            await self._render(shutting_down(), exchange, scope, send_out)
        except Exception as error:
            logger.error("request %s failed", exchange.request_id, exc_info=error)
            await self._render(InternalError(request_id=exchange.request_id), exchange, scope, send_out)
        finally:
            if task is not None:
                self._state.in_flight.discard(task)
            del scope[KEY]  # it holds the server's `send`, which holds the scope: a cycle would outlive the request
            account(self._accounts, exchange, method=scope["method"], path=scope["path"])

    def _answering(self, scope: Scope, exchange: Exchange) -> ASGIApp:
        for gate in self._gates:
            instead = gate(scope, exchange)
            if instead is not None:
                return instead
        return self._dispatch.find(scope)

    def _request_id(self, received: Mapping[bytes, bytes]) -> str:
        given = received.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode("ascii")
        return new_id("req_", self._entropy)

    async def _render(self, error: TrunklineError, exchange: Exchange, scope: Scope, send: Send) -> None:
        if exchange.status == 0:
            await send_error(error, exchange, self._errors(scope["path"]), send)


def _from_router(error: HTTPException, scope: Scope, dispatch: Dispatch) -> TrunklineError:
    """The router's own refusals: no such path, or not with this method."""
    path = str(scope["path"])[:200]
    if scope["type"] == "websocket":
        return NotFound(f"there is no WebSocket at {path}; see /v1/responses")
    if error.status_code == 405:
        allow = tuple(sorted((error.headers or {}).get("Allow", "").split(", ")))
        return MethodNotAllowed(
            f"{scope['method'][:20]} is not allowed on {path}; allowed: {', '.join(allow)}", allow=allow
        )
    method = scope["method"][:20]
    meant = _BASE_URL_LACKING.search(path)
    if meant is not None:
        return NotFound(
            f"unknown route {method} {path}; the base URL ends in /v1, which makes this {method} /v1{meant[0]}"
        )
    routes = dispatch.beside(path) or _MAIN
    return NotFound(f"unknown route {method} {path}; see {', '.join(routes)}")
