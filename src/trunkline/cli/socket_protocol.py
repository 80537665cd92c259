"""uvicorn's WebSocket protocol with what it lacks: refusals in the OpenAI envelope, an end for clients that stopped reading, and a
shutdown that leaves the last word to the application.

The rules of the connection are those of the `websockets` library, which does no input or output itself. Pings keep proxies from
closing a quiet connection; an answer to them is not demanded, as clients exist that read nothing while they run a tool. What a
stream consists of, text frames, is written here instead: what is said in one turn of the loop leaves in one write.
"""

import asyncio
import json
from http import HTTPStatus

from uvicorn import Config
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame
from websockets.http11 import Response
from websockets.protocol import State
from websockets.server import ServerProtocol

PING_INTERVAL_S = 20.0
STALL_S = 60.0
FLUSH_BYTES = 65_536


class _Rules(ServerProtocol):
    """The library's rules; what it refuses, it refuses in JSON."""

    def reject(self, status: HTTPStatus | int, text: str) -> Response:
        status = HTTPStatus(status)
        kind, code = "invalid_request_error", "invalid_http_request"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            kind, code = "server_error", "internal_error"
        body = json.dumps({"error": {"message": text.strip(), "type": kind, "param": None, "code": code}}).encode()
        headers = Headers(connection="close")
        headers["Content-Type"], headers["Content-Length"] = "application/json", str(len(body))
        return Response(status.value, status.phrase, headers, body)


def text_frame(data: bytes) -> bytes:
    """A whole text message in one frame (RFC 6455, section 5.2), as its library writes it; that takes the time of a dozen of these,
    and a stream sends nothing else."""
    size = len(data)
    if size < 126:
        return b"\x81%c%b" % (size, data)
    if size < 1 << 16:
        return b"\x81\x7e%b%b" % (size.to_bytes(2), data)
    return b"\x81\x7f%b%b" % (size.to_bytes(8), data)


class OrderlySocket(WebSocketsSansIOProtocol):
    """One connection."""

    _stall: asyncio.TimerHandle | None = None
    _pong = b""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, object]) -> None:
        super().__init__(config, server_state, app_state)
        self._frames: list[bytes] = []  # not written yet
        self._waiting_bytes = 0  # of them
        self._message = bytearray()  # of which more fragments are to come
        self.conn = _Rules(max_size=self.config.ws_max_size, logger=self.logger)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # The head was not even read: uvicorn would wait for the rest of it.
            refused = b"".join(self.conn.data_to_send())
            if not refused:
                refused = self.conn.reject(HTTPStatus.BAD_REQUEST, "this is not a valid HTTP request").serialize()
            self.transport.write(refused)
            self.transport.close()

    def handle_ping(self) -> None:
        """A client that only pings must not fill the memory with answers that it does not read: "an endpoint MAY elect to send a
        Pong frame for only the most recently processed Ping frame" (RFC 6455, section 5.5.3)."""
        self._pong = b"".join(self.conn.data_to_send()) or self._pong
        if self.writable.is_set():
            self._answer_ping()

    def _answer_ping(self) -> None:
        pong, self._pong = self._pong, b""
        if pong and not self.transport.is_closing():
            self.transport.write(pong)

    def handle_cont(self, event: Frame) -> None:
        """Fragments are joined as they come: there may be millions, each with next to nothing in it."""
        self._message += event.data
        if event.fin:
            self.frames, self._message = [bytes(self._message)], bytearray()
            self.send_receive_event_to_app()

    def handle_text(self, event: Frame) -> None:
        super().handle_text(event)
        self._begin_message(event)

    def handle_bytes(self, event: Frame) -> None:
        super().handle_bytes(event)
        self._begin_message(event)

    def _begin_message(self, event: Frame) -> None:
        if not event.fin:
            self.frames, self._message = [], bytearray(event.data)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:
                self._refuse(CloseCode.INVALID_DATA, "a text frame that is not UTF-8")
                return
        super().send_receive_event_to_app()

    def _refuse(self, code: int, reason: str) -> None:
        """Fails the connection, as its library does for what it refuses itself."""
        if not self.close_sent:
            self.conn.fail(code, reason)
            self.handle_parser_exception()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unwatch()
        self._answer_ping()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Nothing: the application has been told to drain. It ends what is under way and closes with 1001."""

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] != "websocket.send":
            self._flush()
            await super().send(message)
            return
        text = message.get("text")
        if self.close_sent:
            raise ClientDisconnected  # closed for what the client sent; uvicorn would blame the application
        await self.writable.wait()
        if text is None or self.disconnected or self.conn.state is not State.OPEN:
            self._flush()
            await super().send(message)
            return
        if not self._frames:
            self.loop.call_soon(self._flush)
        frame = text_frame(text.encode())
        self._frames.append(frame)
        self._waiting_bytes += len(frame)
        if self._waiting_bytes > FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        """What was said in one turn of the loop leaves in one write. Nothing may follow a close frame."""
        frames, self._frames, self._waiting_bytes = self._frames, [], 0
        if frames and self.conn.state is State.OPEN and not self.transport.is_closing():
            self.transport.write(b"".join(frames))

    def _watch(self, unread: int) -> None:
        self._stall = self.loop.call_later(STALL_S, self._look, unread)

    def _look(self, unread_before: int) -> None:
        """A client that has taken nothing for so long is gone; its turns must not wait for it."""
        unread = self.transport.get_write_buffer_size()
        if unread >= unread_before:
            self.transport.abort()
        else:
            self._watch(unread)

    def _unwatch(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
