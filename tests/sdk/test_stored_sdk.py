"""The official Python SDK against what is kept: conversations with their items, and stored chat completions.

Whatever comes back is validated strictly against the SDK's own types; the SDK itself builds its objects without looking. One type
of the SDK is narrower than the API: a stored message is typed as an assistant's, and others are listed too.
"""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, BaseModel
from openai.types.chat import ChatCompletion, ChatCompletionDeleted
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItem, ConversationItemList
from openai.types.responses import Response
from pydantic import TypeAdapter

from tests.serving import Serving, serving

TOML = '[server]\napi_keys = ["sk-test"]\n[backends.talk]\ntype = "scripted"\n'
ITEM: TypeAdapter[Any] = TypeAdapter(ConversationItem)


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    async with serving(TOML) as served:
        yield served


def strictly(value: BaseModel, kind: type[BaseModel]) -> None:
    kind.model_validate_json(value.model_dump_json(exclude_unset=True), strict=True)


def item_strictly(value: BaseModel) -> None:
    ITEM.validate_json(value.model_dump_json(exclude_unset=True), strict=True)


async def test_the_life_of_a_conversation(client: AsyncOpenAI) -> None:
    made = await client.conversations.create(
        metadata={"topic": "tea"}, items=[{"type": "message", "role": "user", "content": "Hi"}]
    )
    strictly(made, Conversation)
    assert made.metadata == {"topic": "tea"}
    assert await client.conversations.retrieve(made.id) == made
    changed = await client.conversations.update(made.id, metadata={"topic": "coffee"})
    strictly(changed, Conversation)
    assert changed.metadata == {"topic": "coffee"}
    gone = await client.conversations.delete(made.id)
    strictly(gone, ConversationDeletedResource)
    assert (gone.id, gone.deleted) == (made.id, True)
    with pytest.raises(openai.NotFoundError) as raised:
        await client.conversations.retrieve(made.id)
    assert raised.value.code == "conversation_not_found"


async def test_items_are_added_listed_retrieved_and_deleted(client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    added = await client.conversations.items.create(
        conversation.id,
        include=["message.output_text.logprobs"],
        items=[
            {"role": "user", "content": "Time?"},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "A clock."}]},
            {"type": "function_call", "call_id": "c", "name": "clock", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "noon"}]},
            {"type": "custom_tool_call", "call_id": "d", "name": "sql", "input": "select 1"},
            {"type": "custom_tool_call_output", "call_id": "d", "output": "1"},
            {"role": "user", "content": [{"type": "input_image", "image_url": "data:x", "detail": "low"}]},
        ],
    )
    strictly(added, ConversationItemList)
    kinds = [item.type for item in added.data]
    assert kinds == [
        "message", "reasoning", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "message",
    ]  # fmt: skip
    listed = [
        item
        async for item in client.conversations.items.list(
            conversation.id, limit=3, order="asc", include=["reasoning.encrypted_content"]
        )
    ]
    assert [item.id for item in listed] == [item.id for item in added.data]
    for item in listed:
        item_strictly(item)
        assert item.id is not None
        assert await client.conversations.items.retrieve(item.id, conversation_id=conversation.id) == item
    back = await client.conversations.items.delete("rs_1", conversation_id=conversation.id)
    strictly(back, Conversation)
    left = await client.conversations.items.list(conversation.id)
    assert [item.type for item in left.data] == [kind for kind in reversed(kinds) if kind != "reasoning"]


async def test_responses_extend_a_conversation(client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    for text in ("one", "two"):
        response = await client.responses.create(model="scripted", input=text, conversation=conversation.id)
        strictly(response, Response)
        assert response.output_text == text
    async with client.responses.stream(model="scripted", input="three", conversation=conversation.id) as stream:
        assert (await stream.get_final_response()).output_text == "three"
    items: list[Any] = [item async for item in client.conversations.items.list(conversation.id, order="asc")]
    for item in items:
        item_strictly(item)
    assert [(item.role, item.content[0].text) for item in items] == [
        (role, text) for text in ("one", "two", "three") for role in ("user", "assistant")
    ]


async def test_the_life_of_a_stored_completion(client: AsyncOpenAI) -> None:
    made = await client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "hello there"}], store=True, metadata={"a": "b"}
    )
    kept = await client.chat.completions.retrieve(made.id)
    strictly(kept, ChatCompletion)
    assert (kept.choices, kept.usage, kept.metadata) == (made.choices, made.usage, {"a": "b"})
    changed = await client.chat.completions.update(made.id, metadata={"c": "d"})
    strictly(changed, ChatCompletion)
    assert (changed.metadata, changed.choices) == ({"c": "d"}, made.choices)
    gone = await client.chat.completions.delete(made.id)
    strictly(gone, ChatCompletionDeleted)
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.retrieve(made.id)


async def test_a_streamed_completion_is_kept_as_the_helper_accumulates_it(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model="scripted", messages=[{"role": "user", "content": "one two"}], store=True
    ) as stream:
        final = await stream.get_final_completion()
    kept = await client.chat.completions.retrieve(final.id)
    strictly(kept, ChatCompletion)
    assert kept.choices[0].message.content == final.choices[0].message.content == "one two"
    assert kept.choices[0].finish_reason == final.choices[0].finish_reason == "stop"


async def test_completions_are_listed_page_by_page_and_filtered(client: AsyncOpenAI) -> None:
    made = [
        (
            await client.chat.completions.create(
                model="scripted",
                messages=[{"role": "user", "content": str(number)}],
                store=True,
                metadata={"even": str(number % 2 == 0)},
            )
        ).id
        for number in range(5)
    ]
    listed = [completion async for completion in client.chat.completions.list(limit=2)]
    for completion in listed:
        strictly(completion, ChatCompletion)
    assert [completion.id for completion in listed] == made
    newest = await client.chat.completions.list(limit=1, order="desc", model="scripted")
    assert [completion.id for completion in newest.data] == made[-1:]
    even = [completion.id async for completion in client.chat.completions.list(metadata={"even": "True"})]
    assert even == made[::2]
    assert [one async for one in client.chat.completions.list(model="other")] == []


async def test_messages_of_a_stored_completion(client: AsyncOpenAI) -> None:
    made = await client.chat.completions.create(
        model="scripted",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        ],
        store=True,
    )
    messages = [message async for message in client.chat.completions.messages.list(made.id, limit=1)]
    assert [(str(message.role), message.content) for message in messages] == [("system", "Be brief."), ("user", None)]
    parts = messages[1].content_parts
    assert parts is not None
    assert (parts[0].type, len({message.id for message in messages})) == ("text", 2)
