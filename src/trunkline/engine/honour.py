"""A backend honours what a request asks, or the request is refused by name (decision 34). Nothing is dropped in silence.

A parameter is fine when the backend declares it, when the backend forwards its dialect whole, or when trunkline does it itself
(`stop`, `store`). It is ignored, and named in `x-trunkline-ignored`, when the backend takes it as a hint. Otherwise it is
refused under the name the client used.
"""

from trunkline.model.errors import InvalidParameter, UnsupportedParameter
from trunkline.model.items import (
    AudioPart,
    FilePart,
    FunctionCallOutput,
    ImagePart,
    Message,
    OpaqueItem,
    OpaquePart,
    RefusalPart,
    TextPart,
)
from trunkline.model.request import OpaqueTool, Request
from trunkline.ports.backend import Capabilities, PartKind

_DONE_HERE = frozenset({"stop", "store"})
_ASKS_NOTHING = frozenset({"prompt_cache_retention", "prompt_cache_options"})
"""What asks nothing of the answer itself: ignored where it cannot be had, and said so, but never a reason to refuse."""
_KINDS: dict[type, tuple[PartKind, str]] = {
    TextPart: ("text", "text"),
    RefusalPart: ("refusal", "refusal"),
    ImagePart: ("image", "image_url"),
    AudioPart: ("audio", "input_audio"),
    FilePart: ("file", "file"),
    OpaquePart: ("opaque", "unknown"),
}


def ignored_parameters(request: Request, capabilities: Capabilities, *, dialect: str, model: str) -> tuple[str, ...]:
    """The names of what the backend will ignore. Raises UnsupportedParameter for what it can neither honour nor ignore."""
    if capabilities.forwards_unknown == dialect:
        return ()
    ignored: list[str] = []
    for parameter, wire in request.asked.items():
        if parameter in capabilities.parameters or parameter in _DONE_HERE:
            continue
        if parameter not in capabilities.hints and parameter not in _ASKS_NOTHING:
            raise UnsupportedParameter(f"model {model!r} does not support the parameter '{wire}'", param=wire)
        ignored.append(wire)
    for position, tool in enumerate(request.tools):
        if isinstance(tool, OpaqueTool):
            where = f"tools[{position}].type"
            raise UnsupportedParameter(
                f"model {model!r} cannot run tools of type '{tool.wire_type[:100]}'", param=where
            )
    _check_parts(request, capabilities, model=model)
    ignored.extend(key for key in request.extra if key not in request.asked)
    return tuple(ignored)


def _check_parts(request: Request, capabilities: Capabilities, *, model: str) -> None:
    for item, place in zip(request.items, request.places, strict=False):
        if isinstance(item, OpaqueItem):
            raise UnsupportedParameter(f"model {model!r} cannot read this kind of message", param=place)
        if isinstance(item, Message | FunctionCallOutput):
            for position, part in enumerate(item.content):
                kind, wire = _KINDS[type(part)]
                if kind not in capabilities.parts:
                    wire = part.wire_type[:100] if isinstance(part, OpaquePart) else wire
                    raise UnsupportedParameter(
                        f"model {model!r} cannot read content of type '{wire}'",
                        code="unsupported_content_type",
                        param=f"{place}.content[{position}]",
                    )


def check_streaming(request: Request, capabilities: Capabilities) -> None:
    """Decision 1: a backend that cannot stream says so."""
    if request.stream and not capabilities.streaming:
        raise InvalidParameter("streaming not supported", code="unsupported_value", param="stream")
