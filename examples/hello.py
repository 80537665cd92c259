"""The smallest agent. Serve it with `trunkline serve examples/hello.py:agent`."""


async def agent(turn):
    yield f"You said: {turn.input}"
