"""An answered request frees its memory at once: nothing of it waits for the garbage collector."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.upstream import HELLO, FakeUpstream, streamed
from tests.serving import ECHO

TIMES = 20


@pytest.fixture
def collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def ours() -> list[str]:
    """Types of this project among what only the collector could free."""
    gc.collect()
    return [type(thing).__qualname__ for thing in gc.garbage if type(thing).__module__.startswith("trunkline")]


@pytest.mark.parametrize(
    "parameters", [{}, {"stream": True}, {"n": 2}, {"stop": "b"}, {"stream": True, "stop": "b"}, {"messages": []}]
)
async def test_answers_leave_no_cycles(serve: Serve, collector: None, parameters: dict[str, Any]) -> None:
    async with serve(ECHO) as server:
        await server.chat("a b c", **parameters)
        gc.collect()
        gc.garbage.clear()
        for _ in range(TIMES):
            await server.chat("a b c", **parameters)
        assert ours() == []


@pytest.mark.parametrize("stream", [False, True], ids=["folded", "relayed"])
async def test_upstream_answers_leave_no_cycles(
    serve: Serve, upstream: FakeUpstream, collector: None, stream: bool
) -> None:
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        for position in range(TIMES + 1):
            upstream.plan(streamed(HELLO))
            assert (await server.chat(model="up-model", stream=stream)).status == 200
            if position == 0:
                gc.collect()
                gc.garbage.clear()
        assert ours() == []
