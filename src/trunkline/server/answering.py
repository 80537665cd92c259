"""One call answered over HTTP, streamed or whole, relayed or encoded: the same for every surface.

What can go wrong has three places. Before the head is out, an error is a status and an envelope. In the stream, it is an error
frame of the dialect and the end. And a client that has left stops the backend and is told nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from starlette.types import Receive, Send

from trunkline.dialects.codec import Encoder, KeepingEncoder, SurfaceCodec
from trunkline.engine.answer_size import AnswerSize
from trunkline.engine.call import Call
from trunkline.engine.gateway import Answer, Gateway
from trunkline.engine.operations import Performed
from trunkline.model import events as ev
from trunkline.model.errors import BackendUnavailable, InternalError, TrunklineError, TurnFailure, shutting_down
from trunkline.model.turn import Fold
from trunkline.ports.backend import WholeRelay
from trunkline.ports.timers import Timers
from trunkline.server.disconnect import WATCH_AFTER_S, DisconnectWatch
from trunkline.server.errors import send_error
from trunkline.server.exchange import Exchange, Header, header_list, header_text
from trunkline.server.json_response import send_json
from trunkline.server.streaming import ClientStream
from trunkline.telemetry.outcome import Outcome

logger = logging.getLogger("trunkline.server")


Record = Callable[[bytes], Awaitable[None]]
"""Keeps the final object of a response. Raises StoreError; then the client must not be told that all is well."""
Ask = Callable[[Call], Awaitable[Answer]]


class Answerer:
    """Answers calls of one surface. A surface that keeps its answers gives `record` with each call; with `keeps_partial` also
    what there was when the client left. `early_status`: the head of a stream is sent before the backend has said anything.
    `cut_is_incomplete`: a stream that the stopping server cuts off ends as one whose client left, not as one that failed."""

    def __init__(
        self,
        gateway: Gateway,
        codec: SurfaceCodec,
        *,
        keepalive_s: float,
        keeps_partial: bool = True,
        early_status: bool = False,
        cut_is_incomplete: bool = False,
    ) -> None:
        self._gateway = gateway
        self._codec = codec
        self._keepalive_s = keepalive_s
        self._watches = Timers(WATCH_AFTER_S)
        self._keeps_partial = keeps_partial
        self._early_status = early_status
        self._cut_is_incomplete = cut_is_incomplete

    async def respond(
        self,
        call: Call,
        exchange: Exchange,
        receive: Receive,
        send: Send,
        *,
        record: Record | None = None,
        ask: Ask | None = None,
        going_on: Callable[[], None] | None = None,
    ) -> None:
        """Sends the whole response. Typed errors before the head are rendered here too. `ask` gives the answer where the gateway is
        not to be asked; `going_on` is called when the client has left and the answer is made all the same."""
        exchange.outcome.model = call.request.model
        exchange.outcome.stream = call.request.stream
        with DisconnectWatch(receive, call.outcome, graceful=True, going_on=going_on, timers=self._watches) as watch:
            if call.request.stream:
                await self._stream(call, exchange, watch, send, record, ask or self._gateway.answer)
            else:
                await self._whole(call, exchange, watch, send, record, ask or self._gateway.answer)

    async def _whole(
        self, call: Call, exchange: Exchange, watch: DisconnectWatch, send: Send, record: Record | None, ask: Ask
    ) -> None:
        try:
            answer = await ask(call)
            try:
                body = await (_relayed(answer) if answer.relayed else self._fold(answer, call, exchange, watch, record))
            finally:
                call.outcome.left = watch.gone
                await answer.aclose()
        except TrunklineError as error:
            watch.close()
            await self._refuse(error, exchange, send)
            return
        watch.close()
        await send_json(body, send, headers=outcome_headers(call.outcome, answer), send_body=exchange.send_body)

    async def _fold(
        self, answer: Answer, call: Call, exchange: Exchange, watch: DisconnectWatch, record: Record | None
    ) -> bytes:
        folding, size = Fold(), AnswerSize()
        try:
            async for batch in answer.event_batches():
                size.add(batch)
                for event in batch:
                    folding.feed(event)
        except asyncio.CancelledError:
            if watch.gone and record is not None and self._keeps_partial:
                folding.feed(_LEFT)
                await _unheard(record(self._codec.encode_turn(folding.turn(), call.request)))
            raise
        turn = folding.turn()
        if isinstance(turn.terminal, ev.TurnFailed):
            raise TurnFailure(turn.terminal.error)
        if isinstance(turn.terminal, ev.TurnCancelled):
            raise BackendUnavailable("the answer was cancelled", code="cancelled")
        for extension in turn.extensions:
            state = msgspec.json.decode(extension.payload) if extension.name == ev.OWN else None
            if isinstance(state, dict):  # a model server may have a key of that name too
                self._add_state(exchange, state)
        body = self._codec.encode_turn(turn, call.request)
        if record is not None:
            await record(body)
        return body

    async def _stream(
        self, call: Call, exchange: Exchange, watch: DisconnectWatch, send: Send, record: Record | None, ask: Ask
    ) -> None:
        encoder = self._codec.encoder(call.request)
        stream = ClientStream(
            send,
            send_body=exchange.send_body,
            framing=self._codec.framing,
            keepalive_s=self._keepalive_s,
            head=lambda: outcome_headers(call.outcome, answer),
            on_stall=watch.give_up,
        )
        answer: Answer | None = None

        async def last_frames(end: ev.TurnFailed | ev.TurnIncomplete) -> bytes:
            return await _last_frames(encoder, end, call, opened=answer is not None, record=record)

        try:
            if self._early_status:
                await self._gateway.check(call)
                await stream.send_head()
            answer = await ask(call)
            if answer.relayed:
                await self._relay_stream(answer, stream, encoder, watch)
            else:
                await self._encode_stream(answer, stream, encoder, watch, record)
        except TrunklineError as error:
            await self._fail(error, stream, last_frames, exchange, watch, send)
        except asyncio.CancelledError:
            if watch.gone:
                if answer is not None and self._keeps_partial:
                    await _keep_partial(encoder, record)
            elif stream.begun:  # the server is stopping: this is not the whole answer
                failed = ev.TurnFailed(shutting_down().info())
                await stream.end(await last_frames(_CUT if self._cut_is_incomplete else failed))
            raise
        except Exception as error:
            logger.error("answering failed, request %s", exchange.request_id, exc_info=error)
            await self._fail(InternalError(request_id=exchange.request_id), stream, last_frames, exchange, watch, send)
        finally:
            stream.close()
            if answer is not None:
                call.outcome.left = watch.gone
                await answer.aclose()

    async def _relay_stream(
        self, answer: Answer, stream: ClientStream, encoder: Encoder, watch: DisconnectWatch
    ) -> None:
        async for batch in answer.relay_batches():
            end = batch.events[-1] if batch.events else None
            if not isinstance(end, ev.TERMINALS):
                await stream.write(batch.data)
                continue
            await stream.end(batch.data + (encoder.feed(end) if isinstance(end, ev.TurnFailed) else b""))
            watch.close()
            return

    async def _encode_stream(
        self,
        answer: Answer,
        stream: ClientStream,
        encoder: Encoder,
        watch: DisconnectWatch,
        record: Record | None,
    ) -> None:
        feed = encoder.feed
        size = AnswerSize() if isinstance(encoder, KeepingEncoder) else None  # its last event holds the whole answer
        async for batch in answer.event_batches():
            if size is not None:
                size.add(batch)
            data = feed(batch[0]) if len(batch) == 1 else b"".join([feed(event) for event in batch])
            if isinstance(batch[-1], ev.TERMINALS):
                if record is not None and isinstance(encoder, KeepingEncoder):
                    data = await _kept(data, encoder, record)
                await stream.end(data)
                watch.close()
                return
            if data:
                await stream.write(data)

    async def _fail(
        self,
        error: TrunklineError,
        stream: ClientStream,
        last_frames: Callable[[ev.TurnFailed], Awaitable[bytes]],
        exchange: Exchange,
        watch: DisconnectWatch,
        send: Send,
    ) -> None:
        """An error while answering a stream: a status if nothing has been sent, an error frame otherwise."""
        watch.close()
        failed = ev.TurnFailed(error.info())
        exchange.outcome.note(failed)
        if stream.begun:
            await stream.end(await last_frames(failed))
        else:
            stream.close()
            await self._refuse(error, exchange, send)

    async def _refuse(self, error: TrunklineError, exchange: Exchange, send: Send) -> None:
        """An error in place of an answer."""
        self._add_state(exchange, error.info().state)
        await send_error(error, exchange, self._codec, send)

    def _add_state(self, exchange: Exchange, state: Mapping[str, object]) -> None:
        """How an agent says its run went, where that is not just well."""
        if not state:
            return
        own = f"x-{self._codec.own_name}"
        for name in ("completed", "partial"):
            exchange.headers.append((f"{own}-{name}".encode(), b"true" if state.get(name) is True else b"false"))
        error = state.get("error")
        if isinstance(error, str) and error:
            exchange.headers.append((f"{own}-error".encode(), header_text(error)))


_LEFT = ev.TurnIncomplete("client_disconnected")
_CUT = ev.TurnIncomplete("cancelled")


async def _relayed(answer: Answer) -> bytes:
    """The whole answer, as it came."""
    batches = answer.relay_batches()
    if isinstance(batches, WholeRelay):
        return batches.batch.data
    pieces = []
    async for batch in batches:
        for event in batch.events:
            if isinstance(event, ev.TurnFailed):
                raise TurnFailure(event.error)
        pieces.append(batch.data)
    return b"".join(pieces)


async def _keep_partial(encoder: Encoder, record: Record | None) -> None:
    """Keeps what a client that has left would have got so far; nothing if it was the whole answer, or is not to be kept."""
    if record is None or not isinstance(encoder, KeepingEncoder) or encoder.response is not None:
        return
    encoder.feed(_LEFT)
    await _unheard(_record_final(encoder, record))


async def _unheard(recording: Awaitable[None]) -> None:
    """Keeps what nobody waits for any more; that it could not be kept is said to the log."""
    try:
        await recording
    except TrunklineError as error:
        logger.error("what a client got before it left is not kept: %s", error.message)


async def _last_frames(
    encoder: Encoder, end: ev.TurnFailed | ev.TurnIncomplete, call: Call, *, opened: bool, record: Record | None
) -> bytes:
    """The end of a stream that ended outside its answer, perhaps before that had begun; what they say is kept."""
    if not isinstance(encoder, KeepingEncoder):
        return encoder.feed(end)
    data = b""
    if not opened:
        data = encoder.feed(ev.TurnStarted(call.turn_id, call.request.model or "", call.created_at))
    data += encoder.feed(end)
    return data if record is None else await _kept(data, encoder, record)


async def _record_final(encoder: KeepingEncoder, record: Record) -> None:
    if encoder.response is not None:  # chat has no object for a turn that failed
        await record(encoder.response)


async def _kept(data: bytes, encoder: KeepingEncoder, record: Record) -> bytes:
    """The last frames, once the object in them is kept; frames that say otherwise when it could not be."""
    try:
        await _record_final(encoder, record)
    except TrunklineError as error:
        return encoder.failed_instead(data, error.info())
    return data


def outcome_headers(outcome: Outcome, answer: Answer | Performed | None = None) -> list[Header]:
    """Who answered and what was ignored, as far as it is decided, and what the upstream says about itself."""
    headers: list[Header] = []
    if outcome.route is not None:
        headers.append((b"x-trunkline-route", header_text(outcome.route)))
    if outcome.ignored:
        headers.append((b"x-trunkline-ignored", header_list(outcome.ignored)))
    if outcome.cache is not None:
        headers.append((b"x-trunkline-cache", outcome.cache.encode()))
    if outcome.warning is not None:
        headers.append((b"x-trunkline-warning", outcome.warning.encode()))
    if answer is not None:
        headers.extend(
            (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
            for name, value in answer.headers.items()
        )
    return headers
