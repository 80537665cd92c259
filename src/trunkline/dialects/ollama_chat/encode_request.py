"""A request as the body of POST /api/chat.

`encode_request` writes it anew; `forward_body` splices the model's name into a client's own body of this dialect. State stays
ours, so nothing about storing is ever said. `stream` is always said: absent means true here.
"""

import msgspec

from trunkline.dialects.ollama_chat.messages import write_messages
from trunkline.model.errors import UnsupportedParameter
from trunkline.model.request import JsonSchema, OpaqueTool, Request, Tool
from trunkline.model.tool_order import request_in_order

_BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])
OPTION = "options."
"""Begins the name of an option that no field of a request names, in `Request.extra`."""

_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "max_output_tokens": "num_predict",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
_THINK: dict[str, bool | str] = {"none": False, "minimal": "low", "xhigh": "max", "ultra": "max"}
"""Efforts with another name here (as Ollama's own compatible API maps them); the others are levels of the same name."""

EXPRESSIBLE = frozenset(_OPTIONS) | {"stop", "logprobs", "top_logprobs", "tools", "response_format", "reasoning_effort"}
"""Parameters of a request that this dialect can say, whatever dialect the client speaks."""


def forward_body(body: bytes, request: Request, *, model: str) -> bytes:
    """The client's own body with this model's name; every other byte of every value stays. It is known to be an object."""
    members = _BODY.decode(body)
    members["model"] = _raw(model)
    members["stream"] = _raw(request.stream)  # a string, or null, may have said it
    return msgspec.json.encode(members)


def encode_request(request: Request, *, model: str) -> bytes:
    """The whole request. Raises UnsupportedParameter for what no parameter's name says: an image's address, a custom tool."""
    ordered = request_in_order(request)
    messages = write_messages(ordered.items, ordered.places)
    if request.instructions is not None:
        messages.insert(0, {"role": "system", "content": request.instructions})
    body: dict[str, object] = {"model": model, "messages": messages, "stream": request.stream}
    if request.tools and request.tool_choice != "none":  # there is no other way to say it
        body["tools"] = [_tool(tool, f"tools[{position}]") for position, tool in enumerate(request.tools)]
    form = request.response_format
    if isinstance(form, JsonSchema):
        body["format"] = "json" if form.schema is None else form.schema
    elif form == "json_object":
        body["format"] = "json"
    if request.reasoning_effort is not None:
        body["think"] = _THINK.get(request.reasoning_effort, request.reasoning_effort)
    if request.logprobs:
        body["logprobs"] = True
        if request.top_logprobs is not None:
            body["top_logprobs"] = request.top_logprobs
    options: dict[str, object] = {}
    for field, name in _OPTIONS.items():
        value = getattr(request, field)
        if value is not None:
            options[name] = value
    if request.stop:
        options["stop"] = list(request.stop)
    for key, raw in request.extra.items():
        if key.startswith(OPTION):
            options[key.removeprefix(OPTION)] = raw
        else:
            body[key] = raw
    if options:
        body["options"] = options
    return msgspec.json.encode(body)


def _tool(tool: Tool | OpaqueTool, path: str) -> object:
    if isinstance(tool, OpaqueTool):
        return tool.payload
    if tool.kind == "custom":
        raise UnsupportedParameter("this model's server (Ollama) knows function tools only", param=f"{path}.type")
    function: dict[str, object] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    # Ollama's templates walk the properties: a function without parameters has an object without any.
    function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
