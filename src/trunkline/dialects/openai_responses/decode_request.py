"""A client's response request, read and checked.

READERS and OPAQUE are the API's parameters, beside the input and the model. What concerns the state (`store`, `background`,
chaining, `truncation`) asks nothing of a backend: trunkline does it.
"""

from collections.abc import Sequence

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
from trunkline.dialects.openai_responses.read_items import NAME, Kept, RawMembers, empty_array, read_input
from trunkline.dialects.openai_responses.response import SERVICE_TIERS
from trunkline.dialects.reading import Json, Object
from trunkline.model.errors import InvalidParameter
from trunkline.model.request import (
    AllowedTools,
    JsonSchema,
    NamedTool,
    OpaqueTool,
    OpaqueToolChoice,
    Request,
    Tool,
)

OPAQUE = frozenset(
    {
        "access_programs",
        "background_options",
        "context_management",
        "image",
        "moderation",
        "prompt",
        "prompt_cache_options",
        "prompt_cache_retention",
    }
)
LOGPROBS = "message.output_text.logprobs"
TOOL_EVENTS = "include_tool_events"
"""The stream option that is ours: the client bears events that the API does not have."""
INCLUDABLE = (
    LOGPROBS,
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
)
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
SUMMARIES = ("auto", "concise", "detailed")
VERBOSITIES = ("low", "medium", "high")
"""What the API has words for; the object repeats them, and typed clients read it strictly."""

_WITHOUT_INPUT = ("previous_response_id", "conversation", "prompt")
_TOOL_NAMED = {
    "function": frozenset({"type", "name", "description", "parameters", "strict"}),
    "custom": frozenset({"type", "name", "description", "format"}),
}


def decode_request(body: bytes, *, needs_input: bool = True) -> Request:
    """Reads and checks a body. Raises RequestError; `param` is the path of what is wrong."""
    draft = Draft(body)
    fields, source = draft.fields, draft.source
    fields["model"] = draft.read_model()
    given = source.get("input")
    if given is not None and (needs_input or given != []):
        fields["items"], fields["places"] = read_input(given, RawMembers(body, "input"))
    elif needs_input and all(source.get(key) is None for key in _WITHOUT_INPUT):
        reading.missing("input", instead_of="messages" if "messages" in source else None)
    else:
        fields["items"] = ()
    draft.read(READERS, apart=_APART, named=_NAMED, opaque=OPAQUE)
    _check_together(draft)
    return draft.request()


def _check_together(draft: Draft) -> None:
    """Rules between parameters."""
    fields = draft.fields
    if "previous_response_id" in fields and "conversation" in fields:
        raise InvalidParameter(
            "Cannot use both 'conversation' and 'previous_response_id'.", param="previous_response_id"
        )
    if fields.get("background") and fields.get("store") is False:
        raise InvalidParameter("'background' needs 'store': true.", param="background")
    if draft.check_tools():
        _check_choice(draft)


def _check_choice(draft: Draft) -> None:
    choice, tools = draft.fields.get("tool_choice"), draft.fields["tools"]
    assert isinstance(tools, tuple)
    if isinstance(choice, NamedTool):
        _check_named([choice.name], tools, kind=choice.kind)
    elif isinstance(choice, AllowedTools):
        _check_named(choice.names, tools)
    elif isinstance(choice, OpaqueToolChoice) and not any(isinstance(tool, OpaqueTool) for tool in tools):
        chosen_tool_not_found(choice.wire_type)


def _check_named(names: Sequence[str], tools: Sequence[Tool | OpaqueTool], *, kind: str | None = None) -> None:
    """A name may also stand inside a tool of the hosts': a namespace, an MCP server."""
    if all(isinstance(tool, Tool) for tool in tools):
        known = {tool.name for tool in tools if isinstance(tool, Tool) and kind in (None, tool.kind)}
        for name in names:
            if name not in known:
                chosen_tool_not_found(name)


def _conversation(draft: Draft, value: Json) -> None:
    """An id, an object with one, or a plain name (decision 27)."""
    path, name = "conversation", value
    if isinstance(value, dict):
        path, name = "conversation.id", reading.text_field(value, "id", "conversation")
    elif not isinstance(value, str):
        reading.wrong_type(path, "a string or an object", value)
    if not name:  # everybody who forgot to give one would be in it
        raise InvalidParameter(f"Invalid '{path}': empty string. Expected an id or a name.", param=path)
    draft.fields["conversation"] = name


def _include(draft: Draft, value: Json) -> None:
    include = tuple(
        [
            reading.one_of(one, f"include[{position}]", INCLUDABLE)
            for position, one in enumerate(reading.array(value, "include"))
        ]
    )
    draft.fields["include"] = include
    if LOGPROBS in include:
        draft.fields["logprobs"] = True
        draft.ask("logprobs", f"include[{include.index(LOGPROBS)}]")


def _top_logprobs(draft: Draft, value: Json) -> None:
    top = reading.integer(value, "top_logprobs", low=0, high=20)
    if top:  # none is the default, and asks for nothing
        draft.fields["top_logprobs"], draft.fields["logprobs"] = top, True
        draft.ask("top_logprobs")
        draft.asked.setdefault("logprobs", "top_logprobs")


def _truncation(draft: Draft, value: Json) -> None:
    draft.fields["truncation"] = reading.one_of(value, "truncation", ("auto", "disabled"))


def _reasoning(draft: Draft, value: Json) -> None:
    source = reading.mapping(value, "reasoning")
    for key, member in source.items():
        if member is None:
            continue
        if key == "effort":
            draft.fields["reasoning_effort"] = reading.one_of(member, "reasoning.effort", EFFORTS)
            draft.ask("reasoning_effort", "reasoning.effort")
        elif key in ("summary", "generate_summary"):  # the second is the first's old name
            draft.fields["reasoning_summary"] = reading.one_of(member, f"reasoning.{key}", SUMMARIES)
            draft.ask("reasoning_summary", f"reasoning.{key}")
        else:
            draft.extra["reasoning"] = reading.raw(value)  # kept whole for an upstream that knows the key


def _text_config(draft: Draft, value: Json) -> None:
    source = reading.mapping(value, "text")
    for key, member in source.items():
        if member is None:
            continue
        if key == "format":
            _format(draft, member)
        elif key == "verbosity":
            draft.fields["verbosity"] = reading.one_of(member, "text.verbosity", VERBOSITIES)
            draft.ask("verbosity", "text.verbosity")
        else:
            draft.extra["text"] = reading.raw(value)


def _format(draft: Draft, value: Json) -> None:
    path = "text.format"
    source = reading.mapping(value, path)
    kind = reading.one_of(reading.field(source, "type", path), f"{path}.type", ("text", "json_object", "json_schema"))
    if kind == "text":
        draft.fields["response_format"] = "text"
        return
    if kind == "json_object":
        draft.fields["response_format"] = "json_object"
    else:
        strict = source.get("strict")
        draft.fields["response_format"] = JsonSchema(
            name=reading.text_field(source, "name", path),
            schema=reading.raw(reading.mapping(reading.field(source, "schema", path), f"{path}.schema")),
            strict=None if strict is None else reading.boolean(strict, f"{path}.strict"),
            description=reading.optional_text(source, "description", path),
        )
    draft.ask("response_format", path)


def _tools(draft: Draft, value: Json) -> None:
    tools = read_tools(value, "tools", RawMembers(draft.body, "tools"))
    if tools:
        draft.fields["tools"] = tools
        draft.ask("tools")


def read_tools(value: Json, path: str, whole: Kept) -> tuple[Tool | OpaqueTool, ...]:
    """A list of tools. `whole` has the JSON text of each by its path. Raises InvalidParameter."""
    members = reading.array(value, path)
    paths = [f"{path}[{position}]" for position in range(len(members))]
    return tuple([_tool(reading.mapping(tool, at), at, whole) for tool, at in zip(members, paths, strict=True)])


def _tool(source: Object, path: str, whole: Kept) -> Tool | OpaqueTool:
    kind = reading.text_field(source, "type", path)
    if kind == "function":
        strict = source.get("strict")
        return Tool(
            name=reading.tool_name(source, path),
            description=reading.optional_text(source, "description", path),
            parameters=reading.function_parameters(source, path),
            strict=None if strict is None else reading.boolean(strict, f"{path}.strict"),
            extra=_tool_extra(source, kind),
        )
    if kind == "custom":
        form = source.get("format")
        return Tool(
            kind="custom",
            name=reading.tool_name(source, path),
            description=reading.optional_text(source, "description", path),
            format=None if form is None else reading.raw(form),
            extra=_tool_extra(source, kind),
        )
    return OpaqueTool(wire_type=kind, dialect=NAME, payload=whole[path])


def _tool_extra(source: Object, kind: str) -> dict[str, msgspec.Raw]:
    named = _TOOL_NAMED[kind]
    return {key: reading.raw(value) for key, value in source.items() if key not in named and value is not None}


def _tool_choice(value: Object) -> NamedTool | AllowedTools | OpaqueToolChoice:
    path = "tool_choice"
    kind = reading.text_field(value, "type", path)
    if kind == "function":
        return NamedTool(reading.text_field(value, "name", path))
    if kind == "custom":
        return NamedTool(reading.text_field(value, "name", path), "custom")
    if kind == "allowed_tools":
        mode = reading.one_of(reading.field(value, "mode", path), f"{path}.mode", ("auto", "required"))
        return AllowedTools(
            "required" if mode == "required" else "auto", _allowed_names(value, path), reading.raw(value)
        )
    return OpaqueToolChoice(kind, NAME, reading.raw(value))


def _allowed_names(source: Object, path: str) -> tuple[str, ...]:
    """Names of functions and custom tools; a tool of another type is there under its label or its type."""
    names = []
    members = reading.array(reading.field(source, "tools", path), f"{path}.tools")
    if not members:
        empty_array(f"{path}.tools")
    for position, member in enumerate(members):
        where = f"{path}.tools[{position}]"
        tool = reading.mapping(member, where)
        kind = reading.text_field(tool, "type", where)
        if kind in ("function", "custom"):
            names.append(reading.text_field(tool, "name", where))
        else:
            label = tool.get("server_label")
            names.append(label if isinstance(label, str) else kind)
    return tuple(names)


def _metadata(draft: Draft, value: Json) -> None:
    draft.fields["metadata"] = reading.metadata(value)


def _service_tier(draft: Draft, value: Json) -> None:
    draft.fields["service_tier"] = reading.one_of(value, "service_tier", sorted(SERVICE_TIERS))
    if value not in ("auto", "default"):
        draft.ask("service_tier")


def _stream_options(draft: Draft, value: Json) -> None:
    """Obfuscation pads events against eavesdroppers on their sizes; without it every client reads the same stream. The option of
    ours stays here."""
    options = reading.mapping(value, "stream_options")
    wanted = options.get("include_obfuscation")
    if wanted is not None:
        wanted = reading.boolean(wanted, "stream_options.include_obfuscation")
    shown = options.get(TOOL_EVENTS)
    if shown is not None:
        shown = reading.boolean(shown, f"stream_options.{TOOL_EVENTS}")
        draft.fields["tool_events"] = "events" if shown else "off"
    theirs = {key: option for key, option in options.items() if key != TOOL_EVENTS}
    if wanted or theirs.keys() - {"include_obfuscation"}:
        draft.extra["stream_options"] = reading.raw(theirs)


READERS: dict[str, Reader] = {
    "background": switch("background"),
    "conversation": _conversation,
    "include": _include,
    "instructions": text("instructions"),
    "max_output_tokens": integer("max_output_tokens", low=1),
    "max_tool_calls": integer("max_tool_calls", low=1),
    "metadata": _metadata,
    "parallel_tool_calls": parallel_tool_calls,
    "previous_response_id": text("previous_response_id"),
    "prompt_cache_key": text("prompt_cache_key"),
    "reasoning": _reasoning,
    "safety_identifier": text("safety_identifier"),
    "service_tier": _service_tier,
    "store": switch("store"),
    "stream": switch("stream"),
    "stream_options": _stream_options,
    "temperature": number("temperature", low=0),
    "text": _text_config,
    "tool_choice": tool_choice(_tool_choice),
    "tools": _tools,
    "top_logprobs": _top_logprobs,
    "top_p": number("top_p", low=0, high=1),
    "truncation": _truncation,
    "user": text("user"),
}
_APART = frozenset({"input", "model"})
_NAMED = READERS.keys() | _APART
