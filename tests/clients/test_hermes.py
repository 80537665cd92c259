"""The agent of hermes-agent behind our server: what it asks before its tools run, and what it leaves behind with its client."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.clients.install import HERE
from tests.clients.programs import listening, python_of
from tests.serving import Serving, eventually, serving

pytestmark = pytest.mark.clients

MODEL = '[backends.talk]\ntype = "scripted"\nscript = "script.toml"\nmodels = ["gpt-5-mini", "qwen3"]\n'
SERVED = """
[server]
profile = "hermes"
api_keys = ["sk-secret"]
[backends.agent]
type = "python"
target = "{agent}:agent"
approval_timeout_s = {timeout_s}
"""


@pytest.fixture
async def model(tmp_path: Path) -> AsyncIterator[Serving]:
    scripts = {"script.toml": (HERE / "hermes" / "script.toml").read_text()}
    async with serving(MODEL, base_dir=tmp_path, scripts=scripts) as served:
        yield served


@contextlib.asynccontextmanager
async def hermes(
    model: Serving, home: Path, *, api: str = "gpt-5-mini", timeout_s: float = 60
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of our server with the agent. `api`: a model that hermes-agent asks in one of OpenAI's APIs or the other."""
    (home / "build").mkdir()
    (home / "trunkline.toml").write_text(SERVED.format(agent=HERE / "hermes" / "bot.py", timeout_s=timeout_s))
    environ = {
        "OPENAI_BASE_URL": f"{model.url}/v1",
        "OPENAI_API_KEY": "sk-test",
        "MODEL": api,
        "HERMES_HOME": str(home / ".hermes"),
    }
    command = (python_of("hermes"), "-m", "trunkline", "serve", "--config", home / "trunkline.toml", "--port", "0")
    headers = {"authorization": "Bearer sk-secret", "x-hermes-session-id": "s1"}
    async with (
        listening(*command, home=home, environ=environ) as url,
        aiohttp.ClientSession(url, headers=headers) as client,
    ):
        yield client


async def told(client: aiohttp.ClientSession, text: str, **choices: str) -> list[Any]:
    """The events of a response. Questions get the answer for their kind; without one they wait."""
    seen = []
    async with client.post("/v1/responses", json={"input": text, "stream": True}) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                seen.append(event)
                if event["type"] == "hermes.approval.requested" and choices:
                    choice = choices[event["approval"]["tool"].replace(" ", "_")]
                    path = f"/v1/runs/{event['response_id']}/approval"
                    async with client.post(path, json={"choice": choice}) as taken:
                        assert taken.status == 200, await taken.text()
    return seen


def said(completion: Any) -> str:
    return str(completion["choices"][0]["message"]["content"]).strip()


def asked(events: list[Any]) -> list[tuple[str, str, str]]:
    """Each question's kind and command, and how it was answered."""
    questions = [event["approval"] for event in events if event["type"].startswith("hermes.approval")]
    return [
        (question["tool"], question["text"], answer["choice"])
        for question, answer in zip(questions[::2], questions[1::2], strict=True)
    ]


def ran(events: list[Any]) -> str:
    """What the tool gave."""
    outputs = [
        event["item"]["output"][0]["text"]
        for event in events
        if event["type"] == "response.output_item.done" and event["item"]["type"] == "function_call_output"
    ]
    return str(outputs[-1])


@pytest.mark.parametrize("api", ["gpt-5-mini", "qwen3"])
async def test_a_dangerous_command_waits_for_leave(model: Serving, tmp_path: Path, api: str) -> None:
    async with hermes(model, tmp_path, api=api) as client:
        refused = await told(client, "clean up", recursive_delete="deny")
        assert asked(refused) == [("recursive delete", "rm -rf build", "deny")]
        assert "denied by user" in ran(refused)
        assert (tmp_path / "build").exists()
        allowed = await told(client, "clean up", recursive_delete="once")
        assert asked(allowed) == [("recursive delete", "rm -rf build", "once")]
        assert not (tmp_path / "build").exists()


async def test_what_is_allowed_for_a_session_is_not_asked_again(model: Serving, tmp_path: Path) -> None:
    async with hermes(model, tmp_path) as client:
        await told(client, "clean up", recursive_delete="session")
        (tmp_path / "build").mkdir()
        again = await told(client, "clean up")
        assert (asked(again), (tmp_path / "build").exists()) == ([], False)
        (tmp_path / "build").mkdir()
        other = await told(client, "clean up", **{"world/other-writable_permissions": "deny"})
        assert [choice for _, _, choice in asked(other)] == ["deny"]  # another danger is another question


async def test_silence_is_no_leave(model: Serving, tmp_path: Path) -> None:
    async with hermes(model, tmp_path, timeout_s=0.2) as client:
        waited = await told(client, "clean up")
        assert asked(waited) == [("recursive delete", "rm -rf build", "deny")]
        assert "BLOCKED" in ran(waited)
        assert (tmp_path / "build").exists()


async def test_nobody_to_ask_is_no_leave(model: Serving, tmp_path: Path) -> None:
    async with hermes(model, tmp_path) as client:
        messages = [{"role": "user", "content": "clean up"}]
        async with client.post("/v1/chat/completions", json={"messages": messages}) as answer:
            assert (answer.status, said(await answer.json())) == (200, "Done.")
            assert "denied" in answer.headers["x-trunkline-warning"]
        assert (tmp_path / "build").exists()


async def test_a_script_waits_for_leave(model: Serving, tmp_path: Path) -> None:
    async with hermes(model, tmp_path) as client:
        events = await told(client, "compute", execute_code="deny")
        ((kind, text, choice),) = asked(events)
        assert (kind, choice) == ("execute_code", "deny")
        assert "made.txt" in text
        assert not (tmp_path / "made.txt").exists()


@pytest.mark.parametrize("api", ["gpt-5-mini", "qwen3"])
@pytest.mark.parametrize("text", ["hang", "silent"])
async def test_no_request_goes_on_without_its_client(model: Serving, tmp_path: Path, api: str, text: str) -> None:
    """Neither one that is being answered nor one that waits for its first word."""
    body = {"messages": [{"role": "user", "content": text}], "stream": True}
    async with hermes(model, tmp_path, api=api) as client:
        answer = await client.post("/v1/chat/completions", json=body)
        if text == "silent":
            await eventually(lambda: model.backend().active == 1)
        else:
            await heard(answer, b"Wait")
        answer.close()
        await eventually(lambda: model.backend().active == 0)
        messages = [{"role": "user", "content": "hello"}]
        async with client.post("/v1/chat/completions", json={"messages": messages}) as answer:
            assert said(await answer.json()) == "Good morning."
        assert model.backend().active == 0


async def test_no_command_goes_on_without_its_client(model: Serving, tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "sleep"}], "stream": True}
    async with hermes(model, tmp_path) as client:
        answer = await client.post("/v1/chat/completions", json=body)
        await heard(answer, b"hermes.tool.progress")
        written = tmp_path / "pid"
        await eventually(lambda: written.exists() and written.read_text() != "")
        process = Path("/proc", written.read_text().strip())
        await eventually(process.exists)
        answer.close()
        await eventually(lambda: not process.exists())


async def heard(answer: aiohttp.ClientResponse, text: bytes) -> None:
    while text not in (line := await answer.content.readline()):
        assert line
