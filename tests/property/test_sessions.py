"""Whatever is said in a session, and whether its client sends all of it again or only what is new: the agent sees the same."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.stores import HandClock, open_store
from tests.property.strategies import examples
from trunkline.config.schema import SessionSettings
from trunkline.engine.call import Call
from trunkline.engine.flight import Events, Source
from trunkline.engine.sessions import Sessions
from trunkline.model import events as ev
from trunkline.model.errors import ErrorInfo
from trunkline.model.items import FunctionCall, FunctionCallOutput, Item, Message, TextPart, text_of
from trunkline.model.request import Request
from trunkline.ports.backend import EventBatch
from trunkline.telemetry.outcome import Outcome


@dataclass(frozen=True)
class Said:
    """One turn: how many of its own tools the agent runs, how many of the client's it then calls instead of answering, how it ends,
    and whether the client sends the whole conversation or only what is new."""

    session: str
    hosted: int
    calls: int
    end: str
    whole: bool


TURNS = st.lists(
    st.builds(
        Said,
        st.sampled_from(["s", "s", "t"]),
        st.integers(0, 2),
        st.integers(0, 2),
        st.sampled_from(["completed", "completed", "completed", "failed", "left", "cut"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=10,
)


class Answered(Events):
    """An answer that says these items and ends so; one that the client leaves, or the server cuts, is closed before its end."""

    def __init__(self, items: Sequence[Item], end: str) -> None:
        self._items = items
        self.end = end

    async def event_batches(self) -> AsyncIterator[EventBatch]:
        yield [ev.TurnStarted("turn", "m", 1)]
        for index, item in enumerate(self._items):
            match item:
                case Message():
                    yield [ev.ItemStarted(index=index, kind="message"), ev.TextDelta(index, text_of(item.content))]
                    yield [ev.ItemDone(index=index)]
                case FunctionCall():
                    started = ev.ItemStarted(
                        index=index, kind="function_call", call_id=item.call_id, name=item.name, hosted=item.hosted
                    )
                    yield [started, ev.ArgumentsDelta(index, "{}"), ev.ItemDone(index=index)]
                case FunctionCallOutput():
                    started = ev.ItemStarted(
                        index=index, kind="function_call_output", call_id=item.call_id, hosted=True
                    )
                    yield [started, ev.ItemDone(index=index, item=item)]
                case _:
                    raise AssertionError(item)
        if self.end == "failed":
            yield [ev.TurnFailed(ErrorInfo(message="no", type="server_error"))]
        elif self.end == "completed":
            yield [ev.ChoiceDone(0, "stop"), ev.TurnCompleted()]

    async def aclose(self) -> None:
        pass


def user(text: str) -> Message:
    return Message(role="user", content=(TextPart(text),), as_string=True)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=(TextPart(text),))


def output(call_id: str, *, hosted: bool = False) -> FunctionCallOutput:
    return FunctionCallOutput(call_id=call_id, content=(TextPart("ten"),), as_string=True, hosted=hosted)


def shown(items: Sequence[Item]) -> list[object]:
    """What an agent can tell apart."""
    seen: list[object] = []
    for item in items:
        match item:
            case Message():
                seen.append((item.role, text_of(item.content)))
            case FunctionCall():
                seen.append((item.call_id, item.name, item.arguments))
            case FunctionCallOutput():
                seen.append((item.call_id, text_of(item.content)))
            case _:
                seen.append(item)
    return seen


class Client:
    """Keeps its conversation itself, as a chat UI does."""

    def __init__(self, sessions: Sessions, session_id: str) -> None:
        self._sessions = sessions
        self._session_id = session_id
        self._open: list[str] = []  # calls that it has not answered
        self.kept: list[Item] = []

    async def say(self, turn: Said, number: int) -> None:
        new: list[Item] = [output(call_id) for call_id in self._open] or [user(f"u{number}")]
        hosted = [f"h{number}_{n}" for n in range(turn.hosted)]
        calls = [f"c{number}_{n}" for n in range(turn.calls)] if turn.end == "completed" else []
        answer: list[Item] = []
        for call_id in hosted:
            answer += [FunctionCall(call_id=call_id, name="search", arguments="{}", hosted=True)]
            answer += [output(call_id, hosted=True)]
        answer += [FunctionCall(call_id=call_id, name="look", arguments="{}") for call_id in calls]
        answer += [] if calls else [assistant(f"a{number}")]
        sent = (Message(role="system", content=(TextPart("Brief."),)), *(self.kept if turn.whole else ()), *new)
        seen = await self._ask(sent, Answered(answer, turn.end), turn_id=f"chatcmpl-{number}")
        assert shown(seen) == [("system", "Brief."), *shown(self.kept), *shown(new)]
        if turn.end not in ("failed", "cut"):
            self._open = calls
            self.kept += [*new, *answer]

    async def _ask(self, items: tuple[Item, ...], answered: Answered, *, turn_id: str) -> Sequence[Item]:
        asked: list[Call] = []

        async def ask(call: Call) -> Source:
            asked.append(call)
            return answered

        call = Call(
            request=Request(model="m", items=items),
            body=b"{}",
            own_items=items,
            dialect="openai_chat",
            turn_id=turn_id,
            created_at=1,
            request_id="req",
            tenant="a",
            outcome=Outcome(),
            session_id=self._session_id,
            session_named=True,
        )
        answer = await self._sessions.answer(call, ask)
        async for _ in answer.event_batches():
            pass
        call.outcome.left = answered.end == "left"
        await answer.aclose()
        assert call.outcome.warning is None
        return asked[0].request.items


@examples(60)
@given(TURNS)
def test_a_session_is_its_client_s_own_conversation(turns: list[Said]) -> None:
    async def play() -> None:
        async with open_store(None) as store:
            sessions = Sessions(store.sessions, SessionSettings(), clock=HandClock())
            clients = {name: Client(sessions, name) for name in ("s", "t")}
            for number, turn in enumerate(turns):
                await clients[turn.session].say(turn, number)
                assert sessions.busy == 0
            for name, client in clients.items():
                history = await store.sessions.history("a", name) or ()
                assert len(history) == len(client.kept)

    asyncio.run(play())
