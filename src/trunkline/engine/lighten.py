"""A request without what its model turned out not to take: tools, or images.

Only where a profile wants it (`lightens_requests`): an answer that knows nothing of the tools it was given is another answer, so by
default the refusal is the client's. What goes is named in `x-trunkline-ignored`. The oldest turns of a conversation that is too
long go in `truncation`.
"""

import msgspec

from trunkline.model.errors import TrunklineError
from trunkline.model.items import FunctionCallOutput, ImagePart, Item, Message
from trunkline.model.request import Request

_ABOUT_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")


def lightened(request: Request, error: TrunklineError) -> tuple[Request, str] | None:
    """The request without what the error is about, and what that is called; None where nothing can go."""
    if error.code == "unsupported_parameter" and error.param == "tools" and request.tools:
        asked = {key: wire for key, wire in request.asked.items() if key not in _ABOUT_TOOLS}
        lighter = msgspec.structs.replace(request, tools=(), tool_choice=None, parallel_tool_calls=None, asked=asked)
        return lighter, "tools"
    if error.code == "unsupported_content_type":
        items = tuple([_without_images(item) for item in request.items])
        if items != request.items:
            return msgspec.structs.replace(request, items=items), "images"
    return None


def _without_images(item: Item) -> Item:
    if not isinstance(item, Message | FunctionCallOutput):
        return item
    content = tuple([part for part in item.content if not isinstance(part, ImagePart)])
    return item if len(content) == len(item.content) else msgspec.structs.replace(item, content=content)
