"""Servers for the tests of profiles."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import Serve
from tests.profiles.hermes import Names, toml
from tests.serving import Serving


@pytest.fixture
async def hermes(serve: Serve) -> AsyncIterator[Serving]:
    async with serve(toml()) as server:
        yield server


@pytest.fixture
async def keyed(serve: Serve) -> AsyncIterator[Serving]:
    async with serve(toml(key=True)) as server:
        yield server


@pytest.fixture
async def either(serve: Serve, names: Names) -> AsyncIterator[Serving]:
    """Under the profile, and under the default."""
    async with serve(toml(names)) as server:
        yield server


@pytest.fixture
async def either_keyed(serve: Serve, names: Names) -> AsyncIterator[Serving]:
    async with serve(toml(names, key=True)) as server:
        yield server
