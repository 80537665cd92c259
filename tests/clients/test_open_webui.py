"""Open WebUI in front of our server, set up as docs/chat-uis.md says, and asked what its page in the browser asks it."""

import asyncio
import contextlib
import json
import os
import re
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from scripts.node import ROOT
from tests.clients.install import HERE, environment, installed
from tests.serving import Serving, eventually, serving
from tests.sockets import HELD, HOLD

pytestmark = pytest.mark.clients

TOML = """
[server]
api_keys = ["sk-mine"]
tool_events = "reasoning"
[backends.support]
type = "python"
target = "bot.py:support"
[backends.worker]
type = "python"
target = "bot.py:worker"
client_tools = "ignore"
[backends.broken]
type = "python"
target = "bot.py:broken"
[backends.refuses]
type = "python"
target = "bot.py:refuses"
[backends.hold]
type = "python"
target = "hold.py:agent"
"""
OFFLINE = {
    "ANONYMIZED_TELEMETRY": "false",
    "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
    "ENABLE_OLLAMA_API": "false",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "HF_HUB_OFFLINE": "1",
    "OFFLINE_MODE": "true",
    "RAG_EMBEDDING_ENGINE": "openai",
    "WEBUI_SECRET_KEY": "secret-of-this-trial",
}
"""What keeps it from looking for models and news elsewhere."""
TASKS = {"title_generation": True, "tags_generation": True, "follow_up_generation": True}


def recipe(url: str) -> dict[str, str]:
    """The variables that the page names."""
    page = (ROOT / "docs" / "chat-uis.md").read_text()
    block = re.search(r"## Open WebUI\n.*?```ini\n(.*?)```", page, re.DOTALL)
    assert block is not None
    return dict(line.split("=", 1) for line in block[1].replace("http://127.0.0.1:8400", url).splitlines())


class OpenWebui:
    """What the page in the browser does, signed in."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        async with self._http.request(method, path, json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def send(self, model: str, text: str, *, after: dict[str, Any] | None = None) -> dict[str, Any]:
        """A message, in a new chat or after the answer `after`. What it gets to know: chat, answer, task."""
        answer_id, message_id = str(uuid.uuid4()), str(uuid.uuid4())
        parent = after["id"] if after else None
        message = {"id": message_id, "parentId": parent, "childrenIds": [answer_id], "role": "user", "content": text}
        body = {
            "stream": True,
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "session_id": "trial",
            "id": answer_id,
            "parent_id": parent,
            "user_message": {**message, "timestamp": 1, "models": [model]},
            "background_tasks": TASKS,
            **({"chat_id": after["chat_id"]} if after else {}),
        }
        begun = await self.ask("POST", "/api/chat/completions", body)
        return {"id": answer_id, "chat_id": begun["chat_id"], "task_id": begun["task_ids"][0]}

    async def chat(self, sent: dict[str, Any], until: Callable[[dict[str, Any], dict[str, Any]], object]) -> Any:
        """The chat, once it and its answer are as they should become."""
        while True:
            chat = await self.ask("GET", f"/api/v1/chats/{sent['chat_id']}")
            answer = chat["chat"]["history"]["messages"].get(sent["id"], {})
            if until(chat, answer):
                return chat, answer
            await asyncio.sleep(0.1)  # another program's doing: it says so to browsers alone

    async def answer(self, model: str, text: str, *, after: dict[str, Any] | None = None) -> dict[str, Any]:
        sent = await self.send(model, text, after=after)
        _, answer = await self.chat(sent, lambda _, answer: answer.get("done") or answer.get("error"))
        return {**answer, **sent}


def free_port() -> int:
    """It does not say which one it got, so it is given one."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as found:
        port: int = found.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def running(port: int, home: Path, environ: dict[str, str]) -> AsyncIterator[None]:
    log = home / "open-webui.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            environment("open_webui") / "bin" / "open-webui", "serve", "--host", "127.0.0.1", "--port", str(port),
            cwd=home,
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "DATA_DIR": str(home / "data"), **environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            while True:
                assert process.returncode is None, log.read_text()
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with http.get("/health") as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(0.1)
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def open_webui(served: Serving, home: Path) -> AsyncIterator[OpenWebui]:
    if not installed("open_webui").exists():
        pytest.skip("not installed: run `make test-open-webui` where packages can be had")
    port = free_port()
    environ = {**OFFLINE, **recipe(served.url)}
    async with running(port, home, environ), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        form = {"name": "Ada", "email": "ada@example.com", "password": "Trial-123"}
        async with http.post("/api/v1/auths/signup", json=form) as answer:
            token = (await answer.json())["token"]
        http.headers["Authorization"] = f"Bearer {token}"
        yield OpenWebui(http)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    HELD.begin()
    scripts = {"bot.py": (HERE / "open_webui" / "bot.py").read_text(), "hold.py": HOLD}
    async with serving(TOML, base_dir=tmp_path, scripts=scripts) as running:
        yield running


async def kept(served: Serving, path: str) -> Any:
    return (await served.get(path, headers={"authorization": "Bearer sk-mine"})).json()["data"]


async def test_open_webui(served: Serving, tmp_path: Path) -> None:
    async with open_webui(served, tmp_path) as ui:
        models = [model["id"] for model in (await ui.ask("GET", "/api/models?refresh=true"))["data"]]
        assert sorted(models) == ["broken", "hold", "refuses", "support", "worker"]

        # A conversation is a session of its own; what Open WebUI asks for itself is none of it.
        first = await ui.answer("support", "hello")
        assert first["content"] == "1 so far"
        second = await ui.answer("support", "again", after=first)
        assert second["content"] == "2 so far"
        chat, _ = await ui.chat(second, lambda chat, answer: chat["meta"].get("tags") and answer.get("followUps"))
        assert (chat["title"], chat["meta"]["tags"]) == ("Counting", ["numbers"])
        assert [session["id"] for session in await kept(served, "/v1/sessions")] == [first["chat_id"]]
        said = await kept(served, f"/v1/sessions/{first['chat_id']}/messages")
        assert [item["role"] for item in said] == ["user", "assistant"] * 2

        # An agent's tools are lines of its reasoning.
        works = await ui.answer("worker", "find cats")
        assert [item["type"] for item in works["output"]] == ["reasoning", "message"]
        thought, answer = (item["content"][0]["text"] for item in works["output"])
        assert (thought, answer) == ("They want cats.\nsearch: cats\n", "Found ten.")

        # A failure is said where the answer would be.
        assert (await ui.answer("refuses", "hello"))["error"]["content"] == "Out of order."
        breaks = await ui.answer("broken", "hello")
        assert breaks["content"] == "So far so good."

        # Stop reaches the agent.
        sent = await ui.send("hold", "hold")
        await eventually(lambda: "hold" in HELD.begun)
        await ui.ask("POST", f"/api/tasks/stop/{sent['task_id']}")
        await eventually(lambda: "hold" in HELD.left)
        assert "hold" not in HELD.done

        # Its built-in tools, which it sends unless it is told not to.
        settings = await ui.ask("GET", "/api/v1/configs/models")
        assert json.loads(recipe("")["DEFAULT_MODEL_METADATA"]) == settings["DEFAULT_MODEL_METADATA"]
        await ui.ask("POST", "/api/v1/configs/models", {**settings, "DEFAULT_MODEL_METADATA": {}})
        await ui.ask("GET", "/api/models?refresh=true")
        assert 'client_tools = "ignore"' in (await ui.answer("support", "hello"))["error"]["content"]
        assert (await ui.answer("worker", "find cats"))["content"].endswith("Found ten.")
