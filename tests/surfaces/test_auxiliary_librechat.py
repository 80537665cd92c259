"""A summary that LibreChat asks of the model for itself: made of the history it sends, outside the session it names.

Its titles are tried with those of other UIs, and the real program's requests in tests/clients.
"""

import json

import pytest

from tests.conftest import Serve
from tests.serving import Serving, user
from trunkline.engine.auxiliary import SUMMARIES

BOT = '[backends.mine]\ntype = "python"\ntarget = "bot.py:agent"\n'
SEES = """
import json

async def agent(turn):
    yield json.dumps([turn.session_id, [message["content"] for message in turn.history]])
"""
NAMED = {"x-session-id": "s1"}


async def seen(server: Serving, *messages: object) -> list[object]:
    """The session that the agent sees, and the messages before the last."""
    body = json.dumps({"model": "bot", "messages": messages}).encode()
    reply = await server.request("POST", "/v1/chat/completions", body, headers=NAMED)
    assert reply.status == 200, reply
    session, history = json.loads(reply.json()["choices"][0]["message"]["content"])
    return [session, history]


@pytest.mark.parametrize("beginning", SUMMARIES)
async def test_a_summary_is_made_of_the_history_it_comes_with(serve: Serve, beginning: str) -> None:
    history = [*user("one"), {"role": "assistant", "content": "two"}]
    asked = user(f"{beginning} In short words.")
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        assert await seen(server, *user("kept")) == ["s1", []]
        session, before = await seen(server, *history, *asked)
        assert str(session).startswith("api-")
        assert before == ["one", "two"]
        session, before = await seen(server, {"role": "system", "content": "Be kind."}, *history, *asked)
        assert str(session).startswith("api-")
        kept = (await server.get("/v1/sessions/s1/messages")).json()["data"]
        assert [item["role"] for item in kept] == ["user", "assistant"]


@pytest.mark.parametrize("beginning", SUMMARIES)
async def test_only_the_last_message_makes_it_one(serve: Serve, beginning: str) -> None:
    async with serve(BOT, scripts={"bot.py": SEES}) as server:
        asked = [*user(beginning), {"role": "assistant", "content": "short"}, *user("next")]
        for messages in (asked, user(f"Why does it say '{beginning}'?")):
            assert (await seen(server, *messages))[0] == "s1"
