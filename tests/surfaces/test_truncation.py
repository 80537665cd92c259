"""`truncation`: what becomes of a conversation that is too long for what answers."""

from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.upstream import DONE, FakeUpstream, Plan, json_answer, streamed, text_frame, usage_frame
from tests.responses import GET_WEATHER, Asking, call_output, check_stream, said
from tests.serving import Serving
from tests.surfaces.test_response_context import count

HELLO = text_frame("Hello") + text_frame(finish="stop") + usage_frame() + DONE
OPENAI = {
    "message": "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
}
VLLM = {
    "message": "You passed 9001 input tokens and requested 100 output tokens. However, the model's context length is only "
    "8192 tokens, resulting in a maximum input length of 8092 tokens. (parameter=input_tokens, value=9001)",
    "type": "BadRequestError",
    "param": "input_tokens",
    "code": 400,
}
OLD_VLLM = {
    "message": "This model's maximum context length is 8192 tokens. However, you requested 9101 tokens.",
    "type": "BadRequestError",
    "param": None,
    "code": 400,
}
LLAMA_CPP = {
    "code": 400,
    "message": "request (9001 tokens) exceeds the available context size (8192 tokens), try increasing it",
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 9001,
    "n_ctx": 8192,
}
SGLANG = {
    "object": "error",
    "message": "The input (9001 tokens) is longer than the model's context length (8192 tokens).",
    "type": "BadRequest",
    "param": None,
    "code": 400,
}
OLLAMA = {"message": "the input length exceeds the context length", "type": "invalid_request_error", "code": None}
REFUSALS = [OPENAI, VLLM, OLD_VLLM, LLAMA_CPP, SGLANG, OLLAMA]


def refused(error: object = OPENAI) -> Plan:
    return [json_answer({"error": error}, status="400 Bad Request")]


def http(upstream: FakeUpstream) -> str:
    return f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n'


def talk(turns: int) -> list[Any]:
    return [one for turn in range(turns) for one in (said(f"u{turn}"), said(f"a{turn}", "assistant"))]


def told(upstream: FakeUpstream, position: int) -> list[str]:
    """What a request to the upstream said."""
    return [
        str(message.get("content") or message.get("tool_calls"))
        for message in upstream.posts[position].json()["messages"]
    ]


@pytest.mark.parametrize("error", REFUSALS)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_server_that_refuses_is_asked_again_with_fewer_turns(
    serve: Serve, upstream: FakeUpstream, error: object, stream: bool
) -> None:
    answer: Plan = streamed(HELLO)
    upstream.plan(refused(error), refused(error), answer)
    async with serve(http(upstream)) as server:
        client = Asking(server, model="up-model")
        asked = [said("Be kind.", "system"), *talk(4), said("last")]
        if stream:
            final = check_stream(await client.stream(asked, truncation="auto", instructions="Briefly."))
        else:
            final = await client.create(asked, truncation="auto", instructions="Briefly.")
        assert final["output_text"] == "Hello"
        assert final["truncation"] == "auto"
        assert len((await client.input_items(final["id"], "?limit=100"))["data"]) == len(asked)
    assert [len(told(upstream, position)) for position in range(3)] == [11, 7, 5]
    assert told(upstream, 2) == ["Briefly.", "Be kind.", "u3", "a3", "last"]


@pytest.mark.parametrize("error", REFUSALS)
async def test_without_it_the_client_hears_that_it_is_too_long(
    serve: Serve, upstream: FakeUpstream, error: dict[str, Any]
) -> None:
    async with serve(http(upstream)) as server:
        client = Asking(server, model="up-model")
        for body in ({}, {"truncation": "disabled"}, {"stream": True}):
            upstream.plan(refused(error))
            reply = await client.post([*talk(3), said("last")], **body)
            assert reply.status == 400
            assert (reply.error["code"], reply.error["param"]) == ("context_length_exceeded", "input")
            assert reply.error["message"] == error["message"]
    assert len(upstream.posts) == 3


async def test_the_newest_turn_always_stays(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan(*[refused()] * 5)
    async with serve(http(upstream)) as server:
        client = Asking(server, model="up-model")
        reply = await client.post([*talk(2), said("last"), said("one more")], truncation="auto")
        assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
        assert server.application.runtime.endpoints[0].active == 0
    assert told(upstream, -1) == ["last", "one more"]
    assert len(upstream.posts) == 3


async def test_a_call_and_its_output_never_part(serve: Serve, upstream: FakeUpstream) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"}
    upstream.plan(refused(), refused(), streamed(HELLO))
    async with serve(http(upstream)) as server:
        client = Asking(server, model="up-model")
        asked = [*talk(2), said("weather?"), call, said("hurry"), call_output("c"), said("last")]
        await client.create(asked, truncation="auto", tools=[GET_WEATHER])
    assert told(upstream, 1)[:2] == ["u1", "a1"] or told(upstream, 1)[0] == "weather?"
    assert told(upstream, 2) == ["last"]


async def test_what_a_chain_brings_goes_first(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan(streamed(HELLO), streamed(HELLO), refused(), streamed(HELLO))
    async with serve(http(upstream)) as server:
        client = Asking(server, model="up-model")
        first = await client.create("one")
        second = await client.create("two", previous_response_id=first["id"])
        third = await client.create("three", previous_response_id=second["id"], truncation="auto")
        assert third["output_text"] == "Hello"
        items = (await client.input_items(third["id"]))["data"]
        assert [item["content"][0]["text"] for item in items] == ["three"]
    assert told(upstream, 3) == ["two", "Hello", "three"]


async def test_a_refusal_inside_a_stream_counts_too(serve: Serve, upstream: FakeUpstream) -> None:
    failing = text_frame() + b'data: {"error": {"message": "no", "code": 400, "type": "exceed_context_size_error"}}\n\n'
    upstream.plan(streamed(failing), streamed(HELLO))
    async with serve(http(upstream)) as server:
        final = await Asking(server, model="up-model").create([*talk(1), said("last")], truncation="auto", stream=False)
        assert final["output_text"] == "Hello"
    assert told(upstream, 1) == ["last"]


async def test_other_refusals_are_not_asked_again(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan(
        refused({"message": "no such thing", "type": "invalid_request_error", "param": None, "code": "other"})
    )
    async with serve(http(upstream)) as server:
        reply = await Asking(server, model="up-model").post([*talk(3), said("last")], truncation="auto")
        assert (reply.status, reply.error["code"]) == (400, "other")
    assert len(upstream.posts) == 1


async def test_in_the_background(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan(refused(), streamed(HELLO))
    async with serve(http(upstream)) as server:
        client = Asking(server, model="up-model")
        taken = await client.create([*talk(1), said("last")], truncation="auto", background=True)
        assert (await client.ended(taken["id"]))["output_text"] == "Hello"


async def test_the_embedded_model_loses_no_turn_that_fits(serve: Serve) -> None:
    async with serve('[backends.local]\ntype = "embedded"\ncontext_tokens = 512\n') as server:
        client = await _embedded(server)
        long = [one for turn in range(20) for one in (said(f"number {turn} " * 20), said("ok", "assistant"))]
        asked: dict[str, Any] = {"max_output_tokens": 4, "temperature": 0}
        reply = await client.post([*long, said("bye")], **asked)
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "context_length_exceeded", "input")
        final = await client.create([*long, said("bye")], truncation="auto", **asked)
        assert 512 - 4 - 120 < final["usage"]["input_tokens"] <= 512 - 4
        counted = await count(server, [*long, said("bye")], model=client._model, truncation="auto", **asked)
        assert counted.json()["input_tokens"] == final["usage"]["input_tokens"]
        too_much = await client.post([*long, said("bye " * 1000)], truncation="auto", **asked)
        assert (too_much.status, too_much.error["code"]) == (400, "context_length_exceeded")


async def _embedded(server: Serving) -> Asking:
    (model,) = [one["id"] for one in (await server.get("/v1/models")).json()["data"]]
    return Asking(server, model=model)
