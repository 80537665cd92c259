"""What an agent sees of a request."""

import msgspec
import pytest

from trunkline.backends.callable.turns import History, turn_for
from trunkline.model.errors import InvalidParameter
from trunkline.model.items import FilePart, FunctionCall, FunctionCallOutput, ImagePart, Item, Message, TextPart
from trunkline.model.request import AllowedTools, NamedTool, OpaqueTool, Request, Tool
from trunkline.testing.answers import pinned_context, request_of, user


def said(role: str, text: str) -> Message:
    return msgspec.convert({"role": role, "content": [{"type": "text", "text": text}], "type": "message"}, Message)


CONVERSATION: tuple[Item, ...] = (
    said("system", "Be a pirate."),
    said("user", "Hello"),
    said("assistant", "Arr"),
    FunctionCall(call_id="c1", name="look", arguments='{"at":"sea"}'),
    FunctionCallOutput(call_id="c1", content=(TextPart("a ship"),)),
    said("developer", "Be brief."),
    said("user", "And now?"),
)


def turn(*items: Item | str, history: History = "full", client_tools: bool = False, **fields: object):  # type: ignore[no-untyped-def]
    request = msgspec.structs.replace(request_of(*items), **fields)
    context = pinned_context(session_id="s1", memory_key="m1", request_id="req_9", model="bot")
    return turn_for(request, context, history=history, client_tools=client_tools)


def test_the_last_user_message_is_the_input_and_the_rest_is_history() -> None:
    made = turn(*CONVERSATION)
    assert made.input == "And now?"
    assert made.instructions == "Be a pirate.\nBe brief."
    assert made.history == [
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "content": "Arr",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sea"}'}}],
        },
        {"role": "tool", "content": "a ship", "tool_call_id": "c1"},
    ]
    assert made.messages == [*made.history, {"role": "user", "content": "And now?"}]
    assert made.items == CONVERSATION


def test_instructions_of_the_request_come_before_those_of_the_conversation() -> None:
    assert turn(*CONVERSATION, instructions="Today is Monday.").instructions == (
        "Today is Monday.\nBe a pirate.\nBe brief."
    )
    assert turn("x").instructions == ""


def test_a_conversation_that_goes_on_after_the_input_is_all_history() -> None:
    call, output = (
        FunctionCall(call_id="c1", name="look"),
        FunctionCallOutput(call_id="c1", content=(TextPart("a ship"),)),
    )
    made = turn("What is there?", call, output)
    assert made.input == "What is there?"
    assert [message["role"] for message in made.history] == ["user", "assistant", "tool"]
    assert made.messages == made.history


CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": ""}}


def test_what_an_agent_said_while_its_tool_ran_stands_before_the_call() -> None:
    call, output = FunctionCall(call_id="c1", name="look"), FunctionCallOutput(call_id="c1", content=(TextPart("fog"),))
    made = turn("Look", call, said("assistant", "One moment. "), output, said("assistant", "Fog."), "And now?")
    assert made.history == [
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": "One moment. ", "tool_calls": [CALL]},
        {"role": "tool", "content": "fog", "tool_call_id": "c1"},
        {"role": "assistant", "content": "Fog."},
    ]
    assert made.items[1:3] == (call, said("assistant", "One moment. "))


def test_an_output_that_comes_after_the_next_question_stands_behind_its_call() -> None:
    output = FunctionCallOutput(call_id="c1", content=(TextPart("fog"),))
    made = turn("Look", FunctionCall(call_id="c1", name="look"), "Hurry", output)
    assert [message["role"] for message in made.messages] == ["user", "assistant", "tool", "user"]
    assert (made.input, made.history) == ("Hurry", made.messages[:-1])


def test_a_tool_that_never_ended_has_an_output_and_an_output_of_no_call_is_left_out() -> None:
    orphan = FunctionCallOutput(call_id="c9", content=(TextPart("?"),))
    made = turn(orphan, "Look", FunctionCall(call_id="c1", name="look"), "Well?")
    assert made.messages == [
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "", "tool_call_id": "c1"},
        {"role": "user", "content": "Well?"},
    ]


def test_a_trailing_assistant_message_is_never_the_input() -> None:
    made = turn("Hello", said("assistant", "I was about to"))
    assert made.input == "Hello"
    assert made.messages[-1] == {"role": "assistant", "content": "I was about to"}


def test_history_last_shows_only_the_last_user_message() -> None:
    made = turn(*CONVERSATION, history="last")
    assert (made.input, made.history) == ("And now?", [])
    assert made.messages == [{"role": "user", "content": "And now?"}]
    assert made.instructions == "Be a pirate.\nBe brief."
    assert made.items == CONVERSATION[-1:]


def test_history_flatten_makes_one_text_of_the_conversation() -> None:
    made = turn(*CONVERSATION, history="flatten")
    assert made.input == (
        'User: Hello\n\nAssistant: Arr\n\nAssistant called look({"at":"sea"})\n\nTool: a ship\n\nUser: And now?'
    )
    assert made.history == []
    assert turn("Just this", history="flatten").input == "Just this"


@pytest.mark.parametrize("items", [(said("system", "x"),), (said("assistant", "x"),), ()])
def test_without_a_user_message_there_is_nothing_to_answer(items: tuple[Item, ...]) -> None:
    with pytest.raises(InvalidParameter, match="add a message with role 'user'") as caught:
        turn(*items)
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_attachments_are_those_of_the_last_user_message() -> None:
    image, file = ImagePart(url="https://x/y.png"), FilePart(filename="a.pdf", data="data:,")
    old = Message(role="user", content=(ImagePart(url="https://old/"),))
    made = turn(old, Message(role="user", content=(TextPart("What"), image, TextPart("is this?"), file)))
    assert made.attachments == (image, file)
    assert made.input == "What\nis this?"


def test_sampling_hints_arrive_under_their_canonical_names() -> None:
    made = turn(
        "x",
        temperature=0.0,
        max_output_tokens=5,
        user="u1",
        parallel_tool_calls=False,
        stop=("END",),
        n=1,
        extra={"prediction": msgspec.Raw(b'{"type":"content"}'), "client_metadata": msgspec.Raw(b"{}")},
    )
    assert made.params == {
        "temperature": 0.0,
        "max_output_tokens": 5,
        "user": "u1",
        "parallel_tool_calls": False,
        "prediction": {"type": "content"},
    }


def test_who_asks_and_where_reaches_the_agent() -> None:
    made = turn("x", metadata={"ticket": "7"}, model="fast")
    assert (made.session_id, made.memory_key, made.request_id) == ("s1", "m1", "req_9")
    assert (made.metadata, made.model) == ({"ticket": "7"}, "fast")
    assert turn("x", model=None).model == "bot"
    assert made.cancelled is False


TOOLS = (
    Tool(name="look", description="around", parameters=msgspec.Raw(b'{"type":"object"}')),
    Tool(name="sing"),
    OpaqueTool(wire_type="web_search", dialect="openai_responses", payload=msgspec.Raw(b"{}")),
)


def test_tools_are_given_only_to_an_agent_that_handles_them() -> None:
    assert turn("x", tools=TOOLS).tools == ()
    made = turn("x", tools=TOOLS, client_tools=True)
    assert [(tool.name, tool.description, tool.parameters) for tool in made.tools] == [
        ("look", "around", {"type": "object"}),
        ("sing", None, {}),
    ]


@pytest.mark.parametrize(
    ("choice", "shown", "names"),
    [
        (None, "auto", ["look", "sing"]),
        ("required", "required", ["look", "sing"]),
        ("none", "none", []),
        (NamedTool("sing"), "sing", ["look", "sing"]),
        (AllowedTools("required", ("sing",), msgspec.Raw(b"{}")), "required", ["sing"]),
    ],
)
def test_the_tool_choice_narrows_what_can_be_called(choice: object, shown: str, names: list[str]) -> None:
    made = turn("x", tools=TOOLS, tool_choice=choice, client_tools=True)
    assert made.tool_choice == shown
    assert [tool.name for tool in made.tools] == names


def test_names_of_speakers_are_kept() -> None:
    message = Message(role="user", content=(TextPart("hi"),), name="ann")
    assert turn(message).messages == [{"role": "user", "content": "hi", "name": "ann"}]


def test_a_bare_request_needs_nothing_else() -> None:
    request = Request(model=None, items=(user("x"),))
    assert turn_for(request, pinned_context(), history="full", client_tools=False).input == "x"
