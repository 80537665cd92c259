"""What the tests of `profile = "hermes"` share: a server with an agent that has the callbacks of hermes-agent's, and readers."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from tests.fakes import hermes_agent
from tests.serving import Reply, Serving, user

AGENTS = "tests.fakes.hermes_agent"
KEY = "sk-secret"
AUTH = {"authorization": f"Bearer {KEY}"}


class Names(msgspec.Struct, frozen=True):
    """What a profile calls things."""

    profile: str
    session: str
    memory: str
    own: str
    server: str = ""


HERMES = Names("hermes", "x-hermes-session-id", "x-hermes-session-key", "hermes")
DEFAULT = Names(
    "openai",
    "x-session-id",
    "x-session-key",
    "trunkline",
    'model_name = "hermes-agent"\ndefault_model = "hermes-agent"\n',
)
BOTH = pytest.mark.parametrize("names", [HERMES, DEFAULT], ids=["hermes", "default"])


def toml(names: Names = HERMES, *, key: bool = False, server: str = "", more: str = "", agent: str = "Agent") -> str:
    keys = f'api_keys = ["{KEY}"]\n' if key else ""
    return (
        f'[server]\nprofile = "{names.profile}"\n{names.server}{keys}{server}\n{more}\n'
        f'[backends.agent]\ntype = "python"\ntarget = "{AGENTS}:{agent}"\n'
    )


async def chat(server: Serving, text: str = "Hello", *, headers: Mapping[str, str] | None = None, **body: Any) -> Reply:
    whole = {"model": "hermes-agent", "messages": user(text), **body}
    return await server.request("POST", "/v1/chat/completions", json.dumps(whole).encode(), headers=headers)


async def ask(
    server: Serving, given: object = "Hello", *, headers: Mapping[str, str] | None = None, **body: Any
) -> Reply:
    whole = {"model": "hermes-agent", "input": given, **body}
    return await server.request("POST", "/v1/responses", json.dumps(whole).encode(), headers=headers)


def said(reply: Reply) -> str:
    assert reply.status == 200, reply
    text = reply.json()["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def answered(reply: Reply) -> str:
    assert reply.status == 200, reply
    text = reply.json()["output"][-1]["content"][0]["text"]
    assert isinstance(text, str)
    return text


def given(text: str) -> dict[str, Any]:
    """What the agent was given, of its answer to `show`."""
    shown: dict[str, Any] = json.loads(text)
    return shown


def named_events(body: bytes) -> list[tuple[str, Any]]:
    """Each frame's name, empty for none, and its data; the sentinel is the string."""
    read = []
    for frame in body.decode().split("\n\n"):
        lines = [line for line in frame.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        name = next((line[7:] for line in lines if line.startswith("event: ")), "")
        data = next(line[6:] for line in lines if line.startswith("data: "))
        read.append((name, data if data == "[DONE]" else json.loads(data)))
    return read


def content_of(events: Sequence[tuple[str, Any]]) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for name, data in events
        if not name and isinstance(data, dict)
        for choice in data["choices"]
    )


@contextlib.asynccontextmanager
async def held() -> AsyncIterator[None]:
    """An agent that was told to `wait` does so, until this ends."""
    hermes_agent.OPEN.clear()
    hermes_agent.WAITING.clear()
    try:
        yield
    finally:
        hermes_agent.OPEN.set()
