"""A request as a response body, for an upstream that speaks Responses.

State stays ours: the upstream is told `store: false`, and what names state (chaining, conversations, background) is left out, since
the history is already among the items. A client's own body is forwarded as it came but for these members, with the history before
its input. Reasoning that is encrypted goes without its id, which is ours: OpenAI compares it with what is inside ("item_id did not
match") and takes it without (https://github.com/BerriAI/litellm/pull/15782). Ids of other items it takes as they come.
"""

from collections.abc import Mapping, Sequence

import msgspec

from trunkline.dialects.openai_responses.decode_request import LOGPROBS, TOOL_EVENTS
from trunkline.dialects.openai_responses.response import write_format, write_tool, write_tool_choice
from trunkline.dialects.openai_responses.write_items import Wire, write_input
from trunkline.model.items import Item, Reasoning
from trunkline.model.request import Request

EXPRESSIBLE = frozenset(
    {
        "temperature",
        "top_p",
        "max_output_tokens",
        "max_tool_calls",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "reasoning_summary",
        "verbosity",
        "logprobs",
        "top_logprobs",
        "service_tier",
    }
)
"""Parameters of a request that this dialect can say; `n`, `stop`, `seed`, penalties and `logit_bias` it has no word for."""

_BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_STATE = frozenset(
    {
        "background",
        "background_options",
        "conversation",
        "previous_response_id",
        "store",
        "truncation",
    }
)
_TRUE, _FALSE = msgspec.Raw(b"true"), msgspec.Raw(b"false")
_PLAIN = (
    "instructions",
    "temperature",
    "top_p",
    "max_output_tokens",
    "max_tool_calls",
    "parallel_tool_calls",
    "top_logprobs",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
)


def forward_body(body: bytes, request: Request, *, model: str, own_items: Sequence[Item]) -> bytes:
    """The client's own body for this upstream. `own_items`: what its input was read as; the request may hold others."""
    source = _BODY.decode(body)
    members = {key: value for key, value in source.items() if key not in _STATE}
    members["model"] = msgspec.Raw(msgspec.json.encode(model))
    members["store"] = _FALSE
    if request.stream or "stream" in members:  # also accepted as a string; an upstream may not
        members["stream"] = _TRUE if request.stream else _FALSE
    if not request.stream:
        members.pop("stream_options", None)
    elif request.tool_events is not None:
        options = _BODY.decode(members.pop("stream_options"))
        del options[TOOL_EVENTS]
        if options:
            members["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
    if request.items:
        members["input"] = msgspec.Raw(msgspec.json.encode(_input(source.get("input"), request.items, own_items)))
    return msgspec.json.encode(members)


def _input(given: msgspec.Raw | None, items: Sequence[Item], own_items: Sequence[Item]) -> object:
    """The client's input as it came, but for ids of reasoning, as far back as the request still says the same; before it, anew,
    what stands there now: history, what references meant, what a filter left."""
    same = 0
    for item, own in zip(reversed(items), reversed(own_items), strict=False):
        if item is not own and item != own:
            break
        same += 1
    before = write_input(items[: len(items) - same])
    if given is None or not same:
        return before
    if bytes(given).lstrip().startswith(b'"'):
        return [*before, {"role": "user", "content": given}] if before else given
    for item, text in zip(items[-same:], _LIST.decode(given)[-same:], strict=True):
        before += write_input([item]) if isinstance(item, Reasoning) else [text]
    return before


def encode_request(request: Request, *, model: str) -> bytes:
    """The whole request written anew."""
    body: Wire = {"model": model, "input": write_input(request.items), "store": False}
    if request.stream:
        body["stream"] = True
    for key in _PLAIN:
        value = getattr(request, key)
        if value is not None:
            body[key] = value
    include = _include(request)
    if include:
        body["include"] = include
    if request.tools:
        body["tools"] = [write_tool(tool) for tool in request.tools]
    if request.tool_choice is not None:
        body["tool_choice"] = write_tool_choice(request)
    if text := _text(request):
        body["text"] = text
    if reasoning := _reasoning(request):
        body["reasoning"] = reasoning
    for key, extra in request.extra.items():
        if key in ("text", "reasoning"):  # kept whole for the members that no field names
            body[key] = {**_BODY.decode(extra), **_members(body.get(key))}
        elif key not in _STATE and (request.stream or key != "stream_options"):
            body[key] = extra
    return msgspec.json.encode(body)


def _include(request: Request) -> list[str]:
    include = list(request.include)
    if request.logprobs and LOGPROBS not in include:
        include.append(LOGPROBS)
    return include


def _text(request: Request) -> Wire:
    text: Wire = {}
    if request.response_format is not None:
        text["format"] = {key: value for key, value in write_format(request).items() if value is not None}
    if request.verbosity is not None:
        text["verbosity"] = request.verbosity
    return text


def _reasoning(request: Request) -> Wire:
    reasoning: Wire = {}
    if request.reasoning_effort is not None:
        reasoning["effort"] = request.reasoning_effort
    if request.reasoning_summary is not None:
        reasoning["summary"] = request.reasoning_summary
    return reasoning


def _members(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
