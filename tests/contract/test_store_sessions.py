"""What every store promises of sessions, asked of a file and of memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.stores import HandClock, a_response, open_store
from trunkline.model.errors import Conflict, InvalidParameter
from trunkline.ports.stores import Page, StoredItem, StoredSession
from trunkline.stores.sqlite import session_rows
from trunkline.stores.sqlite.store import SqliteStore

NOW = 1_800_000_000


@pytest.fixture(params=["file", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "trunkline.db" if request.param == "file" else None


@pytest.fixture
async def store(path: Path | None) -> AsyncIterator[SqliteStore]:
    async with open_store(path) as opened:
        yield opened


def a_session(session_id: str, *, title: str | None = None, metadata: bytes = b"{}") -> StoredSession:
    return StoredSession(id=session_id, created_at=NOW, updated_at=NOW, title=title, metadata=metadata)


def items(*names: str, size_bytes: int = 0) -> list[StoredItem]:
    return [StoredItem(name, b'{"id":"%s","pad":"%s"}' % (name.encode(), b"x" * size_bytes)) for name in names]


async def ids_in(store: SqliteStore, session_id: str, *, tenant: str = "a") -> list[str] | None:
    history = await store.sessions.history(tenant, session_id)
    return None if history is None else [item.id for item in history]


def rows(store: SqliteStore, table: str) -> int:
    assert store._database is not None
    return int(store._database.reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


async def test_a_session_comes_back_as_it_was_made(store: SqliteStore) -> None:
    made = a_session("s", title="Cats", metadata=b'{"who":"me"}')
    await store.sessions.create("a", made)
    assert await store.sessions.load("a", "s") == made
    assert await ids_in(store, "s") == []


async def test_an_id_is_given_once(store: SqliteStore) -> None:
    await store.sessions.create("a", a_session("s", title="first"))
    with pytest.raises(Conflict) as refused:
        await store.sessions.create("a", a_session("s", title="second"))
    assert refused.value.code == "session_exists"
    loaded = await store.sessions.load("a", "s")
    assert loaded is not None
    assert loaded.title == "first"


async def test_turns_are_added_in_order_and_counted(store: SqliteStore) -> None:
    assert await store.sessions.extend("a", "s", items("u1", "m1"), now_s=NOW + 1, new=True)
    assert await store.sessions.extend("a", "s", items("u2", "m2"), now_s=NOW + 2)
    assert await ids_in(store, "s") == ["u1", "m1", "u2", "m2"]
    loaded = await store.sessions.load("a", "s")
    assert loaded == StoredSession(id="s", created_at=NOW + 1, updated_at=NOW + 2, items=4)


async def test_an_item_that_is_there_stays_where_and_as_it_is(store: SqliteStore) -> None:
    await store.sessions.extend("a", "s", items("u1", "m1"), now_s=NOW, new=True)
    await store.sessions.extend("a", "s", [*items("m1", size_bytes=9), *items("u2")], now_s=NOW)
    assert await store.sessions.history("a", "s") == tuple(items("u1", "m1", "u2"))
    loaded = await store.sessions.load("a", "s")
    assert loaded is not None
    assert loaded.items == 3


async def test_what_is_gone_does_not_grow(store: SqliteStore) -> None:
    await store.sessions.extend("a", "s", items("u1"), now_s=NOW, new=True)
    assert await store.sessions.delete("a", "s")
    assert not await store.sessions.delete("a", "s")
    assert not await store.sessions.extend("a", "s", items("u2"), now_s=NOW)
    assert await ids_in(store, "s") is None
    assert (rows(store, "sessions"), rows(store, "session_items")) == (0, 0)


async def test_a_foreign_session_is_an_unknown_one(store: SqliteStore) -> None:
    sessions = store.sessions
    await sessions.extend("a", "s", items("u1"), now_s=NOW, new=True)
    assert await sessions.load("b", "s") is None
    assert await sessions.history("b", "s") is None
    assert await sessions.items("b", "s", Page()) == ()
    assert await sessions.list("b", Page()) == ()
    assert not await sessions.update("b", "s", title="mine", metadata=b"{}")
    assert not await sessions.extend("b", "s", items("x"), now_s=NOW)
    assert not await sessions.fork("b", "s", a_session("t"))
    assert not await sessions.delete("b", "s")
    await sessions.extend("b", "s", items("x"), now_s=NOW, new=True)
    assert await ids_in(store, "s") == ["u1"]
    assert await ids_in(store, "s", tenant="b") == ["x"]


async def test_title_and_metadata_change_and_the_items_stay(store: SqliteStore) -> None:
    await store.sessions.extend("a", "s", items("u1"), now_s=NOW, new=True)
    assert await store.sessions.update("a", "s", title="Dogs", metadata=b'{"k":"v"}')
    loaded = await store.sessions.load("a", "s")
    assert loaded is not None
    assert (loaded.title, loaded.metadata, loaded.updated_at, loaded.items) == ("Dogs", b'{"k":"v"}', NOW, 1)


async def test_sessions_are_listed_by_pages_in_the_order_they_were_made(store: SqliteStore) -> None:
    for number in range(5):
        await store.sessions.create("a", a_session(f"s{number}"))
    await store.sessions.extend("a", "s0", items("u1"), now_s=NOW)
    newest = await store.sessions.list("a", Page(limit=2))
    assert [one.id for one in newest] == ["s4", "s3"]
    assert [one.id for one in await store.sessions.list("a", Page(limit=9, after="s3"))] == ["s2", "s1", "s0"]
    assert [one.id for one in await store.sessions.list("a", Page(order="asc", after="s3"))] == ["s4"]
    with pytest.raises(InvalidParameter, match="no entry 's9'"):
        await store.sessions.list("a", Page(after="s9"))


async def test_items_are_listed_by_pages(store: SqliteStore) -> None:
    await store.sessions.extend("a", "s", items("u1", "m1", "u2"), now_s=NOW, new=True)
    assert await store.sessions.items("a", "s", Page(order="asc", limit=2)) == tuple(items("u1", "m1"))
    assert await store.sessions.items("a", "s", Page(order="asc", after="m1")) == tuple(items("u2"))
    assert await store.sessions.items("a", "s", Page(after="u2")) == tuple(items("m1", "u1"))
    with pytest.raises(InvalidParameter, match="no entry 'u9'"):
        await store.sessions.items("a", "s", Page(after="u9"))


async def test_a_fork_has_the_same_past_and_a_future_of_its_own(store: SqliteStore) -> None:
    await store.sessions.extend("a", "s", items("u1", "m1"), now_s=NOW, new=True)
    await store.sessions.extend("a", "s", items("u2", "m2"), now_s=NOW)
    fork = StoredSession(id="t", created_at=NOW, updated_at=NOW, parent_id="s", title="Other")
    assert await store.sessions.fork("a", "s", fork, up_to="m1")
    assert await store.sessions.load("a", "t") == StoredSession(
        id="t", created_at=NOW, updated_at=NOW, parent_id="s", title="Other", items=2
    )
    await store.sessions.extend("a", "t", items("u3"), now_s=NOW)
    assert await store.sessions.delete("a", "s")
    assert await ids_in(store, "t") == ["u1", "m1", "u3"]


async def test_a_fork_says_what_is_wrong(store: SqliteStore) -> None:
    await store.sessions.extend("a", "s", items("u1"), now_s=NOW, new=True)
    with pytest.raises(InvalidParameter, match="has no message 'u9'"):
        await store.sessions.fork("a", "s", a_session("t"), up_to="u9")
    with pytest.raises(Conflict):
        await store.sessions.fork("a", "s", a_session("s"))
    assert not await store.sessions.fork("a", "nowhere", a_session("t"))
    assert rows(store, "sessions") == 1


async def test_the_least_recently_used_gives_way_for_its_tenant_alone(path: Path | None) -> None:
    async with open_store(path, max_sessions=2) as store:
        await store.sessions.extend("b", "s1", items("x"), now_s=NOW, new=True)
        for name in ("s1", "s2"):
            await store.sessions.extend("a", name, items("u"), now_s=NOW, new=True)
        await store.sessions.extend("a", "s1", items("u2"), now_s=NOW)
        await store.sessions.extend("a", "s3", items("u"), now_s=NOW, new=True)
        assert [one.id for one in await store.sessions.list("a", Page(order="asc"))] == ["s1", "s3"]
        assert await ids_in(store, "s2") is None
        assert await ids_in(store, "s1", tenant="b") == ["x"]
        assert rows(store, "session_items") == 4


async def test_what_was_used_last_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    async with open_store(path) as store:
        for name in ("s1", "s2", "s3"):
            await store.sessions.create("a", a_session(name))
        await store.sessions.extend("a", "s1", items("u"), now_s=NOW)
    async with open_store(path, max_sessions=2) as store:
        await store.sessions.create("a", a_session("s4"))
        assert [one.id for one in await store.sessions.list("a", Page(order="asc"))] == ["s1", "s4"]


async def test_a_session_that_does_not_grow_expires(path: Path | None) -> None:
    clock = HandClock()
    async with open_store(path, clock=clock, max_age_s=100) as store:
        await store.sessions.extend("a", "old", items("u1"), now_s=NOW, new=True)
        await store.sessions.extend("a", "used", items("u1"), now_s=NOW, new=True)
        await store.sessions.extend("a", "used", items("u2"), now_s=NOW + 60)
        clock.now += 100
        assert await store.sessions.load("a", "old") is None
        assert await ids_in(store, "old") is None
        assert await store.sessions.items("a", "old", Page()) == ()
        assert not await store.sessions.update("a", "old", title="t", metadata=b"{}")
        assert not await store.sessions.delete("a", "old")
        assert [one.id for one in await store.sessions.list("a", Page())] == ["used"]
        assert await store.sessions.extend("a", "old", items("u9"), now_s=NOW + 100, new=True)
        assert await ids_in(store, "old") == ["u9"]


async def test_what_has_expired_is_swept_from_the_file(path: Path | None) -> None:
    clock = HandClock()
    async with open_store(path, clock=clock, max_age_s=100) as store:
        await store.sessions.extend("a", "old", items("u1"), now_s=NOW, new=True)
        clock.now += 100
        store._sweep()
        await store.sessions.delete("a", "none")  # the writer works in order
        assert (rows(store, "sessions"), rows(store, "session_items")) == (0, 0)


async def test_a_session_of_too_many_items_loses_its_oldest_turns_whole(store: SqliteStore) -> None:
    size = session_rows.MAX_ITEMS // 3 - 1
    for turn in range(4):
        await store.sessions.extend("a", "s", items(*[f"{turn}_{n}" for n in range(size)]), now_s=NOW, new=True)
    kept = await ids_in(store, "s")
    assert kept is not None
    assert (kept[0], len(kept)) == ("2_0", 2 * size)  # a tenth more than it must
    loaded = await store.sessions.load("a", "s")
    assert loaded is not None
    assert loaded.items == len(kept)


async def test_a_session_that_is_too_large_loses_its_oldest_turns() -> None:
    size_bytes = session_rows.MAX_BYTES // 3
    async with open_store(None) as store:
        for turn in range(3):
            await store.sessions.extend("a", "s", items(f"u{turn}", size_bytes=size_bytes), now_s=NOW, new=True)
        assert await ids_in(store, "s") == ["u1", "u2"]
        await store.sessions.extend("a", "s", items("u3", size_bytes=session_rows.MAX_BYTES), now_s=NOW)
        assert await ids_in(store, "s") == ["u3"]  # the newest stays however large


async def test_a_response_remembers_its_session(store: SqliteStore) -> None:
    response = a_response("resp_1", session="s")
    await store.save_response("a", response)
    loaded = await store.load_response("a", "resp_1")
    assert loaded is not None
    assert loaded.session_id == "s"
