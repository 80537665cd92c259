"""Writing one stream to a client, whatever its framing: the head, the frames, what keeps it alive while it is silent.

One timer per stream, re-armed only when it fires, does two things. It sends the head after a second if the backend has not
begun by then: until then a failure can still be a status. And it sends the framing's comment, where that has one, whenever
nothing was written for the keepalive time. Writes are whole frames, so a comment never lands inside one. The same timer notices
a client that has stopped reading: one write that has not got through for STALL_TICKS rounds of it. Such a client counts as gone,
so that it cannot hold a slot for ever.
"""

import asyncio
from collections.abc import Callable, Sequence

from starlette.types import Send

from trunkline.dialects.codec import Framing
from trunkline.server.exchange import Header

HEAD_WAIT_S = 1.0
STALL_TICKS = 4
_HEAD: list[Header] = [
    (b"cache-control", b"no-cache"),
    # nginx and its kin buffer responses unless told not to; a stream must reach the client as it is made.
    (b"x-accel-buffering", b"no"),
]


class ClientStream:
    """The client's side of one streamed answer. `close` must be called; it stops the timer."""

    def __init__(
        self,
        send: Send,
        *,
        send_body: Send,
        framing: Framing,
        keepalive_s: float,
        head: Callable[[], Sequence[Header]],
        on_stall: Callable[[], None],
    ) -> None:
        self._send = send
        self._send_body = send_body  # without the middleware's wrapper, which only looks at heads
        self._keepalive_s = keepalive_s
        self._type: Header = (b"content-type", framing.media_type.encode())
        self._keepalive = framing.keepalive
        self._extra_head = head
        self._loop = asyncio.get_running_loop()
        self._writes = 0
        self._seen = 0
        self._on_stall = on_stall
        self._writing = False
        self._stalled = 0
        self._aside: asyncio.Task[None] | None = None
        self._closed = False
        self.begun = False
        self._timer = self._loop.call_later(HEAD_WAIT_S, self._tick)

    async def write(self, data: bytes) -> None:
        if not self.begun:
            await self._begin()
        self._writes += 1
        self._writing = True
        await self._send_body({"type": "http.response.body", "body": data, "more_body": True})
        self._writing = False

    async def end(self, data: bytes) -> None:
        """The last frames and the end of the body."""
        if not self.begun:
            await self._begin()
        self._writes += 1
        self._writing = True
        try:
            await self._send_body({"type": "http.response.body", "body": data, "more_body": False})
        finally:
            self.close()

    def close(self) -> None:
        self._closed = True
        self._timer.cancel()
        if self._aside is not None:
            self._aside.cancel()
            self._aside = None

    async def _begin(self) -> None:
        if self.begun:  # the timer's task and the first frame may want the head in the same turn of the loop
            return
        self.begun = True
        await self._send(
            {"type": "http.response.start", "status": 200, "headers": [self._type, *_HEAD, *self._extra_head()]}
        )

    def _tick(self) -> None:
        if self._closed:
            return
        if self._aside is None or self._aside.done():
            if not self.begun:
                self._aside = asyncio.create_task(self.send_head())
            elif self._keepalive and self._writes == self._seen and not self._writing:
                self._aside = asyncio.create_task(self._send_keepalive())
        self._stalled = self._stalled + 1 if self._writing and self._writes == self._seen else 0
        if self._stalled >= STALL_TICKS:
            self._on_stall()
            return
        self._seen = self._writes
        self._timer = self._loop.call_later(self._keepalive_s, self._tick)

    async def send_head(self) -> None:
        """The head alone. A server keeps it until the body begins (ASGI), so an empty piece of body goes after it."""
        if self.begun:  # the first frame came in the same turn of the loop, and took the head along
            return
        await self._begin()
        await self._send_body({"type": "http.response.body", "body": b"", "more_body": True})

    async def _send_keepalive(self) -> None:
        await self._send_body({"type": "http.response.body", "body": self._keepalive, "more_body": True})
