"""uvicorn's HTTP protocol with what it lacks: a bound on request heads, refusals in the OpenAI envelope, the bodies of requests
that offer an upgrade, and answers in as few writes as they need.

A head is read before anybody has shown a key, so it must not take memory without end. What the parser refuses never reaches the
application; its answer would otherwise be the only one of this server that is not JSON. And the parser stops behind the head of
every request with `Upgrade`: one that does not ask for a WebSocket is read again without that header, which a server may ignore
(RFC 9110, 7.8).
"""

import json
from collections.abc import Sequence

import httptools
from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
_BODILESS = frozenset({204, 304})


class _Cycle(RequestResponseCycle):
    """One response. Its head leaves with the first piece of its body, in one write, as ASGI has it.

    uvicorn's own writes them one after the other, which is a system call and a packet more, and tries two regular expressions on
    each line of the head, of which ours has fourteen.
    """

    _head = b""  # what waits for the body

    async def send(self, message: ASGISendEvent) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self.response_started:
            self.response_started, self.waiting_for_100_continue = True, False
            self._head = self._written(message["status"], [*self.default_headers, *message.get("headers", ())])
            return
        if message["type"] != "http.response.body" or not self.response_started or self.response_complete:
            raise RuntimeError(f"{message['type']} is not what comes next in a response")
        body, more = message.get("body", b""), message.get("more_body", False)
        pieces = [self._head] if self._head else []
        self._head = b""
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            if body:
                pieces += (b"%x\r\n" % len(body), body, b"\r\n")
            if not more:
                pieces.append(b"0\r\n\r\n")
        else:
            pieces.append(body)
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (self.expected_content_length and not more):
                raise RuntimeError("the body is not as long as its Content-Length says")
        self.transport.write(b"".join(pieces))
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    def _written(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The head as bytes. Raises RuntimeError where a header would be more than one line."""
        lines = [STATUS_LINE[status]]
        for name, value in headers:
            if name == b"content-length":
                self.expected_content_length, self.chunked_encoding = int(value), False
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _BODILESS:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise RuntimeError("a header of the response has a line break")
        return head


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0  # of the head being read; -1 while there is none
    _offer: bytes | None = None  # the head of a request whose upgrade is ignored, without it

    def data_received(self, data: bytes) -> None:
        if self._head_bytes >= 0:
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, f"the request's head is larger than the {MAX_HEAD_BYTES} bytes this server accepts")

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])
        self._head_bytes = -1
        if size > MAX_HEAD_BYTES:
            self._refuse(431, f"the request's head is larger than the {MAX_HEAD_BYTES} bytes this server accepts")
            return
        method = self.parser.get_method()
        if self.parser.should_upgrade() and method != b"CONNECT" and not (method == b"GET" and self._should_upgrade()):
            self._offer = self._head_without_upgrade(method)
            return
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        cycle.__class__ = _Cycle  # uvicorn has no place to name another
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        if self._offer is None:
            super().on_message_complete()
        self._head_bytes = 0

    def _head_without_upgrade(self, method: bytes) -> bytes:
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _upgrade(self, rest: bytes) -> None:
        """The parser has read a head with an upgrade, and nothing behind it."""
        if self._offer is not None:
            head, self._offer = self._offer, None
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn makes it
            self.data_received(head + rest)
        elif self.transport.is_closing():
            return
        elif self._should_upgrade() and not self._answering():
            self.handle_websocket_upgrade()
        else:
            self._refuse(400, "this connection cannot be upgraded now")

    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # there is none before the first request
        return cycle is not None and not cycle.response_complete

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not a valid HTTP request")

    def _refuse(self, status: int, message: str) -> None:
        """Answers and closes."""
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_http_request"}
        body = json.dumps({"error": error}).encode()
        head = [
            STATUS_LINE[status],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(body),
            b"connection: close\r\n\r\n",
        ]
        self.transport.write(b"".join([*head, body]))
        self.transport.close()
