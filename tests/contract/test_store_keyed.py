"""What every store promises of answers by idempotency key, asked of a file and of memory."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.stores import HandClock, a_response, a_run, open_store, some_events
from trunkline.config.schema import IdempotencySettings
from trunkline.model.errors import StoreError
from trunkline.ports.stores import KeyedAnswer, StoredCompletion
from trunkline.stores.sqlite.store import SqliteStore


@pytest.fixture(params=["file", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "trunkline.db" if request.param == "file" else None


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def store(path: Path | None, clock: HandClock) -> AsyncIterator[SqliteStore]:
    bounds = IdempotencySettings(ttl_s=100, max_answers=3, max_bytes=10_000)
    async with open_store(path, clock=clock, keyed=bounds) as opened:
        yield opened


def answer(key: str, *, size_bytes: int = 0, answer_id: str = "resp_1", created_at: int = 1_800_000_000) -> KeyedAnswer:
    return KeyedAnswer(
        key=key, fingerprint=key.encode(), answer_id=answer_id, created_at=created_at, data=b"x" * size_bytes
    )


async def kept(store: SqliteStore, keys: str, *, tenant: str = "a") -> str:
    return "".join([key for key in keys if await store.keyed_answers.load(tenant, key)])


async def test_an_answer_comes_back_by_its_key_and_to_its_tenant(store: SqliteStore) -> None:
    await store.keyed_answers.save("a", answer("k", size_bytes=9))
    assert await store.keyed_answers.load("a", "k") == answer("k", size_bytes=9)
    assert await store.keyed_answers.load("b", "k") is None
    again = answer("k", answer_id="resp_2")
    await store.keyed_answers.save("a", again)
    assert await store.keyed_answers.load("a", "k") == again


async def test_an_answer_expires(store: SqliteStore, clock: HandClock) -> None:
    await store.keyed_answers.save("a", answer("k"))
    clock.now += 99
    assert await store.keyed_answers.load("a", "k") is not None
    clock.now += 1
    assert await store.keyed_answers.load("a", "k") is None


async def test_the_oldest_give_way_to_their_own_tenants(store: SqliteStore) -> None:
    await store.keyed_answers.save("b", answer("1"))
    for key in "1234":
        await store.keyed_answers.save("a", answer(key))
    assert await kept(store, "1234") == "234"
    assert await kept(store, "1", tenant="b") == "1"


async def test_large_answers_give_way_together_but_the_last_stays(store: SqliteStore) -> None:
    for key in "12":
        await store.keyed_answers.save("a", answer(key, size_bytes=5000))
    assert await kept(store, "12") == "2"
    await store.keyed_answers.save("a", answer("3", size_bytes=50_000))
    assert await kept(store, "123") == "3"


async def test_what_is_deleted_is_not_found_by_its_key(store: SqliteStore) -> None:
    await store.save_response("a", a_response("resp_1"))
    completion = StoredCompletion(id="chat_1", object=b"{}", messages=b"[]", model="m", created_at=1_800_000_000)
    await store.save_completion("a", completion)
    await store.keyed_answers.save("a", answer("r", answer_id="resp_1"))
    await store.keyed_answers.save("a", answer("c", answer_id="chat_1"))
    await store.keyed_answers.save("b", answer("r", answer_id="resp_1"))
    assert await store.delete_response("a", "resp_1")
    assert await store.delete_completion("a", "chat_1")
    assert await kept(store, "rc") == ""
    assert await kept(store, "r", tenant="b") == "r"


async def test_a_run_and_its_key_are_there_together_or_not_at_all(store: SqliteStore) -> None:
    run, response = a_run("resp_1"), a_response("resp_1", status="queued")
    await store.create_run(run, response, some_events(0, 1), keyed=answer("k"))
    assert await kept(store, "k") == "k"
    with pytest.raises(StoreError):
        await store.create_run(run, response, some_events(0, 1), keyed=answer("l"))
    assert await kept(store, "kl") == "k"


async def test_what_has_expired_leaves_the_file(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "trunkline.db"
    async with open_store(path, clock=clock) as store:
        await store.keyed_answers.save("a", answer("k"))
    clock.now += 86_400
    async with open_store(path, clock=clock) as store:
        await store.keyed_answers.load("a", "k")
        await store.keyed_answers.save("a", answer("l", created_at=int(clock.now)))
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT key FROM keyed_answers").fetchall() == [("l",)]
    connection.close()
