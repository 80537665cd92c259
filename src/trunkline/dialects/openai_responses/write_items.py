"""Items of the model to items of the wire.

Three readers want them, and each wants something else: a client sees an answer's items (`write_output_item`), the store keeps a
request's items with ids and in one form (`input_items`), and an upstream gets whatever says the same in fewest words
(`write_input`). An id that is missing is derived from the response's id and the item's place, so that the same turn always gives
the same ids and no upstream's id is ever needed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from trunkline.dialects.openai_responses.parts import write_annotation, write_logprobs
from trunkline.dialects.openai_responses.read_items import NAME
from trunkline.dialects.openai_wire import join_extensions
from trunkline.model.errors import RequestError
from trunkline.model.events import Extension
from trunkline.model.items import (
    AudioPart,
    FilePart,
    FunctionCall,
    FunctionCallOutput,
    ImagePart,
    Item,
    Message,
    OpaqueItem,
    OpaquePart,
    Part,
    Reasoning,
    RefusalPart,
    TextPart,
    ToolKind,
    text_of,
)
from trunkline.model.turn import Turn, TurnItem

Wire = dict[str, object]
EVENT_PREFIX = "response."
"""An extension of an item whose name begins so is a streamed event, not a member of the item."""

_PREFIXES: Mapping[str, str] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "compaction": "cmp",
    "mcp_call": "mcp",
}
_OUTPUTS = ("function_call_output", "custom_tool_call_output")
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def derived_id(wire_type: str, response_id: str, place: str) -> str:
    """The id of an item that has none: `msg_<the response's>_<place>`."""
    return f"{_PREFIXES.get(wire_type, 'item')}_{response_id.rpartition('_')[2]}_{place}"


def wire_type_of(item: Item) -> str:
    match item:
        case Message():
            return "message"
        case Reasoning():
            return "reasoning"
        case FunctionCall():
            return "custom_tool_call" if item.tool == "custom" else "function_call"
        case FunctionCallOutput():
            return "custom_tool_call_output" if item.tool == "custom" else "function_call_output"
        case OpaqueItem():
            return item.wire_type


# Answers


def output_items(turn: Turn, *, logprobs: bool) -> list[Wire]:
    """The `output` of a response: the items of the first choice, in order."""
    written = (write_output_item(item, turn.turn_id, logprobs=logprobs) for item in turn.items if item.choice == 0)
    return [item for item in written if item is not None]


def write_output_item(turn_item: TurnItem, response_id: str, *, logprobs: bool) -> Wire | None:
    """An item of an answer; None for one of another dialect, which has no form here."""
    item = turn_item.item
    if isinstance(item, OpaqueItem):
        written = write_opaque(item, turn_item.index, response_id)
    else:
        written = _write_own(item, _id(item, response_id, str(turn_item.index)))
        if isinstance(item, Message) and logprobs:
            _add_logprobs(written, turn_item)
    if written is not None:
        with_members(written, turn_item.extensions)
    return written


def with_members(written: Wire, extensions: Sequence[Extension]) -> None:
    """Adds what the wire said of the item besides; its events are no members."""
    members = [one for one in extensions if not one.name.startswith(EVENT_PREFIX)]
    for name, value in join_extensions(members).items():
        written.setdefault(name, value)


def write_opaque(item: OpaqueItem, index: int, response_id: str) -> Wire | None:
    """A native item as it came. One that the turn's end cut is what was known when it opened, now incomplete."""
    if item.dialect not in (NAME, ""):
        return None
    members: Wire = {**_MEMBERS.decode(item.payload)}
    if not item.dialect:
        if "type" not in members:
            return None
        if "status" in members:
            members["status"] = "incomplete"
    members.setdefault("type", item.wire_type)
    members.setdefault("id", item.id or derived_id(item.wire_type, response_id, str(index)))
    return members


def _id(item: Item, response_id: str, place: str) -> str:
    return item.id or derived_id(wire_type_of(item), response_id, place)


def _write_own(item: Message | Reasoning | FunctionCall | FunctionCallOutput, item_id: str) -> Wire:
    """An item in the form in which clients see it and the store keeps it."""
    written: Wire = {"id": item_id, "type": wire_type_of(item)}
    match item:
        case Message():
            write = _write_said if item.role == "assistant" else _write_told
            written |= {
                "role": item.role,
                "status": item.status,
                "content": [write(part) for part in item.content],
            }
        case Reasoning():
            written |= write_reasoning(item)
        case FunctionCall():
            written |= {
                "status": item.status,
                "call_id": item.call_id,
                "name": item.name,
                "input" if item.tool == "custom" else "arguments": item.arguments,
            }
        case FunctionCallOutput():
            written |= {"status": item.status, "call_id": item.call_id, "output": write_output(item)}
            if item.name is not None:
                written["name"] = item.name
    for name, value in item.extra.items():
        written.setdefault(name, value)
    return written


def write_reasoning(item: Reasoning) -> Wire:
    written: Wire = {
        "status": item.status,
        "summary": [{"type": "summary_text", "text": text} for text in item.summary],
    }
    if item.text:
        written["content"] = [{"type": "reasoning_text", "text": item.text}]
    if item.encrypted_content is not None:
        written["encrypted_content"] = item.encrypted_content
    return written


def write_output(item: FunctionCallOutput) -> object:
    """What a tool returned: text is a string (decision 10); parts of other kinds make a list."""
    if item.as_string or (item.hosted and all(isinstance(part, TextPart) for part in item.content)):
        return text_of(item.content)
    return [_write_told(part) for part in item.content]


def with_output_list(item: Wire) -> Wire:
    """The item with what a tool returned as a list of parts, for clients that look for one in streams (decision 10)."""
    output = item.get("output") if item["type"] in _OUTPUTS else None
    return {**item, "output": [{"type": "input_text", "text": output}]} if isinstance(output, str) else item


def _add_logprobs(written: Wire, turn_item: TurnItem) -> None:
    """Gives each text of a message its log probabilities."""
    content = written["content"]
    assert isinstance(content, list)
    ends = [*turn_item.logprob_ends[: len(content) - 1], len(turn_item.logprobs)] if content else []
    start = 0
    for part, end in zip(content, ends, strict=False):
        if part["type"] == "output_text":
            part["logprobs"] = write_logprobs(turn_item.logprobs[start:end])
        start = end


def write_text(text: str, annotations: Sequence[msgspec.Raw] = ()) -> Wire:
    return {"type": "output_text", "text": text, "annotations": [write_annotation(one) for one in annotations]}


def _write_said(part: Part) -> object:
    """A content part of an answer."""
    match part:
        case TextPart():
            return write_text(part.text, part.annotations)
        case RefusalPart():
            return {"type": "refusal", "refusal": part.text}
        case _:
            return _write_told(part)


def _write_told(part: Part) -> object:
    """A content part of a message to the model, or of a tool's output."""
    match part:
        case TextPart():
            return {"type": "input_text", "text": part.text}
        case RefusalPart():
            return {"type": "refusal", "refusal": part.text}
        case ImagePart():
            return {
                "type": "input_image",
                "detail": part.detail or "auto",
                **_present(image_url=part.url, file_id=part.file_id),
            }
        case AudioPart():
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
        case FilePart():
            return {
                "type": "input_file",
                **_present(filename=part.filename, file_data=part.data, file_id=part.file_id, file_url=part.url),
            }
        case OpaquePart():
            return part.payload


def _present(**members: str | None) -> dict[str, str]:
    return {key: value for key, value in members.items() if value is not None}


# The store


def input_items(items: Sequence[Item], *, response_id: str) -> list[Wire]:
    """What `GET /input_items` lists and what a later turn is given again: every item with an id and in its full form."""
    stored = []
    for position, item in enumerate(items):
        place = f"in{position}"
        if isinstance(item, OpaqueItem):
            members: Wire = {**_MEMBERS.decode(item.payload)}
            members.setdefault("type", item.wire_type)
            if item.id is None:
                members["id"] = derived_id(item.wire_type, response_id, place)
            stored.append(members)
        else:
            stored.append(_write_own(item, _id(item, response_id, place)))
    return stored


def check_calls(items: Sequence[Item], *, settled: int = 0) -> None:
    """Every call has its output after it and every output its call. Raises RequestError as OpenAI does.

    For whoever has put the whole history together: a call may stand in an earlier response. `settled`: how many of the items have
    been accepted before.
    """
    pending: dict[str, None] = {}
    known: dict[str, ToolKind] = {}
    unanswered: Counter[str] = Counter()  # servers exist that give two calls of a turn one id
    for position, item in enumerate(items):
        if isinstance(item, FunctionCall):
            pending[item.call_id] = None
            known[item.call_id] = item.tool
            unanswered[item.call_id] += 1
        elif isinstance(item, FunctionCallOutput):
            shown = item.call_id[:100]
            new = position >= settled
            if item.call_id not in known or (new and known[item.call_id] != item.tool):
                what = "function" if item.tool == "function" else "custom tool"
                raise RequestError(f"No tool call found for {what} call output with call_id {shown}.", param="input")
            if new and not unanswered[item.call_id]:
                raise RequestError(f"Tool call {shown} has an output already; give one for each call.", param="input")
            unanswered[item.call_id] = max(0, unanswered[item.call_id] - 1)
            pending.pop(item.call_id, None)
    for call_id in pending:
        raise RequestError(f"No tool output found for function call {call_id[:100]}.", param="input")


# Upstreams


def write_input(items: Sequence[Item]) -> list[object]:
    """The items for an upstream that keeps no state.

    Ids of our store are left out: they say nothing there. Reasoning goes along where there is something of it that the upstream can
    read: plain it needs some id, encrypted it may have none but the upstream's own, which is inside.
    """
    written: list[object] = []
    for position, item in enumerate(items):
        match item:
            case OpaqueItem():
                written.append(item.payload)
            case Message():
                written.append(_write_easy(item, position))
            case Reasoning():
                if item.encrypted_content is not None:
                    written.append(
                        {key: value for key, value in _write_own(item, "").items() if key not in ("id", "status")}
                    )
                elif item.text:
                    written.append(_write_own(item, item.id or f"rs_{position}"))
            case FunctionCall() | FunctionCallOutput():
                left_out = ("id", "status", "name") if isinstance(item, FunctionCallOutput) else ("id", "status")
                written.append({key: value for key, value in _write_own(item, "").items() if key not in left_out})
    return written


def _write_easy(item: Message, position: int) -> Wire:
    easy: Wire = {"type": "message", "role": item.role}
    if item.as_string or not item.content:
        easy["content"] = text_of(item.content)
    elif item.role == "assistant":  # in parts it is an output message, which vLLM takes with id and status only
        easy |= {
            "id": f"msg_{position}",
            "status": "completed",
            "content": [_write_said(part) for part in item.content],
        }
    else:
        easy["content"] = [_write_told(part) for part in item.content]
    for name, value in item.extra.items():
        easy.setdefault(name, value)
    return easy
