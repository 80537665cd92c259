"""Servers that speak the same dialect and differ: how they are told apart, and what is made of the differences."""

import asyncio
from typing import Any

import msgspec
import pytest

from tests.conftest import Serve
from tests.fakes.ollama import Reply, fake_ollama
from tests.fakes.upstream import COMPLETION, FakeUpstream, json_answer
from tests.serving import eventually
from trunkline.backends.vendors import VENDORS
from trunkline.config.expect import phrase
from trunkline.config.schema import HttpSettings
from trunkline.model.errors import ConfigError

MODEL = "llama3.2:latest"


def toml(url: str, more: str = "", *, name: str = "up") -> str:
    return f'[backends.{name}]\ntype = "http"\nendpoints = ["{url}"]\nretries = 0\n{more}\n'


def listing(owned_by: str, **members: Any) -> bytes:
    entry = {"id": "up-model", "object": "model", "created": 5, "owned_by": owned_by, **members}
    return json_answer({"object": "list", "data": [entry]})


def test_every_vendor_can_be_configured() -> None:
    described = msgspec.inspect.type_info(HttpSettings)
    assert isinstance(described, msgspec.inspect.StructType)
    (field,) = [field for field in described.fields if field.name == "vendor"]
    assert all(repr(name) in phrase(field.type) for name in VENDORS)


@pytest.mark.parametrize("dialect", ["ollama_chat", "openai_chat"])
async def test_of_two_ollama_servers_the_one_that_has_the_model_loaded_answers(serve: Serve, dialect: str) -> None:
    base = "/v1" if dialect == "openai_chat" else ""
    async with fake_ollama() as cold, fake_ollama() as warm:
        warm.add(MODEL, loaded=True)
        urls = f'"{cold.url}{base}", "{warm.url}{base}"'
        config = f'[backends.up]\ntype = "http"\ndialect = "{dialect}"\nendpoints = [{urls}]\nmax_concurrency = 1\n'
        async with serve(config) as server:
            assert (await server.get("/v1/models")).status == 200
            for _ in range(3):
                reply = await server.chat("hi", model=MODEL)
                assert reply.headers["x-trunkline-route"].endswith("; loaded")
    assert len([one for one in cold.requests if "chat" in one.path]) == 0
    assert len([one for one in warm.requests if "chat" in one.path]) == 3


async def test_a_loaded_model_that_is_saturated_leaves_the_next_call_to_the_other(serve: Serve) -> None:
    gate = asyncio.Event()
    async with fake_ollama() as cold, fake_ollama() as warm:
        warm.add(MODEL, loaded=True)
        warm.replies.append(Reply(text=("a",), hold=gate))
        config = (
            '[backends.up]\ntype = "http"\ndialect = "ollama_chat"\nmax_concurrency = 1\n'
            f'endpoints = ["{cold.url}", "{warm.url}"]\n'
        )
        async with serve(config) as server:
            assert (await server.get("/v1/models")).status == 200
            first = asyncio.create_task(server.chat("hi", model=MODEL))
            await eventually(lambda: bool(warm.posts("/api/chat")))
            second = await server.chat("hi", model=MODEL)
            gate.set()
            assert (await first).status == second.status == 200
    assert (len(cold.posts("/api/chat")), len(warm.posts("/api/chat"))) == (1, 1)


async def test_a_server_that_does_not_say_what_is_loaded_is_listed_all_the_same(serve: Serve) -> None:
    async with fake_ollama() as fake:
        fake.refused.add("/api/ps")
        async with serve(toml(fake.url, 'dialect = "ollama_chat"')) as server:
            assert [one["id"] for one in (await server.get("/v1/models")).json()["data"]] == [MODEL]
            assert (await server.chat("hi", model=MODEL)).status == 200


@pytest.mark.parametrize(
    ("models", "more", "sent"),
    [
        (listing("library"), "", {"max_tokens"}),
        (listing("lab"), 'vendor = "openai"', {"max_completion_tokens"}),
        (listing("openai"), "", None),
        (listing("lab"), 'vendor = "ollama"', {"max_tokens"}),
        (listing("library"), 'vendor = "generic"', None),
        (listing("lab"), "", None),
    ],
)
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_the_length_of_an_answer_goes_up_under_the_name_the_server_knows(
    serve: Serve, upstream: FakeUpstream, models: bytes, more: str, sent: set[str] | None, name: str
) -> None:
    upstream.models = [models]
    upstream.plan([json_answer(COMPLETION)])
    async with serve(toml(upstream.url, more)) as server:
        length: dict[str, Any] = {name: 9}
        assert (await server.chat("say max_tokens", model="up-model", **length)).status == 200
    body = upstream.posts[0].json()
    assert {key for key in body if key.startswith("max")} == (sent or {name})
    assert body["messages"][0]["content"] == "say max_tokens"


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        ("400 Bad Request", "registry.ollama.ai/library/x does not support tools", "unsupported_parameter"),
        ("500 Internal Server Error", "tools param requires --jinja flag", "unsupported_parameter"),
        ("500 Internal Server Error", "image input is not supported - hint: mmproj", "unsupported_content_type"),
        ("400 Bad Request", "x is not a multimodal model", "unsupported_content_type"),
        ("404 Not Found", "No endpoints found that support tool use.", "unsupported_parameter"),
    ],
)
async def test_a_model_without_tools_or_eyes_is_an_honest_400(
    serve: Serve, upstream: FakeUpstream, status: str, message: str, code: str
) -> None:
    upstream.plan([json_answer({"error": {"message": message, "type": "server_error"}}, status=status)])
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with serve(toml(upstream.url)) as server:
        refused = await server.chat("hi", model="up-model", tools=tools)
    assert (refused.status, refused.error["code"], refused.error["message"]) == (400, code, message)
    assert len(upstream.posts) == 1


@pytest.mark.parametrize(
    ("models", "window"),
    [(listing("vllm", max_model_len=4096), 4096), (listing("llamacpp", status={"value": "unloaded"}), None)],
)
async def test_context_lengths_are_those_the_server_lists(
    serve: Serve, upstream: FakeUpstream, models: bytes, window: int | None
) -> None:
    upstream.models = [models]
    async with serve(toml(upstream.url)) as server:
        (model,) = (await server.get("/v1/models")).json()["data"]
    assert model.get("context_window") == window


async def test_a_list_with_members_of_other_types_is_still_a_list(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.models = [listing("lab", status="ok", max_model_len="many")]
    async with serve(toml(upstream.url)) as server:
        assert [one["id"] for one in (await server.get("/v1/models")).json()["data"]] == ["up-model"]


async def test_an_unknown_vendor_is_named(serve: Serve) -> None:
    with pytest.raises(ConfigError, match="vendor"):
        async with serve(toml("http://127.0.0.1:1/v1", 'vendor = "olama"')):
            pass
