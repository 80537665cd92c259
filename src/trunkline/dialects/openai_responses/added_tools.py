"""Tools that a client adds in the midst of its input (`additional_tools`), for a backend that knows tools as a parameter only.

A backend of this dialect gets the item as it came, because where it stands says from when on the tools are there. Any other
gets its functions and custom tools with the request's own, whose definitions are newer and win. A tool of a host's is only
declared here as it is in `tools`: who cannot run it is told its place.
"""

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.openai_responses.decode_request import read_tools
from trunkline.dialects.openai_responses.read_items import NAME
from trunkline.model.items import Item, OpaqueItem
from trunkline.model.request import OpaqueTool, Request, Tool

WIRE_TYPE = "additional_tools"


def is_added_tools(item: Item) -> bool:
    return isinstance(item, OpaqueItem) and item.dialect == NAME and item.wire_type == WIRE_TYPE


def with_added_tools(request: Request) -> tuple[Request, tuple[str, ...]]:
    """The request with the added tools among its own, and the places of those of a host's. Raises InvalidParameter."""
    if not any(is_added_tools(item) for item in request.items):
        return request, ()
    items, places, hosted = [], [], []
    tools: dict[str, Tool] = {}
    asked = dict(request.asked)
    for item, place in zip(request.items, request.places, strict=True):
        if not (isinstance(item, OpaqueItem) and is_added_tools(item)):
            items.append(item)
            places.append(place)
            continue
        for path, tool in _read(item, place):
            if isinstance(tool, OpaqueTool):
                hosted.append(path)
            else:
                tools[tool.name] = tool
                asked.setdefault("tools", place)
    own = {tool.name for tool in request.tools if isinstance(tool, Tool)}
    if tools and request.parallel_tool_calls is False:  # without any tool it asked for nothing
        asked["parallel_tool_calls"] = "parallel_tool_calls"
    request = msgspec.structs.replace(
        request,
        items=tuple(items),
        places=tuple(places),
        tools=(*request.tools, *[tool for name, tool in tools.items() if name not in own]),
        asked=asked,
    )
    return request, tuple(hosted)


def _read(item: OpaqueItem, place: str) -> list[tuple[str, Tool | OpaqueTool]]:
    path = f"{place}.tools"
    members = reading.array(reading.field(msgspec.json.decode(item.payload), "tools", place), path)
    paths = [f"{path}[{position}]" for position in range(len(members))]
    whole = {at: reading.raw(member) for at, member in zip(paths, members, strict=True)}
    return list(zip(paths, read_tools(members, path, whole), strict=True))
