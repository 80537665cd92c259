"""An agent that fails has been run: the official SDKs, which repeat a 5xx by themselves, are told not to run it again."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.conftest import Serve
from tests.fakes.upstream import FakeUpstream, json_answer
from tests.faults.disk import no_room
from tests.sdk.node_program import report_of
from tests.serving import Serving, eventually

AGENT = """
import asyncio
from pathlib import Path

DONE = Path(__file__).with_name("done")

async def agent(turn):
    with DONE.open("a") as done:
        done.write(turn.input + "\\n")
    match turn.input:
        case "raise": raise RuntimeError("no luck")
        case "raise when told":
            while not DONE.with_name("go").exists():
                await asyncio.sleep(0)
            raise RuntimeError("no luck")
        case "raise late": yield "part"; raise RuntimeError("no luck")
        case "yield nonsense": yield {}
        case "hang": await asyncio.Event().wait()
        case "hang late": yield "part"; await asyncio.Event().wait()

def incomplete(turn):
    with DONE.open("a") as done:
        done.write(turn.input + "\\n")
    return {"failed": True, "error": "out of budget"}

def kept(turn):
    DONE.with_name(f"run-{len(list(DONE.parent.glob('run-*')))}").touch()
    return "done"
"""
TOML = """
[server]
{profile}
[backends.agent]
type = "python"
target = "bot.py:agent"
timeout_s = 0.05
[backends.incomplete]
type = "python"
target = "bot.py:incomplete"
"""
FAILURES = {"raise": 500, "raise late": 500, "yield nonsense": 500, "hang": 504, "hang late": 504}


def agents(serve: Serve, profile: str = "") -> AbstractAsyncContextManager[Serving]:
    return serve(TOML.format(profile=profile), scripts={"bot.py": AGENT})


async def failure(
    server: Serving,
    text: str,
    *,
    model: str = "bot",
    api: str = "chat",
    stream: bool = False,
    headers: dict[str, str] | None = None,
) -> int:
    """The status, which the official SDK was told is not to be tried again."""
    said: Any = [{"role": "user", "content": text}]
    async with AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=2, default_headers=headers
    ) as client:
        asked: dict[str, Callable[[], Awaitable[object]]] = {
            "chat": lambda: client.chat.completions.create(model=model, messages=said, stream=stream),
            "responses": lambda: client.responses.create(model=model, input=text, stream=stream),
        }
        with pytest.raises(openai.APIStatusError) as raised:
            await asked[api]()
    assert raised.value.response.headers["x-should-retry"] == "false"
    return raised.value.status_code


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("text", FAILURES)
async def test_a_failing_agent_is_run_once(serve: Serve, tmp_path: Path, text: str, api: str) -> None:
    async with agents(serve) as server:
        assert await failure(server, text, api=api) == FAILURES[text]
    assert (tmp_path / "done").read_text() == f"{text}\n"


@pytest.mark.parametrize("text", ["raise", "yield nonsense", "hang"])
async def test_also_where_the_answer_is_streamed(serve: Serve, tmp_path: Path, text: str) -> None:
    async with agents(serve) as server:
        assert await failure(server, text, stream=True) == FAILURES[text]
    assert (tmp_path / "done").read_text() == f"{text}\n"


async def test_an_agent_that_ends_without_an_answer_is_run_once(serve: Serve, tmp_path: Path) -> None:
    async with agents(serve) as server:
        assert await failure(server, "x", model="incomplete") == 502
    assert (tmp_path / "done").read_text() == "x\n"


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k"}], ids=["", "keyed"])
async def test_an_agent_whose_answer_cannot_be_stored_is_run_once(
    serve: Serve, tmp_path: Path, headers: dict[str, str]
) -> None:
    toml = '[store]\nurl = "sqlite:///kept.db"\n[backends.kept]\ntype = "python"\ntarget = "bot.py:kept"\n'
    async with serve(toml, scripts={"bot.py": AGENT}) as server:
        with no_room():
            assert await failure(server, "x", model="kept", api="responses", headers=headers) == 503
            body = b'{"model": "kept", "input": "x", "background": true}'
            unasked = await server.request("POST", "/v1/responses", body)
    assert (unasked.status, unasked.headers.get("x-should-retry")) == (503, None)
    assert [(tmp_path / run).exists() for run in ("run-0", "run-1")] == [True, False]


@pytest.mark.parametrize("profile", ["hermes", "nanobot"])
async def test_also_under_another_profile(serve: Serve, tmp_path: Path, profile: str) -> None:
    async with agents(serve, f'profile = "{profile}"') as server:
        assert await failure(server, "raise") == 500
    assert (tmp_path / "done").read_text() == "raise\n"


async def test_the_node_sdk_runs_it_once(serve: Serve, tmp_path: Path) -> None:
    async with agents(serve) as server:
        assert await report_of("agent_failures.mjs", server) == 500
    assert (tmp_path / "done").read_text() == "raise\n"


async def test_a_full_queue_may_be_tried_again(serve: Serve) -> None:
    limits = "max_concurrency = 1\nmax_queue = 0\ntimeout_s = 600\n"
    toml = f'[backends.agent]\ntype = "python"\ntarget = "bot.py:agent"\n{limits}'
    async with serve(toml, scripts={"bot.py": AGENT}) as server, server.stream("hang late", model="bot") as wire:
        await wire.head()
        await wire.until(b"part")
        refused = await server.chat(model="bot")
        assert refused.status == 429
        assert "x-should-retry" not in refused.headers


@pytest.mark.parametrize("status", ["500 No", "502 No", "503 No"])
async def test_a_model_server_may_be_asked_again(upstream: FakeUpstream, serve: Serve, status: str) -> None:
    upstream.plan([json_answer({"error": {"message": "no"}}, status=status)])
    async with serve(f'[backends.gpu]\ntype = "http"\nendpoints = ["{upstream.url}"]\nretries = 0\n') as server:
        failed = await server.chat(model="up-model")
    assert failed.status >= 500
    assert "x-should-retry" not in failed.headers


async def test_a_page_of_a_browser_can_read_it(serve: Serve) -> None:
    async with agents(serve, 'cors_origins = ["https://app.example"]') as server:
        failed = await server.chat("raise", model="bot", headers={"origin": "https://app.example"})
    assert "x-should-retry" in failed.headers["access-control-expose-headers"].lower()


@pytest.mark.parametrize("header", ["idempotency-key", "x-trunkline-cache"])
async def test_whoever_waits_for_the_same_answer_is_told_too(serve: Serve, tmp_path: Path, header: str) -> None:
    async with agents(serve) as server:
        asked = [
            asyncio.create_task(server.chat("raise when told", model="bot", headers={header: "use"})) for _ in range(2)
        ]
        await eventually(lambda: len(server.application.runtime.state.in_flight) == 2 and (tmp_path / "done").exists())
        (tmp_path / "go").touch()
        answers = [await one for one in asked]
    assert [(one.status, one.headers.get("x-should-retry")) for one in answers] == [(500, "false")] * 2
    assert (tmp_path / "done").read_text() == "raise when told\n"
