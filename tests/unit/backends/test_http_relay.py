"""The two ways through the http backend: bytes relayed, and events translated. A client cannot tell which one answered it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from tests.fakes.upstream import (
    COMPLETION,
    DONE,
    END,
    HELLO,
    STREAM,
    FakeUpstream,
    chunk,
    frame,
    json_answer,
    pieces,
    streamed,
    text_frame,
    usage_frame,
)
from tests.serving import Serving, serving, user
from tests.wire.golden import Case, find_cases
from trunkline.wire.sse import SseReader

ROUTED = """
[backends.up]
type = "http"
endpoints = ["{url}"]
api_key = "sk-upstream-key-0123456789"
[[models]]
name = "asked"
routes = [{{ backend = "up", model = "up-model" }}]
"""


@pytest.fixture
async def relaying(upstream: FakeUpstream) -> AsyncIterator[Serving]:
    async with serving(ROUTED.format(url=upstream.url)) as server:
        yield server


@pytest.fixture
async def translating(upstream: FakeUpstream) -> AsyncIterator[Serving]:
    """The same server, its gateway told never to relay; a profile that spaces its JSON does it that way."""
    async with serving(ROUTED.format(url=upstream.url)) as server:
        server.application.runtime.gateway._may_relay = False
        yield server


def sse(body: bytes) -> list[Any]:
    """The payloads as any reader of server-sent events gets them, whatever their line ends."""
    return [
        "[DONE]" if event.data.startswith(b"[DONE]") else json.loads(event.data) for event in SseReader().feed(body)
    ]


def visible(body: bytes, *, asked: str = "asked") -> list[object]:
    """What a client acts on, in order. Neighbouring pieces of one text are one, for the two ways may cut it differently."""
    seen: list[Any] = []

    def say(*entry: object) -> None:
        if seen and isinstance(entry[-1], str) and seen[-1][:-1] == entry[:-1] and entry[0] == "text":
            seen[-1] = (*entry[:-1], seen[-1][-1] + entry[-1])
        else:
            seen.append(entry)

    usage: dict[str, Any] | None = None
    finished: set[int] = set()
    tokens: dict[int, list[str]] = {}
    for payload in sse(body):
        if payload == "[DONE]":
            say("done")
            continue
        if "error" in payload:
            say("error", payload["error"]["message"], payload["error"]["code"])
            continue
        if payload.get("choices"):
            assert payload["model"] == asked
        usage = payload.get("usage") or usage
        for choice in payload.get("choices", ()):
            number, delta = choice["index"], choice["delta"] or {}
            thinking = delta.get("reasoning_content") or delta.get("reasoning")
            for kind, text in (
                ("reasoning", thinking),
                ("content", delta.get("content")),
                ("refusal", delta.get("refusal")),
            ):
                if text:
                    say("text", number, kind, text)
            for call in delta.get("tool_calls") or ():
                inner = call.get("function") or call.get("custom") or {}
                if call.get("id"):
                    made = "call_" if call["id"].startswith("call_") and len(call["id"]) > 20 else call["id"]
                    say("call", number, call["index"], made, call["type"], inner["name"])
                if arguments := inner.get("arguments") or inner.get("input"):
                    say("text", number, call["index"], arguments)
            for entry in (choice.get("logprobs") or {}).get("content") or ():
                tokens.setdefault(number, []).append(entry["token"])
            if choice.get("finish_reason") and number not in finished:  # some upstreams repeat the finish chunk
                finished.add(number)
                say("finish", number, choice["finish_reason"])
    if usage is not None:
        say("usage", usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"])
    if tokens:
        say("tokens", tokens)
    return seen


KNOWN_TO_DIFFER = {
    "groq_x_groq_usage": "usage under x_groq stays where the upstream put it",
    "ids_and_time_missing": "a chunk without id and model is passed on without them",
    "mistral_thinking_parts": "content in parts is passed on in parts, as Mistral's own clients read it",
    "wrong_types_everywhere": "members that no client acts on are passed on with whatever type they have",
}
CASES = list(find_cases("openai_chat", "decode_stream"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
async def test_relay_and_translation_show_the_client_the_same(
    case: Case, upstream: FakeUpstream, relaying: Serving, translating: Serving
) -> None:
    shown = []
    for server in (relaying, translating):
        upstream.plan(streamed(case.data))
        reply = await server.chat(
            model="asked", stream=True, stream_options={"include_usage": True}, n=2 if "_n_2" in case.path.stem else 1
        )
        if case.path.stem in KNOWN_TO_DIFFER:
            assert reply.status == 200
            assert sse(reply.body)[-1] == "[DONE]"
            continue
        shown.append((reply.status, visible(reply.body) if reply.status == 200 else reply.error))
    assert shown[:1] == shown[1:]


BODIES = list(find_cases("openai_chat", "decode_body"))


@pytest.mark.parametrize("case", BODIES, ids=lambda case: case.path.stem)
async def test_relayed_and_translated_bodies_say_the_same(
    case: Case, upstream: FakeUpstream, relaying: Serving, translating: Serving
) -> None:
    shown: list[object] = []
    for server in (relaying, translating):
        upstream.plan(
            [
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(case.data),
                case.data,
            ]
        )
        reply = await server.chat(model="asked")
        if reply.status != 200:
            shown.append((reply.status, reply.error["code"]))
            continue
        whole = reply.json()
        if case.path.stem == "wrong_types_everywhere":
            continue
        usage = whole.get("usage") or {}
        shown.append(
            (
                whole["model"],
                [
                    (
                        choice["index"],
                        choice["finish_reason"],
                        choice["message"].get("content") or "",
                        choice["message"].get("refusal"),
                        [
                            (call["id"], (call.get("function") or call["custom"])["name"])
                            for call in choice["message"].get("tool_calls") or ()
                            if not call["id"].startswith("call_")
                        ],
                    )
                    for choice in whole["choices"]
                ],
                (usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)),
            )
        )
    assert shown[:1] == shown[1:]


REGULAR = [
    case for case in CASES if case.path.stem.startswith("openai_") and "legacy" not in case.path.stem
]  # what the official SDK itself accumulates without complaint


@pytest.mark.parametrize("case", REGULAR, ids=lambda case: case.path.stem)
async def test_the_sdk_accumulates_the_same_completion_both_ways(
    case: Case, upstream: FakeUpstream, relaying: Serving, translating: Serving
) -> None:
    completions = []
    for server in (relaying, translating):
        upstream.plan(streamed(case.data))
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            state = ChatCompletionStreamState()
            stream = await client.chat.completions.create(
                model="asked",
                messages=[{"role": "user", "content": "hi"}],
                stream=True,
                n=2 if "_n_2" in case.path.stem else 1,
                stream_options={"include_usage": True},
            )
            async for event in stream:
                state.handle_chunk(event)
            completion = state.current_completion_snapshot
        completions.append(
            [
                (
                    choice.index,
                    choice.finish_reason,
                    choice.message.content or "",
                    choice.message.refusal or "",
                    [call.model_dump(exclude={"index"}) for call in choice.message.tool_calls or ()],
                )
                for choice in completion.choices
            ]
        )
        assert completion.model == "asked"
    assert completions[0] == completions[1]


UNKNOWN_BODY = (
    b'{ "model": "asked", "x_mine" : {"deep": [1.50, 1e3, "\\u00e9"]},\n "messages":[{"role":"user","content":"hi","x":1}],'
    b' "temperature": 0.70, "logit_bias": {}, "top_k":  40 }'
)


async def test_every_byte_of_a_clients_values_reaches_the_upstream(upstream: FakeUpstream, relaying: Serving) -> None:
    upstream.plan([json_answer(COMPLETION)])
    assert (await relaying.post_raw(UNKNOWN_BODY)).status == 200
    sent = upstream.posts[0]
    assert sent.json() == {**json.loads(UNKNOWN_BODY), "model": "up-model"}
    for piece in (b'{"deep": [1.50, 1e3, "\\u00e9"]}', b'[{"role":"user","content":"hi","x":1}]', b"0.70"):
        assert piece in sent.body
    assert sent.path == "/v1/chat/completions"
    assert sent.headers["authorization"] == "Bearer sk-upstream-key-0123456789"
    assert "stream_options" not in sent.json()


async def test_the_clients_own_headers_stay_with_us(upstream: FakeUpstream, relaying: Serving) -> None:
    upstream.plan([json_answer(COMPLETION)])
    await relaying.chat(
        model="asked",
        headers={
            "authorization": "Bearer client-key",
            "cookie": "a=b",
            "x-request-id": "mine-1",
            "x-forwarded-for": "9.9.9.9",
        },
    )
    sent = upstream.posts[0].headers
    assert sent["authorization"] == "Bearer sk-upstream-key-0123456789"
    assert sent["x-request-id"] == "mine-1"
    assert sent.keys().isdisjoint({"cookie", "x-forwarded-for"})


async def test_usage_is_asked_for_and_its_chunk_kept_from_a_client_that_did_not(
    upstream: FakeUpstream, relaying: Serving
) -> None:
    upstream.plan(streamed(HELLO))
    reply = await relaying.chat(model="asked", stream=True)
    assert upstream.posts[0].json()["stream_options"] == {"include_usage": True}
    assert all(payload == "[DONE]" or payload["choices"] for payload in sse(reply.body))
    row = (await relaying.get("/v1/usage")).json()["data"][0]
    assert (row["input_tokens"], row["output_tokens"], row["backend"]) == (5, 2, "up")


async def test_usage_chunk_reaches_a_client_that_asked(upstream: FakeUpstream, relaying: Serving) -> None:
    upstream.plan(streamed(HELLO))
    reply = await relaying.chat(model="asked", stream=True, stream_options={"include_usage": True, "x": 1})
    assert upstream.posts[0].json()["stream_options"] == {"include_usage": True, "x": 1}
    assert sse(reply.body)[-2]["usage"]["total_tokens"] == 7


async def test_relayed_bytes_are_the_upstreams_but_for_the_model(upstream: FakeUpstream, relaying: Serving) -> None:
    data = (
        text_frame("Hel", x_new={"a": [1, 2]}, system_fingerprint="fp")
        + b': a comment\n\ndata: {"id" : "x","model":"up-model",'
        + b'"choices":[{"index":0,"delta":{"content":"say \\"model\\":\\"up-model\\""}}]}\n\n'
        + text_frame(finish="stop")
        + DONE
    )
    upstream.plan(streamed(data))
    reply = await relaying.chat(model="asked", stream=True)
    assert reply.body == data.replace(b'"model":"up-model"', b'"model":"asked"')


async def test_a_relayed_body_keeps_its_unknown_keys_and_numbers(upstream: FakeUpstream, relaying: Serving) -> None:
    body = json.dumps({**COMPLETION, "x_new": {"price": "HOLE"}}).replace('"HOLE"', "1.50").encode()
    upstream.plan(
        [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body), body]
    )
    reply = await relaying.chat(model="asked")
    assert b'{"price": 1.50}' in reply.body
    assert reply.json() == {**json.loads(body), "model": "asked"}


async def test_rate_limit_headers_pass_and_others_do_not(upstream: FakeUpstream, relaying: Serving) -> None:
    upstream.plan(
        [json_answer(COMPLETION, headers={"X-RateLimit-Remaining-Tokens": "7", "Set-Cookie": "a=b", "Server": "lab"})]
    )
    reply = await relaying.chat(model="asked")
    assert reply.headers["x-ratelimit-remaining-tokens"] == "7"
    assert reply.headers.keys().isdisjoint({"set-cookie", "server"})
    assert reply.headers["x-trunkline-route"] == "up/up-model"


async def test_a_models_name_of_any_characters_is_respliced(upstream: FakeUpstream) -> None:
    name = 'org/"model" \\ \u00e9 {}'
    toml = ROUTED.format(url=upstream.url).replace('"asked"', json.dumps(name))
    async with serving(toml) as server:
        upstream.plan(streamed(HELLO), [json_answer(COMPLETION)])
        assert {payload["model"] for payload in sse((await server.chat(model=name, stream=True)).body)[:-1]} == {name}
        assert (await server.chat(model=name)).json()["model"] == name


async def test_geminis_calls_get_an_index_each_and_keep_their_signatures(
    upstream: FakeUpstream, relaying: Serving
) -> None:
    """Their ids and thought signatures must come back in the next request, so nothing else may change."""
    calls = [
        {
            "index": 0,
            "id": f"c{number}",
            "type": "function",
            "function": {"name": "f", "arguments": "{}"},
            "extra_content": {"s": number},
        }
        for number in (1, 2)
    ]
    data = b"".join(
        frame(
            {
                "id": "x",
                "model": "up-model",
                "created": 1,
                "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}],
            }
        )
        for call in calls
    )
    upstream.plan(streamed(data + text_frame(finish="tool_calls") + DONE))
    reply = await relaying.chat(model="asked", stream=True)
    entries = [payload["choices"][0]["delta"]["tool_calls"][0] for payload in sse(reply.body)[:2]]
    assert entries == [calls[0], {**calls[1], "index": 1}]


async def test_one_byte_at_a_time_is_the_same_stream(upstream: FakeUpstream, relaying: Serving) -> None:
    for size in (1, 2, 3, 7, 50):
        upstream.plan([STREAM, *pieces(HELLO, size), END])
        reply = await relaying.chat(model="asked", stream=True)
        assert reply.body == (HELLO.replace(usage_frame(), b"")).replace(b"up-model", b"asked")


async def test_events_that_arrive_together_leave_together(upstream: FakeUpstream, relaying: Serving) -> None:
    upstream.plan(
        [
            STREAM
            + chunk(b"".join(text_frame(str(number)) for number in range(50)) + text_frame(finish="stop") + DONE)
            + END
        ]
    )
    async with relaying.connect() as wire:
        await wire.send_chat({"model": "asked", "messages": user("hi"), "stream": True})
        await wire.head()
        first = await wire.chunk()
        assert first.count(b"data: ") == 52
