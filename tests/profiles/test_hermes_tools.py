"""The questions of hermes-agent's tools are the turn's, and its interrupt reaches all of the turn.

`make test-clients` asks the same of the real package; here its registry is a stand-in, so that two tools can ask at once.
"""

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes import hermes_package
from tests.profiles.hermes import AUTH, KEY
from tests.serving import Serving, eventually, user

TOML = f"""
[server]
profile = "hermes"
api_keys = ["{KEY}"]
[backends.agent]
type = "python"
target = "tests.fakes.hermes_package:AIAgent"
"""
ALL = ["once", "session", "always", "deny"]


@pytest.fixture
async def server(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serving]:
    for name in ("tools.approval", "gateway.session_context"):
        monkeypatch.setitem(sys.modules, name, hermes_package)
    hermes_package.STOPPED.clear()
    async with serve(TOML) as served:
        yield served


async def started(server: Serving, text: str) -> str:
    body = json.dumps({"input": text}).encode()
    reply = await server.request("POST", "/v1/runs", body, headers={**AUTH, "x-hermes-session-id": "s1"})
    return str(reply.json()["run_id"])


async def told(server: Serving, text: str, *choices: str) -> tuple[list[Any], Any]:
    """What was asked, and the answer. The choices are for the questions in their order, and given from the last to the first."""
    run_id = await started(server, text)
    asked: list[Any] = []
    while (run := (await server.get(f"/v1/runs/{run_id}", headers=AUTH)).json())["status"] != "completed":
        if choices and not asked and len(run.get("approvals", ())) == len(choices):
            asked = run["approvals"]
            for question, choice in reversed(list(zip(asked, choices, strict=True))):
                body = json.dumps({"choice": choice, "call_id": question["call_id"]}).encode()
                reply = await server.request("POST", f"/v1/runs/{run_id}/approval", body, headers=AUTH)
                assert reply.status == 200, reply
    return asked, json.loads(run["output"])


async def test_a_turn_is_a_session_there(server: Serving) -> None:
    _, session = await told(server, "session")
    assert session == {
        "platform": "api_server",
        "session_key": "s1",
        "session_id": "s1",
        "chat_id": "s1",
        "async_delivery": False,
    }


async def test_a_command_waits_for_leave(server: Serving) -> None:
    (question,), result = await told(server, "remove", "once")
    assert (question["tool"], question["text"], question["choices"]) == ("recursive delete", "rm -r build", ALL)
    assert result == "once"
    assert (await told(server, "remove", "deny"))[1] == "deny"


async def test_a_choice_is_remembered_here_and_not_there(server: Serving) -> None:
    assert (await told(server, "remove", "always"))[1] == "once"
    assert await told(server, "remove") == ([], "once")
    assert (await told(server, "scan", "deny"))[1] == "deny"


@pytest.mark.parametrize(
    ("text", "choices"),
    [("scan", ["once", "session", "deny"]), ("denied", ["once", "deny"]), ("elicit", ["once", "deny"])],
)
async def test_only_what_may_be_remembered_is_offered(server: Serving, text: str, choices: list[str]) -> None:
    await told(server, "remove", "always")
    (question,), result = await told(server, text, "once")
    assert (question["choices"], result) == (choices, "once")


async def test_tools_that_ask_side_by_side_get_their_own_answers(server: Serving) -> None:
    asked, results = await told(server, "both", "deny", "once")
    assert results == {asked[0]["text"].split("\n")[0]: "deny", asked[1]["text"].split("\n")[0]: "once"}


async def test_an_interrupt_reaches_all_of_the_turn(server: Serving) -> None:
    async with server.connect() as wire:
        body = json.dumps({"messages": user("wait"), "stream": True}).encode()
        await wire.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
            % (KEY.encode(), len(body), body)
        )
        await wire.head()
        await wire.until(b"waiting")
    await eventually(lambda: bool(hermes_package.STOPPED))
    (agent,) = hermes_package.STOPPED
    assert agent.shut == ["plain", "mounted"]
    assert agent._interrupt_requested  # also after it took that back: a thread of its own may still look
