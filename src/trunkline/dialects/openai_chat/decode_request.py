"""A client's chat completion request, read and checked.

READERS and OPAQUE are the API's parameters, beside the messages and the model.
"""

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.draft import (
    Draft,
    Reader,
    chosen_tool_not_found,
    integer,
    number,
    parallel_tool_calls,
    switch,
    text,
    tool_choice,
)
from trunkline.dialects.openai_chat.messages import read_messages
from trunkline.dialects.reading import Json, Object
from trunkline.model.errors import InvalidParameter
from trunkline.model.request import AllowedTools, JsonSchema, NamedTool, OpaqueTool, Request, Tool

NAME = "openai_chat"
OPAQUE = frozenset(
    {
        "audio",
        "functions",
        "function_call",
        "moderation",
        "prediction",
        "prompt_cache_options",
        "prompt_cache_retention",
        "web_search_options",
    }
)
MAX_CHOICES = 128
MAX_STOPS = 64


def decode_request(body: bytes) -> Request:
    """Reads and checks a body. Raises RequestError; `param` is the path of what is wrong."""
    draft = Draft(body)
    fields, messages = draft.fields, draft.source.get("messages")
    fields["model"] = draft.read_model()
    if messages is None:
        reading.missing("messages")
    fields["items"], fields["places"] = read_messages(reading.array(messages, "messages"))
    draft.read(READERS, apart=_APART, named=_NAMED, opaque=OPAQUE)
    _check_together(draft)
    return draft.request()


def _check_together(draft: Draft) -> None:
    """Rules between parameters."""
    source = draft.source
    if (
        source.get("max_tokens") is not None
        and source.get("max_completion_tokens") is not None
        and source["max_tokens"] != source["max_completion_tokens"]
    ):
        raise InvalidParameter(
            "Set 'max_completion_tokens' or 'max_tokens', not both with different values.", param="max_tokens"
        )
    if source.get("top_logprobs") is not None and not draft.fields.get("logprobs"):
        raise InvalidParameter("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    if draft.check_tools():
        _check_named(draft)


def _check_named(draft: Draft) -> None:
    choice = draft.fields.get("tool_choice")
    tools = draft.fields["tools"]
    assert isinstance(tools, tuple)
    if isinstance(choice, NamedTool) and all(not isinstance(tool, Tool) or tool.name != choice.name for tool in tools):
        chosen_tool_not_found(choice.name)


def _n(draft: Draft, value: Json) -> None:
    n = reading.integer(value, "n", low=1, high=MAX_CHOICES)
    draft.fields["n"] = n
    if n > 1:
        draft.ask("n")


def _stream_options(draft: Draft, value: Json) -> None:
    options = reading.mapping(value, "stream_options")
    if options.get("include_usage") is not None:
        draft.fields["include_usage"] = reading.boolean(options["include_usage"], "stream_options.include_usage")
    wanted = options.get("include_tool_events")
    if wanted == "reasoning":
        draft.fields["tool_events"] = "reasoning"
    elif wanted is not None:
        if not isinstance(wanted, bool):
            reading.wrong_type("stream_options.include_tool_events", "a boolean or 'reasoning'", wanted)
        draft.fields["tool_events"] = "events" if wanted else "off"


def _stop(draft: Draft, value: Json) -> None:
    if isinstance(value, str):
        stops = [value]
    elif isinstance(value, list):
        stops = [reading.text(member, f"stop[{position}]") for position, member in enumerate(value)]
    else:
        reading.wrong_type("stop", "a string or an array of strings", value)
    if len(stops) > MAX_STOPS:
        raise InvalidParameter(
            f"Invalid 'stop': array too long. Expected at most {MAX_STOPS} sequences, but got {len(stops)}.",
            code="array_above_max_length",
            param="stop",
        )
    for position, stop in enumerate(stops):
        if not stop:
            raise InvalidParameter(
                "Invalid 'stop': a stop sequence must not be empty.",
                param=f"stop[{position}]" if isinstance(value, list) else "stop",
            )
    draft.fields["stop"] = tuple(stops)
    if stops:
        draft.ask("stop")


def _logprobs(draft: Draft, value: Json) -> None:
    draft.fields["logprobs"] = reading.boolean(value, "logprobs")
    if draft.fields["logprobs"]:
        draft.ask("logprobs")


def _top_logprobs(draft: Draft, value: Json) -> None:
    draft.fields["top_logprobs"] = reading.integer(value, "top_logprobs", low=0)
    draft.ask("top_logprobs")


def _logit_bias(draft: Draft, value: Json) -> None:
    source = reading.mapping(value, "logit_bias")
    draft.fields["logit_bias"] = {
        key: reading.number(bias, f"logit_bias.{reading.shorten(key)}", low=-100, high=100)
        for key, bias in source.items()
    }
    if source:
        draft.ask("logit_bias")


def _tools(draft: Draft, value: Json) -> None:
    tools = tuple(
        _tool(reading.mapping(tool, f"tools[{position}]"), f"tools[{position}]")
        for position, tool in enumerate(reading.array(value, "tools"))
    )
    if tools:
        draft.fields["tools"] = tools
        draft.ask("tools")


def _tool(source: Object, path: str) -> Tool | OpaqueTool:
    kind = reading.text_field(source, "type", path)
    if kind == "function":
        inner, inner_path = (
            reading.mapping(reading.field(source, "function", path), f"{path}.function"),
            f"{path}.function",
        )
        strict = inner.get("strict")
        return Tool(
            name=reading.tool_name(inner, inner_path),
            description=reading.optional_text(inner, "description", inner_path),
            parameters=reading.function_parameters(inner, inner_path),
            strict=None if strict is None else reading.boolean(strict, f"{inner_path}.strict"),
        )
    if kind == "custom":
        inner, inner_path = reading.mapping(reading.field(source, "custom", path), f"{path}.custom"), f"{path}.custom"
        form = inner.get("format")
        return Tool(
            kind="custom",
            name=reading.tool_name(inner, inner_path),
            description=reading.optional_text(inner, "description", inner_path),
            format=None if form is None else _custom_format(form, f"{inner_path}.format"),
        )
    return OpaqueTool(wire_type=kind, dialect=NAME, payload=reading.raw(source))


def _custom_format(value: Json, path: str) -> msgspec.Raw:
    """As the model has it, and Responses: a grammar's members stand beside `type`, not below it."""
    form = reading.mapping(value, path)
    if form.get("type") != "grammar":
        return reading.raw(form)
    grammar = reading.mapping(reading.field(form, "grammar", path), f"{path}.grammar")
    return reading.raw({"type": "grammar", **grammar})


def _tool_choice(value: Object) -> NamedTool | AllowedTools:
    path = "tool_choice"
    kind = reading.one_of(reading.field(value, "type", path), f"{path}.type", ("function", "custom", "allowed_tools"))
    inner = reading.mapping(reading.field(value, kind, path), f"{path}.{kind}")
    if kind == "allowed_tools":
        mode = reading.one_of(
            reading.field(inner, "mode", f"{path}.{kind}"), f"{path}.{kind}.mode", ("auto", "required")
        )
        return AllowedTools(
            "required" if mode == "required" else "auto", _allowed_names(inner, f"{path}.{kind}"), reading.raw(value)
        )
    return NamedTool(reading.text_field(inner, "name", f"{path}.{kind}"), "custom" if kind == "custom" else "function")


def _allowed_names(source: Object, path: str) -> tuple[str, ...]:
    names = []
    for position, member in enumerate(reading.array(reading.field(source, "tools", path), f"{path}.tools")):
        where = f"{path}.tools[{position}]"
        tool = reading.mapping(member, where)
        kind = reading.text_field(tool, "type", where)
        inner = tool.get(kind)
        names.append(
            reading.text_field(inner, "name", f"{where}.{kind}")
            if isinstance(inner, dict)
            else reading.text_field(tool, "name", where)
        )
    return tuple(names)


def _response_format(draft: Draft, value: Json) -> None:
    path = "response_format"
    source = reading.mapping(value, path)
    kind = reading.one_of(reading.field(source, "type", path), f"{path}.type", ("text", "json_object", "json_schema"))
    if kind == "text":
        draft.fields[path] = "text"
        return
    if kind == "json_object":
        draft.fields[path] = "json_object"
    else:
        inner, inner_path = (
            reading.mapping(reading.field(source, "json_schema", path), f"{path}.json_schema"),
            f"{path}.json_schema",
        )
        schema, strict = inner.get("schema"), inner.get("strict")
        draft.fields[path] = JsonSchema(
            name=reading.text_field(inner, "name", inner_path),
            schema=None if schema is None else reading.raw(reading.mapping(schema, f"{inner_path}.schema")),
            strict=None if strict is None else reading.boolean(strict, f"{inner_path}.strict"),
            description=reading.optional_text(inner, "description", inner_path),
        )
    draft.ask(path)


def _metadata(draft: Draft, value: Json) -> None:
    draft.fields["metadata"] = reading.string_map(value, "metadata")


def _service_tier(draft: Draft, value: Json) -> None:
    draft.fields["service_tier"] = reading.text(value, "service_tier")
    if value not in ("auto", "default"):
        draft.ask("service_tier")


def _store(draft: Draft, value: Json) -> None:
    draft.fields["store"] = reading.lenient_boolean(value, "store")
    if draft.fields["store"]:
        draft.ask("store")


def _modalities(draft: Draft, value: Json) -> None:
    kinds = [
        reading.text(member, f"modalities[{position}]")
        for position, member in enumerate(reading.array(value, "modalities"))
    ]
    if kinds != ["text"]:  # what every answer is anyway
        draft.extra["modalities"] = reading.raw(value)
        draft.ask("modalities")


READERS: dict[str, Reader] = {
    "frequency_penalty": number("frequency_penalty", low=-2, high=2),
    "logit_bias": _logit_bias,
    "logprobs": _logprobs,
    "max_completion_tokens": integer("max_completion_tokens", low=1, field="max_output_tokens"),
    "max_tokens": integer("max_tokens", low=1, field="max_output_tokens"),
    "metadata": _metadata,
    "modalities": _modalities,
    "n": _n,
    "parallel_tool_calls": parallel_tool_calls,
    "presence_penalty": number("presence_penalty", low=-2, high=2),
    "prompt_cache_key": text("prompt_cache_key"),
    "reasoning_effort": text("reasoning_effort", asks=True),
    "response_format": _response_format,
    "safety_identifier": text("safety_identifier"),
    "seed": integer("seed"),
    "service_tier": _service_tier,
    "stop": _stop,
    "store": _store,
    "stream": switch("stream"),
    "stream_options": _stream_options,
    "temperature": number("temperature", low=0),
    "tool_choice": tool_choice(_tool_choice),
    "tools": _tools,
    "top_logprobs": _top_logprobs,
    "top_p": number("top_p", low=0, high=1),
    "user": text("user"),
    "verbosity": text("verbosity", asks=True),
}
_APART = frozenset({"messages", "model"})
_NAMED = READERS.keys() | _APART
