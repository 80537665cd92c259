"""What every store promises of lists of runs and of how long they are kept, asked of a file and of memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.fakes.stores import HandClock, a_response, a_run, open_store
from trunkline.model.errors import InvalidParameter
from trunkline.ports.stores import LoggedEvent, Page, RunStatus
from trunkline.stores.sqlite.store import SqliteStore

KEEP_S = 60.0
FIRST = Page(order="asc")


@pytest.fixture(params=["file", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "trunkline.db" if request.param == "file" else None


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def store(path: Path | None, clock: HandClock) -> AsyncIterator[SqliteStore]:
    async with open_store(path, clock=clock, max_run_age_s=KEEP_S) as opened:
        yield opened


async def begin(store: SqliteStore, run_id: str, *, tenant: str = "a", session: str | None = None) -> None:
    response = a_response(run_id, status="queued", session=session, background=True)
    await store.create_run(a_run(run_id, tenant=tenant), response, [LoggedEvent(0, "response.queued", b"{}", 1.5)])


async def end(store: SqliteStore, run_id: str, status: RunStatus = "completed", *, at: float) -> None:
    await store.start_run("a", run_id)
    final = a_response(run_id, status=status, background=True)
    await store.append_events("a", run_id, [LoggedEvent(1, f"response.{status}", b"{}", at)], final=final)


async def listed(store: SqliteStore, page: Page = FIRST, **wanted: object) -> list[str]:
    return [run.id for run in await store.list_runs("a", page, **wanted)]  # type: ignore[arg-type]


async def test_runs_are_listed_in_order_and_chosen(store: SqliteStore, clock: HandClock) -> None:
    for number in range(5):
        await begin(store, f"resp_{number}", session="s" if number % 2 else None)
    await begin(store, "resp_other", tenant="b")
    await end(store, "resp_0", at=clock.now)
    await end(store, "resp_1", "failed", at=clock.now)
    everything = [f"resp_{number}" for number in range(5)]
    assert await listed(store) == everything
    assert await listed(store, Page()) == everything[::-1]
    assert await listed(store, Page(limit=2, order="asc", after="resp_1")) == ["resp_2", "resp_3"]
    assert await listed(store, Page(limit=2, after="resp_1")) == ["resp_0"]
    assert await listed(store, statuses=["completed", "failed"]) == ["resp_0", "resp_1"]
    assert await listed(store, session_id="s") == ["resp_1", "resp_3"]
    assert await listed(store, session_id="s", statuses=["queued"]) == ["resp_3"]
    assert await listed(store, ids=["resp_4", "resp_none"]) == ["resp_4"]
    assert await listed(store, ids=[]) == []
    for unknown in ("resp_none", "resp_other"):
        with pytest.raises(InvalidParameter):
            await listed(store, Page(after=unknown))


async def test_a_run_has_the_model_and_session_of_its_response_and_the_time_of_its_last_event(
    store: SqliteStore, clock: HandClock
) -> None:
    await begin(store, "resp_1", session="s")
    run = await store.load_run("a", "resp_1")
    assert run is not None
    assert (run.model, run.session_id, run.updated_at) == ("m", "s", 1.5)
    await end(store, "resp_1", at=clock.now)
    (run,) = await store.list_runs("a", Page())
    assert (run.status, run.updated_at, run.request) == ("completed", clock.now, b"")
    (first, _) = await store.read_events("a", "resp_1", after=-1, limit=9)
    assert msgspec.structs.astuple(first) == (0, "response.queued", b"{}", 1.5)


async def test_a_run_goes_some_time_after_its_end_and_its_response_stays(store: SqliteStore, clock: HandClock) -> None:
    await begin(store, "resp_long")
    await begin(store, "resp_short")
    await end(store, "resp_short", at=clock.now)
    clock.now += KEEP_S - 1
    assert await listed(store) == ["resp_long", "resp_short"]
    clock.now += 2
    assert await listed(store) == ["resp_long"]
    assert await store.load_run("a", "resp_short") is None
    with pytest.raises(InvalidParameter):
        await listed(store, Page(after="resp_short"))
    store._sweep()  # as its timer does
    await store.add_items("a", "none", [])  # whatever is written later is written after it
    assert await store.read_events("a", "resp_short", after=-1, limit=9) == ()
    assert await store.load_response("a", "resp_short") is not None
    assert len(await store.read_events("a", "resp_long", after=-1, limit=9)) == 1
    assert [run.id for run in await store.unfinished_runs()] == ["resp_long"]


async def test_a_server_that_leaves_is_noted_with_what_is_in_progress(store: SqliteStore, clock: HandClock) -> None:
    for run_id in ("resp_queued", "resp_begun", "resp_ended"):
        await begin(store, run_id)
    await end(store, "resp_ended", at=clock.now)
    await store.start_run("a", "resp_begun")
    for tenant, run_id in (("b", "resp_begun"), ("a", "resp_begun"), ("a", "resp_queued"), ("a", "resp_ended")):
        await store.note_stop(tenant, run_id)
    stops = {run.id: run.stops for run in await store.list_runs("a", Page())}
    assert stops == {"resp_queued": 0, "resp_begun": 1, "resp_ended": 0}
    assert [run.stops for run in await store.unfinished_runs()] == [0, 1]
