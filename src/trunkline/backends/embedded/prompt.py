"""A request as the body of one engine call.

The engine renders its model's chat template; what a template may lack is made up for here:

- `developer` becomes `system`, and system messages that follow each other become one: few templates know the former,
  and many refuse the latter.
- Where the template cannot show tool calls, a call in the history is shown as assistant text and its output as user
  text, in the notation most models were trained on:
      <tool_call>                                      <tool_response>
      {"name": "get_weather", "arguments": {…}}        …
      </tool_call>                                     </tool_response>
- A demanded call (`tool_choice` required or naming a function) is not left to the model's good will: the tools are
  described in the system message and the answer's grammar is the JSON of exactly one call. That works with any
  template. `calls` reads it.
- `auto` needs a model that was taught to choose: the template must take tools, else the request is refused by name.

Earlier reasoning is not shown to the model again.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from trunkline.backends.embedded.schemas import Json, enforceable
from trunkline.model.errors import InvalidParameter, UnsupportedParameter
from trunkline.model.items import (
    FunctionCall,
    FunctionCallOutput,
    Item,
    Message,
    OpaqueItem,
    Part,
    Reasoning,
    RefusalPart,
    TextPart,
)
from trunkline.model.request import AllowedTools, JsonSchema, NamedTool, OpaqueTool, Request, Tool
from trunkline.model.tool_order import request_in_order

Body = dict[str, Json]

MAX_TOP_LOGPROBS = 20
_SEEDS = 0xFFFFFFFF  # the engine's seeds have 32 bits, and all ones means "choose one"
_BAN = -100.0  # "values … of -100 or 100 should result in a ban or exclusive selection" (OpenAI, logit_bias)

_NO_PARAMETERS: Body = {"type": "object", "properties": {}, "additionalProperties": False}
"""What a function without `parameters` has: "an empty parameter list" (OpenAI)."""

_DESCRIBE = """You can call these functions:
<tools>
{tools}
</tools>
To call one, answer with its name and arguments as JSON: {{"name": "<function name>", "arguments": {{…}}}}"""


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """What the loaded model can be told. `tools`: its chat template takes tools and shows their calls."""

    model: str
    context_tokens: int
    vocabulary_size: int
    tools: bool


def engine_body(request: Request, *, template: Template, call: tuple[Tool, ...]) -> Body:
    """The call, but for the number of choices. `call`: the tools of which one must be called (`demanded_tools`)."""
    messages = _messages(request_in_order(request), native=template.tools)
    body: Body = {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
    for key in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        value: float | None = getattr(request, key)
        if value is not None:
            body[key] = value
    if request.max_output_tokens is not None:
        body["max_tokens"] = min(request.max_output_tokens, template.context_tokens)
    if request.seed is not None:
        body["seed"] = request.seed % _SEEDS
    if request.logit_bias:
        body["logit_bias"] = _logit_bias(request.logit_bias, template)
    if call:
        _describe(call, messages)
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": _call_schema(call)}}
    else:
        if request.stop:
            body["stop"] = list(request.stop)
        if request.logprobs:
            body["logprobs"] = True
            body["top_logprobs"] = max(1, _top_logprobs(request))  # 0 would give no token either
        _add_format(request, body)
        _add_tools(request, template, body)
    body["messages"] = list(messages)
    return body


def demanded_tools(request: Request) -> tuple[Tool, ...]:
    """The tools of which exactly one must be called; none where the model may choose. Raises UnsupportedParameter."""
    match request.tool_choice:
        case "required":
            names = None
        case NamedTool(name):
            names = {name}
        case AllowedTools("required", allowed):
            names = set(allowed)
        case _:
            return ()
    tools = []
    for position, tool in enumerate(request.tools):
        if isinstance(tool, OpaqueTool) or tool.kind != "function":
            kind = tool.wire_type if isinstance(tool, OpaqueTool) else tool.kind
            raise UnsupportedParameter(
                f"the embedded model can only call functions, got a tool of type {kind[:100]!r}",
                param=f"tools[{position}].type",
            )
        if names is None or tool.name in names:
            tools.append(tool)
    if not tools:
        raise InvalidParameter("'tool_choice' names no function in 'tools'.", param="tool_choice")
    return tuple(tools)


def _messages(request: Request, *, native: bool) -> list[Body]:
    places = request.places
    messages: list[Body] = []
    if request.instructions is not None:
        messages.append({"role": "system", "content": request.instructions})
    previous: Item | None = None
    for position, item in enumerate(request.items):
        place = places[position] if position < len(places) else f"messages[{position}]"
        match item:
            case Message():
                role = "system" if item.role == "developer" else item.role
                text = _text(item.content, place)
                if role == "system" and messages and messages[-1]["role"] == "system":
                    messages[-1]["content"] = f"{messages[-1]['content']}\n\n{text}"
                else:
                    messages.append({"role": role, "content": text})
            case Reasoning():
                continue
            case FunctionCall():
                if not _joins(previous):
                    messages.append({"role": "assistant", "content": ""})
                _add_call(messages[-1], item, native=native)
            case FunctionCallOutput():
                text = _text(item.content, place)
                if native:
                    messages.append({"role": "tool", "tool_call_id": item.call_id, "content": text})
                else:
                    text = f"<tool_response>\n{text}\n</tool_response>"
                    if isinstance(previous, FunctionCallOutput):
                        messages[-1]["content"] = f"{messages[-1]['content']}\n{text}"
                    else:
                        messages.append({"role": "user", "content": text})
            case OpaqueItem():
                raise UnsupportedParameter("the embedded model cannot read this kind of message", param=place)
        previous = item
    return messages


def _joins(previous: Item | None) -> bool:
    """Whether a call belongs to the message before it."""
    return isinstance(previous, FunctionCall) or (isinstance(previous, Message) and previous.role == "assistant")


def _add_call(message: Body, call: FunctionCall, *, native: bool) -> None:
    if native:
        calls = message.setdefault("tool_calls", [])
        assert isinstance(calls, list)
        function: Body = {"name": call.name, "arguments": call.arguments or "{}"}
        calls.append({"id": call.call_id, "type": "function", "function": function})
        return
    name = msgspec.json.encode(call.name).decode()
    written = f'<tool_call>\n{{"name": {name}, "arguments": {call.arguments or "{}"}}}\n</tool_call>'
    message["content"] = f"{message['content']}\n{written}" if message["content"] else written


def _text(content: tuple[Part, ...], place: str) -> str:
    texts = []
    for position, part in enumerate(content):
        if not isinstance(part, TextPart | RefusalPart):
            raise UnsupportedParameter(
                "the embedded model reads text only",
                code="unsupported_content_type",
                param=f"{place}.content[{position}]",
            )
        texts.append(part.text)
    return "\n".join(texts)


def _describe(tools: Sequence[Tool], messages: list[Body]) -> None:
    described = "\n".join([msgspec.json.encode(_tool(tool)).decode() for tool in tools])
    text = _DESCRIBE.format(tools=described)
    if messages and messages[0]["role"] == "system":
        messages[0]["content"] = f"{messages[0]['content']}\n\n{text}"
    else:
        messages.insert(0, {"role": "system", "content": text})


def _call_schema(tools: Sequence[Tool]) -> Body:
    calls: list[Json] = []
    for position, tool in enumerate(tools):
        parameters = _decode(tool.parameters) if tool.parameters is not None else _NO_PARAMETERS
        arguments = enforceable(
            {"type": "object", "properties": {}, **parameters},
            param="tools",
            strict=bool(tool.strict),
            moved_to=f"#/anyOf/{position}/properties/arguments",
        )
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": calls}


def _add_format(request: Request, body: Body) -> None:
    match request.response_format:
        case "json_object":
            body["response_format"] = {"type": "json_object"}
        case JsonSchema(schema=schema, strict=strict) if schema is not None:
            read = enforceable(_decode(schema), param="response_format", strict=bool(strict))
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": read}}
        case JsonSchema():
            body["response_format"] = {"type": "json_object"}
        case _:
            pass


def _add_tools(request: Request, template: Template, body: Body) -> None:
    """Tools among which the model may choose."""
    if not request.tools or request.tool_choice == "none":
        return
    if not template.tools:
        raise UnsupportedParameter(
            f"model {template.model!r} does not choose tools by itself; name a function in 'tool_choice', or set it to"
            " 'required' or 'none'",
            param="tools",
        )
    allowed = set(request.tool_choice.names) if isinstance(request.tool_choice, AllowedTools) else None
    tools: list[Json] = []
    for position, tool in enumerate(request.tools):
        if isinstance(tool, OpaqueTool) or tool.kind != "function":
            raise UnsupportedParameter("the embedded model can only call functions", param=f"tools[{position}].type")
        if allowed is None or tool.name in allowed:
            tools.append(_tool(tool))
    body["tools"] = tools
    if request.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = request.parallel_tool_calls


def _tool(tool: Tool) -> Body:
    function: Body = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = _decode(tool.parameters) if tool.parameters is not None else _NO_PARAMETERS
    return {"type": "function", "function": function}


def _logit_bias(biases: Mapping[str, float], template: Template) -> list[Json]:
    pairs: list[Json] = []
    for key, bias in biases.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < template.vocabulary_size):
            raise InvalidParameter(
                f"Invalid key in 'logit_bias': {key[:40]!r} is not a token id of this model; they go from 0 to"
                f" {template.vocabulary_size - 1}.",
                param="logit_bias",
            )
        pairs.append([int(key), False if bias <= _BAN else bias])
    return pairs


def _top_logprobs(request: Request) -> int:
    wanted = request.top_logprobs or 0
    if wanted > MAX_TOP_LOGPROBS:
        raise InvalidParameter(
            f"Invalid 'top_logprobs': expected at most {MAX_TOP_LOGPROBS}, got {wanted}.", param="top_logprobs"
        )
    return wanted


def _decode(schema: msgspec.Raw) -> Body:
    return cast("Body", msgspec.json.decode(schema))
