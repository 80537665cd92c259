"""A named session: what was said in it comes from the store, and what is said now is kept there.

    its turn (one at a time, others wait) → its history in place of the body's → whoever answers → the turn is added

The request's own system messages stay, and of the rest what is new: its last user message and what follows it. A call of the
client's that the session knows is not said again; its output is new. A request that continues a response or takes part in a
conversation has its history there: nothing is read from the session, and the turn is added all the same.

A turn is added when it has ended, before its client hears of the end: all of it, or what had been said when its client left. One
that failed, or that the server cut, leaves nothing, as its client will ask again. A store that fails costs the history, not the
answer: the request is answered without it, and says so (`x-trunkline-warning`).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec

from trunkline.config.schema import SessionSettings
from trunkline.dialects.openai_responses.read_items import items_from_stored
from trunkline.dialects.openai_responses.write_items import input_items, write_output_item
from trunkline.engine.answer_size import AnswerSize
from trunkline.engine.call import Call
from trunkline.engine.flight import Events, Source
from trunkline.engine.turns import Turns
from trunkline.model import events as ev
from trunkline.model.errors import Conflict, RateLimited, RequestError, StoreError
from trunkline.model.items import FunctionCall, FunctionCallOutput, Item, Message
from trunkline.model.request import Request, Tool
from trunkline.model.turn import Fold, Turn, TurnItem
from trunkline.ports.backend import EventBatch
from trunkline.ports.runtime import Clock
from trunkline.ports.stores import SessionStore, StoredItem, stored_item

RETRY_AFTER_S = 1.0
SLICE = 500
HISTORY_LOST = "the session's history could not be read; answered without it"
TURN_LOST = "the session could not be extended by this turn"
logger = logging.getLogger("trunkline.engine")


class Sessions:
    """Answers calls in their sessions. One instance serves them all."""

    def __init__(self, store: SessionStore, settings: SessionSettings, *, clock: Clock) -> None:
        self._store = store
        self.settings = settings
        self._clock = clock
        self._turns = Turns()
        self._recorders: dict[tuple[str, str], Recorder] = {}  # of the turns under way

    @property
    def busy(self) -> int:
        """Sessions in which a turn is under way."""
        return len(self._turns)

    async def answer(self, call: Call, ask: Callable[[Call], Awaitable[Source]]) -> Source:
        """What `ask` gives for the call with its history. Raises Conflict or RateLimited where it is not its turn."""
        assert call.named_session is not None, "a session is kept for who names it"
        with await self.turn(call.tenant, call.named_session, patient=call.patient) as turn:
            key, recorder = (call.tenant, call.named_session), Recorder(self._store, call, clock=self._clock)
            self._recorders[key] = recorder
            turn.callback(self._recorders.pop, key)
            recorder.known, history = await self._history(call)
            asked, recorder.own = _continued(call, history)
            return _SessionAnswer(await ask(asked), recorder, turn.pop_all())

    async def delete(self, tenant: str, session_id: str) -> bool:
        """False: there is no such session. One that is to be made by the turn under way counts, and then is not made."""
        recorder = self._recorders.get((tenant, session_id))
        dropped = recorder is not None and recorder.drop()
        return await self._store.delete(tenant, session_id) or dropped

    async def extend(self, tenant: str, session_id: str, added: Sequence[StoredItem], *, member: str) -> bool:
        """Adds what was not said in a turn, in the caller's own. False: there is no such session.

        Raises RequestError for an output of a call that nobody knows; `member` of the request has what is added.
        """
        new = [(item, f"{member}[{position}]") for position, item in enumerate(await _items_of(added))]
        if any(isinstance(item, FunctionCallOutput) for item, _ in new):
            stored = await self._store.history(tenant, session_id)
            _check_outputs(await _items_of(stored or ()), new)
        return await self._store.extend(tenant, session_id, added, now_s=int(self._clock.now_s()))

    async def turn(self, tenant: str, session_id: str, *, patient: bool = False) -> contextlib.ExitStack:
        """The turn of that session, which is over when what this gives is closed. `patient`: it waits however many do."""
        key, settings = (tenant, session_id), self.settings
        before = self._turns.waiting(key)
        busy = Conflict(
            f"Another turn of session '{session_id}' is under way, and a session has one at a time; try again when it has ended.",
            code="session_busy",
            param="session_id",
        )
        if before and not patient:  # who is refused never stands in the line
            if settings.when_busy != "wait":
                raise busy
            if before > settings.max_waiting:
                raise RateLimited(
                    f"{before - 1} turns of session '{session_id}' are waiting already; try again later.",
                    code="session_busy",
                    param="session_id",
                    retry_after_s=RETRY_AFTER_S,
                )
        return await self._turns.take(key, wait_s=None, refusal=busy)

    async def _history(self, call: Call) -> tuple[bool, tuple[Item, ...] | None]:
        """Whether there is such a session, and what was said in it; None where the request has its history from elsewhere."""
        session_id = call.named_session or ""
        try:
            if _is_chained(call.request):
                return await self._store.load(call.tenant, session_id) is not None, None
            stored = await self._store.history(call.tenant, session_id)
            return stored is not None, await _items_of(stored or ())
        except (StoreError, RequestError) as error:  # the latter for what is stored and cannot be read
            logger.warning("session %s: %s: %s", session_id, HISTORY_LOST, error.message)
            call.outcome.warning = HISTORY_LOST
            return False, ()


class Recorder:
    """Adds one turn to its session. `own`: what its client says with it; `known`: the session was there when it began."""

    def __init__(self, store: SessionStore, call: Call, *, clock: Clock) -> None:
        self.own: Sequence[Item] = ()
        self.known = False
        self._store = store
        self._call = call
        self._clock = clock
        self._folding = Fold()
        self._ended = False

    def add(self, batch: EventBatch) -> None:
        for event in batch:
            self._folding.feed(event)

    def drop(self) -> bool:
        """The session is deleted: the turn goes with it, and not into one that is made under the same name. False: it has ended."""
        dropped, self._ended = not self._ended, True
        return dropped

    async def end(self) -> None:
        """There are no more events. Raises nothing: the turn has been answered, whatever becomes of it here."""
        if self._ended:
            return
        self._ended = True
        turn, call = self._folding.turn(), self._call
        ended = isinstance(turn.terminal, ev.TurnCompleted | ev.TurnIncomplete)
        if not ended and not call.outcome.left:
            return
        said = _said(turn, call.request)
        if not said and not (ended and self.own):
            return
        response_id = f"resp_{call.turn_id.replace('-', '_').rpartition('_')[2]}"  # what ids of items are derived from
        written: list[object] = [*input_items(self.own, response_id=response_id)]
        written += [write_output_item(item, response_id, logprobs=False) for item in said]
        items = [stored_item(msgspec.json.encode(one)) for one in written if one is not None]
        try:
            extended = await self._store.extend(
                call.tenant, call.named_session or "", items, now_s=int(self._clock.now_s()), new=not self.known
            )
        except StoreError as error:
            logger.warning("session %s: %s: %s", call.named_session, TURN_LOST, error.message)
            call.outcome.warning = call.outcome.warning or TURN_LOST
            return
        if not extended:
            logger.info("session %s was deleted while a turn of it was answered", call.named_session)


class _SessionAnswer(Events):
    """An answer, held in memory until it has ended; then it is added to its session, and the session's turn is over."""

    def __init__(self, source: Source, recorder: Recorder, turn: contextlib.ExitStack) -> None:
        self._source = source
        self._recorder = recorder
        self._size = AnswerSize()
        self._turn = turn
        self.headers = source.headers

    async def event_batches(self) -> AsyncIterator[EventBatch]:
        async for batch in self._source.event_batches():
            self._size.add(batch)
            self._recorder.add(batch)
            if isinstance(batch[-1], ev.TERMINALS):
                await self._recorder.end()
                self._turn.close()  # before anybody who reads the end can go on from it
            yield batch

    async def aclose(self) -> None:
        try:
            await self._source.aclose()
            await self._recorder.end()
        finally:
            self._turn.close()


async def _items_of(stored: Sequence[StoredItem]) -> tuple[Item, ...]:
    """A long history is read in slices, between which others get their turn."""
    items: list[Item] = []
    for start in range(0, len(stored), SLICE):
        if start:
            await asyncio.sleep(0)
        items += items_from_stored([item.data for item in stored[start : start + SLICE]])
    return tuple(items)


def _is_chained(request: Request) -> bool:
    return request.previous_response_id is not None or request.conversation is not None


def _continued(call: Call, history: tuple[Item, ...] | None) -> tuple[Call, Sequence[Item]]:
    """The call with the history in place of its body's, and which of its items are new.

    Raises RequestError for an output of a call that nobody knows.
    """
    if history is None:
        return msgspec.structs.replace(call, own_ids=True), call.own_items
    request = call.request
    places = request.places or ("",) * len(request.items)
    system: list[tuple[Item, str]] = []
    said: list[tuple[Item, str]] = []
    for item, place in zip(request.items, places, strict=True):
        of_system = isinstance(item, Message) and item.role in ("system", "developer")
        (system if of_system else said).append((item, place))
    new = said[_first_new([item for item, _ in said], history) :]
    past = _whole_calls(history, [item for item, _ in new])
    _check_outputs(past, new)
    whole = (*system, *[(item, "session_id") for item in past], *new)
    asked = msgspec.structs.replace(
        request, items=tuple([item for item, _ in whole]), places=tuple([place for _, place in whole])
    )
    # The client's own bytes are another conversation.
    return msgspec.structs.replace(call, request=asked, body=None, own_items=(), own_ids=True), [
        item for item, _ in new
    ]


def _whole_calls(history: Sequence[Item], new: Sequence[Item]) -> list[Item]:
    """The history without calls that have no output and outputs whose call has gone: no model could go on from them."""
    outputs = {item.call_id for item in (*history, *new) if isinstance(item, FunctionCallOutput)}
    calls, whole = set(), []
    for item in history:
        if isinstance(item, FunctionCall):
            if item.call_id not in outputs:
                continue
            calls.add(item.call_id)
        elif isinstance(item, FunctionCallOutput) and item.call_id not in calls:
            continue
        whole.append(item)
    return whole


def _first_new(items: Sequence[Item], history: Sequence[Item]) -> int:
    """Where what is new begins: after the last call that the session knows, or else at the last user message."""
    known = {item.call_id for item in history if isinstance(item, FunctionCall)}
    start = 0
    for position, item in enumerate(items):
        if isinstance(item, Message) and item.role == "user":
            start = position
        elif isinstance(item, FunctionCall) and item.call_id in known:
            start = position + 1
    return start


def _check_outputs(past: Sequence[Item], new: Sequence[tuple[Item, str]]) -> None:
    known = {item.call_id for item in past if isinstance(item, FunctionCall)}
    for item, place in new:
        if isinstance(item, FunctionCall):
            known.add(item.call_id)
        elif isinstance(item, FunctionCallOutput) and item.call_id not in known:
            raise RequestError(
                f"No tool call found for the output with call_id {item.call_id[:100]}, in the session or in this request.",
                param=place,
            )


def _said(turn: Turn, request: Request) -> list[TurnItem]:
    """What the first choice says, without what a cut left behind: empty messages, calls that nobody can answer any more."""
    items = [one for one in turn.items if one.choice == 0]
    whole = isinstance(turn.terminal, ev.TurnCompleted)
    answered = {
        one.item.call_id
        for one in items
        if isinstance(one.item, FunctionCallOutput) and (whole or one.item.status != "incomplete")
    }
    tools = {tool.name for tool in request.tools if isinstance(tool, Tool)}
    said = []
    for one in items:
        match one.item:
            case Message(content=()):
                continue
            case FunctionCall() as call if call.call_id not in answered and not (
                whole or (call.status != "incomplete" and call.name in tools)
            ):
                continue
            case FunctionCallOutput() as output if output.call_id not in answered:
                continue
            case _:
                said.append(one)
    return said
