"""Readers share a query, and never one that began before a write they know of."""

import asyncio

import pytest

from tests.fakes.stores import a_response
from trunkline.model.errors import StoreError
from trunkline.ports.stores import StoredResponse
from trunkline.stores.sqlite.reads import MAX_BYTES, FinishedResponses, SharedReads

KEY = ("a", "resp_1")
Found = StoredResponse | None


class Queries:
    """Hands out futures and remembers them."""

    def __init__(self) -> None:
        self.begun: list[asyncio.Future[Found]] = []

    def begin(self) -> asyncio.Future[Found]:
        self.begun.append(asyncio.get_running_loop().create_future())
        return self.begun[-1]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_readers_of_the_same_share_one_query_and_its_error() -> None:
    queries, reads = Queries(), SharedReads[Found]()
    readers = [asyncio.create_task(reads.read(KEY, None, queries.begin)) for _ in range(3)]
    other = asyncio.create_task(reads.read(KEY, 1, queries.begin))
    await settled()
    assert len(queries.begun) == 2
    queries.begun[0].set_exception(StoreError("broken"))
    queries.begun[1].set_result(None)
    assert [type(error) for error in await asyncio.gather(*readers, return_exceptions=True)] == [StoreError] * 3
    assert await other is None
    again = asyncio.create_task(reads.read(KEY, None, queries.begin))
    await settled()
    queries.begun[2].set_result(a_response("resp_1"))
    assert await again == a_response("resp_1")


async def test_a_reader_after_a_write_does_not_join_a_query_from_before_it() -> None:
    kept = FinishedResponses()
    queries, reads = Queries(), SharedReads[Found](keep=kept.put)
    before = asyncio.create_task(reads.read(KEY, None, queries.begin))
    await settled()
    reads.detach(KEY)
    after = asyncio.create_task(reads.read(KEY, None, queries.begin))
    await settled()
    assert len(queries.begun) == 2
    queries.begun[1].set_result(a_response("resp_1", text="new"))
    assert await after == a_response("resp_1", text="new")
    queries.begun[0].set_result(a_response("resp_1", text="old"))
    assert await before == a_response("resp_1", text="old")
    await settled()
    assert kept.get(KEY) == a_response("resp_1", text="new")


async def test_a_query_overtaken_by_a_write_is_not_kept() -> None:
    kept = FinishedResponses()
    queries, reads = Queries(), SharedReads[Found](keep=kept.put)
    before = asyncio.create_task(reads.read(KEY, None, queries.begin))
    await settled()
    queries.begun[0].set_result(a_response("resp_1", text="old"))
    reads.detach(KEY)  # between the result and those who hear of it
    assert await before == a_response("resp_1", text="old")
    await settled()
    assert kept.get(KEY) is None


async def test_a_query_that_every_reader_has_left_ends_in_silence() -> None:
    queries, reads = Queries(), SharedReads[Found]()
    reader = asyncio.create_task(reads.read(KEY, None, queries.begin))
    await settled()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    queries.begun[0].set_exception(StoreError("broken"))
    await settled()


async def test_a_query_that_cannot_begin_leaves_nothing() -> None:
    reads = SharedReads[Found]()

    def begin() -> asyncio.Future[Found]:
        raise StoreError("closed")

    with pytest.raises(StoreError):
        await reads.read(KEY, None, begin)
    assert reads._under_way == {}


def test_only_what_has_ended_is_kept_and_only_so_much() -> None:
    kept = FinishedResponses()
    for status in ("queued", "in_progress"):
        kept.put(KEY, a_response("resp_1", status=status))
    kept.put(KEY, None)
    kept.put(KEY, a_response("resp_1", size_bytes=MAX_BYTES // 4))
    assert kept.get(KEY) is None
    for number in range(40):
        kept.put(("a", f"resp_{number}"), a_response(f"resp_{number}", size_bytes=MAX_BYTES // 10))
        assert kept._size_bytes <= MAX_BYTES
    assert [number for number in range(40) if kept.get(("a", f"resp_{number}"))] == list(range(31, 40))
    for number in range(31, 40):
        kept.drop(("a", f"resp_{number}"))
    assert kept._size_bytes == 0
