"""A request as a chat completion body, for an upstream.

Used when the client spoke another dialect or a filter changed the request; a chat client's own body is forwarded as it came
(`forward_body`), so that keys we do not know survive. State stays ours: what the client wants stored is stored here, and an
upstream is not asked to store it too. `metadata`, which describes what is stored, stays here as well (OpenAI refuses it without
`store`), unless a body is forwarded that asks for no storing.
"""

import msgspec

from trunkline.dialects.openai_chat.messages import write_messages
from trunkline.model.request import AllowedTools, JsonSchema, NamedTool, OpaqueTool, Request, Tool
from trunkline.model.tool_order import request_in_order

_BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LENIENT_BOOLEANS = frozenset({"stream", "store"})
_ABOUT_STORING = ("store", "metadata")


def forward_body(body: bytes, request: Request, *, model: str, want_usage: bool) -> bytes:
    """The client's own body for this upstream: `model` respliced and, where wanted, a streamed answer's usage asked for.

    Every other byte of every value stays as it came, except booleans that the client wrote as strings: we accept those
    (decision 33), an upstream may not. What is about storing is left out of a request that is stored
    here, and our own stream option, which an upstream need not know. `body` has been read before, so it is known to be an object.
    """
    ask_usage = want_usage and request.stream and not request.include_usage
    if (
        request.model == model
        and not ask_usage
        and not request.store
        and request.tool_events is None
        and body.find(b'"true"') < 0  # `in` tries a number first, which costs more than looking
        and body.find(b'"false"') < 0
    ):
        return body
    members = _BODY.decode(body)
    if request.store:
        for key in _ABOUT_STORING:
            members.pop(key, None)
    members["model"] = msgspec.Raw(msgspec.json.encode(model))
    for key in _LENIENT_BOOLEANS & members.keys():
        members[key] = msgspec.Raw(bytes(members[key]).strip(b'"'))
    if ask_usage or request.tool_events is not None:
        _set_stream_options(members, ask_usage=ask_usage)
    return msgspec.json.encode(members)


def with_model(body: bytes, model: str) -> bytes:
    """A client's own body that named no model, with the one that answers. It is known to be an object."""
    return msgspec.json.encode({**_BODY.decode(body), "model": model})


def _set_stream_options(members: dict[str, msgspec.Raw], *, ask_usage: bool) -> None:
    options = members.pop("stream_options", None)
    if options is None or bytes(options) == b"null":
        merged = {}
    else:
        merged = _BODY.decode(options)
        merged.pop("include_tool_events", None)
    if ask_usage:
        merged["include_usage"] = msgspec.Raw(b"true")
    if merged:
        members["stream_options"] = msgspec.Raw(msgspec.json.encode(merged))


def encode_request(request: Request, *, model: str, want_usage: bool) -> bytes:
    """The whole request written anew."""
    messages = write_messages(request_in_order(request).items)
    if request.instructions is not None:
        messages.insert(0, {"role": "system", "content": request.instructions})
    body: dict[str, object] = {"model": model, "messages": messages}
    if request.stream:
        body["stream"] = True
        if want_usage or request.include_usage:
            body["stream_options"] = {"include_usage": True}
    for key in _PLAIN:
        value = getattr(request, key)
        if value is not None:
            body[key] = value
    if request.store is False:
        body["store"] = False
    if request.max_output_tokens is not None:
        body["max_completion_tokens" if request.asked.get("max_output_tokens") != "max_tokens" else "max_tokens"] = (
            request.max_output_tokens
        )
    if request.n > 1:
        body["n"] = request.n
    if request.stop:
        body["stop"] = list(request.stop)
    if request.logprobs:
        body["logprobs"] = True
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if request.tool_choice is not None:
        body["tool_choice"] = _tool_choice(request)
    if request.response_format is not None:
        body["response_format"] = _response_format(request)
    body.update(request.extra)
    return msgspec.json.encode(body)


_PLAIN = (
    "temperature",
    "top_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "top_logprobs",
    "parallel_tool_calls",
    "reasoning_effort",
    "verbosity",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
)

EXPRESSIBLE = frozenset(_PLAIN) | {
    "max_output_tokens",
    "max_tool_calls",  # of tools that the server runs: over this dialect none are, and any number is kept
    "n",
    "stop",
    "logprobs",
    "tools",
    "tool_choice",
    "response_format",
}
"""Parameters of a request that this dialect can say, whatever dialect the client speaks."""


def _tool(tool: Tool | OpaqueTool) -> object:
    if isinstance(tool, OpaqueTool):
        return tool.payload
    inner: dict[str, object] = {"name": tool.name}
    if tool.description is not None:
        inner["description"] = tool.description
    if tool.kind == "custom":
        if tool.format is not None:
            inner["format"] = _custom_format(tool.format)
        return {"type": "custom", "custom": inner}
    if tool.parameters is not None:
        inner["parameters"] = tool.parameters
    if tool.strict is not None:
        inner["strict"] = tool.strict
    return {"type": "function", "function": inner}


def _custom_format(form: msgspec.Raw) -> object:
    """What this API nests under `grammar`, and the model has beside `type` as Responses does."""
    members = msgspec.json.decode(form)
    if not isinstance(members, dict) or members.get("type") != "grammar":
        return form
    return {"type": "grammar", "grammar": {key: value for key, value in members.items() if key != "type"}}


def _tool_choice(request: Request) -> object:
    match request.tool_choice:
        case NamedTool(name, kind):
            return {"type": kind, kind: {"name": name}}
        case AllowedTools(mode, names):
            kinds = {tool.name: tool.kind for tool in request.tools if isinstance(tool, Tool)}
            tools = [
                {"type": kinds.get(name, "function"), kinds.get(name, "function"): {"name": name}} for name in names
            ]
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
        case choice:
            return choice


def _response_format(request: Request) -> object:
    form = request.response_format
    if not isinstance(form, JsonSchema):
        return {"type": form}
    inner: dict[str, object] = {"name": form.name}
    if form.description is not None:
        inner["description"] = form.description
    if form.schema is not None:
        inner["schema"] = form.schema
    if form.strict is not None:
        inner["strict"] = form.strict
    return {"type": "json_schema", "json_schema": inner}
