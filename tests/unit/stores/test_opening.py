"""Opening a store's file: whose it is, who may read it, which schema it has, and who else has it."""

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.stores import HandClock, a_response, open_store
from trunkline.config.schema import StoreSettings
from trunkline.model.errors import ConfigError, StoreError
from trunkline.stores.sqlite import build
from trunkline.stores.sqlite.migrations import MIGRATIONS
from trunkline.stores.sqlite.store import SqliteStore

NEXT = (*MIGRATIONS, ("ALTER TABLE responses ADD COLUMN colour TEXT", "CREATE TABLE later (tenant TEXT NOT NULL)"))
NOW = len(MIGRATIONS)
BACKUP = f"trunkline.db.schema-{NOW}-backup"
BROKEN = (*MIGRATIONS, ("CREATE TABLE later (tenant TEXT NOT NULL)", "ALTER TABLE nowhere ADD COLUMN colour TEXT"))


@pytest.fixture(params=[0o000, 0o022, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


async def refusal(store: SqliteStore) -> str:
    with pytest.raises((ConfigError, StoreError)) as caught:
        await store.start()
    await store.close()
    return caught.value.message


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_only_the_owner_can_read_what_is_stored(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "trunkline.db"
    async with open_store(path) as store:
        await store.save_response("a", a_response("resp_1"))
        names = {"trunkline.db", "trunkline.db-wal", "trunkline.db-shm", "trunkline.db-lock"}
        assert modes(tmp_path) == dict.fromkeys(names, 0o600)
    async with upgraded(path) as store:
        await store.save_response("a", a_response("resp_2"))
        assert set(modes(tmp_path)) == names | {BACKUP}
        assert set(modes(tmp_path).values()) == {0o600}


async def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    async with open_store(path):
        pass
    path.chmod(0o644)
    async with open_store(path):
        assert modes(tmp_path)["trunkline.db"] == 0o600


@contextlib.asynccontextmanager
async def upgraded(path: Path):  # type: ignore[no-untyped-def]  # as open_store, with one migration more
    store = SqliteStore(path, clock=HandClock(), migrations=NEXT)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    async with upgraded(path) as store:
        await store.save_response("a", a_response("resp_1"))
    before = path.read_bytes()
    assert await refusal(SqliteStore(path, clock=HandClock())) == (
        f"store.url: {path} was written by a newer version of trunkline (its schema is {NOW + 1}, this version knows {NOW}); "
        "use that version, or give another file"
    )
    assert path.read_bytes() == before
    async with upgraded(path) as store:
        assert await store.load_response("a", "resp_1")


async def test_a_file_of_an_older_version_is_upgraded_and_a_copy_kept(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    async with open_store(path) as store:
        await store.save_response("a", a_response("resp_1"))
    async with upgraded(path) as store:
        assert await store.load_response("a", "resp_1") == a_response("resp_1")
        await store.save_response("a", a_response("resp_2"))
    (tmp_path / BACKUP).rename(tmp_path / "old.db")
    async with open_store(tmp_path / "old.db") as store:
        assert await store.load_response("a", "resp_1") == a_response("resp_1")
        assert await store.load_response("a", "resp_2") is None
    async with upgraded(path):
        assert not (tmp_path / BACKUP).exists()  # nothing to upgrade, nothing copied


async def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    async with open_store(path) as store:
        await store.save_response("a", a_response("resp_1"))
    assert "no such table: nowhere" in await refusal(SqliteStore(path, clock=HandClock(), migrations=BROKEN))
    async with open_store(path) as store:
        assert await store.load_response("a", "resp_1") == a_response("resp_1")
    async with upgraded(path) as store:
        assert await store.load_response("a", "resp_1") == a_response("resp_1")


async def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("These are my notes, not a database. " * 50)
    assert "is not a SQLite database" in await refusal(SqliteStore(text, clock=HandClock()))
    assert text.read_text().startswith("These are my notes")
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    before = other.read_bytes()
    assert "is a database of another program" in await refusal(SqliteStore(other, clock=HandClock()))
    assert other.read_bytes() == before
    assert "Is a directory" in await refusal(SqliteStore(tmp_path, clock=HandClock()))
    assert "give a file in a folder that exists" in await refusal(
        SqliteStore(tmp_path / "none" / "x.db", clock=HandClock())
    )


async def test_a_second_store_on_the_same_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    async with open_store(path) as store:
        message = await refusal(SqliteStore(path, clock=HandClock(), lock_wait_s=0))
        assert message == (
            f"store.url: {path} is in use by process {os.getpid()}: a store belongs to one server at a time; "
            'stop that one, or give this one another file: [store] url = "sqlite:///other.db", or "memory:"'
        )
        await store.save_response("a", a_response("resp_1"))
    async with open_store(path) as store:
        assert await store.load_response("a", "resp_1")


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    code = (
        "import asyncio, pathlib, sys\n"
        "from trunkline.ports.runtime import SystemClock\n"
        "from trunkline.stores.sqlite.store import SqliteStore\n"
        "asyncio.run(SqliteStore(pathlib.Path(sys.argv[1]), clock=SystemClock(), lock_wait_s=0).start())\n"
    )
    path = tmp_path / "trunkline.db"
    async with open_store(path):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(path), stderr=subprocess.PIPE, env={"PYTHONPATH": os.pathsep.join(sys.path)}
        )
        _, stderr = await process.communicate()
    assert process.returncode == 1
    assert f"is in use by process {os.getpid()}".encode() in stderr


async def test_a_store_waits_for_one_that_is_closing(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    second = SqliteStore(path, clock=HandClock(), lock_wait_s=60)
    async with open_store(path) as store:
        await store.save_response("a", a_response("resp_1"))
        starting = asyncio.create_task(second.start())
        await asyncio.sleep(0)
        assert not starting.done()
    await starting
    assert await second.load_response("a", "resp_1")
    await second.close()


async def test_settings_name_the_file(tmp_path: Path) -> None:
    store = build(StoreSettings(url="sqlite:///kept.db", max_responses=5), base_dir=tmp_path, clock=HandClock())
    await store.start()
    await store.close()
    assert (tmp_path / "kept.db").exists()
    elsewhere = tmp_path / "elsewhere.db"
    absolute = build(StoreSettings(url=f"sqlite:///{elsewhere}"), base_dir=Path("nowhere"), clock=HandClock())
    await absolute.start()
    await absolute.close()
    assert elsewhere.exists()
    memory = build(StoreSettings(url="memory:"), base_dir=Path("nowhere"), clock=HandClock())
    await memory.start()
    await memory.close()
    with pytest.raises(ConfigError, match="expected 'sqlite:///FILE' or 'memory:'"):
        build(StoreSettings(url="redis://x"), base_dir=tmp_path, clock=HandClock())
