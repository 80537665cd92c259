"""One exchange, or one turn of a WebSocket, written down when it has ended."""

from trunkline.server.exchange import Exchange
from trunkline.telemetry.accounts import Accounts, shortened


def account(accounts: Accounts, exchange: Exchange, *, method: str, path: str) -> None:
    """`method` is HTTP's, or WS for what a client asked over a WebSocket."""
    accounts.add(
        "access",
        {"id": exchange.request_id, "method": method, "path": shortened(path), "status": exchange.status},
        exchange.outcome,
        tenant=exchange.tenant,
        started_s=exchange.started_s,
        status=exchange.status,
    )
