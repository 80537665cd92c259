"""`profile = "hermes"`: the Responses API of hermes-agent's server, checks 37 to 74 of its contract, in its order."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import openai
import pytest

from tests.conftest import Serve
from tests.fakes import hermes_agent
from tests.profiles.hermes import (
    AUTH,
    BOTH,
    HERMES,
    Names,
    answered,
    ask,
    given,
    held,
    named_events,
    toml,
)
from tests.serving import Reply, Serving, eventually, user


def roles(history: Sequence[Mapping[str, Any]]) -> list[str]:
    return [message["role"] for message in history]


def types(reply: Reply) -> list[str]:
    return [item["type"] for item in reply.json()["output"]]


async def shown(server: Serving, question: object = "show", **body: Any) -> dict[str, Any]:
    return given(answered(await ask(server, question, **body)))


@BOTH
async def test_37_no_input(either: Serving) -> None:
    reply = await ask(either, None)
    assert reply.status == 400
    assert "input" in reply.error["message"]


@BOTH
async def test_38_no_json(either: Serving) -> None:
    reply = await either.request("POST", "/v1/responses", b"not json")
    assert reply.status == 400
    assert "Invalid JSON" in reply.error["message"]


@BOTH
async def test_39_a_text(either: Serving) -> None:
    reply = await ask(either)
    body = reply.json()
    assert (reply.status, body["object"], body["status"]) == (200, "response", "completed")
    assert body["id"].startswith("resp_")
    (message,) = body["output"]
    assert (message["type"], message["content"][0]["type"]) == ("message", "output_text")
    assert answered(reply) == body["output_text"] == "You said: Hello"


@BOTH
async def test_40_the_last_item_is_the_input(either: Serving) -> None:
    told = await shown(either, [*user("first"), *user("show")])
    assert (told["message"], roles(told["history"])) == ("show", ["user"])


@BOTH
async def test_41_instructions_are_the_agents_prompt(either: Serving) -> None:
    assert (await shown(either, instructions="Talk like a pirate."))["system"] == "Talk like a pirate."


@BOTH
async def test_42_a_chain_has_its_history(either: Serving) -> None:
    first = (await ask(either)).json()["id"]
    history = (await shown(either, previous_response_id=first))["history"]
    assert [(one["role"], one["content"]) for one in history] == [("user", "Hello"), ("assistant", "You said: Hello")]


SAID = [*user("Hello"), {"role": "assistant", "content": "You said: Hello"}]


async def test_42_a_conversation_may_come_along(hermes: Serving) -> None:
    """It counts before a response that is named as well, and is what the next response continues."""
    other = (await ask(hermes, "other")).json()["id"]
    first = await ask(hermes, "show", conversation_history=SAID, previous_response_id=other)
    assert [one["content"] for one in given(answered(first))["history"]] == ["Hello", "You said: Hello"]
    history = (await shown(hermes, previous_response_id=first.json()["id"]))["history"]
    assert [one["content"] for one in history[:3]] == ["Hello", "You said: Hello", "show"]
    assert (await shown(hermes, conversation_history=[]))["history"] == []
    streamed = await ask(hermes, "show", conversation_history=SAID, stream=True)
    assert b"You said: Hello" in streamed.body


@pytest.mark.parametrize(
    ("history", "param"),
    [
        ("x", "conversation_history"),
        ([5], "conversation_history[0]"),
        ([{"role": "user"}], "conversation_history[0].content"),
    ],
)
async def test_42_a_conversation_that_is_none(hermes: Serving, history: object, param: str) -> None:
    reply = await ask(hermes, "show", conversation_history=history)
    assert (reply.status, reply.error["param"]) == (400, param)


@BOTH
async def test_43_a_transcript_is_kept_once(either: Serving) -> None:
    first = (await ask(either, "compute")).json()["id"]
    history = (await shown(either, previous_response_id=first))["history"]
    assert roles(history) == ["user", "assistant", "tool", "assistant"]
    assert history[1]["tool_calls"][0]["function"]["name"] == "calculator"
    assert [one["content"] for one in history] == ["compute", "", "42", "It is 42."]


@BOTH
async def test_44_the_output_is_this_turns(either: Serving) -> None:
    first = await ask(either, "compute")
    second = await ask(either, "compute", previous_response_id=first.json()["id"])
    assert types(first) == types(second) == ["function_call", "function_call_output", "message"]


@BOTH
async def test_45_a_chain_keeps_its_session(either: Serving, names: Names) -> None:
    first = await ask(either)
    second = await ask(either, "show", previous_response_id=first.json()["id"])
    assert second.headers[names.session] == first.headers[names.session]
    assert given(answered(second))["session_id"] == first.headers[names.session]


@BOTH
async def test_46_an_unknown_response(either: Serving, names: Names) -> None:
    reply = await ask(either, previous_response_id="resp_none")
    assert reply.status == (404 if names is HERMES else 400)
    assert reply.error["code"] == "previous_response_not_found"


@BOTH
@pytest.mark.parametrize("store", [False, "false"])
async def test_47_what_is_not_stored_is_not_there(either: Serving, store: object) -> None:
    response = (await ask(either, store=store)).json()
    assert (await either.get(f"/v1/responses/{response['id']}")).status == 404


@BOTH
async def test_48_instructions_are_inherited_where_clients_expect_it(either: Serving, names: Names) -> None:
    first = (await ask(either, instructions="Be brief.")).json()["id"]
    second = await ask(either, "show", previous_response_id=first)
    third = await ask(either, "show", previous_response_id=second.json()["id"])
    fourth = await ask(either, "show", previous_response_id=first, instructions="Be long.")
    inherited = "Be brief." if names is HERMES else None
    assert [given(answered(reply))["system"] for reply in (second, third, fourth)] == [inherited, inherited, "Be long."]
    assert second.json()["instructions"] == inherited


@BOTH
async def test_49_an_agent_that_raises(either: Serving) -> None:
    reply = await ask(either, "fail")
    assert reply.status == 500
    assert "Provider failed" in reply.error["message"]


@BOTH
async def test_an_agent_without_an_answer_is_no_answer(either: Serving) -> None:
    assert (await ask(either, "give_up")).status == 502


@BOTH
async def test_50_an_input_of_another_kind(either: Serving) -> None:
    assert (await ask(either, 42)).status == 400


@BOTH
async def test_51_tools_that_ran_are_items(either: Serving) -> None:
    call, output, message = (await ask(either, "compute")).json()["output"]
    assert (call["type"], call["name"], call["call_id"]) == ("function_call", "calculator", "call_1")
    assert json.loads(call["arguments"]) == {"x": 42}
    assert (output["type"], output["call_id"], output["output"]) == ("function_call_output", "call_1", "42")
    assert message["content"][0]["text"] == "It is 42."


@BOTH
async def test_52_usage_is_the_agents(either: Serving) -> None:
    usage = (await ask(either, "compute")).json()["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (100, 50, 150)


async def much(server: Serving) -> str:
    """A response after 150 messages."""
    said = [{"role": ("user", "assistant")[n % 2], "content": f"message {n}"} for n in range(148)]
    return str((await ask(server, [*said, *user("Hello")])).json()["id"])


@BOTH
async def test_53_a_truncated_history_has_a_bound_of_messages(either: Serving, names: Names) -> None:
    told = await shown(either, previous_response_id=await much(either), truncation="auto")
    assert len(told["history"]) == (100 if names is HERMES else 150)
    assert told["history"][-1]["content"] == "You said: Hello"


@BOTH
async def test_54_a_history_is_whole_otherwise(either: Serving) -> None:
    assert len((await shown(either, previous_response_id=await much(either)))["history"]) == 150


# Streams


async def test_55_a_stream_has_the_events_that_clients_look_for(hermes: Serving) -> None:
    reply = await ask(hermes, "pause", stream=True)
    text = reply.body.decode()
    for kind in ("created", "output_text.delta", "output_text.done", "completed"):
        assert f"event: response.{kind}\n" in text
    assert '"sequence_number":' in text
    assert '"logprobs": []' in text
    assert "[DONE]" not in text


@BOTH
async def test_55_every_event_has_its_number(either: Serving) -> None:
    read = named_events((await ask(either, "tool", stream=True)).body)
    numbers = [data["sequence_number"] for _, data in read if isinstance(data, dict)]
    assert numbers == list(range(len(numbers)))


@BOTH
async def test_the_official_client_can_follow_a_stream(either: Serving) -> None:
    client = openai.AsyncOpenAI(base_url=f"{either.url}/v1", api_key="none", max_retries=0)
    async with client, client.responses.stream(model="hermes-agent", input="tool") as stream:
        said = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
        final = await stream.get_final_response()
    assert said == "Looking. Found."
    assert final.status == "completed"


@BOTH
async def test_56_false_as_a_string_is_false(either: Serving) -> None:
    reply = await ask(either, stream="false")
    assert reply.headers["content-type"].startswith("application/json")


async def test_57_tools_are_items_of_the_stream(hermes: Serving) -> None:
    text = (await ask(hermes, "tool", stream=True)).body.decode()
    assert text.count("event: response.output_item.done\n") >= 2
    for literal in (
        '"type": "function_call"',
        '"type": "function_call_output"',
        '"call_id": "call_123"',
        '"name": "terminal"',
        r'"output": [{"type": "input_text", "text": "{\"content\":\"hello\"}"}]',
    ):
        assert literal in text


@BOTH
async def test_58_what_was_streamed_is_kept(either: Serving) -> None:
    completed = named_events((await ask(either, "tool", stream=True)).body)
    response = next(data["response"] for name, data in completed if name == "response.completed")
    reply = await either.get(f"/v1/responses/{response['id']}")
    body = reply.json()
    assert (reply.status, body["status"]) == (200, "completed")
    assert body["output"][-1]["content"][0]["text"] == "Found."
    assert body == response


@BOTH
async def test_59_a_streamed_chain_keeps_its_transcript_once(either: Serving) -> None:
    first = (await ask(either)).json()["id"]
    events = named_events((await ask(either, "tool", stream=True, previous_response_id=first)).body)
    second = next(data["response"]["id"] for name, data in events if name == "response.completed")
    history = (await shown(either, previous_response_id=second))["history"]
    assert [message["content"] for message in history if message["role"] == "user"] == ["Hello", "tool"]
    assert roles(history).count("tool") == 1


@BOTH
async def test_60_what_is_cancelled_keeps_what_there_was(either: Serving, names: Names) -> None:
    async with held(), either.connect() as wire:
        body = json.dumps({"model": "hermes-agent", "input": "wait", "stream": True, "background": True}).encode()
        await wire.send(b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await wire.head()
        seen = await wire.until(b"response.output_text.delta")
        response_id = seen.split(b'"resp_')[1].split(b'"')[0].decode()
        cancelled = await either.request("POST", f"/v1/responses/resp_{response_id}/cancel")
        await wire.until(b"response.incomplete")
        kept = (await either.get(f"/v1/responses/resp_{response_id}")).json()
        again = await either.request("POST", f"/v1/responses/resp_{response_id}/cancel")
    assert cancelled.json() == kept == again.json()
    assert kept["status"] == ("incomplete" if names is HERMES else "cancelled")
    assert kept["output"][0]["content"][0]["text"] == "partial output"


@BOTH
async def test_60_what_a_stopping_server_cut_keeps_what_there_was(serve: Serve, names: Names) -> None:
    """By default it is `failed`, and says why: one that is `incomplete` could be taken for one that reached its limit."""
    kept = toml(names, more='[store]\nurl = "sqlite:///kept.db"\n')
    body = json.dumps({"model": "hermes-agent", "input": "wait", "stream": True}).encode()
    async with held(), contextlib.AsyncExitStack() as stack:
        async with serve(kept, grace_s=0.01) as server:
            wire = await stack.enter_async_context(server.connect())
            await wire.send(b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await wire.head()
            seen = await wire.until(b"response.output_text.delta")
        response_id = "resp_" + seen.split(b'"resp_')[1].split(b'"')[0].decode()
    async with serve(kept) as server:
        response = (await server.get(f"/v1/responses/{response_id}")).json()
    if names is HERMES:
        assert (response["status"], response["error"]) == ("incomplete", None)
    else:
        assert (response["status"], response["error"]["message"]) == ("failed", "the server is shutting down")
    assert response["output"][0]["content"][0]["text"] == "partial output"


@BOTH
async def test_61_a_client_that_leaves_finds_what_there_was(either: Serving) -> None:
    async with held():
        async with either.connect() as wire:
            body = json.dumps({"model": "hermes-agent", "input": "wait", "stream": True}).encode()
            await wire.send(b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await wire.head()
            seen = await wire.until(b"response.output_text.delta")
        response_id = seen.split(b'"resp_')[1].split(b'"')[0].decode()
        await eventually(hermes_agent.OPEN.is_set)  # the agent is told to stop
        while (reply := await either.get(f"/v1/responses/resp_{response_id}")).json().get("status") != "incomplete":
            pass  # it is being put away
    kept = reply.json()
    assert (kept["status"], kept["output"][0]["content"][0]["text"]) == ("incomplete", "partial output")


# What is stored


@BOTH
async def test_62_and_63_retrieve(either: Serving) -> None:
    response = (await ask(either)).json()
    reply = await either.get(f"/v1/responses/{response['id']}")
    assert (reply.status, reply.json()) == (200, response)
    missing = await either.get("/v1/responses/resp_none")
    assert (missing.status, missing.error["type"]) == (404, "invalid_request_error")


@BOTH
async def test_64_and_65_delete(either: Serving) -> None:
    path = f"/v1/responses/{(await ask(either)).json()['id']}"
    reply = await either.request("DELETE", path)
    assert (reply.status, reply.json()) == (
        200,
        {"id": path.rpartition("/")[2], "object": "response", "deleted": True},
    )
    assert (await either.get(path)).status == 404
    assert (await either.request("DELETE", path)).status == 404


@BOTH
async def test_66_to_68_responses_need_the_key(either_keyed: Serving) -> None:
    for method in ("GET", "DELETE"):
        assert (await either_keyed.request(method, "/v1/responses/resp_none")).status == 401
    assert (await ask(either_keyed)).status == 401
    assert (await ask(either_keyed, headers=AUTH)).status == 200


# Conversations that are only a name


@BOTH
async def test_69_and_70_a_name_goes_on(either: Serving) -> None:
    assert (await ask(either, conversation="mine")).status == 200
    assert roles((await shown(either, conversation="mine"))["history"]) == ["user", "assistant"]


@BOTH
async def test_71_a_name_and_a_response_are_too_much(either: Serving) -> None:
    reply = await ask(either, conversation="mine", previous_response_id="resp_none")
    assert reply.status == 400
    assert "Cannot use both" in reply.error["message"]


@BOTH
async def test_72_names_know_nothing_of_each_other(either: Serving) -> None:
    await ask(either, conversation="mine")
    assert (await shown(either, conversation="yours"))["history"] == []


@BOTH
async def test_73_what_is_not_stored_leaves_a_name_where_it_was(either: Serving) -> None:
    await ask(either, conversation="mine", store=False)
    assert (await shown(either, conversation="mine"))["history"] == []


@BOTH
async def test_74_a_name_whose_response_gave_way_begins_anew(serve: Serve, names: Names) -> None:
    async with serve(toml(names, more='[store]\nurl = "memory:"\nmax_responses = 1\n')) as server:
        await ask(server, conversation="mine")
        await ask(server, conversation="yours")
        assert (await shown(server, conversation="mine"))["history"] == []


@BOTH
async def test_74_a_name_whose_response_was_deleted_begins_anew(either: Serving) -> None:
    response_id = (await ask(either, conversation="mine")).json()["id"]
    assert (await either.request("DELETE", f"/v1/responses/{response_id}")).status == 200
    assert (await shown(either, conversation="mine"))["history"] == []
