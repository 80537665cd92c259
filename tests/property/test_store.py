"""Whatever is done to a store, in whatever order: it answers as a simple model of it, and keeps nothing that nobody can reach."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.stores import a_response, a_run, open_store, some_events
from trunkline.model.errors import StoreError
from trunkline.ports.stores import RunStatus, Segment, StoredResponse
from trunkline.stores.sqlite.store import SqliteStore

Key = tuple[str, str]

TENANTS = st.sampled_from(["a", "a", "a", "b"])
IDS = st.sampled_from([f"resp_{number}" for number in range(4)])
NAMES = st.sampled_from([None, "n1", "n2"])
ENDS: st.SearchStrategy[RunStatus] = st.sampled_from(["completed", "failed", "cancelled", "incomplete"])


@dataclass(frozen=True)
class Save:
    tenant: str
    id: str
    parent: str | None
    name: str | None
    text: str


@dataclass(frozen=True)
class Delete:
    tenant: str
    id: str


@dataclass(frozen=True)
class Run:
    tenant: str
    id: str
    verb: Literal["create", "start", "append", "gap", "end"]
    count: int
    status: RunStatus


Step = Save | Delete | Run
STEPS = st.one_of(
    st.builds(Save, TENANTS, IDS, st.one_of(st.none(), IDS), NAMES, st.sampled_from(["", "x", "yy"])),
    st.builds(Save, TENANTS, IDS, IDS, NAMES, st.just("")),
    st.builds(Delete, TENANTS, IDS),
    st.builds(
        Run,
        TENANTS,
        IDS,
        st.sampled_from(["create", "start", "append", "append", "gap", "end"]),
        st.integers(0, 3),
        ENDS,
    ),
)


@dataclass
class Turn:
    response: StoredResponse
    before: tuple[bytes, ...]  # every item list that came before, joined where it was handed over
    parent: str | None
    visible: bool = True


@dataclass
class Model:
    """A store as dictionaries."""

    turns: dict[Key, Turn] = field(default_factory=dict)
    names: dict[Key, str] = field(default_factory=dict)
    runs: dict[Key, tuple[RunStatus, int]] = field(default_factory=dict)

    def visible(self, key: Key) -> Turn | None:
        turn = self.turns.get(key)
        return turn if turn is not None and turn.visible else None

    def chain(self, key: Key) -> tuple[bytes, ...]:
        turn = self.turns[key]
        before = turn.before if turn.parent is None else self.chain((key[0], turn.parent))
        return (*before, turn.response.input, turn.response.output)

    def save(self, tenant: str, response: StoredResponse, *, given: Sequence[bytes]) -> bool:
        key = (tenant, response.id)
        turn = self.turns.get(key)
        if turn is None:
            parent = response.parent_id
            if parent is not None and (tenant, parent) not in self.turns:
                if not given:
                    return False
                parent = None
            self.turns[key] = Turn(response, () if parent is not None else tuple(given), parent)
        else:
            turn.response, turn.visible = response, True
        if response.name is not None:
            self.names[(tenant, response.name)] = response.id
        return True

    def delete(self, key: Key) -> bool:
        turn = self.visible(key)
        if turn is None:
            return False
        turn.visible = False
        self.names = {name: found for name, found in self.names.items() if (name[0], found) != key}
        self.runs.pop(key, None)
        while True:
            continued = {(tenant, turn.parent) for (tenant, _), turn in self.turns.items()}
            useless = [kept for kept, turn in self.turns.items() if not turn.visible and kept not in continued]
            if not useless:
                return True
            for gone in useless:
                del self.turns[gone]


HANDED = (b'[{"handed":1}]', b'[{"over":2}]')
JOINED = (b'[{"handed":1},{"over":2}]', b"[]")


async def save(store: SqliteStore, model: Model, step: Save) -> None:
    """With a history where the parent is gone and the step says so by its text."""
    response = a_response(step.id, parent=step.parent, name=step.name, text=step.text)
    history = (Segment(*HANDED),) if step.text and step.parent is not None else ()
    try:
        await store.save_response(step.tenant, response, history=history)
        stored = True
    except StoreError:
        stored = False
    assert stored == model.save(step.tenant, response, given=JOINED if history else ())


async def run(store: SqliteStore, model: Model, step: Run) -> None:
    key = (step.tenant, step.id)
    status, due = model.runs.get(key, (None, 0))
    if step.verb == "create":
        if key in model.runs or key in model.turns:
            return  # ids are never used twice
        queued = a_response(step.id, status="queued", background=True)
        await store.create_run(a_run(step.id, tenant=step.tenant), queued, some_events(0, step.count))
        model.save(step.tenant, queued, given=())
        model.runs[key] = ("queued", step.count + 1)
    elif step.verb == "start":
        began = a_response(step.id, status="in_progress", background=True)
        events = some_events(due, due + step.count)
        assert await store.start_run(*key, response=began, events=events) == (status == "queued")
        if status == "queued":
            model.save(step.tenant, began, given=())
            model.runs[key] = ("in_progress", due + step.count + 1)
    elif step.verb == "gap" and status in ("queued", "in_progress"):
        try:
            await store.append_events(*key, some_events(due + 1, due + 1), final=a_response(step.id))
            raise AssertionError("a gap was accepted")
        except StoreError:
            pass  # refused, as it must be: nothing has changed
    elif step.verb in ("append", "end"):
        final = a_response(step.id, status=step.status, background=True) if step.verb == "end" else None
        live = status in ("queued", "in_progress")
        assert await store.append_events(*key, some_events(due, due + step.count), final=final) == live
        if live:
            model.runs[key] = (final.status if final else status or "queued", due + step.count + 1)
            if final:
                model.save(step.tenant, final, given=())


async def compare(store: SqliteStore, model: Model) -> None:
    for tenant in ("a", "b"):
        for number in range(4):
            key = (tenant, f"resp_{number}")
            turn = model.visible(key)
            found = await store.load_response(*key)
            if turn is None:
                assert found is None
                assert await store.history(*key) is None
            else:
                assert found is not None
                assert (found.object, found.status) == (turn.response.object, turn.response.status)
                segments = await store.history(*key) or ()
                assert tuple(part for turn in segments for part in (turn.input, turn.output)) == model.chain(key)
            record = await store.load_run(*key)
            status, due = model.runs.get(key, (None, 0))
            assert (record.status if record else None) == status
            assert await store.read_events(*key, after=-1, limit=1000) == tuple(some_events(0, due - 1))
        for name in ("n1", "n2"):
            assert await store.named_response(tenant, name) == model.names.get((tenant, name))
    database = store._database
    assert database is not None
    with database.writer_gate:
        kept = database.writer.execute("SELECT tenant, id, hidden FROM responses").fetchall()
    assert {(tenant, name): not hidden for tenant, name, hidden in kept} == {
        key: turn.visible for key, turn in model.turns.items()
    }
    unfinished = {key for key, (status, _) in model.runs.items() if status in ("queued", "in_progress")}
    assert {(found.tenant, found.id) for found in await store.unfinished_runs()} == unfinished


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=20, max_size=60))
def test_a_store_answers_as_its_model(steps: list[Step]) -> None:
    async def play() -> None:
        async with open_store(None) as store:
            model = Model()
            for step in steps:
                match step:
                    case Save():
                        await save(store, model, step)
                    case Delete():
                        assert await store.delete_response(step.tenant, step.id) == model.delete((step.tenant, step.id))
                    case Run():
                        await run(store, model, step)
            await compare(store, model)

    asyncio.run(play())


@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, min_size=10, max_size=40), st.integers(1, 6))
def test_steps_that_arrive_together_are_done_in_their_order(steps: list[Step], size: int) -> None:
    """Batches of any size come to what one step after the other comes to."""
    saves = [step for step in steps if isinstance(step, Save | Delete)]

    async def play() -> None:
        async with open_store(None) as store:
            model = Model()
            for start in range(0, len(saves), size):
                async with asyncio.TaskGroup() as group:
                    for step in saves[start : start + size]:
                        if isinstance(step, Save):
                            group.create_task(save(store, model, step))
                        else:
                            group.create_task(delete(store, model, step))
            await compare(store, model)

    async def delete(store: SqliteStore, model: Model, step: Delete) -> None:
        assert await store.delete_response(step.tenant, step.id) == model.delete((step.tenant, step.id))

    asyncio.run(play())
