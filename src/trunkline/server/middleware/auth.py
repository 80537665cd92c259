"""Authentication: bearer tokens, each the key of one tenant.

Tokens are compared by their SHA-256 digest in a dictionary, which tells an attacker who measures time nothing about any key,
and costs the same for one key as for a thousand. Without keys the server is open; the configuration then allows only a
loopback address (decision 16). Which paths need no key, where else a key may stand and how a refusal looks are the profile's.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import NoReturn
from urllib.parse import parse_qs

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from trunkline.config.profiles import Profile
from trunkline.config.schema import ServerSettings
from trunkline.model.errors import AuthenticationError, ErrorInfo, PermissionDenied, RequestError
from trunkline.server.errors import send_error
from trunkline.server.exchange import Exchange


def tenants_by_digest(settings: ServerSettings) -> Mapping[bytes, str]:
    """Digest of each configured key to its tenant."""
    digests = {sha256(key.encode()).digest(): "default" for key in settings.api_keys}
    digests.update({sha256(key.key.encode()).digest(): key.name for key in settings.keys})
    return digests


class DetailErrors:
    """The envelope that FastAPI's own errors have."""

    def encode_error(self, error: ErrorInfo) -> bytes:
        return msgspec.json.encode({"detail": error.message})


class Authentication:
    """Names the tenant of an exchange, or refuses it."""

    def __init__(self, tenants: Mapping[bytes, str], profile: Profile) -> None:
        self._tenants = tenants
        self._profile = profile

    def __call__(self, scope: Scope, exchange: Exchange) -> ASGIApp | None:
        parameter = self._profile.key_parameter
        key = None if parameter is None else self._taken_from_query(scope, parameter)
        if self._tenants and scope["path"] not in self._profile.open_paths:
            exchange.tenant = "-"  # nobody yet: what is refused belongs to no tenant
            try:
                token = self._token(exchange.received.get(b"authorization"), key)
                tenant = self._tenants.get(sha256(token).digest())
                exchange.tenant = self._nobody() if tenant is None else tenant
            except RequestError as error:
                if self._profile.auth_errors == "openai":
                    raise
                return _detailed(error, exchange)
        return None

    @staticmethod
    def _taken_from_query(scope: Scope, parameter: str) -> bytes | None:
        """The key in the query, where the profile has a place for it. It is nobody's parameter from here on."""
        query = bytes(scope["query_string"])
        if parameter.encode() not in query:
            return None
        pairs = query.split(b"&")
        scope["query_string"] = b"&".join([pair for pair in pairs if pair.partition(b"=")[0] != parameter.encode()])
        given = parse_qs(query.decode("latin-1")).get(parameter)
        return given[0].encode() if given else None

    @staticmethod
    def _token(authorization: bytes | None, key: bytes | None) -> bytes:
        if authorization is None:
            if key is not None:
                return key
            raise AuthenticationError("You didn't provide an API key. Send it as 'Authorization: Bearer KEY'.")
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise AuthenticationError("Incorrect authorization header; expected 'Authorization: Bearer KEY'.")
        return token.strip()

    def _nobody(self) -> NoReturn:
        if self._profile.wrong_key_status == 403:
            raise PermissionDenied("Incorrect API key provided.", code="invalid_api_key")
        raise AuthenticationError("Incorrect API key provided.")


def _detailed(error: RequestError, exchange: Exchange) -> ASGIApp:
    async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send_error(error, exchange, DetailErrors(), send)

    return refuse
