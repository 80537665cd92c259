"""uvicorn's HTTP protocol with what it lacks: a bound on request heads, refusals in the OpenAI envelope, the bodies of requests
that offer an upgrade, and answers in as few writes as they need.

A head is read before anybody has shown a key, so it must not take memory without end. What the parser refuses never reaches the
application; its answer would otherwise be the only one of this server that is not JSON. A client may send requests ahead of their
answers, and need not read any: those that wait are as few as the ones whose answers fit into its buffers. And the parser stops
behind the head of every request with `Upgrade`: one that does not ask for a WebSocket is read again without that header, which a
server may ignore (RFC 9110, 7.8).
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent, HTTPScope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 30.0
"""A connection's first head may take so long, and each later one from its first byte on."""
MAX_WAITING = 32
"""Requests that wait behind the one being answered; while there are more, nothing is read."""
PIECE_BYTES = 4096
"""A read with more requests than that is parsed in such pieces."""
_BODILESS = frozenset({204, 304})
logger = logging.getLogger("trunkline.cli")


class _Cycle:
    """One request and its response, as an ASGI application sees them.

    The head of the response leaves with the first piece of its body, in one write, as ASGI has it. uvicorn's own writes them one
    after the other, which is a system call and a packet more; it tries two regular expressions on each line of the head, of which
    ours has fourteen; and it makes an event for each request, though most bodies are there before anybody asks for them.
    """

    __slots__ = (
        "_came",
        "_chunked",
        "_default_headers",
        "_expects_100",
        "_flow",
        "_fresh",
        "_head",
        "_left_bytes",
        "_protocol",
        "_started",
        "_transport",
        "_unframed",
        "body",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "scope",
    )

    def __init__(self, protocol: "BoundedHttp", scope: HTTPScope, *, keep_alive: bool, expects_100: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self._protocol: BoundedHttp | None = protocol  # none once the response has ended: a cycle would outlive it
        self._transport = protocol.transport
        self._flow = protocol.flow
        self._default_headers = protocol.server_state.default_headers
        self._expects_100 = expects_100
        self.disconnected = False
        self.response_complete = False
        self.more_body = True
        self.body = b""
        self._started = False
        self._chunked = False
        self._unframed = False  # the connection's end is the body's
        self._left_bytes = 0  # of a body whose length the head has announced
        self._head = b""  # what waits for the body
        self._fresh = False  # something has come that `receive` has not given yet
        self._came: asyncio.Event | None = None  # made once somebody waits

    @property
    def message_event(self) -> "_Cycle":
        """What uvicorn sets when something has come, or nothing will any more."""
        return self

    def set(self) -> None:
        self._fresh = True
        if self._came is not None:
            self._came.set()

    async def run(self, app: ASGI3Application) -> None:
        """Lets the application answer. It answers its own errors as well; a response that it leaves open ends the connection."""
        try:
            await app(self.scope, self.receive, self.send)
        finally:
            self._protocol = None
            if not self.response_complete and not self.disconnected:
                logger.error("a response was not completed, its connection is closed")
                self._transport.close()

    async def receive(self) -> ASGIReceiveEvent:
        if self._expects_100 and not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._expects_100 = False
        if not self._fresh and not self.disconnected and not self.response_complete:
            if self._came is None:
                self._came = asyncio.Event()
            self._read_on()
            await self._came.wait()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        self._fresh = False
        if self._came is not None:
            self._came.clear()
        body, more_body, self.body = self.body, self.more_body, b""
        self._read_on()
        return {"type": "http.request", "body": body, "more_body": more_body}

    def _read_on(self) -> None:
        if self._flow.read_paused and self._protocol is not None:
            self._protocol.read_on()

    async def send(self, message: ASGISendEvent) -> None:
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self._started:
            self._started, self._expects_100 = True, False
            self._head = self._written(message["status"], [*self._default_headers, *message.get("headers", ())])
            return
        if message["type"] != "http.response.body" or not self._started or self.response_complete:
            raise RuntimeError(f"{message['type']} is not what comes next in a response")
        body, more = message.get("body", b""), message.get("more_body", False)
        head, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            self._left_bytes, body = 0, b""
        elif self._chunked:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                body += b"0\r\n\r\n"
        elif not self._unframed:
            self._left_bytes -= len(body)
            if self._left_bytes < 0 or (self._left_bytes and not more):
                raise RuntimeError("the body is not as long as its Content-Length says")
        self._transport.write(head + body if head else body)
        if not more:
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        self.set()
        if not self.keep_alive:
            self._transport.close()
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.on_response_complete()

    def _written(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The head as bytes. Raises RuntimeError for a header that would be more than one line."""
        lines = [STATUS_LINE[status][:-2], *[b": ".join(header) for header in headers]]
        length, closing = None, False
        for name, value in headers:
            if name == b"content-length":
                length = value
            elif name == b"connection":
                closing = value == b"close"
        if closing:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close")
        if length is not None:
            self._left_bytes = int(length)
        elif self.scope["method"] != "HEAD" and status not in _BODILESS:
            if self.scope["http_version"] == "1.0":  # RFC 9112, 6.1: such a client does not know chunks
                self._unframed = True
            else:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked")
        head = b"\r\n".join([*lines, b"", b""])
        if not head.count(b"\n") == head.count(b"\r") == len(lines) + 1:
            raise RuntimeError("a header of the response has a line break")
        return head


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    cycle: _Cycle  # type: ignore[assignment]  # ours in place of uvicorn's, whose members it has
    _head_bytes = 0  # of the head being read; -1 while there is none
    _read_bytes = 0  # of the last read
    _offer: bytes | None = None  # the head of a request whose upgrade is ignored, without it
    _answered: _Cycle | None = None  # whose turn it is
    _unread = b""  # what has come behind more requests than may wait
    _due_s: float | None = None  # when the client must have sent its next head
    _begun = False  # that head
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._expect_head(HEAD_TIMEOUT_S)

    def data_received(self, data: bytes) -> None:
        if self._unread or (len(data) > PIECE_BYTES and data.count(b" HTTP/1.") > MAX_WAITING):
            self._unread += data
            self._go_on()
            if self._unread:
                self.flow.pause_reading()
        else:
            self._feed(data)

    def _go_on(self) -> None:
        """Parses what was left unread, until requests wait again."""
        while self._unread and not self.pipeline and not self.transport.is_closing():
            piece, self._unread = self._unread[:PIECE_BYTES], self._unread[PIECE_BYTES:]
            self._feed(piece)

    def read_on(self) -> None:
        if self._unread:  # what the request that is being answered waits for may be there
            self._go_on()
        if len(self.pipeline) < MAX_WAITING and not self._unread:
            self.flow.resume_reading()

    def _feed(self, data: bytes) -> None:
        self._read_bytes = len(data)
        if self._head_bytes >= 0:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, f"the request's head is larger than the {MAX_HEAD_BYTES} bytes this server accepts")
        if self._head_bytes <= 0:
            self._due_s, self._begun = None, False
        elif not self._begun:
            self._begun = True
            self._expect_head(HEAD_TIMEOUT_S)

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._head_bytes + self._read_bytes > MAX_HEAD_BYTES and self._head_size() > MAX_HEAD_BYTES:
            self._head_bytes = -1
            self._refuse(431, f"the request's head is larger than the {MAX_HEAD_BYTES} bytes this server accepts")
            return
        self._head_bytes = -1
        parser, scope = self.parser, self.scope
        method, version = parser.get_method(), parser.get_http_version()
        scope["method"] = method.decode("ascii")
        if parser.should_upgrade():
            wanted = self._should_upgrade()
            if method != b"CONNECT" and not (method == b"GET" and wanted):
                self._offer = self._head_without_upgrade(method)
                return
            if wanted:
                return
        if version != "1.1":
            scope["http_version"] = version
        raw_path, query = _split(self.url)
        path = raw_path.decode("ascii")
        scope["path"], scope["raw_path"] = unquote(path) if "%" in path else path, raw_path
        scope["query_string"] = query
        before = self._answering()
        self.cycle = _Cycle(
            self,
            scope,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            expects_100=self.expect_100_continue,
        )
        if before:  # a request that did not wait for the answer to the one before it waits here
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))  # type: ignore[arg-type]  # see `cycle`
        else:
            self._start(self.cycle)

    def _head_size(self) -> int:
        return len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])

    def _start(self, cycle: _Cycle) -> None:
        self._answered = cycle
        task = self.loop.create_task(cycle.run(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        if not self._answering():
            return
        cycle = self.cycle
        cycle.body = cycle.body + body if cycle.body else body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.set()

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        if self._offer is not None or (self.parser.should_upgrade() and self._should_upgrade()):
            return
        if self._answering():
            self.cycle.more_body = False
            self.cycle.set()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self._answered = None
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start(self.pipeline.pop()[0])  # type: ignore[arg-type]  # see `cycle`
        elif self._unread:
            self._go_on()
        if not self._begun and not self._answering():
            self._expect_head(self.timeout_keep_alive)
        if self.flow.read_paused:
            self.read_on()

    def _expect_head(self, within_s: float) -> None:
        self._due_s = self.loop.time() + within_s
        if self._timer is None:
            self._timer = self.loop.call_later(within_s, self._look)

    def _look(self) -> None:
        """Closes a connection on which no head has come in time. One timer for all its requests, set anew only when it is over."""
        self._timer = None
        if self._due_s is None or self.transport.is_closing():
            return
        left_s = self._due_s - self.loop.time()
        if left_s > 0.001:
            self._timer = self.loop.call_later(left_s, self._look)
        elif self._answered is not None:  # what follows its answer has time
            self._expect_head(HEAD_TIMEOUT_S)
        elif self._begun:
            self._refuse(408, f"the request's head did not arrive within {HEAD_TIMEOUT_S:g} s")
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._unread = b""
        answered, self._answered = self._answered, None
        if (
            answered is not None and answered is not self.cycle
        ):  # others wait behind it; it is theirs that uvicorn tells
            answered.disconnected = True
            answered.set()
        super().connection_lost(exc)

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
        cycle: _Cycle | None = self.cycle  # there is none before the first request
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


def _split(url: bytes) -> tuple[bytes, bytes]:
    """The path and the query of a request's target."""
    if url.startswith(b"/") and url.find(b"#") < 0:  # `in` tries a number first, which costs more than looking
        path, _, query = url.partition(b"?")
        return path, query
    parsed = httptools.parse_url(url)  # a proxy's absolute form, say
    return parsed.path, parsed.query or b""
