"""What every store promises, asked of a file and of memory."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.stores import HandClock, a_response, a_run, open_store, said_by, some_events
from trunkline.model.errors import InvalidParameter, StoreError
from trunkline.ports.stores import (
    Page,
    Segment,
    Store,
    StoredCompletion,
    StoredConversation,
    StoredItem,
)
from trunkline.stores.sqlite.store import SqliteStore


@pytest.fixture(params=["file", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "trunkline.db" if request.param == "file" else None


@pytest.fixture
async def store(path: Path | None) -> AsyncIterator[SqliteStore]:
    async with open_store(path) as opened:
        yield opened


async def test_it_is_a_store(store: SqliteStore) -> None:
    typed: Store = store
    assert await typed.load_response("a", "resp_1") is None


# Responses and chains


async def test_a_response_comes_back_as_it_was_stored(store: SqliteStore) -> None:
    conversation = a_response("resp_1", name="chat", conversation="conv_1", background=True, size_bytes=5000)
    await store.save_response("a", conversation)
    assert await store.load_response("a", "resp_1") == conversation


async def test_a_stored_response_can_be_replaced(store: SqliteStore) -> None:
    await store.save_response("a", a_response("resp_1", status="in_progress"))
    assert await store.load_response("a", "resp_1") == a_response("resp_1", status="in_progress")
    await store.save_response("a", a_response("resp_1", text=" and more"))
    assert await store.load_response("a", "resp_1") == a_response("resp_1", text=" and more")


async def test_a_foreign_id_is_an_unknown_id(store: SqliteStore) -> None:
    await store.create_run(a_run("resp_1"), a_response("resp_1", name="chat", status="queued"), some_events(0, 1))
    await store.create_conversation("a", StoredConversation(id="conv_1", created_at=1), [StoredItem("i", b"{}")])
    await store.save_completion("a", a_completion("chat_1"))
    assert await store.load_response("b", "resp_1") is None
    assert await store.history("b", "resp_1") is None
    assert await store.named_response("b", "chat") is None
    assert await store.load_run("b", "resp_1") is None
    assert await store.read_events("b", "resp_1", after=-1, limit=10) == ()
    assert not await store.start_run("b", "resp_1")
    assert not await store.append_events("b", "resp_1", some_events(2, 2))
    assert not await store.delete_response("b", "resp_1")
    assert await store.load_conversation("b", "conv_1") is None
    assert not await store.update_conversation("b", StoredConversation(id="conv_1", created_at=2))
    assert not await store.add_items("b", "conv_1", [StoredItem("j", b"{}")])
    assert await store.list_items("b", "conv_1", Page()) == ()
    assert await store.load_item("b", "conv_1", "i") is None
    assert not await store.delete_item("b", "conv_1", "i")
    assert not await store.delete_conversation("b", "conv_1")
    assert await store.load_completion("b", "chat_1") is None
    assert not await store.update_completion("b", "chat_1", metadata=b"{}", object=b"{}")
    assert not await store.delete_completion("b", "chat_1")
    assert await store.list_completions("b", Page()) == ()
    await store.save_response("b", a_response("resp_1", text=" of another"))
    assert await store.load_response("a", "resp_1") == a_response("resp_1", name="chat", status="queued")


async def test_a_chain_is_given_from_its_first_turn(store: SqliteStore) -> None:
    await store.save_response("a", a_response("resp_1"))
    await store.save_response("a", a_response("resp_2", parent="resp_1"))
    await store.save_response("a", a_response("resp_3", parent="resp_2"))
    await store.save_response("a", a_response("resp_3b", parent="resp_2"))
    turns = [a_response(name) for name in ("resp_1", "resp_2", "resp_3b")]
    assert await store.history("a", "resp_3b") == tuple(Segment(turn.input, turn.output) for turn in turns)
    assert await store.history("a", "resp_9") is None


async def test_deleting_a_turn_leaves_its_descendants_complete(store: SqliteStore) -> None:
    for number in range(1, 5):
        await store.save_response(
            "a", a_response(f"resp_{number}", parent=f"resp_{number - 1}" if number > 1 else None)
        )
    whole = await said_by(store, "a", "resp_4")
    assert await store.delete_response("a", "resp_2")
    assert await store.load_response("a", "resp_2") is None
    assert await store.history("a", "resp_2") is None
    assert not await store.delete_response("a", "resp_2")
    assert await said_by(store, "a", "resp_4") == whole


async def test_nothing_of_a_chain_is_left_once_nobody_continues_it(store: SqliteStore) -> None:
    for number in range(1, 5):
        await store.save_response(
            "a", a_response(f"resp_{number}", parent=f"resp_{number - 1}" if number > 1 else None)
        )
    await store.save_response("a", a_response("resp_3b", parent="resp_2"))
    for name in ("resp_1", "resp_2", "resp_4", "resp_3"):
        assert await store.delete_response("a", name)
    assert rows(store, "responses") == 3  # the side branch and what it stands on
    assert await store.delete_response("a", "resp_3b")
    assert rows(store, "responses") == 0


async def test_a_turn_whose_parent_went_meanwhile_keeps_the_history_it_had(store: SqliteStore) -> None:
    await store.save_response("a", a_response("resp_1"))
    await store.save_response("a", a_response("resp_2", parent="resp_1"))
    history = await store.history("a", "resp_2")
    assert history is not None
    await store.delete_response("a", "resp_2")
    await store.delete_response("a", "resp_1")
    await store.save_response("a", a_response("resp_3", parent="resp_2"), history=history)
    await store.save_response("a", a_response("resp_4", parent="resp_3"))
    assert await said_by(store, "a", "resp_4") == [
        b'[{"in":"resp_1"},{"out":"resp_1"},{"in":"resp_2"},{"out":"resp_2"}]',
        b"[]",
        *(part for name in ("resp_3", "resp_4") for part in (a_response(name).input, a_response(name).output)),
    ]


async def test_history_is_not_copied_while_the_parent_is_there(store: SqliteStore) -> None:
    await store.save_response("a", a_response("resp_1"))
    history = await store.history("a", "resp_1")
    assert history is not None
    await store.delete_response("a", "resp_9")
    await store.save_response("a", a_response("resp_2", parent="resp_1"), history=history)
    assert len(await store.history("a", "resp_2") or ()) == 2


async def test_a_turn_is_not_stored_without_what_it_continues(store: SqliteStore) -> None:
    with pytest.raises(StoreError, match="it continues 'resp_1', which is not stored"):
        await store.save_response("a", a_response("resp_2", parent="resp_1"))
    with pytest.raises(StoreError):
        await store.save_response("a", a_response("resp_3", parent="resp_3"))
    assert await store.load_response("a", "resp_2") is None


async def test_a_name_points_to_the_last_response_saved_with_it(store: SqliteStore) -> None:
    await store.save_response("a", a_response("resp_1", name="chat"))
    await store.save_response("a", a_response("resp_2", parent="resp_1", name="chat"))
    assert await store.named_response("a", "chat") == "resp_2"
    await store.delete_response("a", "resp_1")
    assert await store.named_response("a", "chat") == "resp_2"
    await store.save_response("a", a_response("resp_3", parent="resp_2"))
    await store.delete_response("a", "resp_2")
    assert await store.named_response("a", "chat") is None


async def test_one_write_that_fails_does_not_fail_those_beside_it(store: SqliteStore) -> None:
    results = await asyncio.gather(
        *(store.save_response("a", a_response(f"resp_{n}")) for n in range(20)),
        store.save_response("a", a_response("resp_x", parent="resp_gone")),
        *(store.save_response("a", a_response(f"resp_{n}")) for n in range(20, 40)),
        return_exceptions=True,
    )
    assert [type(result) for result in results if result is not None] == [StoreError]
    assert all([await store.load_response("a", f"resp_{n}") for n in range(40)])


async def test_writes_that_come_together_share_a_transaction(store: SqliteStore) -> None:
    database = store._database
    assert database is not None
    statements: list[str] = []
    database.writer.set_trace_callback(statements.append)
    with database.writer_gate:  # as while another transaction is being synced
        saving = [asyncio.create_task(store.save_response("a", a_response(f"resp_{n}"))) for n in range(200)]
        await asyncio.sleep(0)
    await asyncio.gather(*saving)
    database.writer.set_trace_callback(None)
    assert statements.count("COMMIT") <= 2  # the first may have been taken alone


async def test_a_full_store_refuses_writes_serves_reads_and_recovers(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store.create_run(a_run("resp_run"), a_response("resp_run", status="queued"), some_events(0, 0))
    limit_pages(store, 40)
    results = await asyncio.gather(
        *(store.save_response("a", a_response(f"resp_{n}", size_bytes=20_000)) for n in range(30)),
        store.append_events("a", "resp_run", some_events(1, 1), final=a_response("resp_run", size_bytes=500_000)),
        return_exceptions=True,
    )
    *saves, ending = results
    assert {getattr(result, "code", None) for result in saves} == {"store_full", None}
    assert isinstance(ending, StoreError)
    assert ending.message == "nothing was written: the store's disk is full"
    for number, result in enumerate(saves):
        assert (await store.load_response("a", f"resp_{number}") is None) == (result is not None)
    assert await store.read_events("a", "resp_run", after=-1, limit=9) == tuple(some_events(0, 0))
    limit_pages(store, 1_000_000)
    assert await store.append_events("a", "resp_run", some_events(1, 1), final=a_response("resp_run"))
    assert [record.message for record in caplog.records][-1] == "the store can write again"
    assert any("SQLITE_FULL" in record.message for record in caplog.records)


async def test_a_cancelled_caller_does_not_undo_its_write(store: SqliteStore) -> None:
    saving = asyncio.create_task(store.save_response("a", a_response("resp_1")))
    await asyncio.sleep(0)  # it has been handed over
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    await store.save_response("a", a_response("resp_2"))
    assert await store.load_response("a", "resp_1") == a_response("resp_1")


async def test_a_cancelled_reader_leaves_the_query_to_the_others(store: SqliteStore) -> None:
    await store.save_response("a", a_response("resp_1"))
    first = asyncio.create_task(store.load_response("a", "resp_1"))
    second = asyncio.create_task(store.load_response("a", "resp_1"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == a_response("resp_1")


async def test_a_thousand_readers_of_a_finished_response_cost_one_query(store: SqliteStore) -> None:
    await store.save_response("a", a_response("resp_1"))
    queries: list[str] = []
    database = store._database
    assert database is not None
    database.reader.set_trace_callback(queries.append)
    found = await asyncio.gather(*(store.load_response("a", "resp_1") for _ in range(1000)))
    assert await store.load_response("a", "resp_1") == a_response("resp_1")
    database.reader.set_trace_callback(None)
    assert found == [a_response("resp_1")] * 1000
    assert len([query for query in queries if query.split()[0] == "SELECT"]) == 1


async def test_who_has_heard_of_a_write_never_reads_what_was_before_it(store: SqliteStore) -> None:
    await store.save_response("a", a_response("resp_1", text="0"))
    for number in range(1, 100):
        before = [asyncio.create_task(store.load_response("a", "resp_1")) for _ in range(3)]
        await store.save_response("a", a_response("resp_1", text=str(number)))
        assert await store.load_response("a", "resp_1") == a_response("resp_1", text=str(number))
        await asyncio.gather(*before)
        assert await store.load_response("a", "resp_1") == a_response("resp_1", text=str(number))


# Limits


async def test_the_least_recently_used_give_way(path: Path | None) -> None:
    async with open_store(path, max_responses=3) as store:
        for name in ("resp_1", "resp_2", "resp_3"):
            await store.save_response("a", a_response(name, name=f"named {name}"))
        assert await store.load_response("a", "resp_1")
        await store.save_response("a", a_response("resp_4"))
        assert await store.load_response("a", "resp_2") is None
        assert await store.named_response("a", "named resp_2") is None
        assert await store.history("a", "resp_3")
        await store.save_response("a", a_response("resp_5"))
        assert [n for n in range(1, 6) if await store.load_response("a", f"resp_{n}")] == [3, 4, 5]


async def test_the_limit_is_each_tenants_own(path: Path | None) -> None:
    async with open_store(path, max_responses=2) as store:
        await store.save_response("a", a_response("resp_1"))
        for number in range(10):
            await store.save_response("b", a_response(f"resp_{number}"))
        assert await store.load_response("a", "resp_1")
        assert rows(store, "responses") == 3


async def test_the_limit_holds_at_every_moment(path: Path | None) -> None:
    async with open_store(path, max_responses=200) as store:
        for number in range(650):
            await store.save_response("a", a_response(f"resp_{number}"))
            assert rows(store, "responses") <= 200
        assert rows(store, "responses") >= 198
        assert await store.load_response("a", "resp_649")


async def test_what_gives_way_leaves_the_chains_that_stand_on_it(path: Path | None) -> None:
    async with open_store(path, max_responses=3) as store:
        for number in range(1, 11):
            parent = f"resp_{number - 1}" if number > 1 else None
            await store.save_response("a", a_response(f"resp_{number}", parent=parent))
        assert await store.load_response("a", "resp_1") is None
        assert len(await store.history("a", "resp_10") or ()) == 10


async def test_what_is_being_answered_never_gives_way(path: Path | None) -> None:
    async with open_store(path, max_responses=2) as store:
        await store.create_run(a_run("resp_run"), a_response("resp_run", status="queued"), some_events(0, 0))
        for number in range(6):
            await store.save_response("a", a_response(f"resp_{number}"))
        assert await store.load_response("a", "resp_run")
        assert await store.append_events("a", "resp_run", some_events(1, 1), final=a_response("resp_run"))
        for number in range(6, 9):
            await store.save_response("a", a_response(f"resp_{number}"))
        assert await store.load_response("a", "resp_run") is None
        assert await store.load_run("a", "resp_run") is None
        assert rows(store, "events") == 0


async def test_what_is_too_old_is_gone_for_readers_and_then_for_good(path: Path | None) -> None:
    clock = HandClock()
    async with open_store(path, max_age_s=100, clock=clock) as store:
        await store.save_response("a", a_response("resp_1", name="chat"))
        await store.save_completion("a", a_completion("chat_1"))
        assert await store.load_response("a", "resp_1")
        clock.now += 101
        assert await store.load_response("a", "resp_1") is None
        assert await store.history("a", "resp_1") is None
        assert await store.named_response("a", "chat") is None
        assert not await store.delete_response("a", "resp_1")
        assert await store.load_completion("a", "chat_1") is None
        assert await store.list_completions("a", Page()) == ()
        assert not await store.delete_completion("a", "chat_1")
        store._sweep()  # as its timer does
        await store.add_items("a", "none", [])  # whatever is written later is written after it
        assert [rows(store, table) for table in ("responses", "names", "completions")] == [0, 0, 0]


async def test_reads_cost_no_writes(store: SqliteStore) -> None:
    await store.save_response("a", a_response("resp_1"))
    database = store._database
    assert database is not None
    written: list[str] = []
    database.writer.set_trace_callback(written.append)
    if database.writer is not database.reader:
        for _ in range(900):
            await store.load_response("a", "resp_1")
        assert written == []
        for _ in range(200):
            await store.load_response("a", "resp_1")
        await store.add_items("a", "none", [])
    database.writer.set_trace_callback(None)
    assert len([statement for statement in written if statement.startswith("UPDATE")]) <= 1


# Runs


async def test_a_run_from_queued_to_its_end(store: SqliteStore) -> None:
    await store.create_run(a_run("resp_1"), a_response("resp_1", status="queued"), some_events(0, 1))
    run = await store.load_run("a", "resp_1")
    assert run is not None
    assert (run.status, run.next_sequence, run.request) == ("queued", 2, b'{"again":1}')
    started = a_response("resp_1", status="in_progress")
    assert await store.start_run("a", "resp_1", response=started, events=some_events(2, 2))
    assert not await store.start_run("a", "resp_1")
    assert await store.load_response("a", "resp_1") == started
    assert await store.append_events("a", "resp_1", some_events(3, 10))
    assert await store.unfinished_runs() == (await store.load_run("a", "resp_1"),)
    assert await store.append_events("a", "resp_1", some_events(11, 12), final=a_response("resp_1"))
    assert await store.unfinished_runs() == ()
    run = await store.load_run("a", "resp_1")
    assert run is not None
    assert (run.status, run.next_sequence, run.request) == ("completed", 13, b"")
    assert await store.load_response("a", "resp_1") == a_response("resp_1")
    assert await store.read_events("a", "resp_1", after=-1, limit=100) == tuple(some_events(0, 12))
    assert await store.read_events("a", "resp_1", after=3, limit=4) == tuple(some_events(4, 7))
    assert await store.read_events("a", "resp_1", after=12, limit=4) == ()


async def test_a_run_may_end_otherwise_than_its_response(store: SqliteStore) -> None:
    await store.create_run(a_run("resp_1"), a_response("resp_1", status="queued"), some_events(0, 0))
    final = a_response("resp_1", status="incomplete")
    assert await store.append_events("a", "resp_1", some_events(1, 1), final=final, status="cancelled")
    assert await store.load_response("a", "resp_1") == final
    run = await store.load_run("a", "resp_1")
    assert run is not None
    assert run.status == "cancelled"


async def test_a_run_that_has_ended_takes_nothing_more(store: SqliteStore) -> None:
    await store.create_run(a_run("resp_1"), a_response("resp_1", status="queued"), some_events(0, 0))
    cancelled = a_response("resp_1", status="cancelled")
    assert await store.append_events("a", "resp_1", some_events(1, 1), final=cancelled)
    assert not await store.start_run("a", "resp_1")
    assert not await store.append_events("a", "resp_1", some_events(2, 2))
    assert not await store.append_events("a", "resp_1", some_events(2, 2), final=a_response("resp_1"))
    assert await store.load_response("a", "resp_1") == cancelled
    assert await store.read_events("a", "resp_1", after=-1, limit=10) == tuple(some_events(0, 1))


async def test_of_two_ends_at_once_one_wins(store: SqliteStore) -> None:
    await store.create_run(a_run("resp_1"), a_response("resp_1", status="queued"), some_events(0, 0))
    ends = [a_response("resp_1", text=str(number)) for number in range(8)]
    won = await asyncio.gather(*(store.append_events("a", "resp_1", some_events(1, 1), final=end) for end in ends))
    assert sum(won) == 1
    assert await store.load_response("a", "resp_1") == ends[won.index(True)]


@pytest.mark.parametrize("first", [0, 2])
async def test_a_log_with_a_gap_or_a_repeat_is_refused(store: SqliteStore, first: int) -> None:
    await store.create_run(a_run("resp_1"), a_response("resp_1", status="queued"), some_events(0, 0))
    with pytest.raises(StoreError, match=f"expected sequence number 1, got {first}"):
        await store.append_events("a", "resp_1", some_events(first, first), final=a_response("resp_1"))
    run = await store.load_run("a", "resp_1")
    assert run is not None
    assert (run.status, run.next_sequence) == ("queued", 1)


async def test_an_end_needs_a_terminal_status(store: SqliteStore) -> None:
    await store.create_run(a_run("resp_1"), a_response("resp_1", status="queued"), some_events(0, 0))
    with pytest.raises(StoreError, match="'in_progress' is not the status of a run that has ended"):
        await store.append_events("a", "resp_1", [], final=a_response("resp_1", status="in_progress"))
    with pytest.raises(StoreError, match="a run has the id of its response"):
        await store.create_run(a_run("resp_2"), a_response("resp_3", status="queued"), [])
    assert await store.load_response("a", "resp_3") is None


async def test_deleting_a_running_response_fences_its_worker(store: SqliteStore) -> None:
    await store.create_run(a_run("resp_1"), a_response("resp_1", status="queued"), some_events(0, 3))
    assert await store.start_run("a", "resp_1")
    assert await store.delete_response("a", "resp_1")
    assert not await store.append_events("a", "resp_1", some_events(4, 4), final=a_response("resp_1"))
    assert await store.load_run("a", "resp_1") is None
    assert [rows(store, table) for table in ("responses", "runs", "events")] == [0, 0, 0]


async def test_unfinished_runs_of_all_tenants_are_found_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    async with open_store(path) as store:
        for tenant, name in (("a", "resp_1"), ("b", "resp_2"), ("a", "resp_3")):
            await store.create_run(a_run(name, tenant=tenant), a_response(name, status="queued"), some_events(0, 0))
        await store.start_run("b", "resp_2", events=some_events(1, 4))
        await store.append_events("a", "resp_3", some_events(1, 1), final=a_response("resp_3"))
    async with open_store(path) as store:
        found = [(run.tenant, run.id, run.status, run.next_sequence) for run in await store.unfinished_runs()]
        assert found == [("a", "resp_1", "queued", 1), ("b", "resp_2", "in_progress", 5)]


async def test_a_reader_that_knows_of_an_append_sees_it(store: SqliteStore) -> None:
    await store.create_run(a_run("resp_1"), a_response("resp_1", status="queued"), some_events(0, 0))
    for number in range(1, 60):
        early = asyncio.create_task(store.read_events("a", "resp_1", after=number - 1, limit=10))
        await store.append_events("a", "resp_1", some_events(number, number))
        assert await store.read_events("a", "resp_1", after=number - 1, limit=10) == tuple(some_events(number, number))
        assert await early in ((), tuple(some_events(number, number)))


# Conversations


def items(*names: str) -> list[StoredItem]:
    return [StoredItem(name, b'{"id":"%s"}' % name.encode()) for name in names]


async def test_a_conversation_with_its_items(store: SqliteStore) -> None:
    conversation = StoredConversation(id="conv_1", created_at=5, metadata=b'{"k":"v"}')
    await store.create_conversation("a", conversation, items("i1", "i2"))
    assert await store.load_conversation("a", "conv_1") == conversation
    assert await store.add_items("a", "conv_1", items("i3", "i4", "i2"))
    assert not await store.add_items("a", "conv_2", items("i1"))
    assert await store.list_items("a", "conv_1", Page(order="asc")) == tuple(items("i1", "i2", "i3", "i4"))
    assert await store.list_items("a", "conv_1", Page(limit=2)) == tuple(items("i4", "i3"))
    assert await store.list_items("a", "conv_1", Page(limit=2, after="i3")) == tuple(items("i2", "i1"))
    assert await store.list_items("a", "conv_1", Page(order="asc", after="i3")) == tuple(items("i4"))
    with pytest.raises(InvalidParameter, match="no entry 'i9'"):
        await store.list_items("a", "conv_1", Page(after="i9"))
    assert await store.load_item("a", "conv_1", "i2") == items("i2")[0]
    assert await store.delete_item("a", "conv_1", "i2")
    assert not await store.delete_item("a", "conv_1", "i2")
    assert await store.load_item("a", "conv_1", "i2") is None
    renamed = StoredConversation(id="conv_1", created_at=5, metadata=b"{}")
    assert await store.update_conversation("a", renamed)
    assert await store.load_conversation("a", "conv_1") == renamed
    await store.save_response("a", a_response("resp_1", conversation="conv_1"))
    assert await store.delete_conversation("a", "conv_1")
    assert await store.list_items("a", "conv_1", Page()) == ()
    assert await store.load_response("a", "resp_1")


async def test_a_turn_and_its_items_are_stored_together(store: SqliteStore) -> None:
    await store.create_conversation("a", StoredConversation(id="conv_1", created_at=5), items("i1"))
    await store.save_response("a", a_response("resp_1", conversation="conv_1"), items=items("i2"))
    queued = a_response("resp_2", status="queued", conversation="conv_1")
    await store.create_run(a_run("resp_2"), queued, some_events(0, 0))
    done = a_response("resp_2", conversation="conv_1")
    assert await store.append_events("a", "resp_2", some_events(1, 1), final=done, items=items("i3"))
    assert not await store.append_events("a", "resp_2", some_events(2, 2), final=done, items=items("i4"))
    await store.save_response("a", a_response("resp_3", conversation="conv_gone"), items=items("i5"))
    assert await store.list_items("a", "conv_1", Page(order="asc")) == tuple(items("i1", "i2", "i3"))


async def test_the_same_conversation_is_not_created_twice(store: SqliteStore) -> None:
    await store.create_conversation("a", StoredConversation(id="conv_1", created_at=5), items("i1"))
    with pytest.raises(StoreError):
        await store.create_conversation("a", StoredConversation(id="conv_1", created_at=6), items("i2"))
    assert await store.list_items("a", "conv_1", Page()) == tuple(items("i1"))


# Stored chat completions


def a_completion(name: str, *, model: str = "m", metadata: bytes = b"{}") -> StoredCompletion:
    return StoredCompletion(
        id=name,
        object=b'{"id":"%s"}' % name.encode(),
        messages=b"[]",
        model=model,
        created_at=1_800_000_000,
        metadata=metadata,
    )


async def test_stored_completions_are_listed_in_order_and_filtered(store: SqliteStore) -> None:
    stored = [
        a_completion("chat_1", metadata=b'{"topic":"a","n":"1"}'),
        a_completion("chat_2", model="other"),
        a_completion("chat_3", metadata=b'{"topic":"a\\u00e9","n":"1"}'),
        a_completion("chat_4", metadata=b'{"topic":"a","n":"2"}'),
    ]
    for completion in stored:
        await store.save_completion("a", completion)
    assert await store.list_completions("a", Page(order="asc")) == tuple(stored)
    assert await store.list_completions("a", Page(limit=2)) == (stored[3], stored[2])
    assert await store.list_completions("a", Page(limit=2, after="chat_3")) == (stored[1], stored[0])
    assert await store.list_completions("a", Page(order="asc", after="chat_2")) == (stored[2], stored[3])
    assert await store.list_completions("a", Page(), model="other") == (stored[1],)
    assert await store.list_completions("a", Page(), metadata=b'{"topic":"a"}') == (stored[3], stored[0])
    assert await store.list_completions("a", Page(), metadata=b'{"n":"1","topic":"a"}') == (stored[0],)
    assert await store.list_completions("a", Page(), metadata='{"topic":"aé"}'.encode()) == (stored[2],)
    assert await store.list_completions("a", Page(), metadata=b'{"none":"x"}') == ()
    with pytest.raises(InvalidParameter):
        await store.list_completions("a", Page(after="chat_9"))


async def test_a_stored_completion_is_updated_replaced_and_deleted(store: SqliteStore) -> None:
    await store.save_completion("a", a_completion("chat_1"))
    assert await store.update_completion("a", "chat_1", metadata=b'{"k":"v"}', object=b'{"new":1}')
    found = await store.load_completion("a", "chat_1")
    assert found is not None
    assert (found.metadata, found.object) == (b'{"k":"v"}', b'{"new":1}')
    assert not await store.update_completion("a", "chat_2", metadata=b"{}", object=b"{}")
    await store.save_completion("a", a_completion("chat_1", model="other"))
    assert await store.list_completions("a", Page()) == (a_completion("chat_1", model="other"),)
    assert await store.delete_completion("a", "chat_1")
    assert not await store.delete_completion("a", "chat_1")


async def test_the_oldest_completions_give_way(path: Path | None) -> None:
    async with open_store(path, max_responses=3) as store:
        for number in range(10):
            await store.save_completion("a", a_completion(f"chat_{number}"))
            assert rows(store, "completions") <= 3
        assert [found.id for found in await store.list_completions("a", Page())] == ["chat_9", "chat_8", "chat_7"]


# Its life


async def test_a_closed_store_says_so_and_closes_again(path: Path | None) -> None:
    store = SqliteStore(path, clock=HandClock())
    with pytest.raises(StoreError, match="not open"):
        await store.load_run("a", "resp_1")
    await store.close()
    await store.start()
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="not open"):
        await store.save_response("a", a_response("resp_1"))


async def test_closing_writes_what_is_pending(tmp_path: Path) -> None:
    async with open_store(tmp_path / "trunkline.db") as store:
        saving = [asyncio.create_task(store.save_response("a", a_response(f"resp_{n}"))) for n in range(50)]
        await asyncio.sleep(0)
    await asyncio.gather(*saving)
    async with open_store(tmp_path / "trunkline.db") as store:
        assert all([await store.load_response("a", f"resp_{n}") for n in range(50)])


def limit_pages(store: SqliteStore, pages: int) -> None:
    """The database's own way to be full."""
    database = store._database
    assert database is not None
    with database.writer_gate:
        database.writer.execute(f"PRAGMA max_page_count = {pages}").fetchone()


def rows(store: SqliteStore, table: str) -> int:
    """Rows as a look from outside would count them."""
    database = store._database
    assert database is not None
    with database.writer_gate:
        return int(database.writer.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
