"""The official Python client, of whichever server a file has. Files that hold the answers against its types make their own."""

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from tests.serving import Serving


@pytest.fixture
async def client(server: Serving) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sk-test", max_retries=0) as made:
        yield made
