"""Every parameter of the official SDK's chat.completions.create is read, or refused by name."""

import msgspec
import pytest
from openai.types.chat import completion_create_params as sdk

from trunkline.dialects.openai_chat.decode_request import OPAQUE, READERS, decode_request
from trunkline.model.request import Request

STRUCTURE = {"model", "messages"}
PARAMETERS = {
    name
    for params in (
        sdk.CompletionCreateParamsBase,
        sdk.CompletionCreateParamsNonStreaming,
        sdk.CompletionCreateParamsStreaming,
    )
    for name in params.__annotations__
}
CALLED = {"max_completion_tokens": "max_output_tokens", "max_tokens": "max_output_tokens"}
TOOL = {"type": "function", "function": {"name": "f"}}
ASKING: dict[str, object] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "logit_bias": {"1": 1},
    "logprobs": True,
    "max_completion_tokens": 5,
    "max_tokens": 5,
    "modalities": ["audio"],
    "moderation": {"input": {}},
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": 0.5,
    "prompt_cache_options": {},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
    "seed": 0,
    "service_tier": "flex",
    "stop": "x",
    "store": True,
    "temperature": 0,
    "tool_choice": "required",
    "tools": [TOOL],
    "top_logprobs": 0,
    "top_p": 0,
    "verbosity": "low",
    "web_search_options": {},
}
"""A value of each parameter that wants something of the answer. Zero is a value too."""

ASKS_NOTHING = {
    "metadata": {"a": "b"},
    "prompt_cache_key": "x",
    "safety_identifier": "x",
    "stream": True,
    "stream_options": {"include_usage": True},
    "user": "x",
}
"""Parameters that are about the request itself or for bookkeeping: no backend can fail to honour them."""

NEEDS: dict[str, dict[str, object]] = {
    "parallel_tool_calls": {"tools": [TOOL]},
    "tool_choice": {"tools": [TOOL]},
    "top_logprobs": {"logprobs": True},
}


def decode(**members: object) -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **members}
    return decode_request(msgspec.json.encode(body))


def test_every_parameter_of_the_api_is_known() -> None:
    assert not PARAMETERS - STRUCTURE - READERS.keys() - OPAQUE


def test_no_parameter_is_known_twice_or_by_a_name_the_api_does_not_have() -> None:
    assert not READERS.keys() & OPAQUE
    assert READERS.keys() | OPAQUE | STRUCTURE == PARAMETERS


def test_this_table_is_complete() -> None:
    assert ASKING.keys() | ASKS_NOTHING.keys() == PARAMETERS - STRUCTURE
    assert not ASKING.keys() & ASKS_NOTHING.keys()


@pytest.mark.parametrize("name", ASKING)
def test_a_parameter_that_asks_for_something_is_asked_under_the_clients_own_name(name: str) -> None:
    request = decode(**{**NEEDS.get(name, {}), name: ASKING[name]})
    assert request.asked[CALLED.get(name, name)] == name
    if name in OPAQUE:
        assert msgspec.json.decode(request.extra[name]) == ASKING[name]
    else:
        assert name == "modalities" or name not in request.extra


@pytest.mark.parametrize("name", ASKS_NOTHING)
def test_bookkeeping_asks_nothing(name: str) -> None:
    request = decode(**{name: ASKS_NOTHING[name]})
    assert request.asked == {}
    assert request.extra == {}


@pytest.mark.parametrize("name", sorted(PARAMETERS - STRUCTURE))
def test_null_is_the_same_as_absent(name: str) -> None:
    assert decode(**{name: None}) == decode()
