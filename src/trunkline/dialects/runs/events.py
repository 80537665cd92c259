"""From the log of a response to the events of its run.

Each event of the log makes one event of the run or none, and needs no other to be read. So a reader may begin anywhere, `seq` is
the number in the log (it grows, with gaps), and what was written once serves every reader. A run that is answered again after its
server was lost says `run.restarted`: what came before is not part of the answer.

    message.delta  reasoning.available  tool.started  tool.completed  approval.request  approval.responded  run.restarted
    then one of    run.completed  run.failed  run.cancelled
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from trunkline.dialects.openai_wire import tool_error_text
from trunkline.dialects.runs.names import run_id_of
from trunkline.dialects.writing import write_json
from trunkline.model.tool_order import Kind, tools_in_order
from trunkline.ports.stores import LoggedEvent

CLOSED = b": stream closed\n\n"
_NULL = msgspec.Raw(b"null")
_Members = dict[str, object]
_Raws = dict[str, msgspec.Raw]


class _Delta(msgspec.Struct):
    delta: str


class _Text(msgspec.Struct):
    text: str


class _Progress(msgspec.Struct):
    call_id: str
    tool: str
    label: str | None = None
    duration_s: float = 0.0
    failed: bool = False
    status: str = "running"


class _Beside(msgspec.Struct):
    """An item's event, with how its tool goes."""

    progress: _Progress | None = None


class _Asked(msgspec.Struct):
    call_id: str
    tool: str = ""
    text: str = ""
    choices: tuple[str, ...] = ()
    choice: str = ""


class _Approval(msgspec.Struct):
    approval: _Asked


class _Queued(msgspec.Struct):
    sequence_number: int


class Ended(msgspec.Struct):
    """What a Response object says of its end."""

    status: str
    output: Sequence[_Raws] = ()
    output_text: str = ""
    usage: msgspec.Raw = _NULL
    error: _Raws | None = None
    incomplete_details: msgspec.Raw = _NULL

    @property
    def run_status(self) -> str:
        """A response may be `incomplete` by its profile where it was cancelled; then no limit is named."""
        cut = self.status == "incomplete" and self.incomplete_details == _NULL
        return "cancelled" if cut else self.status


class _Response(msgspec.Struct):
    response: Ended


class _Part(msgspec.Struct):
    text: str = ""
    refusal: str = ""


class RunEvents:
    """Writes run events as frames. One for a server: what it writes is kept for everybody who reads the same."""

    def __init__(self, *, json_spacing: bool) -> None:
        self._spaced = json_spacing

    def frame(self, response_id: str, event: LoggedEvent) -> bytes:
        """The event as server-sent event; empty for what says nothing of the run."""
        rule = _RULES.get(_key(event.type))
        said = None if rule is None else rule(event.data)
        if said is None:
            return b""
        name, members = said
        whole = {
            "event": name,
            "run_id": run_id_of(response_id),
            "seq": event.sequence_number,
            "timestamp": event.at,
            **members,
        }
        data = write_json(whole, spaced=self._spaced)
        framed = b"id: %d\ndata: %b\n\n" % (event.sequence_number, data)
        return framed + CLOSED if name in ENDS else framed


def name_of(event: LoggedEvent) -> str | None:
    """The name of the run's event that this one makes."""
    rule = _RULES.get(_key(event.type))
    said = None if rule is None else rule(event.data)
    return None if said is None else said[0]


def end_of(status: str) -> str:
    """The name of the event with which a run of that status has ended."""
    return {"failed": "run.failed", "cancelled": "run.cancelled"}.get(status, "run.completed")


def _key(kind: str) -> str:
    """A server's own events begin with what its profile calls it; the rest of their names is always the same."""
    return kind if kind.startswith("response.") else kind.partition(".")[2]


_Said = tuple[str, _Members]
_Rule = Callable[[bytes], _Said | None]


def _delta(data: bytes) -> _Said:
    return "message.delta", {"delta": _DELTA.decode(data).delta}


def _reasoning(data: bytes) -> _Said | None:
    text = _TEXT.decode(data).text
    return ("reasoning.available", {"text": text}) if text else None


def _tool(data: bytes) -> _Said | None:
    said = _BESIDE.decode(data).progress
    if said is None:
        return None
    if said.status == "running":
        return "tool.started", {"tool": said.tool, "preview": said.label, "call_id": said.call_id}
    return "tool.completed", {
        "tool": said.tool,
        "duration": said.duration_s,
        "error": said.failed,
        "call_id": said.call_id,
    }


def _asked(data: bytes) -> _Said:
    asked = _APPROVAL.decode(data).approval
    return "approval.request", {
        "call_id": asked.call_id,
        "tool": asked.tool,
        "text": asked.text,
        "command": asked.text,  # what clients of the hermes server show
        "choices": asked.choices,
    }


def _answered(data: bytes) -> _Said:
    answered = _APPROVAL.decode(data).approval
    return "approval.responded", {"call_id": answered.call_id, "choice": answered.choice, "resolved": 1}


def _queued(data: bytes) -> _Said | None:
    return ("run.restarted", {}) if _QUEUED.decode(data).sequence_number > 1 else None


def _ended(data: bytes) -> _Said:
    response = _RESPONSE.decode(data).response
    name = end_of(response.run_status)
    if name == "run.cancelled":
        return name, {}
    if name == "run.failed":
        return name, failure_of(response)
    members: _Members = {
        "status": response.status,
        "output": response.output_text,
        "usage": response.usage,
        "messages": chat_messages(response.output),
    }
    if response.status == "incomplete":
        members["incomplete_details"] = response.incomplete_details
    return name, members


def failure_of(response: Ended) -> _Members:
    error = response.error or {}
    return {"error": error.get("message"), "code": error.get("own_code", error.get("code"))}


def chat_messages(output: Sequence[_Raws]) -> list[_Members]:
    """The turn as chat messages: what the agent said, which tools it called, what they gave."""
    messages: list[_Members] = []
    for item in tools_in_order(output, _place):
        match _text(item.get("type")):
            case "message":
                messages.append({"role": "assistant", "content": _content_text(item.get("content"))})
            case "function_call" | "custom_tool_call" as kind:
                _call(
                    messages, item, item.get("call_id"), item.get("arguments" if kind == "function_call" else "input")
                )
            case "mcp_call":
                call_id = item.get("call_id", item.get("id"))
                _call(messages, item, call_id, item.get("arguments"))
                messages.append({"role": "tool", "tool_call_id": call_id, "content": _run_text(item)})
            case "function_call_output" | "custom_tool_call_output":
                messages.append(
                    {"role": "tool", "tool_call_id": item.get("call_id"), "content": _content_text(item.get("output"))}
                )
            case _:
                pass
    return messages


def _call(messages: list[_Members], item: _Raws, call_id: object, arguments: object) -> None:
    """Adds a call to what was said before it."""
    call = {"id": call_id, "type": "function", "function": {"name": item.get("name"), "arguments": arguments}}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    calls = messages[-1].setdefault("tool_calls", [])
    assert isinstance(calls, list)
    calls.append(call)


def _run_text(item: _Raws) -> str:
    """What a tool gave, or why it failed."""
    output = msgspec.json.decode(item.get("output", _NULL), type=str | None)
    return tool_error_text(msgspec.json.decode(item.get("error", _NULL))) if output is None else output


def _place(item: _Raws) -> tuple[Kind, str]:
    call_id = _text(item.get("call_id"))
    match _text(item.get("type")):
        case "function_call" | "custom_tool_call":
            return "call", call_id
        case "function_call_output" | "custom_tool_call_output":
            return "output", call_id
        case _:
            return "said", ""


def _content_text(content: msgspec.Raw | None) -> str:
    """Of a string, or of a list of parts."""
    said = msgspec.json.decode(content or b'""', type=str | list[_Part])
    return said if isinstance(said, str) else "".join([part.text or part.refusal for part in said])


def _text(value: msgspec.Raw | None) -> str:
    return msgspec.json.decode(value or b'""', type=str)


_DELTA = msgspec.json.Decoder(_Delta)
_TEXT = msgspec.json.Decoder(_Text)
_BESIDE = msgspec.json.Decoder(_Beside)
_APPROVAL = msgspec.json.Decoder(_Approval)
_QUEUED = msgspec.json.Decoder(_Queued)
_RESPONSE = msgspec.json.Decoder(_Response)
_RULES: Mapping[str, _Rule] = {
    "response.output_text.delta": _delta,
    "response.refusal.delta": _delta,
    "response.reasoning_text.done": _reasoning,
    "response.reasoning_summary_text.done": _reasoning,
    "response.output_item.added": _tool,
    "response.output_item.done": _tool,
    "response.mcp_call_arguments.done": _tool,
    "approval.requested": _asked,
    "approval.resolved": _answered,
    "response.queued": _queued,
    "response.completed": _ended,
    "response.incomplete": _ended,
    "response.failed": _ended,
}
ENDS = frozenset({"run.completed", "run.failed", "run.cancelled"})
