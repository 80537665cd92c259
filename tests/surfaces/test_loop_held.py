"""An agent that keeps the event loop to itself is named in the log: everybody else only waits."""

import logging
import threading
from collections.abc import Iterator

import pytest

from tests.conftest import Serve

BOT = """
from tests.surfaces.test_loop_held import NAMED


async def agent(turn):
    yield f"named: {NAMED.wait(timeout=30)}"
"""
TOML = '[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\n'
NAMED = threading.Event()


class Listening(logging.Handler):
    """Hears what is logged while the loop is held, which is when somebody has to say it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())
        NAMED.set()


@pytest.fixture
def log() -> Iterator[Listening]:
    NAMED.clear()
    listening, logger = Listening(), logging.getLogger("trunkline.loop")
    logger.addHandler(listening)
    yield listening
    logger.removeHandler(listening)


async def test_an_agent_that_holds_the_loop_is_named_while_it_does(serve: Serve, log: Listening) -> None:
    async with serve(TOML, scripts={"bot.py": BOT}) as server:
        reply = await server.chat(model="bot")
        assert reply.json()["choices"][0]["message"]["content"] == "named: True"
        (said,) = log.heard
        assert said.startswith("event loop held: agent=bot request_id=")
        assert reply.headers["x-request-id"] in said
        assert "plain def" in said
