"""A request of an operation, read as far as it must be: its model, and whether a stream is wanted.

Everything else is for whoever answers. Keys that look as if they could choose that (`base_url`, `api_key`, headers) are data like
any other. A form is cut around its `model` where it stands, so that a recording in it is held once; JSON is written anew around the
values as they came.
"""

import msgspec
from starlette.types import Scope

from trunkline.dialects.reading import NOT_JSON, Json, decode_body, text, unnamed
from trunkline.engine.call import Call
from trunkline.model.errors import InvalidParameter, RequestError, UnsupportedMediaType
from trunkline.model.ids import new_id
from trunkline.model.request import Request
from trunkline.ports.operations import Bytes, Operation
from trunkline.server.exchange import exchange_of
from trunkline.server.runtime import Runtime
from trunkline.server.session import session_id_of
from trunkline.wire.multipart import MalformedForm, boundary_of, parts_of

JSON = "application/json"
FORM = "multipart/form-data"

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NAMED = frozenset({"model", "stream"})
_NULL = msgspec.Raw(b"null")
_TRUE = msgspec.Raw(b"true")
_IS_TRUE = frozenset({b"true", b'"true"'})


class OperationBody(msgspec.Struct, frozen=True, kw_only=True):
    """What was read, and the body cut around the model's name."""

    model: str | None
    stream: bool
    content_type: str
    before: tuple[Bytes, ...]
    after: tuple[Bytes, ...]


def read_operation(body: bytearray, content_type: str, *, takes: frozenset[str]) -> OperationBody:
    """Reads a body of one of the media types that the operation `takes`.

    JSON without its media type is JSON, as everywhere here: `curl -d` says that it is a form's. Raises RequestError.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == FORM and FORM in takes:
        return _read_form(body, content_type)
    if kind == FORM or JSON not in takes:
        raise UnsupportedMediaType(
            f"this resource takes {' or '.join(sorted(takes))}, but the request has "
            + (f"{kind[:100]!r}" if kind else "no content type")
        )
    return _read_json(body)


def operation_call(scope: Scope, runtime: Runtime, operation: Operation, *, model: str, stream: bool = False) -> Call:
    """The call that an operation is to the engine: one without a conversation."""
    exchange = exchange_of(scope)
    return Call(
        request=Request(model=model, items=(), stream=stream),
        body=None,
        dialect=operation,
        turn_id=new_id("op_", runtime.entropy),
        created_at=int(runtime.clock.now_s()),
        request_id=exchange.request_id,
        tenant=exchange.tenant,
        outcome=exchange.outcome,
        session_id=session_id_of(scope, runtime),
        session_named=True,
    )


def _read_json(body: bytearray) -> OperationBody:
    try:
        if not body.isascii():
            body.decode()  # values are passed on without being looked at
        members = _MEMBERS.decode(body)
        model: Json = msgspec.json.decode(members.pop("model", _NULL))
    except NOT_JSON:
        decode_body(bytes(body))  # says what is wrong as everywhere
        raise
    for name in members:
        unnamed(name, None, _NAMED)
    stream = bytes(members.get("stream", b"")) in _IS_TRUE
    if stream:
        members["stream"] = _TRUE  # a string counts as one here (decision 33), but perhaps not there
    rest = memoryview(msgspec.json.encode(members))
    return OperationBody(
        model=None if model is None else text(model, "model"),
        stream=stream,
        content_type=JSON,
        before=(b'{"model":',),
        after=(b"," if members else b"", rest[1:]),
    )


def _read_form(body: bytearray, content_type: str) -> OperationBody:
    boundary = boundary_of(content_type)
    if boundary is None:
        raise RequestError(f"the content type {FORM} has to name a boundary", code="invalid_form")
    view = memoryview(body).toreadonly()
    at: tuple[int, int] | None = None
    stream = False
    try:
        for part in parts_of(body, boundary):
            if part.name == "model":
                if at is not None:
                    raise InvalidParameter("'model' is given more than once", param="model")
                at = (part.start, part.end)
            elif part.name == "stream" and part.end - part.start < 10:
                stream = bytes(view[part.start : part.end]).strip().lower() == b"true"
    except MalformedForm as error:
        raise RequestError(f"Invalid form: {error}", code="invalid_form") from None
    if at is None:
        first = body.find(b"--" + boundary)
        head = b"--" + boundary + b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n'
        return OperationBody(
            model=None, stream=stream, content_type=content_type, before=(head,), after=(b"\r\n", view[first:])
        )
    start, end = at
    try:
        model = bytes(view[start:end]).decode()
    except UnicodeDecodeError:
        raise InvalidParameter("'model' is not UTF-8", param="model") from None
    return OperationBody(
        model=model or None, stream=stream, content_type=content_type, before=(view[:start],), after=(view[end:],)
    )
