"""WebSocket mode on the wire: the events that only a socket has, read and written.

A client's `response.create` is a request body with an envelope around it: `type`, `stream_id`, `generate`. The envelope is taken
off and the body read as over HTTP, so that the two cannot differ. What the server says are the emitter's events, each with the
`stream_id` of the request it answers. Errors of a request and of the socket are `error` events with the HTTP status.
"""

import re

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.openai_wire import write_error
from trunkline.model.errors import ErrorInfo, InvalidParameter, RequestError, UnsupportedParameter

CREATE, STEER = "response.create", "response.steer"
STEERING_NOT_SUPPORTED = "steering_not_supported"
_STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_ENVELOPE = frozenset({"type", "stream_id", "generate"})
_FIXED = {
    "stream": (True, "over a WebSocket every answer is streamed"),
    "background": (False, "work that goes on without its connection is asked for with POST /v1/responses"),
}
"""What a socket does whatever is asked, and why. Clients that say so are taken at their word: Codex and openai-agents do."""
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])

Members = dict[str, msgspec.Raw]


class Create(msgspec.Struct, frozen=True):
    """A request. Without `generate` its input becomes state that later requests continue, and nothing is generated."""

    body: bytes
    generate: bool = True


def read_members(data: bytes) -> Members:
    """A frame as a JSON object. Raises RequestError."""
    try:
        return _MEMBERS.decode(data)
    except reading.NOT_JSON:
        reading.decode_body(data)  # says what is wrong
        raise RequestError("Invalid JSON", code="invalid_json") from None


def read_stream_id(members: Members) -> str | None:
    """The lane of the event; None is the one without a name."""
    value = _value(members, "stream_id")
    if value is None:
        return None
    if not isinstance(value, str) or not _STREAM_ID.fullmatch(value):
        raise InvalidParameter(
            "Invalid 'stream_id': expected 1 to 256 letters, digits, underscores, hyphens and periods; "
            "leave it out for the lane without a name.",
            code="invalid_stream_id",
            param="stream_id",
        )
    return value


def read_type(members: Members) -> str:
    kind = _value(members, "type")
    if kind is None:
        reading.missing("type")
    return reading.one_of(reading.text(kind, "type"), "type", (CREATE, STEER))


def read_create(members: Members) -> Create:
    """The body inside the envelope. Raises RequestError for what only makes sense over HTTP."""
    for name, (always, reason) in _FIXED.items():
        value = _value(members, name)
        if value is not None and value is not always:
            given = reading.shorten(msgspec.json.encode(value).decode())
            raise UnsupportedParameter(f"'{name}': {given} is not supported here: {reason}.", param=name)
    asked = _value(members, "generate")
    generate = True if asked is None else reading.boolean(asked, "generate")
    body = {name: value for name, value in members.items() if name not in _ENVELOPE}
    return Create(msgspec.json.encode({**body, "stream": msgspec.Raw(b"true")}), generate)


def write_steer_failed(members: Members, *, stream_id: str | None) -> bytes:
    """The answer to `response.steer`: no backend takes new input while it answers. The input goes back with it."""
    target = _value(members, "previous_response_id")
    if target is None:
        reading.missing("previous_response_id")
    reading.text(target, "previous_response_id")
    if _value(members, "input") is None:
        reading.missing("input")
    error = {
        "type": "invalid_request_error",
        "code": STEERING_NOT_SUPPORTED,
        "message": "A response cannot be steered here; send the input with a 'response.create' once it has ended.",
    }
    steer = {"previous_response_id": target, "input": members["input"]}
    event = {"type": "response.steer.failed", "sequence_number": 0, "error": error, "steer": steer}
    return in_lane(msgspec.json.encode(event), stream_id)


def write_error_event(error: ErrorInfo, *, stream_id: str | None) -> bytes:
    """An error of the request in this lane, or of the socket itself."""
    written = write_error(error)
    if error.retry_after_s is not None:
        headers = {"retry-after": str(max(1, -int(-error.retry_after_s // 1)))}
        written = {"error": {**_object(written["error"]), "headers": headers}}
    return in_lane(msgspec.json.encode({"type": "error", "status": error.status, **written}), stream_id)


def in_lane(event: bytes, stream_id: str | None) -> bytes:
    """The event, a JSON object, with the name of its lane as last member."""
    return event if stream_id is None else b'%b,"stream_id":"%b"}' % (event[:-1], stream_id.encode())


def _value(members: Members, name: str) -> reading.Json:
    raw = members.get(name)
    if raw is None:
        return None
    value: reading.Json = msgspec.json.decode(raw)
    return value


def _object(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value
