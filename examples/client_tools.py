"""An agent that lets the client run a tool, and uses what it returned. Its backend needs `client_tools = true`."""

from collections.abc import AsyncIterator

from trunkline.agent import FunctionCall, Output, Turn


async def agent(turn: Turn) -> AsyncIterator[Output]:
    last = turn.messages[-1]
    if last["role"] == "tool":
        yield f"Your tool says: {last['content']}"
    elif turn.tools:
        yield FunctionCall(turn.tools[0].name, {"query": turn.input})
    else:
        yield "Declare a tool, and I will use it."
