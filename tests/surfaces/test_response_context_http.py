"""How model servers of different makes are asked about a context, and what becomes of what they say."""

import json
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.ollama import Reply, fake_ollama
from tests.fakes.responses_upstream import message
from tests.fakes.upstream import COMPLETION, FakeUpstream, Plan, json_answer, streamed
from tests.responses import GET_WEATHER, Asking, said
from tests.serving import Serving
from tests.surfaces.test_response_context import compact, compacted, count

NOT_FOUND: Plan = [json_answer({"detail": "Not Found"}, status="404 Not Found")]
TOO_LONG = {"message": "maximum context length is 8 tokens", "type": "BadRequestError", "param": None, "code": 400}
CAKE = "sk-verysecretcake"


def http(upstream: FakeUpstream, *, dialect: str = "openai_chat") -> str:
    return (
        f'[backends.up]\ntype = "http"\ndialect = "{dialect}"\nendpoints = ["{upstream.url}"]\n'
        f'api_key = "{CAKE}"\nmodels = ["m"]\n'
    )


async def counted(server: Serving, text: object = "Hello", **body: Any) -> int:
    reply = await count(server, text, model="m", **body)
    assert reply.status == 200, reply
    tokens: int = reply.json()["input_tokens"]
    return tokens


def paths(upstream: FakeUpstream) -> list[str]:
    return [request.path for request in upstream.posts]


async def test_llama_cpp_counts(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan([json_answer({"object": "response.input_tokens", "input_tokens": 9})])
    async with serve(http(upstream)) as server:
        assert await counted(server, instructions="Briefly.", tools=[GET_WEATHER]) == 9
    assert paths(upstream) == ["/v1/chat/completions/input_tokens"]
    told = upstream.posts[0].json()
    assert told["messages"] == [{"role": "system", "content": "Briefly."}, {"role": "user", "content": "Hello"}]
    assert told["model"] == "m"
    assert told["tools"][0]["function"]["name"] == "get_weather"


async def test_vllm_counts_text(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan(NOT_FOUND, *[[json_answer({"count": 12, "max_model_len": 512, "tokens": [1]})]] * 2)
    async with serve(http(upstream)) as server:
        assert [await counted(server), await counted(server, temperature=0.5)] == [12, 12]
        assert paths(upstream) == ["/v1/chat/completions/input_tokens", "/tokenize", "/tokenize"]
        assert upstream.posts[2].json() == {
            "model": "m",
            "messages": [{"role": "user", "content": "Hello"}],
            "add_generation_prompt": True,
        }
        upstream.plan([json_answer(COMPLETION)])
        image = {"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}
        assert await counted(server, [image]) == 5
    assert paths(upstream)[3:] == ["/v1/chat/completions"]


async def test_any_other_server_counts_by_answering_briefly(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan(NOT_FOUND, [json_answer({}, status="405 Method Not Allowed")], *[[json_answer(COMPLETION)]] * 2)
    async with serve(http(upstream)) as server:
        assert [await counted(server), await counted(server, max_output_tokens=100)] == [5, 5]
        assert (await server.get("/v1/responses/resp_x")).status == 404
    assert paths(upstream)[2:] == ["/v1/chat/completions"] * 2
    assert upstream.posts[3].json()["max_completion_tokens"] == 1
    assert "stream" not in upstream.posts[3].json()


async def test_what_a_brief_answer_is_refused_for_is_said(serve: Serve, upstream: FakeUpstream) -> None:
    strange: Plan = [json_answer(["what?"])]
    upstream.plan(strange, strange, [json_answer({"error": TOO_LONG}, status="400 Bad Request")])
    upstream.plan(strange, strange, [json_answer({"error": {"message": f"no {CAKE}"}}, status="500 Oops")])
    upstream.plan(strange, strange, strange)
    async with serve(http(upstream)) as server:
        reply = await count(server, "Hello", model="m")
        assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
        reply = await count(server, "Hello", model="m")
        assert reply.status == 502
        assert CAKE not in reply.error["message"]
        reply = await count(server, "Hello", model="m")
        assert (reply.status, reply.error["code"]) == (502, "backend_protocol_error")
        assert server.application.runtime.endpoints[0].active == 0


async def test_a_native_server_counts(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan([json_answer({"object": "response.input_tokens", "input_tokens": 30})])
    async with serve(http(upstream, dialect="openai_responses")) as server:
        tools = [{"type": "web_search"}]
        assert await counted(server, tools=tools, store=True, max_output_tokens=9, personality="friendly") == 30
    assert paths(upstream) == ["/v1/responses/input_tokens"]
    told = upstream.posts[0].json()
    assert told == {"model": "m", "input": "Hello", "tools": tools, "personality": "friendly"}


async def test_a_native_server_that_cannot_count_answers_briefly(serve: Serve, upstream: FakeUpstream) -> None:
    whole = {"id": "r", "object": "response", "status": "completed", "output": [], "usage": {"input_tokens": 8}}
    upstream.plan(NOT_FOUND, [json_answer(whole)])
    async with serve(http(upstream, dialect="openai_responses")) as server:
        assert await counted(server) == 8
    told = upstream.posts[1].json()
    assert (told["max_output_tokens"], told["store"], told["input"]) == (16, False, "Hello")


async def test_ollama_counts_by_answering_briefly(serve: Serve) -> None:
    async with fake_ollama() as ollama:
        toml = f'[backends.up]\ntype = "http"\ndialect = "ollama_chat"\nendpoints = ["{ollama.url}"]\n'
        ollama.replies.append(Reply(text=("Hi",), prompt_tokens=21))
        async with serve(toml) as server:
            reply = await count(server, "Hello", model="llama3.2:latest", temperature=0.5)
            assert reply.json()["input_tokens"] == 21, reply
        (told,) = ollama.posts("/api/chat")
        assert told["options"] == {"temperature": 0.5, "num_predict": 1}
        assert told["stream"] is False


@pytest.mark.parametrize("dialect", ["openai_chat", "openai_responses"])
async def test_another_trunkline_counts_and_compacts(serve: Serve, echo: Serving, dialect: str) -> None:
    toml = f'[backends.up]\ntype = "http"\ndialect = "{dialect}"\nendpoints = ["{echo.url}/v1"]\n'
    async with serve(toml) as front:
        reply = await count(front, [said("one two"), said("three", "assistant")], instructions="be kind")
        assert reply.json()["input_tokens"] == 5
        found = await compacted(front, [said("one two"), said("three", "assistant")])
        answered = await Asking(front).create([*found["output"], said("Go on")])
        assert answered["output_text"] == "Go on"
        assert answered["usage"]["input_tokens"] > 20


COMPACTION = {"id": "cmp_up", "type": "compaction", "encrypted_content": "gAAAAABfromup", "created_by": "up"}


async def test_a_native_server_compacts_and_gets_its_own_item_back(serve: Serve, upstream: FakeUpstream) -> None:
    kept = {"id": "msg_up", "type": "message", "role": "user", "status": "completed"}
    kept["content"] = [{"type": "input_text", "text": "I am Bo."}]  # type: ignore[assignment]  # a literal of mixed values
    usage = {"input_tokens": 40, "output_tokens": 4, "total_tokens": 44}
    answer = {"id": "resp_up", "object": "response", "status": "completed", "model": "m", "output": [message("Hi")]}
    upstream.plan([json_answer(answer)])
    upstream.plan(
        [json_answer({"id": "resp_up", "object": "response.compaction", "output": [kept, COMPACTION], "usage": usage})]
    )
    upstream.plan([json_answer(answer)], [json_answer(answer)])
    async with serve(http(upstream, dialect="openai_responses")) as server:
        client = Asking(server, model="m")
        first = await client.create("I am Bo.")
        found = await compacted(
            server, "Now shorter", model="m", previous_response_id=first["id"], prompt_cache_key="k", temperature=0.5
        )
        assert found["output"] == [kept, COMPACTION]
        assert found["id"] != "resp_up"
        assert found["usage"]["total_tokens"] == 44
        second = await client.create([*found["output"], said("Go on")])
        await client.create("and on", previous_response_id=second["id"])
    asked = upstream.posts[1]
    assert asked.path == "/v1/responses/compact"
    assert asked.json().keys() == {"model", "input", "prompt_cache_key"}
    assert [item["role"] for item in asked.json()["input"]] == ["user", "assistant", "user"]
    for post in upstream.posts[2:]:
        (item,) = [item for item in post.json()["input"] if item.get("type") == "compaction"]
        assert item == COMPACTION


async def test_a_native_server_that_cannot_compact_is_asked_for_a_summary(serve: Serve, upstream: FakeUpstream) -> None:
    answer = {"id": "resp_up", "object": "response", "status": "completed", "model": "m", "output": [message("Bo.")]}
    upstream.plan(NOT_FOUND, [json_answer(answer)], [json_answer(answer)], [json_answer(answer)])
    async with serve(http(upstream, dialect="openai_responses")) as server:
        found = await compacted(server, "I am Bo.", model="m")
        await compacted(server, "I am Bo.", model="m")
        await Asking(server, model="m").create([*found["output"], said("Go on")])
    assert paths(upstream) == ["/v1/responses/compact", *["/v1/responses"] * 3]
    told = upstream.posts[3].json()["input"]
    assert [item["role"] for item in told] == ["user", "assistant", "user"]


async def test_a_failing_compaction_is_the_servers(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.plan([json_answer({"error": {"message": "no", "code": "nope"}}, status="400 Bad Request")])
    upstream.plan(*[[json_answer({"output": 5})]] * 5)  # an answer that breaks the rules may be asked for again
    async with serve(http(upstream, dialect="openai_responses")) as server:
        reply = await compact(server, "I am Bo.", model="m")
        assert (reply.status, reply.error["code"]) == (400, "nope")
        reply = await compact(server, "I am Bo.", model="m")
        assert (reply.status, reply.error["code"]) == (502, "backend_protocol_error")
        assert server.application.runtime.endpoints[0].active == 0


async def test_a_native_server_is_asked_again_with_fewer_turns(serve: Serve, upstream: FakeUpstream) -> None:
    too_long = {"message": "Your input exceeds the context window of this model.", "type": "invalid_request_error"}
    too_long |= {"param": "input", "code": "context_length_exceeded"}
    failed = {"type": "response.failed", "response": {"id": "r", "status": "failed", "error": too_long}}
    answer = {"id": "resp_up", "object": "response", "status": "completed", "model": "m", "output": [message("Hi")]}
    upstream.plan(
        [json_answer({"error": too_long}, status="400 Bad Request")],
        streamed(b"event: response.failed\ndata: " + json.dumps(failed).encode() + b"\n\n"),
        [json_answer(answer)],
    )
    talk = [one for turn in range(3) for one in (said(f"u{turn}"), said(f"a{turn}", "assistant"))]
    async with serve(http(upstream, dialect="openai_responses")) as server:
        final = await Asking(server, model="m").create([*talk, said("last")], truncation="auto")
        assert final["output_text"] == "Hi"
        upstream.plan(streamed(b"event: response.failed\ndata: " + json.dumps(failed).encode() + b"\n\n"))
        reply = await Asking(server, model="m").post([*talk, said("last")])
        assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
    assert [len(post.json()["input"]) for post in upstream.posts[:3]] == [7, 3, 1]
