"""An agent's own tool runs as `mcp_call` items: what the API has for a tool that the server has run.

A `function_call` in an answer is for the client to run, and there are clients that look for nothing else. An item of this type they
show and leave alone. A call and its output, two items of ours, are one item here: it opens with the call, stays in progress while
whatever comes meanwhile streams, and closes with the output. Streams and whole answers find what belongs together the same way.

`call_id` is beside the API's members: the agent's own id, by which an item that comes back is the same call again. Such an item is
a call and its output for every backend, as it was when the agent ran it. One without is another server's, or came through a client
that keeps the API's members only: an upstream of this dialect gets it as it came, any other backend as a call and its output.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.openai_responses.read_items import NAME
from trunkline.dialects.openai_responses.write_items import (
    Wire,
    derived_id,
    with_members,
    write_output,
    write_output_item,
)
from trunkline.dialects.openai_wire import tool_error_text
from trunkline.dialects.reading import Object
from trunkline.model import events as ev
from trunkline.model.items import FunctionCall, FunctionCallOutput, Item, OpaqueItem, TextPart, text_of
from trunkline.model.request import Request
from trunkline.model.turn import Turn, TurnItem

MCP_CALL = "mcp_call"
SERVER_LABEL = "agent"
"""The same whatever answers: aliases, fallbacks and kept answers change the name of a model, and a client's chat goes on."""

_ENDED = {"completed": "response.mcp_call.completed", "failed": "response.mcp_call.failed"}

Run = TypeVar("Run")


class Waiting(Generic[Run]):
    """Runs whose output has not come, oldest first; servers exist that give two of them one call_id."""

    def __init__(self) -> None:
        self._runs: list[tuple[str | None, Run]] = []

    def add(self, call_id: str | None, run: Run) -> None:
        self._runs.append((call_id, run))

    def take(self, call_id: str | None) -> Run | None:
        for position, (waiting, run) in enumerate(self._runs):
            if waiting == call_id:
                del self._runs[position]
                return run
        return None

    def take_all(self) -> list[Run]:
        runs, self._runs = self._runs, []
        return [run for _, run in runs]


# Answers


def is_run(call: ev.ItemStarted | FunctionCall) -> bool:
    """Whether it is a call that the backend runs."""
    if isinstance(call, ev.ItemStarted) and call.kind != "function_call":
        return False
    return call.hosted and call.tool == "function"


def run_id(call_item_id: str | None, response_id: str, index: int) -> str:
    """The id of the item. It follows from the call's place, but for one that has been read back, which has it already."""
    if call_item_id is not None and call_item_id.startswith("mcp_"):
        return call_item_id
    return derived_id(MCP_CALL, response_id, str(index))


def opening(item_id: str, *, name: str | None, call_id: str | None) -> Wire:
    """The item as it is announced."""
    return {
        "id": item_id,
        "type": MCP_CALL,
        "status": "in_progress",
        "server_label": SERVER_LABEL,
        "name": name or "",
        "arguments": "",
        "output": None,
        "error": None,
        "approval_request_id": None,
        "call_id": call_id,
    }


def write_run(call: TurnItem, output: TurnItem | None, response_id: str) -> Wire:
    """A run with what became of it; without an output it never came to an end."""
    made, gave = call.item, None if output is None else output.item
    assert isinstance(made, FunctionCall)
    written = opening(run_id(made.id, response_id, call.index), name=made.name, call_id=made.call_id)
    written |= {"arguments": made.arguments, "status": "incomplete"}
    if isinstance(gave, FunctionCallOutput):
        text = _text(gave)
        if gave.failed:
            error = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": text}]}
            written |= {"status": "failed", "error": error}
        else:
            written |= {"status": gave.status, "output": text}
    for one in (call, output):
        if one is not None and isinstance(one.item, FunctionCall | FunctionCallOutput):
            for key, value in one.item.extra.items():
                written.setdefault(key, value)
            with_members(written, one.extensions)
    return written


def ended_event(run: Wire) -> str | None:
    """The event that says how a run has ended; the API has none for one that never did."""
    return _ENDED.get(str(run["status"]))


def output_items(turn: Turn, *, logprobs: bool) -> list[Wire]:
    """The `output` of a response: the items of the first choice, in order, runs in the place of their calls."""
    items = [item for item in turn.items if item.choice == 0]
    outputs = _outputs(items)
    shown = {output.index for output in outputs.values()}
    written: list[Wire | None] = []
    for item in items:
        if isinstance(item.item, FunctionCall) and is_run(item.item):
            written.append(write_run(item, outputs.get(item.index), turn.turn_id))
        elif item.index not in shown:
            written.append(write_output_item(item, turn.turn_id, logprobs=logprobs))
    return [item for item in written if item is not None]


def _outputs(items: Sequence[TurnItem]) -> dict[int, TurnItem]:
    """By the index of a run's call its output, as far as there is one."""
    waiting: Waiting[int] = Waiting()
    outputs: dict[int, TurnItem] = {}
    for item in items:
        if isinstance(item.item, FunctionCall) and is_run(item.item):
            waiting.add(item.item.call_id, item.index)
        elif isinstance(item.item, FunctionCallOutput):
            index = waiting.take(item.item.call_id)
            if index is not None:
                outputs[index] = item
    return outputs


def _text(output: FunctionCallOutput) -> str:
    """What a tool gave, as the one text that the item has room for."""
    if all(isinstance(part, TextPart) for part in output.content):
        return text_of(output.content)
    return msgspec.json.encode(write_output(output)).decode()


# Requests


def with_tool_runs(request: Request, *, others: bool) -> Request:
    """The request with calls and outputs in place of runs. `others`: also of those that another server had.

    Raises InvalidParameter for one that does not say what was called.
    """
    if OpaqueItem not in map(type, request.items) or not any(_is_mcp_call(item) for item in request.items):
        return request
    items: list[Item] = []
    places: list[str] = []
    for item, place in zip(request.items, request.places or ("",) * len(request.items), strict=True):
        read = _read(item, place, others=others) if isinstance(item, OpaqueItem) and _is_mcp_call(item) else (item,)
        items += read
        places += [place] * len(read)
    return msgspec.structs.replace(request, items=tuple(items), places=tuple(places) if request.places else ())


def _is_mcp_call(item: Item) -> bool:
    return isinstance(item, OpaqueItem) and item.dialect == NAME and item.wire_type == MCP_CALL


def _read(item: OpaqueItem, place: str, *, others: bool) -> tuple[Item, ...]:
    source = reading.mapping(msgspec.json.decode(item.payload), place)
    if not others and source.get("call_id") is None:
        return (item,)
    output, arguments = read_output(source, place), reading.text_field(source, "arguments", place)
    return FunctionCall(call_id=output.call_id, name=output.name or "", arguments=arguments, id=item.id), output


def read_output(source: Object, path: str) -> FunctionCallOutput:
    """What a run gave. Raises InvalidParameter for one that does not say what was called."""
    call_id = reading.optional_text(source, "call_id", path) or reading.text_field(source, "id", path)
    output, error = reading.optional_text(source, "output", path), source.get("error")
    cut = source.get("status") == "incomplete" or (output is None and error is None)
    return FunctionCallOutput(
        call_id=call_id,
        content=(TextPart(tool_error_text(error) if output is None else output),),
        as_string=True,
        name=reading.text_field(source, "name", path),
        status="incomplete" if cut else "completed",
    )
