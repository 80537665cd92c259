"""The bridge from the engine's threads to the loop, with a call that stands in for the engine's."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from trunkline.backends.embedded.engine import CallFailed, Chunk, Generation
from trunkline.backends.embedded.prompt import Body

Call = Callable[[Body, Callable[[Chunk], bool]], object]


def begun(call: Call, *, on_end: Callable[[], None] = lambda: None) -> Generation:
    generation = Generation(call, {}, on_end=on_end)
    generation.start()
    return generation


async def batches_of(generation: Generation) -> list[list[Chunk]]:
    return [batch async for batch in generation.batches()]


async def test_chunks_that_came_while_nobody_read_are_one_batch() -> None:
    def call(_: Body, receive: Callable[[Chunk], bool]) -> None:
        for number in range(100):
            receive({"number": number})

    generation = begun(call)
    await generation.ended()
    assert await batches_of(generation) == [[{"number": number} for number in range(100)]]


async def test_a_chunk_is_there_before_the_next_one_is_made() -> None:
    may_go_on = threading.Semaphore(0)

    def call(_: Body, receive: Callable[[Chunk], bool]) -> None:
        for number in range(3):
            receive({"number": number})
            may_go_on.acquire()

    generation = begun(call)
    read = []
    async for batch in generation.batches():
        read.append(batch)
        may_go_on.release()
    assert read == [[{"number": 0}], [{"number": 1}], [{"number": 2}]]


async def test_cancelling_ends_the_call_at_its_next_chunk() -> None:
    chunks, may_go_on = list[bool](), threading.Semaphore(0)

    def call(_: Body, receive: Callable[[Chunk], bool]) -> None:
        ended = receive({})
        while not ended:
            may_go_on.acquire()
            ended = receive({})
            chunks.append(ended)

    ends: list[str] = []
    generation = begun(call, on_end=lambda: ends.append("end"))
    await anext(generation.batches())
    generation.cancel()
    may_go_on.release()
    await generation.ended()
    assert chunks == [True]
    assert ends == ["end"]


@pytest.mark.parametrize(("error", "refused"), [(ValueError("bad schema"), True), (RuntimeError("broken"), False)])
async def test_what_the_engine_raises_comes_after_its_chunks(error: Exception, refused: bool) -> None:
    def call(_: Body, receive: Callable[[Chunk], bool]) -> None:
        receive({"number": 1})
        raise error

    generation = begun(call)
    await generation.ended()
    batches = generation.batches()
    assert await anext(batches) == [{"number": 1}]
    with pytest.raises(CallFailed, match=str(error)) as caught:
        await anext(batches)
    assert caught.value.refused is refused


def test_a_call_whose_loop_is_gone_is_told_to_end() -> None:
    loop_is_closed, answers = threading.Event(), list[bool]()

    def call(_: Body, receive: Callable[[Chunk], bool]) -> None:
        loop_is_closed.wait()
        answers.append(receive({}))

    async def begin() -> Generation:
        return begun(call)

    generation = asyncio.run(begin())
    loop_is_closed.set()
    assert generation.join(60.0)
    assert answers == [True]
