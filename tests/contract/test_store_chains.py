"""A turn of a long chain costs what a turn of a short one costs."""

from pathlib import Path

import pytest

from tests.fakes.stores import a_response, open_store
from trunkline.stores.sqlite.store import SqliteStore


async def turn(store: SqliteStore, number: int) -> None:
    """What one request does: read the chain, add to it."""
    parent = f"resp_{number - 1:05}" if number else None
    if parent is not None:
        history = await store.history("a", parent)
        assert history is not None
        assert len(history) == number
    await store.save_response("a", a_response(f"resp_{number:05}", parent=parent, size_bytes=500), history=())


def stored_bytes(store: SqliteStore) -> int:
    """Of documents, in all rows."""
    database = store._database
    assert database is not None
    with database.writer_gate:
        query = (
            "SELECT sum(length(object) + length(input) + length(output) + coalesce(length(context), 0)) FROM responses"
        )
        return int(database.writer.execute(query).fetchone()[0])


async def cost(store: SqliteStore, number: int) -> tuple[int, int, int]:
    """Statements that read, statements that write, and bytes stored, of turn `number`."""
    database = store._database
    assert database is not None
    before, read, written = stored_bytes(store), list[str](), list[str]()
    database.reader.set_trace_callback(read.append)
    if database.writer is not database.reader:
        database.writer.set_trace_callback(written.append)
    await turn(store, number)
    database.reader.set_trace_callback(None)
    database.writer.set_trace_callback(None)
    return len(read), len(written), stored_bytes(store) - before


@pytest.mark.parametrize("where", ["file", "memory"])
async def test_turn_1000_costs_as_many_queries_and_bytes_as_turn_10(tmp_path: Path, where: str) -> None:
    async with open_store(tmp_path / "trunkline.db" if where == "file" else None) as store:
        for number in range(10):
            await turn(store, number)
        short = await cost(store, 10)
        for number in range(11, 1000):
            parent = f"resp_{number - 1:05}"
            await store.save_response("a", a_response(f"resp_{number:05}", parent=parent, size_bytes=500))
        long = await cost(store, 1000)
        assert long == short
        if where == "file":
            assert short[0] == 1


async def test_the_file_grows_by_the_turn_and_not_by_the_chain(tmp_path: Path) -> None:
    async with open_store(tmp_path / "trunkline.db") as store:
        database = store._database
        assert database is not None

        async def pages_of_200_turns(first: int) -> int:
            before = database.reader.execute("PRAGMA page_count").fetchone()[0]
            for number in range(first, first + 200):
                await turn(store, number)
            return int(database.reader.execute("PRAGMA page_count").fetchone()[0] - before)

        await pages_of_200_turns(0)  # fewer: each table and index has a page to begin with
        early = await pages_of_200_turns(200)
        late = 0
        for first in (400, 600, 800):
            late = await pages_of_200_turns(first)
        assert late <= early * 1.1


async def test_deleting_the_head_of_a_long_chain_leaves_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path / "trunkline.db", max_responses=2) as store:
        for number in range(500):
            await turn(store, number)
        assert len(await store.history("a", "resp_00499") or ()) == 500
        assert await store.delete_response("a", "resp_00498")
        assert await store.delete_response("a", "resp_00499")
        database = store._database
        assert database is not None
        assert database.reader.execute("SELECT count(*) FROM responses").fetchone()[0] == 0
