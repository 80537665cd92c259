"""A model server at a bare address is asked what it is; one whose path is given is what the path says."""

import asyncio

import pytest

from tests.fakes.ollama import fake_ollama
from tests.fakes.upstream import FakeUpstream
from trunkline.cli.recognise import with_dialects
from trunkline.cli.target import target_document
from trunkline.config.load import build_config
from trunkline.config.schema import HttpSettings


async def dialect_at(url: str) -> str:
    config = await with_dialects(build_config(target_document(url), environ={}))
    (settings,) = config.backends.values()
    assert isinstance(settings, HttpSettings)
    assert settings.endpoints == (url,)
    return settings.dialect


async def test_ollama_is_recognised_and_asked_once() -> None:
    async with fake_ollama() as fake:
        assert await dialect_at(fake.url) == "ollama_chat"
        assert [request.path for request in fake.requests] == ["/api/tags", "/api/ps"]
        assert await dialect_at(f"{fake.url}/v1") == "openai_chat"


async def test_another_server_is_a_chat_server(upstream: FakeUpstream) -> None:
    assert await dialect_at(upstream.url.removesuffix("/v1")) == "openai_chat"


@pytest.mark.parametrize(
    ("url", "dialect"), [("http://127.0.0.1:9", "openai_chat"), ("http://[::1]:9/v1", "openai_chat")]
)
async def test_nobody_there_is_no_reason_not_to_start(url: str, dialect: str) -> None:
    assert await dialect_at(url) == dialect


async def test_a_server_that_answers_byte_by_byte_is_not_waited_for() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{")
        try:
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server, asyncio.timeout(10):
        port = server.sockets[0].getsockname()[1]
        assert await dialect_at(f"http://127.0.0.1:{port}") == "openai_chat"
