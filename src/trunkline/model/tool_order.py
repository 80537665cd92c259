"""Puts what tools gave right behind their calls, as every chat model wants it.

An agent's tools run while it speaks, and are kept in the order in which things happened: a call, text, another call, the first
one's output. To a chat model a message that calls is followed by one output for each of its calls, and by nothing else before that.
So calls that are open at the same time become one group: what was said in between, then the calls, then their outputs.

Ids of calls are used again from turn to turn, so an output belongs to the oldest call of its id that has none yet. One without a
call is left out, unless somebody else is to judge it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import msgspec

from trunkline.model.items import FunctionCall, FunctionCallOutput, Item, Message, Reasoning
from trunkline.model.request import Request

Kind = Literal["call", "output", "said", "asked"]
"""`said`: by whoever calls. `asked`: by somebody else, whose turn it then is, open calls or not."""

Entry = TypeVar("Entry")


def place(item: Item) -> tuple[Kind, str]:
    """What an item is, and the id of its call."""
    match item:
        case FunctionCall(call_id=call_id):
            return "call", call_id
        case FunctionCallOutput(call_id=call_id):
            return "output", call_id
        case Message(role="assistant") | Reasoning():
            return "said", ""
        case _:
            return "asked", ""


def tools_in_order(
    entries: Sequence[Entry],
    read: Callable[[Entry], tuple[Kind, str]],
    *,
    unfinished: Callable[[Entry], Entry] | None = None,
    strays: bool = False,
) -> list[Entry]:
    """The entries in that order.

    Args:
        read: what an entry is, and the id of its call.
        unfinished: makes the output of a call that has none; without it such a call stays without.
        strays: whether an output without a call stays where it is.
    """
    places = [read(entry) for entry in entries]
    output_of = dict(_pairs(places))
    outputs = set(output_of.values())
    ordered: list[Entry] = []
    calls: list[int] = []
    open_outputs: set[int] = set()

    def close() -> None:
        ordered.extend([entries[call] for call in calls])
        ordered.extend([entries[index] for index in sorted([output_of[call] for call in calls if call in output_of])])
        if unfinished is not None:
            ordered.extend([unfinished(entries[call]) for call in calls if call not in output_of])
        calls.clear()
        open_outputs.clear()

    for index, (kind, _) in enumerate(places):
        match kind:
            case "call":
                calls.append(index)
                if index in output_of:
                    open_outputs.add(output_of[index])
            case "output" if index in outputs or not strays:
                open_outputs.discard(index)
            case "said":
                ordered.append(entries[index])
            case "asked" | "output":
                close()
                ordered.append(entries[index])
        if not open_outputs:
            close()
    close()
    return ordered


def request_in_order(request: Request) -> Request:
    """The request with its items in that order, each with its place. An output without a call is the model's to judge."""
    if not any(isinstance(item, FunctionCall) for item in request.items):
        return request
    places = request.places or ("",) * len(request.items)
    entries = list(zip(request.items, places, strict=True))
    ordered = tools_in_order(entries, lambda entry: place(entry[0]), strays=True)
    return msgspec.structs.replace(
        request,
        items=tuple([item for item, _ in ordered]),
        places=tuple([where for _, where in ordered]) if request.places else (),
    )


def _pairs(places: Sequence[tuple[Kind, str]]) -> Iterator[tuple[int, int]]:
    """Where each call is, and where its output."""
    open_calls: dict[str, deque[int]] = {}
    for index, (kind, call_id) in enumerate(places):
        if kind == "call":
            open_calls.setdefault(call_id, deque()).append(index)
        elif kind == "output" and open_calls.get(call_id):
            yield open_calls[call_id].popleft(), index
