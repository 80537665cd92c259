"""A backend honours what a request asks, or the request is refused by name (decision 34). Nothing is dropped in silence.

A parameter is fine when the backend declares it, when the backend forwards its dialect whole, or when trunkline does it itself
(`stop`, `store`). It is ignored, and named in `x-trunkline-ignored`, when the backend takes it as a hint. Otherwise it is
refused under the name the client used.
"""

import difflib

import msgspec

from trunkline.dialects.openai_responses.added_tools import with_added_tools
from trunkline.dialects.openai_responses.compaction import COMPACTION, with_summaries
from trunkline.dialects.openai_responses.mcp_calls import with_tool_runs
from trunkline.model.errors import InvalidParameter, UnsupportedParameter
from trunkline.model.items import (
    AudioPart,
    FilePart,
    FunctionCallOutput,
    ImagePart,
    Message,
    OpaqueItem,
    OpaquePart,
    Part,
    RefusalPart,
    TextPart,
)
from trunkline.model.request import OpaqueTool, Request, Tool
from trunkline.ports.backend import Capabilities, PartKind

_DONE_HERE = frozenset({"stop", "store"})
_ASKS_NOTHING = frozenset({"prompt_cache_retention", "prompt_cache_options", "reasoning_summary"})
"""What asks nothing of the answer itself: ignored where it cannot be had, and said so, but never a reason to refuse."""
_ABOUT_TOOLS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
_KINDS: dict[type, tuple[PartKind, str]] = {
    TextPart: ("text", "text"),
    RefusalPart: ("refusal", "refusal"),
    ImagePart: ("image", "image_url"),
    AudioPart: ("audio", "input_audio"),
    FilePart: ("file", "file"),
    OpaquePart: ("opaque", "unknown"),
}
_PART_NAMES: dict[str, dict[str, str]] = {
    "openai_responses": {
        "text": "input_text",
        "image_url": "input_image",
        "file": "input_file",
        "audio": "input_audio",
        "assistant_text": "output_text",
    },
    "openai_chat": {"input_text": "text", "output_text": "text", "input_image": "image_url", "input_file": "file"},
}
"""What each dialect calls the parts that another one, or memory, calls so."""


def translated(
    request: Request, capabilities: Capabilities, *, dialect: str, model: str
) -> tuple[Request, tuple[str, ...]]:
    """What of the request the backend gets, and the names of what it will ignore or not get: keys that nothing here names, and
    tools of a host's that are only declared. Raises UnsupportedParameter for what can neither be honoured nor ignored."""
    native = capabilities.forwards_unknown == dialect
    request = with_tool_runs(with_summaries(request), others=not native)
    if native:
        return request, ()
    unknown = [key for key in request.extra if key not in request.asked]
    if request.extra:
        request = msgspec.structs.replace(request, extra={})
    request, added = with_added_tools(request)
    hosted = tuple(
        [f"tools[{position}]" for position, tool in enumerate(request.tools) if isinstance(tool, OpaqueTool)]
    )
    if hosted:
        request = _without_hosted_tools(request, model=model)
    if (
        not request.tools and request.parallel_tool_calls is not None
    ):  # there are upstreams that refuse it without tools
        request = msgspec.structs.replace(request, parallel_tool_calls=None)
    ignored = [*_ignored_parameters(request, capabilities, model=model), *hosted, *added, *unknown]
    _check_parts(request, capabilities, dialect=dialect, model=model)
    return request, tuple(ignored)


def _ignored_parameters(request: Request, capabilities: Capabilities, *, model: str) -> list[str]:
    ignored: list[str] = []
    for parameter, wire in request.asked.items():
        if parameter in capabilities.parameters or parameter in _DONE_HERE:
            continue
        if parameter not in capabilities.hints and parameter not in _ASKS_NOTHING:
            remedy = capabilities.remedies.get(parameter)
            message = f"model {model!r} does not support the parameter '{wire}'"
            raise UnsupportedParameter(f"{message}; {remedy}" if remedy else message, param=wire)
        ignored.append(wire)
    return ignored


def _without_hosted_tools(request: Request, *, model: str) -> Request:
    """The request without the tools that only their host can run. Raises UnsupportedParameter where one of them is demanded."""
    own = tuple([tool for tool in request.tools if isinstance(tool, Tool)])
    choice = request.tool_choice
    if choice not in (None, "auto", "none") and (choice != "required" or not own):
        position, tool = next((n, tool) for n, tool in enumerate(request.tools) if isinstance(tool, OpaqueTool))
        names = {one.name for one in own}
        if getattr(choice, "name", None) not in names and not names.issuperset(getattr(choice, "names", ("",))):
            raise UnsupportedParameter(
                f"model {model!r} cannot run tools of type '{tool.wire_type[:100]}'", param=f"tools[{position}].type"
            )
    if own:
        return msgspec.structs.replace(request, tools=own)
    asked = {key: wire for key, wire in request.asked.items() if key not in _ABOUT_TOOLS}
    return msgspec.structs.replace(request, tools=(), tool_choice=None, parallel_tool_calls=None, asked=asked)


def _check_parts(request: Request, capabilities: Capabilities, *, dialect: str, model: str) -> None:
    for item, place in zip(request.items, request.places, strict=False):
        if isinstance(item, OpaqueItem):
            raise UnsupportedParameter(
                f"model {model!r} cannot read an item of type '{item.wire_type[:100]}'"
                + (" that another server made" if item.wire_type == COMPACTION else ""),
                param=place,
            )
        if isinstance(item, Message | FunctionCallOutput):
            for position, part in enumerate(item.content):
                kind, wire = _KINDS[type(part)]
                if kind not in capabilities.parts:
                    wire = part.wire_type[:100] if isinstance(part, OpaquePart) else wire
                    raise UnsupportedParameter(
                        f"model {model!r} cannot read content of type '{wire}'{_meant(part, dialect)}",
                        code="unsupported_content_type",
                        param=f"{place}.content[{position}]",
                    )


def _meant(part: Part, dialect: str) -> str:
    """What may have been meant by a part of a type that nobody here knows; the two APIs name the same parts differently."""
    if not isinstance(part, OpaquePart):
        return ""
    names = _PART_NAMES.get(dialect, {})
    close = difflib.get_close_matches(part.wire_type[:100], names.values(), n=1, cutoff=0.8)
    meant = names.get(part.wire_type) or next(iter(close), None)
    return f" (did you mean '{meant}'?)" if meant else ""


def check_streaming(request: Request, capabilities: Capabilities) -> None:
    """Decision 1: a backend that cannot stream says so."""
    if request.stream and not capabilities.streaming:
        raise InvalidParameter("streaming not supported", code="unsupported_value", param="stream")
