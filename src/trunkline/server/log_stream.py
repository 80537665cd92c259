"""A run's event log as a stream: from any point, while it grows and after its end.

Every event carries its sequence number as the SSE id, so a client that reconnects resumes by itself (`Last-Event-ID`). A reader
that leaves stops reading; the run goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from starlette.types import Receive, Send

from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.ports.stores import LoggedEvent
from trunkline.server.disconnect import DisconnectWatch
from trunkline.server.exchange import Exchange
from trunkline.server.sse import SseStream


async def stream_log(
    batches: AsyncIterator[Sequence[LoggedEvent]],
    codec: ResponsesSurface,
    exchange: Exchange,
    receive: Receive,
    send: Send,
    *,
    keepalive_s: float,
) -> None:
    """Sends the log to its end. A log that ends without a terminal event (the server stops) just ends."""
    exchange.outcome.stream = True
    async with DisconnectWatch(receive) as watch:
        stream = SseStream(
            send, send_body=exchange.send_body, keepalive_s=keepalive_s, head=tuple, on_stall=watch.give_up
        )
        try:
            async for events in batches:
                frames = [b"id: %d\n%b" % (one.sequence_number, codec.frame((one.type, one.data))) for one in events]
                await stream.write(b"".join(frames))
            await stream.end(b"")
            watch.close()
        except asyncio.CancelledError:
            if not watch.caught():
                raise
            exchange.outcome.error_code = "client_disconnected"
        finally:
            stream.close()
