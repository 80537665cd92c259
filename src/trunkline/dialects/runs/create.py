"""What clients send: the request for a run, which is one for a background response, and the answer to a question.

A run may bring the conversation before it as chat messages (`conversation_history`), as its own end gives the turn's `messages`; it
counts before a `previous_response_id`. So may a response, where the profile has it. Everything else is a member of the Responses
API and is read there.
"""

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.codec import SurfaceCodec
from trunkline.dialects.reading import Json, Object
from trunkline.dialects.runs.names import response_id_of
from trunkline.model.errors import InvalidParameter, RequestError
from trunkline.model.request import Request

HISTORY = "conversation_history"
RESOLVE_ALL = "resolve_all"
"""What clients of the hermes server also call `all`."""


class Create(msgspec.Struct, frozen=True):
    """The body of a response. `own`: the same without the history, for a client's own mistakes; None: there is none."""

    body: bytes
    own: bytes | None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which questions are answered how."""

    choice: str
    call_id: str | None = None
    all: bool = False


def read_create(body: bytes) -> Create:
    """Raises RequestError for what a run cannot be."""
    source = reading.decode_body(body)
    if reading.lenient_boolean(source.pop("stream", None) or False, "stream"):
        raise InvalidParameter(
            "A run is not streamed where it is created; read its events at /v1/runs/{run_id}/events.", param="stream"
        )
    stored = source.get("store")
    if stored is not None and not reading.lenient_boolean(stored, "store"):
        raise InvalidParameter("A run is stored: its events and its output are read from there.", param="store")
    source |= {"background": True, "store": True}
    previous = source.get("previous_response_id")
    if isinstance(previous, str):
        source["previous_response_id"] = response_id_of(previous)
    return _with_history(source)


def with_history(body: bytes) -> Create:
    """A response's body. Raises InvalidParameter."""
    return _with_history(reading.decode_body(body)) if HISTORY.encode() in body else Create(body)


def read_request(create: Create, codec: SurfaceCodec) -> Request:
    """Mistakes are named by the member they are in: first the body's own, then the history's."""
    if create.own is None:
        return codec.decode_request(create.body)
    codec.decode_request(create.own)
    try:
        return codec.decode_request(create.body)
    except RequestError as error:
        message, param = (text and text.replace("input[", f"{HISTORY}[") for text in (error.message, error.param))
        raise InvalidParameter(message or "", code=error.code, param=param) from None


def _with_history(source: Object) -> Create:
    history = source.pop(HISTORY, None)
    if not history:
        return Create(msgspec.json.encode(source))
    before = _items(history)
    source.pop("previous_response_id", None)
    own = msgspec.json.encode(source)
    given = source.get("input")
    asked: list[Json] = given if isinstance(given, list) else [{"type": "message", "role": "user", "content": given}]
    return Create(msgspec.json.encode({**source, "input": [*before, *asked]}), own)


def read_choice(body: bytes) -> Choice:
    """Raises RequestError. A name for the question that is not known here must not answer another one."""
    source = reading.decode_body(body)
    reading.only(source, ("choice", "call_id", "all", RESOLVE_ALL))
    if source.get("choice") is None:
        reading.missing("choice")
    call_id = source.get("call_id")
    return Choice(
        choice=reading.text(source["choice"], "choice"),
        call_id=None if call_id is None else reading.text(call_id, "call_id"),
        all=any(reading.lenient_boolean(source.get(name) or False, name) for name in ("all", RESOLVE_ALL)),
    )


def _items(history: Json) -> list[Json]:
    """Chat messages as items of the Responses API."""
    if not isinstance(history, list):
        reading.wrong_type(HISTORY, "an array", history)
    items: list[Json] = []
    called: set[str] = set()
    for index, message in enumerate(history):
        at = f"{HISTORY}[{index}]"
        if not isinstance(message, dict):
            reading.wrong_type(at, "an object", message)
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant", "system", "developer", "tool"):
            raise InvalidParameter(
                f"Invalid '{at}.role': expected user, assistant, system, developer or tool.", param=f"{at}.role"
            )
        if role == "tool":
            call_id = reading.text(message.get("tool_call_id"), f"{at}.tool_call_id")
            if call_id not in called:
                raise InvalidParameter(
                    f"Invalid '{at}.tool_call_id': no message before it calls a tool with the id '{call_id[:100]}'.",
                    param=f"{at}.tool_call_id",
                )
            items.append({"type": "function_call_output", "call_id": call_id, "output": content})
            continue
        if not isinstance(content, str | list) and not (role == "assistant" and message.get("tool_calls")):
            reading.wrong_type(f"{at}.content", "a string or an array", content)
        if content:
            items.append({"type": "message", "role": role, "content": content})
        if role == "assistant":
            items += _calls(message, at, called)
    return items


def _calls(message: Object, at: str, called: set[str]) -> list[Json]:
    """The calls of a message, their ids added to those of what was called."""
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        reading.wrong_type(f"{at}.tool_calls", "an array", calls)
    items: list[Json] = []
    for index, call in enumerate(calls):
        place = f"{at}.tool_calls[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(function, dict):
            reading.wrong_type(place, "a function call", call)
        call_id = reading.text(call.get("id"), f"{place}.id")
        called.add(call_id)
        items.append(
            {
                "type": "function_call",
                "call_id": call_id,
                "name": reading.text(function.get("name"), f"{place}.function.name"),
                "arguments": reading.text(function.get("arguments"), f"{place}.function.arguments"),
            }
        )
    return items
