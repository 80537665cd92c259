"""Agents behind Open WebUI. What it asks for itself is answered as it wants it."""

from collections.abc import AsyncIterator

from trunkline.agent import Reasoning, ToolFinished, ToolStarted, Turn


async def support(turn: Turn) -> AsyncIterator[str]:
    if turn.input.startswith("### Task:"):
        yield '{"title": "Counting", "tags": ["numbers"], "follow_ups": ["And now?"]}'
        return
    said = [message["content"] for message in turn.messages if message["role"] == "user"]
    yield f"{len(said)} so far"


async def worker(turn: Turn) -> AsyncIterator[object]:
    yield Reasoning("They want cats.")
    yield ToolStarted("call_1", "search", {"q": turn.input}, label="cats")
    yield ToolFinished("call_1", output="ten")
    yield "Found ten."


async def broken(_: Turn) -> AsyncIterator[str]:
    yield "So far so good."
    raise RuntimeError("The line broke.")


async def refuses(_: Turn) -> str:
    raise RuntimeError("Out of order.")
