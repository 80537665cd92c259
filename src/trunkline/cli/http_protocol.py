"""uvicorn's HTTP protocol with two things it lacks: a bound on request heads, and refusals in the OpenAI envelope.

A head is read before anybody has shown a key, so it must not take memory without end. What the parser refuses never reaches the
application; its answer would otherwise be the only one of this server that is not JSON.
"""

import json

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0  # of the head being read; -1 while there is none

    def data_received(self, data: bytes) -> None:
        if self._head_bytes >= 0:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, f"the request's head is larger than the {MAX_HEAD_BYTES} bytes this server accepts")

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])
        self._head_bytes = -1
        if size > MAX_HEAD_BYTES:
            self._refuse(431, f"the request's head is larger than the {MAX_HEAD_BYTES} bytes this server accepts")
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head_bytes = 0

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
