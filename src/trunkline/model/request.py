"""The request: what a client asked, whatever its dialect.

`asked` maps the canonical name of every parameter that asks for something (present, not null, not the default that means
"nothing special") to the client's own name for it. A backend's capabilities are compared with it, so a parameter that cannot
be honoured is refused by the name the client used (decision 34). `extra` holds top-level keys that no field names: they are
forwarded on the same dialect and reported in `x-trunkline-ignored` where a translation loses them. `places` gives each item's
path in the client's body (`messages[3]`), for errors that are found after decoding.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from trunkline.model.items import Item, ToolKind


class Tool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A function or custom tool that the client runs. `parameters` is JSON Schema as JSON text; `format` a custom tool's.

    `extra` holds the members of the client's own form that no field names.
    """

    name: str
    kind: ToolKind = "function"
    description: str | None = None
    parameters: msgspec.Raw | None = None
    strict: bool | None = None
    format: msgspec.Raw | None = None
    extra: Mapping[str, msgspec.Raw] = {}


class OpaqueTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool type only a native backend can run (web_search, mcp, …), as the client's JSON."""

    wire_type: str
    dialect: str
    payload: msgspec.Raw


class NamedTool(msgspec.Struct, frozen=True):
    """A tool choice that demands one tool."""

    name: str
    kind: ToolKind = "function"


class AllowedTools(msgspec.Struct, frozen=True):
    """A tool choice that narrows the tools; `mode` is then `auto` or `required` among them."""

    mode: Literal["auto", "required"]
    names: tuple[str, ...]
    payload: msgspec.Raw


class OpaqueToolChoice(msgspec.Struct, frozen=True):
    """A tool choice that demands an opaque tool of the request, as the client's JSON."""

    wire_type: str
    dialect: str
    payload: msgspec.Raw


ToolChoice = Literal["auto", "none", "required"] | NamedTool | AllowedTools | OpaqueToolChoice


class JsonSchema(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`response_format` json_schema; `schema` is JSON Schema as JSON text."""

    name: str
    schema: msgspec.Raw | None = None
    strict: bool | None = None
    description: str | None = None


ResponseFormat = Literal["text", "json_object"] | JsonSchema

ToolEvents = Literal["off", "events", "reasoning"]
"""What a chat stream shows of the tools that run behind it."""
ToolItems = Literal["function_call", "mcp_call"]
"""As what a response has the runs of these tools: a call and its output, or one item of the server's."""


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn's request. None means the client did not say.

    `instructions` are a system message that stands before all items and belongs to this turn alone.
    """

    model: str | None
    items: tuple[Item, ...]
    places: tuple[str, ...] = ()
    instructions: str | None = None
    stream: bool = False
    include_usage: bool = False
    tool_events: ToolEvents | None = None

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None
    logprobs: bool = False
    top_logprobs: int | None = None

    tools: tuple[Tool | OpaqueTool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    reasoning_summary: str | None = None
    verbosity: str | None = None

    metadata: Mapping[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    store: bool | None = None

    previous_response_id: str | None = None
    conversation: str | None = None
    background: bool = False
    include: tuple[str, ...] = ()
    truncation: Literal["auto", "disabled"] | None = None
    max_tool_calls: int | None = None

    asked: Mapping[str, str] = {}
    extra: Mapping[str, msgspec.Raw] = {}
