"""An agent in a FastAPI application: the OpenAI API below /ai, the application's own pages beside it.

pip install . fastapi
uvicorn --app-dir examples/fastapi app:app
"""

from collections.abc import AsyncIterator

from fastapi import FastAPI

from trunkline.agent import Output, Turn
from trunkline.embed import create_app


async def support(turn: Turn) -> AsyncIterator[Output]:
    yield "You said: "
    yield turn.input


ai = create_app(support)
app = FastAPI(lifespan=ai.lifespan)
app.mount("/ai", ai)


@app.get("/")
def page() -> str:
    return "An application with an agent in it."
