"""Fixtures shared by the suites that talk to a running server, and the deadline after which a test that hangs fails."""

import contextlib
import faulthandler
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.fakes.upstream import FakeUpstream, fake_upstream
from tests.serving import ECHO, Serving, serving

HANGS_AFTER_S = 180.0
"""A test is never decided by the clock; one that waits for what never comes ends the run here, with every stack."""

Serve = Callable[..., contextlib.AbstractAsyncContextManager[Serving]]


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """`async with serve(toml, scripts={...})`: a server whose files are in a folder of its own."""

    def start(toml: str | None = None, *, scripts: Mapping[str, str] | None = None, grace_s: float = 5.0) -> object:
        return serving(ECHO if toml is None else toml, base_dir=tmp_path, scripts=scripts, grace_s=grace_s)

    return start  # type: ignore[return-value]  # the two have the same keywords


@pytest.fixture
async def echo() -> AsyncIterator[Serving]:
    """The scripted backend without a script: it repeats the last user message word by word."""
    async with serving() as server:
        yield server


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with fake_upstream() as fake:
        yield fake
