"""A run's event log as a stream: from any point, while it grows and after its end.

A reader that leaves stops reading; the run goes on. A server that stops ends the log, not its readers: whatever comes of the run,
they read to the end of what there is and get a body that is whole, and go on from there after the restart.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from starlette.types import Receive, Send

from trunkline.dialects.codec import EVENT_STREAM
from trunkline.model.errors import InvalidParameter
from trunkline.server.disconnect import DisconnectWatch
from trunkline.server.exchange import Exchange, Header, header_text
from trunkline.server.runtime import Runtime
from trunkline.server.streaming import ClientStream

_DIGITS = 18
"""Of a sequence number at most; a last event id that is longer is none of ours."""


def last_event_id(given: bytes) -> int:
    """The sequence number in a `Last-Event-ID`. Raises InvalidParameter."""
    if given.isdigit() and len(given) <= _DIGITS:
        return int(given)
    shown = header_text(given.decode("latin-1")).decode()
    raise InvalidParameter(
        f"Invalid 'Last-Event-ID': expected the sequence number of an event, got '{shown}'.", param="Last-Event-ID"
    )


async def stream_log(
    frames: AsyncIterator[bytes],
    runtime: Runtime,
    exchange: Exchange,
    receive: Receive,
    send: Send,
    *,
    headers: Sequence[Header] = (),
) -> None:
    """Sends the log to its end."""
    exchange.outcome.stream = True
    task = asyncio.current_task()
    if task is not None:  # ends with the run, which the end of the server's grace ends
        runtime.state.in_flight.discard(task)
    with DisconnectWatch(receive, exchange.outcome) as watch:
        stream = ClientStream(
            send,
            send_body=exchange.send_body,
            framing=EVENT_STREAM,
            keepalive_s=runtime.settings.keepalive_s,
            head=lambda: headers,
            on_stall=watch.give_up,
        )
        try:
            async for data in frames:
                await stream.write(data)
            await stream.end(b"")
            watch.close()
        finally:
            stream.close()
