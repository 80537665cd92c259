"""A client of the Responses API over a WebSocket, from raw frames up, and agents that a test can hold.

Events are checked against the official client's types for this transport, strictly, as they come.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pydantic
import websockets
from openai.types.responses import ResponsesServerEvent
from websockets.asyncio.client import ClientConnection

from tests.responses import OURS, Streamed
from tests.serving import MODEL, Serving

EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponsesServerEvent)
LAST = ("response.completed", "response.incomplete", "response.failed", "response.steer.failed", "error")

HOLD = """
from tests.sockets import HELD


async def agent(turn):
    said = [message["content"] for message in turn.messages if message["role"] == "user"]
    HELD.begun.append(turn.input)
    try:
        yield "Heard: "
        if turn.input.startswith("hold"):
            await HELD.gate(turn.input).wait()
        yield " | ".join(said)
        HELD.done.append(turn.input)
    finally:
        HELD.left.append(turn.input)
"""
HOLDING = '[backends.mine]\ntype = "python"\ntarget = "bot.py:agent"\n'


class Held:
    """Turns of the agent above: one whose input begins with `hold` waits until its gate is opened."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []
        self.left: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    def gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())

    def open(self, *names: str) -> None:
        for name in names:
            self.gate(name).set()


HELD = Held()


class Socket:
    """One connection."""

    def __init__(self, connection: ClientConnection, model: str) -> None:
        self.connection = connection
        self._model = model

    async def send(self, event: str | bytes | Mapping[str, object]) -> None:
        await self.connection.send(event if isinstance(event, str | bytes) else json.dumps(event))

    async def create(self, text: str | None = None, **body: Any) -> None:
        given = {} if text is None else {"input": text}
        await self.send({"type": "response.create", "model": self._model, **given, **body})

    async def event(self) -> Any:
        """The next one."""
        frame = await self.connection.recv()
        assert isinstance(frame, str), "events are text frames"
        event = json.loads(frame)
        if not event["type"].startswith(OURS):
            EVENT.validate_json(frame, strict=True)
        return event

    async def rest(self, *, lane: str | None = None) -> list[Any]:
        """Events up to the last one of a turn. Of one lane; those of others are none of its business."""
        events = [await self.event()]
        while events[-1]["type"] not in LAST or events[-1].get("stream_id") != lane:
            events.append(await self.event())
        return [event for event in events if event.get("stream_id") == lane]

    async def until(self, kind: str) -> Any:
        while (event := await self.event())["type"] != kind:
            pass
        return event

    async def turn(self, text: str | None = None, **body: Any) -> list[Any]:
        await self.create(text, **body)
        return await self.rest(lane=body.get("stream_id"))

    async def answer(self, text: str | None = None, **body: Any) -> Any:
        """The final object."""
        last = (await self.turn(text, **body))[-1]
        assert last["type"] == "response.completed", last
        return last["response"]

    async def refusal(self, text: str | None = None, **body: Any) -> Any:
        """The `error` event that is the whole answer."""
        [event] = await self.turn(text, **body)
        assert event["type"] == "error", event
        return event

    async def closed(self) -> tuple[int | None, str | None]:
        """Code and reason, once the server has closed."""
        await self.connection.wait_closed()
        return self.connection.close_code, self.connection.close_reason


@contextlib.asynccontextmanager
async def socket(server: Serving, *, model: str = MODEL, **options: Any) -> AsyncIterator[Socket]:
    url = f"ws://{server.host}:{server.port}/v1/responses"
    async with websockets.connect(url, proxy=None, **options) as connection:
        yield Socket(connection, model)


def streamed(events: list[Any]) -> list[Streamed]:
    """Events as `check_stream` wants them."""
    return [Streamed(event["type"], None, json.dumps(event).encode()) for event in events]
