"""What a request becomes for the engine: the messages its template is given, and what is refused before it is asked."""

import msgspec
import pytest

from trunkline.backends.embedded.prompt import Body, Template, demanded_tools, engine_body
from trunkline.model.errors import InvalidParameter, UnsupportedParameter
from trunkline.model.items import (
    AudioPart,
    FunctionCall,
    FunctionCallOutput,
    Item,
    Message,
    OpaqueItem,
    Reasoning,
    Role,
    TextPart,
)
from trunkline.model.request import AllowedTools, JsonSchema, NamedTool, OpaqueTool, Request, Tool, ToolChoice

PLAIN = Template(model="m", context_tokens=512, vocabulary_size=100, tools=False)
WITH_TOOLS = Template(model="m", context_tokens=512, vocabulary_size=100, tools=True)
WEATHER = Tool(name="get_weather", parameters=msgspec.Raw(b'{"properties":{"city":{"type":"string"}}}'))
CLOCK = Tool(name="now")


def said(role: Role, *texts: str) -> Message:
    return Message(role=role, content=tuple(TextPart(text) for text in texts))


def body_of(request: Request, template: Template = PLAIN) -> Body:
    return engine_body(request, template=template, call=demanded_tools(request))


def messages_of(*items: Item, template: Template = PLAIN) -> object:
    return body_of(Request(model="m", items=items), template)["messages"]


CALL = FunctionCall(call_id="call_1", name="now", arguments='{"zone":"CET"}')
OUTPUT = FunctionCallOutput(call_id="call_1", content=(TextPart("noon"),))


def test_developer_messages_join_the_system_message() -> None:
    assert messages_of(said("system", "a"), said("developer", "b"), said("user", "c", "d")) == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": "c\nd"},
    ]


def test_instructions_stand_before_everything_else() -> None:
    request = Request(model="m", instructions="Be brief.", items=(said("system", "a"), said("user", "b")))
    assert body_of(request)["messages"] == [
        {"role": "system", "content": "Be brief.\n\na"},
        {"role": "user", "content": "b"},
    ]


def test_calls_and_outputs_are_text_where_the_template_cannot_show_them() -> None:
    assert messages_of(said("user", "time?"), said("assistant", "Let me see."), CALL, CALL, OUTPUT, OUTPUT) == [
        {"role": "user", "content": "time?"},
        {
            "role": "assistant",
            "content": "Let me see." + 2 * '\n<tool_call>\n{"name": "now", "arguments": {"zone":"CET"}}\n</tool_call>',
        },
        {"role": "user", "content": "<tool_response>\nnoon\n</tool_response>\n<tool_response>\nnoon\n</tool_response>"},
    ]


def test_calls_and_outputs_stay_what_they_are_where_the_template_shows_them() -> None:
    assert messages_of(said("user", "time?"), CALL, OUTPUT, template=WITH_TOOLS) == [
        {"role": "user", "content": "time?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": '{"zone":"CET"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]


def test_outputs_stand_right_behind_their_calls() -> None:
    other, out = msgspec.structs.replace(CALL, call_id="call_2"), msgspec.structs.replace(OUTPUT, call_id="call_2")
    ordered = messages_of(
        said("user", "time?"), said("assistant", "Wait."), CALL, other, out, OUTPUT, template=WITH_TOOLS
    )
    happened = (said("user", "time?"), CALL, said("assistant", "Wait."), other, out, OUTPUT)
    assert messages_of(*happened, template=WITH_TOOLS) == ordered


def test_earlier_reasoning_is_not_shown_again() -> None:
    assert messages_of(said("user", "a"), Reasoning(text="hm"), said("assistant", "b")) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]


def test_content_that_is_not_text_is_refused_with_its_path() -> None:
    item = Message(role="user", content=(TextPart("a"), AudioPart(data="", format="wav")))
    with pytest.raises(UnsupportedParameter) as caught:
        body_of(Request(model="m", items=(said("user", "x"), item), places=("messages[0]", "messages[1]")))
    assert caught.value.param == "messages[1].content[1]"


def test_items_of_other_dialects_are_refused_with_their_path() -> None:
    item = OpaqueItem(wire_type="function", dialect="openai_chat", payload=msgspec.Raw(b"{}"))
    with pytest.raises(UnsupportedParameter) as caught:
        body_of(Request(model="m", items=(item,), places=("messages[0]",)))
    assert caught.value.param == "messages[0]"


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "now"}),
        (NamedTool("now"), {"now"}),
        (AllowedTools("required", ("now",), msgspec.Raw(b"{}")), {"now"}),
        ("auto", set()),
        (None, set()),
        ("none", set()),
        (AllowedTools("auto", ("now",), msgspec.Raw(b"{}")), set()),
    ],
)
def test_only_a_demand_is_answered_by_grammar(choice: ToolChoice | None, names: set[str]) -> None:
    request = Request(model="m", items=(said("user", "x"),), tools=(WEATHER, CLOCK), tool_choice=choice)
    assert {tool.name for tool in demanded_tools(request)} == names


def test_a_demanded_call_is_described_and_constrained() -> None:
    request = Request(
        model="m",
        items=(said("developer", "be brief"), said("user", "x")),
        tools=(WEATHER, CLOCK),
        tool_choice="required",
        stop=("}",),
        logprobs=True,
    )
    body = body_of(request)
    messages = msgspec.convert(body["messages"], list[dict[str, str]])
    assert messages[0]["content"].startswith("be brief\n\n")
    assert '"name":"get_weather"' in messages[0]["content"]
    written = msgspec.json.encode(body["response_format"]).decode()
    assert '"const":"get_weather"' in written
    assert '"const":"now"' in written
    assert "stop" not in body  # it would cut the JSON
    assert "logprobs" not in body


def test_tools_to_choose_from_need_a_template_that_takes_them() -> None:
    request = Request(model="m", items=(said("user", "x"),), tools=(WEATHER,), parallel_tool_calls=False)
    with pytest.raises(UnsupportedParameter, match="tool_choice") as caught:
        body_of(request)
    assert caught.value.param == "tools"
    body = body_of(request, WITH_TOOLS)
    assert "get_weather" in repr(body["tools"])
    assert body["parallel_tool_calls"] is False


def test_tools_with_choice_none_are_not_shown() -> None:
    request = Request(model="m", items=(said("user", "x"),), tools=(WEATHER,), tool_choice="none")
    assert "tools" not in body_of(request)


@pytest.mark.parametrize(
    "tool",
    [Tool(name="shell", kind="custom"), OpaqueTool(wire_type="web_search", dialect="d", payload=msgspec.Raw(b"{}"))],
)
@pytest.mark.parametrize("choice", ["required", "auto"])
def test_only_functions_can_be_called(tool: Tool | OpaqueTool, choice: ToolChoice) -> None:
    request = Request(model="m", items=(said("user", "x"),), tools=(WEATHER, tool), tool_choice=choice)
    with pytest.raises(UnsupportedParameter) as caught:
        body_of(request, WITH_TOOLS)
    assert caught.value.param == "tools[1].type"


@pytest.mark.parametrize("key", ["hello", "-1", "100", "1" * 5000, "٣"])
def test_a_logit_bias_for_what_is_no_token_is_refused(key: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        body_of(Request(model="m", items=(said("user", "x"),), logit_bias={key: 1.0}))
    assert caught.value.param == "logit_bias"


def test_a_bias_of_minus_100_is_a_ban() -> None:
    body = body_of(Request(model="m", items=(said("user", "x"),), logit_bias={"7": -100.0, "8": 2.5}))
    assert body["logit_bias"] == [[7, False], [8, 2.5]]


def test_more_alternatives_than_20_are_refused() -> None:
    with pytest.raises(InvalidParameter) as caught:
        body_of(Request(model="m", items=(said("user", "x"),), logprobs=True, top_logprobs=21))
    assert caught.value.param == "top_logprobs"


@pytest.mark.parametrize("seed", [-1, 0, 2**32 - 1, 2**32, 2**70, -(2**70)])
def test_every_seed_is_one_the_engine_takes_and_none_means_random(seed: int) -> None:
    used = body_of(Request(model="m", items=(said("user", "x"),), seed=seed))["seed"]
    assert isinstance(used, int)
    assert 0 <= used < 2**32 - 1


def test_a_schema_that_is_not_given_means_any_json() -> None:
    body = body_of(Request(model="m", items=(said("user", "x"),), response_format=JsonSchema(name="s")))
    assert body["response_format"] == {"type": "json_object"}


def test_a_demand_that_no_tool_meets_is_refused() -> None:
    choice = AllowedTools("required", ("other",), msgspec.Raw(b"{}"))
    with pytest.raises(InvalidParameter) as caught:
        demanded_tools(Request(model="m", items=(), tools=(WEATHER,), tool_choice=choice))
    assert caught.value.param == "tool_choice"
