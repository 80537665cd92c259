"""Authentication: bearer tokens, each the key of one tenant.

Tokens are compared by their SHA-256 digest in a dictionary, which tells an attacker who measures time nothing about any key,
and costs the same for one key as for a thousand. Without keys the server is open; the configuration then allows only a
loopback address (decision 16).
"""

from collections.abc import Mapping
from hashlib import sha256

from starlette.types import ASGIApp, Receive, Scope, Send

from trunkline.config.schema import ServerSettings
from trunkline.model.errors import AuthenticationError
from trunkline.server.exchange import exchange_of, header

OPEN_PATHS = frozenset({"/health", "/v1/health", "/health/ready"})


def tenants_by_digest(settings: ServerSettings) -> Mapping[bytes, str]:
    """Digest of each configured key to its tenant."""
    digests = {sha256(key.encode()).digest(): "default" for key in settings.api_keys}
    digests.update({sha256(key.key.encode()).digest(): key.name for key in settings.keys})
    return digests


class Authentication:
    """Names the tenant of an exchange, or refuses it."""

    def __init__(self, app: ASGIApp, tenants: Mapping[bytes, str]) -> None:
        self._app = app
        self._tenants = tenants

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._tenants and scope["path"] not in OPEN_PATHS:
            exchange = exchange_of(scope)
            exchange.tenant = "-"  # nobody yet: what is refused belongs to no tenant
            exchange.tenant = self._tenant(header(scope, b"authorization"))
        await self._app(scope, receive, send)

    def _tenant(self, authorization: bytes | None) -> str:
        if authorization is None:
            raise AuthenticationError("You didn't provide an API key. Send it as 'Authorization: Bearer KEY'.")
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise AuthenticationError("Incorrect authorization header; expected 'Authorization: Bearer KEY'.")
        tenant = self._tenants.get(sha256(token.strip()).digest())
        if tenant is None:
            raise AuthenticationError("Incorrect API key provided.")
        return tenant
