"""How rows lie in the file: a large one must not cost those who look for another."""

import contextlib
import sqlite3
from pathlib import Path

import msgspec

from tests.fakes.stores import HandClock, a_response, a_run, open_store
from trunkline.ports.stores import LoggedEvent
from trunkline.stores.sqlite.migrations import MIGRATIONS
from trunkline.stores.sqlite.store import SqliteStore

LARGE = 100_000


def events(count: int, *, size_bytes: int) -> list[LoggedEvent]:
    return [LoggedEvent(number, "e", b"%d" % number + b"x" * size_bytes, number + 0.5) for number in range(count)]


def tables(path: Path) -> dict[str, bool]:
    """Each table, and whether its rows lie in the index of its key (WITHOUT ROWID)."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
        return {name: bool(in_index) for name, in_index in rows if not name.startswith("sqlite_")}


async def test_rows_that_can_be_large_lie_outside_the_index_of_their_key(tmp_path: Path) -> None:
    # SQLite reads a row of an index whole where a search passes it, however large it is: a few large events on the way
    # made every search for another one as slow as reading them all.
    path = tmp_path / "trunkline.db"
    async with open_store(path):
        pass
    in_index = {name for name, yes in tables(path).items() if yes}
    assert in_index == {"names", "conversations", "sessions", "usage"}  # whose rows are bounded by a few kilobytes


async def test_what_is_asked_of_events_is_found_by_their_key_and_before_their_data(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    async with open_store(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(events)")]
        assert columns[-1] == "data"  # a row is read from its front
        for question in (
            "SELECT max(sequence_number) FROM events WHERE tenant = 'a' AND run_id = 'r'",
            "SELECT data FROM events WHERE tenant = 'a' AND run_id = 'r' AND sequence_number > 7 ORDER BY sequence_number",
            "SELECT at FROM events WHERE tenant = 'a' AND run_id = 'r' ORDER BY sequence_number DESC LIMIT 1",
            "DELETE FROM events WHERE tenant = 'a' AND run_id = 'r'",
        ):
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {question}")]
            assert len(plan) == 1, plan
            assert "USING INDEX" in plan[0] or "USING COVERING INDEX" in plan[0], plan
            assert "tenant=? AND run_id=?" in plan[0], plan


async def test_logs_of_the_schema_before_come_along(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    before = SqliteStore(path, clock=HandClock(), migrations=MIGRATIONS[:5], lock_wait_s=0)
    await before.start()
    logs = {("a", "resp_1"): events(700, size_bytes=20), ("a", "resp_2"): events(3, size_bytes=LARGE)}
    logs["b", "resp_1"] = events(2, size_bytes=0)
    for (tenant, run_id), logged in logs.items():
        made = msgspec.structs.replace(a_run(run_id), tenant=tenant)
        queued = a_response(run_id, status="queued", background=True)
        await before.create_run(made, queued, logged)
    done = [LoggedEvent(3, "done", b"{}", 9.0)]
    assert await before.append_events("a", "resp_2", done, final=a_response("resp_2", background=True))
    logs["a", "resp_2"] += done
    await before.close()
    assert tables(path)["events"]

    async with open_store(path) as store:
        for (tenant, run_id), logged in logs.items():
            assert list(await store.read_events(tenant, run_id, after=-1, limit=1000)) == logged
            loaded = await store.load_run(tenant, run_id)
            assert loaded is not None
            assert (loaded.next_sequence, loaded.updated_at) == (len(logged), logged[-1].at)
        assert await store.append_events("b", "resp_1", [LoggedEvent(2, "e", b"more", 3.0)])
        assert len(await store.read_events("b", "resp_1", after=-1, limit=1000)) == 3
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not tables(path)["events"]
    assert tables(tmp_path / "trunkline.db.schema-5-backup")["events"]
