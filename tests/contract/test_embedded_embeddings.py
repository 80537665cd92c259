"""Embeddings of a real model: the embedded one, and llama.cpp's own server behind the http backend. Through the official SDK."""

import asyncio
import base64
import json
import math
import struct
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import xllamacpp
from openai import AsyncOpenAI, BadRequestError

from tests.serving import Serving, serving
from trunkline.backends.embedded.backend import EmbeddedBackend
from trunkline.config.schema import EmbeddedSettings
from trunkline.model.errors import BackendUnavailable
from trunkline.ports.backend import BackendSetup
from trunkline.ports.operations import OperationRequest
from trunkline.testing.answers import CountingEntropy, PinnedClock, pinned_context

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "smollm2-135m-instruct"
SIZE = 576
EMBEDDED = '[backends.local]\ntype = "embedded"\nslots = 2\ncontext_tokens = 128\nthreads = 2\n'
TEXTS = ["A cat sat on the mat.", "The kitten lay on the rug.", "Interest rates rose by a quarter."]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Serving]:
    async with serving(EMBEDDED) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(server: Serving) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def alike(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two vectors of length one."""
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_texts_become_vectors_in_their_order(client: AsyncOpenAI) -> None:
    made = await client.embeddings.create(model=MODEL, input=[*TEXTS, *TEXTS])
    vectors = [one.embedding for one in made.data]
    assert [one.index for one in made.data] == list(range(6))
    assert [len(one) for one in vectors] == [SIZE] * 6
    assert all(math.isclose(alike(one, one), 1, abs_tol=1e-3) for one in vectors)
    assert all(alike(vectors[place], vectors[place + 3]) > 0.999 for place in range(3))
    assert alike(vectors[0], vectors[1]) > alike(vectors[0], vectors[2])
    assert made.model == MODEL
    assert made.usage.prompt_tokens == made.usage.total_tokens > 20


async def test_a_text_is_the_same_vector_in_whatever_company(client: AsyncOpenAI) -> None:
    texts = [[28120, 905], [28120], [100, 200, 300, 400, 500, 600, 700]]
    alone = [(await client.embeddings.create(model=MODEL, input=text)).data[0].embedding for text in texts]
    order = [0, 1, 2, 1, 0, 2, 2]
    together = await client.embeddings.create(model=MODEL, input=[texts[place] for place in order])
    assert [round(alike(alone[place], one.embedding), 2) for place, one in zip(order, together.data, strict=True)] == [
        1
    ] * 7


async def test_a_text_and_its_tokens_are_one(client: AsyncOpenAI) -> None:
    text = await client.embeddings.create(model=MODEL, input="hello world")
    tokens = await client.embeddings.create(model=MODEL, input=[28120, 905])
    several = await client.embeddings.create(model=MODEL, input=[[28120, 905], [28120]])
    assert alike(text.data[0].embedding, tokens.data[0].embedding) > 0.999
    assert alike(text.data[0].embedding, several.data[0].embedding) > 0.999
    assert (tokens.usage.prompt_tokens, several.usage.prompt_tokens) == (2, 3)


async def test_floats_and_base64_are_the_same_numbers(server: Serving) -> None:
    async def embedding(**more: object) -> Any:
        body = json.dumps({"model": MODEL, "input": "hello", **more}).encode()
        return (await server.request("POST", "/v1/embeddings", body)).json()["data"][0]["embedding"]

    packed = base64.b64decode(await embedding(encoding_format="base64"))
    floats = await embedding()
    assert struct.unpack(f"<{SIZE}f", packed) == pytest.approx(floats, abs=1e-6)
    assert len(await embedding(dimensions=SIZE)) == SIZE


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"dimensions": 8}, "dimensions"),
        ({"dimensions": "many"}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 3]}, "input[1]"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [999_999]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
    ],
    ids=repr,
)
async def test_what_cannot_be_embedded_is_named(server: Serving, change: dict[str, object], param: str) -> None:
    reply = await server.request(
        "POST", "/v1/embeddings", json.dumps({"model": MODEL, "input": "a", **change}).encode()
    )
    assert (reply.status, reply.error["param"]) == (400, param)


async def test_a_text_beyond_the_context_is_refused_with_its_length(client: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="text 1 has 200") as raised:
        await client.embeddings.create(model=MODEL, input=["short", "word " * 199 + "word"])
    assert raised.value.code == "context_length_exceeded"


async def test_what_nothing_used_is_said(server: Serving) -> None:
    body = json.dumps({"model": MODEL, "input": "a", "user": "ada", "input_type": "query"}).encode()
    reply = await server.request("POST", "/v1/embeddings", body)
    assert reply.headers["x-trunkline-ignored"] == "user, input_type"
    assert reply.headers["x-trunkline-route"] == f"local/{MODEL}"
    assert "input_tokens=1" in server.access_lines[-1]


async def test_chats_and_embeddings_go_on_side_by_side(server: Serving, client: AsyncOpenAI) -> None:
    chat, made = await asyncio.gather(
        server.chat("Say a word.", model=MODEL, max_tokens=4),
        client.embeddings.create(model=MODEL, input=TEXTS),
    )
    assert chat.status == 200
    assert len(made.data) == 3


@pytest.mark.parametrize(("setting", "at_start"), [("", 1), ("preload_embeddings = true\n", 2)])
async def test_the_engine_for_embeddings_is_loaded_at_the_start_where_that_is_wanted(
    setting: str, at_start: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has streams going on wants no loading in the middle of them."""

    def loaded() -> int:
        return sum(record.getMessage().startswith("loaded") for record in caplog.records)

    with caplog.at_level("DEBUG", logger="trunkline.embedded"):
        async with serving(EMBEDDED + setting) as server:
            assert loaded() == at_start
            reply = await server.request("POST", "/v1/embeddings", f'{{"model": "{MODEL}", "input": "hi"}}'.encode())
            assert (reply.status, loaded()) == (200, 2)


async def test_the_first_to_ask_may_leave_while_the_engine_is_loaded() -> None:
    setup = BackendSetup(name="local", base_dir=Path(), clock=PinnedClock(), entropy=CountingEntropy())
    backend = EmbeddedBackend(EmbeddedSettings(slots=1, context_tokens=64, threads=2), setup)
    await backend.start()
    request = OperationRequest(
        operation="embeddings",
        model=MODEL,
        content_type="application/json",
        before=(b'{"input":"a","model":',),
        after=(b"}",),
    )
    first = asyncio.create_task(backend.perform(request, pinned_context()))
    await asyncio.sleep(0)  # it has begun
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    answer = await backend.perform(request, pinned_context())
    assert [batch.content async for batch in answer.batches] == [True]
    await backend.close()
    with pytest.raises(BackendUnavailable):
        await backend.perform(request, pinned_context())


async def test_llama_cpps_own_server_embeds_through_the_http_backend(client: AsyncOpenAI) -> None:
    setup = BackendSetup(name="local", base_dir=Path(), clock=PinnedClock(), entropy=CountingEntropy())
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(EmbeddedBackend(EmbeddedSettings(), setup)._path)
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 128
    parameters.n_parallel = 1
    parameters.fit_params = False
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.verbosity = 0
    parameters.endpoint_metrics = True
    behind = xllamacpp.Server(parameters)
    behind.handle_metrics()  # until it runs
    try:
        toml = f'[backends.lab]\ntype = "http"\nendpoints = ["{behind.listening_address}/v1"]\n'
        toml += '[[models]]\nname = "tiny"\nroutes = [{ backend = "lab" }]\n'
        async with (
            serving(toml) as front,
            AsyncOpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0) as relayed,
        ):
            theirs = await relayed.embeddings.create(model="tiny", input=TEXTS)
            ours = await client.embeddings.create(model=MODEL, input=TEXTS)
            assert theirs.model == "tiny"
            assert theirs.usage.prompt_tokens == ours.usage.prompt_tokens
            for one, other in zip(theirs.data, ours.data, strict=True):
                assert alike(one.embedding, other.embedding) > 0.99
    finally:
        del behind
