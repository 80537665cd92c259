"""One HTTP exchange: what the middleware layers and the surface share about it.

It travels in the ASGI scope. Response headers are collected here and added once, where the head is sent, so that no layer
but the outermost has to wrap `send`: a wrapper costs a call per streamed event. Request headers are indexed once, because a
request has a dozen or two and nearly every layer asks for one.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from starlette.types import Scope, Send

from trunkline.model.errors import InvalidParameter
from trunkline.telemetry.outcome import Outcome

KEY = "trunkline.exchange"
Header = tuple[bytes, bytes]
NAME_CHARACTERS = 100
NAMES = 20
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_NO_HEADERS: Mapping[bytes, bytes] = {}


class Exchange:
    """Mutable on purpose: one per request. `send_body` is the server's own `send`, for what follows the head. `received` are the
    request's headers by their lower-case names, the first of each."""

    __slots__ = ("headers", "outcome", "received", "request_id", "send_body", "started_s", "status", "tenant")

    def __init__(
        self, *, request_id: str, started_s: float, send: Send, received: Mapping[bytes, bytes] = _NO_HEADERS
    ) -> None:
        self.request_id = request_id
        self.received = received
        self.send_body = send
        self.started_s = started_s  # monotonic clock
        self.headers: list[Header] = []
        self.outcome = Outcome()
        self.status = 0  # of the head that was sent; 0 before
        self.tenant = "default"


def exchange_of(scope: Scope) -> Exchange:
    exchange = scope[KEY]
    assert isinstance(exchange, Exchange)
    return exchange


def received_headers(scope: Scope) -> Mapping[bytes, bytes]:
    """A request's headers by name, the first of each."""
    return dict(reversed(scope["headers"]))


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that (lower-case) name."""
    exchange: Exchange = scope[KEY]
    return exchange.received.get(name)


def sole_header(scope: Scope, name: str) -> bytes | None:
    """The header of that name, in any case, where a second one would contradict it. Raises InvalidParameter for a second one."""
    wanted = name.lower().encode()
    given = header(scope, wanted)
    if given is not None and sum([one == wanted for one, _ in scope["headers"]]) > 1:
        raise InvalidParameter(f"The header '{name}' is there twice, and only one can count; send one.", param=name)
    return given


@lru_cache(maxsize=256)
def header_text(text: str) -> bytes:
    """A header's value from text that may be a client's own: printable, bounded, one line."""
    shown = text if len(text) <= NAME_CHARACTERS else f"{text[:NAME_CHARACTERS]}..."
    return _UNPRINTABLE.sub("?", shown).encode("ascii")


def header_list(names: Sequence[str]) -> bytes:
    """Names in one header; a count stands for those beyond the first NAMES."""
    listed = [header_text(name.replace(",", "?")) for name in names[:NAMES]]
    if len(names) > NAMES:
        listed.append(b"... %d more" % (len(names) - NAMES))
    return b", ".join(listed)
