"""One exchange, or one turn of a WebSocket, written down when it has ended."""

from functools import lru_cache

from trunkline.server.exchange import Exchange
from trunkline.telemetry.accounts import Accounts, shortened
from trunkline.telemetry.logs import logfields, quoted


def account(accounts: Accounts, exchange: Exchange, *, method: str, path: str) -> None:
    """`method` is HTTP's, or WS for what a client asked over a WebSocket."""
    asked = _asked(method, shortened(path), exchange.status)
    accounts.add(
        "access",
        f"id={quoted(exchange.request_id)} {asked}",
        exchange.outcome,
        tenant=exchange.tenant,
        started_s=exchange.started_s,
        status=exchange.status,
    )


@lru_cache(maxsize=256)
def _asked(method: str, path: str, status: int) -> str:
    """The same from one request to the next."""
    return logfields({"method": method, "path": path, "status": status})
