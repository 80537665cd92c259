"""Agents of other frameworks behind our server: what the adapters make of them, and the examples as their users start them."""

import asyncio
import contextlib
import json
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI, InternalServerError

from scripts.node import ROOT
from tests.clients.install import HERE, environment
from tests.clients.programs import listening, python_of, run
from tests.docs.blocks import Block, commands, pieces, shows
from tests.serving import Serving, eventually, serving

pytestmark = pytest.mark.clients

FRAMEWORKS = ("langgraph", "openai_agents", "pydantic_ai")
MODEL = """
[backends.talk]
type = "scripted"
script = "script.toml"
models = ["scripted", "gpt-5-mini"]
"""
HELLO = ["Good ", "morning.", {"used": [1, 2]}]
SAID = ["Good ", "morning.", {"used": [5, 2]}]
LIMIT = ["AgentIncomplete", "agent_incomplete"]
UNREADABLE = ["AgentError", "unsupported_content_type"]
OSLO = [["weather", "call_3", {"city": "Oslo"}], ["call_3", "sunny in Oslo", False]]
SEEN: dict[str, Any] = {
    "hello": HELLO,
    "history": ["Good ", "morning.", {"used": [6, 2]}],
    "image": ["Good ", "morning."],
    "unreadable": UNREADABLE,
    "weather": [
        "One moment. ",
        ["weather", "call_1", {"city": "Paris"}],
        ["weather", "call_2", {"city": "Rome"}],
        ["call_1", "sunny in Paris", False],
        ["call_2", "sunny in Rome", False],
        "Sunny ",
        "in both.",
        {"used": [10, 5]},
    ],
    "same id": [
        ["weather", "call_0", {"city": "Bonn"}],
        ["call_0", "sunny in Bonn", False],
        ["weather", "call_0", {"city": "Cork"}],
        ["call_0", "sunny in Cork", False],
        "Both.",
    ],
    "limit": LIMIT,
    "left": "Wait",
    "together": True,
}
APPROVED = {
    "approved": [
        ["close_road", "call_5", {"name": "A1"}],
        ["call_5", "A1 is closed", False],
        "Closed.",
        {"used": [7, 1]},
    ],
    "typed": ['{"name": "Ada", ', '"age": 36}', {"used": [2, 4]}],
}
LACKING = (
    "the conversation is given to a graph in the 'messages' of its state, and of this one's input they are no part (a state "
    "that extends MessagesState has them)"
)
OPENAI_AGENTS, PYDANTIC_AI = (
    "as_agent of trunkline.adapters.openai_agents takes an Agent of openai-agents, got ",
    "as_agent of trunkline.adapters.pydantic_ai takes an Agent of pydantic-ai, got ",
)
BY_FRAMEWORK: dict[str, dict[str, Any]] = {
    "langgraph": {
        "quota": [["OpenAIRateLimitError", True]],
        "remembered 1": HELLO,
        "remembered 2": ["Good ", "morning.", {"used": [4, 2]}],
        "goes on": {"used": [7, 2]},
        "went back": {"used": [4, 2]},
        "another": HELLO,
        "of a": HELLO,
        "of a:b": HELLO,
        "derived 1": {"used": [4, 2]},
        "derived 2": {"used": [4, 2]},
        "asked": ["Which city?"],
        "answered": ["Paris it is."],
        "nested": [*OSLO, "Snow.", {"used": [5, 1]}],
        "whole state": ["Seen."],
        "overwritten": ["Forgotten."],
        "workflows": {
            "text": ["You said: hello"],
            "message": ["A message."],
            "messages": ["A message, ", "a tuple, ", "a mapping."],
            "state": ["In a state."],
            "mapping": ['{"city":"Paris"}'],
            "model": ['{"name":"Ada"}'],
            "nothing": [],
            "its model's": SAID,
            "its model's text": SAID,
            "more": [*SAID[:-1], " (a greeting)", SAID[-1]],
            "other words": [*SAID[:-1], "\n\nIn short: 13 letters.", SAID[-1]],
            "loop": [
                ["weather", "call_8", {"city": "Lima"}],
                ["call_8", "sunny in Lima", False],
                "Fog.",
                {"used": [15, 1]},
            ],
            "asked": ["Which city?"],
            "answered": ["Paris it is."],
            "remembering 0": ["one two three"],
            "remembering 1": ["one two three one two three four"],
            "counting 0": ["3"],
            "counting 1": ["4"],
        },
        "warned": [],
        "warned later": [
            (
                "a graph has asked something in a turn without a named session, so nobody can answer it: the client names "
                "one, as with X-Session-Id (docs/sessions.md)"
            ),
            "a graph without a checkpointer has asked something, so nobody can answer it: compile it with one",
        ],
        "refused": {
            "uncompiled": "as_agent takes a compiled graph, got a StateGraph; call .compile() on it",
            "OpenAIAgent": "as_agent of trunkline.adapters.langgraph takes a compiled graph, got an Agent of agents.agent",
            "PydanticAgent": "as_agent of trunkline.adapters.langgraph takes a compiled graph, got an Agent of pydantic_ai.agent",
            "none": "as_agent of trunkline.adapters.langgraph takes a compiled graph, got None",
            "without messages": f"{LACKING}; it takes: question",
            "unasked": f"{LACKING}; it takes: question",
        },
    },
    "openai_agents": {
        **APPROVED,
        "unreadable": {"used": [1, 2]},  # the Responses API has file ids
        "same id": [
            ["weather", "call_0", {"city": "Bonn"}],
            ["call_0", "sunny in Bonn", False],
        ],  # it then gives up itself
        "quota": [["RateLimitError", True]],
        "broken": [
            ["broken", "call_4", {}],
            ["call_4", "An error occurred while running the tool. Please try again.", False],
            "It is broken.",
            {"used": [14, 3]},
        ],
        "denied": [
            ["close_road", "call_6", {"name": "A2"}],
            ["call_6", "Tool execution was not approved.", False],
            "Left open.",
            {"used": [9, 2]},
        ],
        "direct": [*OSLO, "sunny in Oslo", {"used": [1, 0]}],
        "guarded": [["AgentError", "guardrail_tripped"]],
        "refused": {
            "uncompiled": f"{OPENAI_AGENTS}a StateGraph of langgraph.graph.state",
            "PydanticAgent": f"{OPENAI_AGENTS}an Agent of pydantic_ai.agent",
            "none": f"{OPENAI_AGENTS}None",
        },
    },
    "pydantic_ai": {
        **APPROVED,
        "quota": [["ModelRateLimitError", True]],
        "broken": [["broken", "call_4", {}], ["ValueError", False]],
        "denied": [
            ["close_road", "call_6", {"name": "A2"}],
            ["call_6", "The tool call was denied.", True],
            "Left open.",
            {"used": [9, 2]},
        ],
        "typed": ['{"name": "Ada", ', '"age": 36}', {"used": [39, 4]}],
        "refused": {
            "uncompiled": f"{PYDANTIC_AI}a StateGraph of langgraph.graph.state",
            "OpenAIAgent": f"{PYDANTIC_AI}an Agent of agents.agent",
            "none": f"{PYDANTIC_AI}None",
        },
    },
}


@pytest.fixture
async def model(tmp_path: Path) -> AsyncIterator[Serving]:
    """What stands for OpenAI."""
    scripts = {"script.toml": (HERE / "adapters" / "script.toml").read_text()}
    async with serving(MODEL, base_dir=tmp_path, scripts=scripts) as served:
        yield served


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_an_adapter(framework: str, model: Serving, tmp_path: Path) -> None:
    trial = HERE / "adapters" / "trial.py"
    out = await run(python_of("adapters"), trial, framework, f"{model.url}/v1", home=tmp_path)
    assert json.loads(out) == {**SEEN, **BY_FRAMEWORK[framework]}
    await eventually(lambda: model.backend().active == 0)  # also what was left half-way


async def test_the_adapters_fit_the_frameworks_types(tmp_path: Path) -> None:
    """`make lint` does without the frameworks. Here they are, so their types count, for us and for who passes us an agent."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    settings |= {"files": [], "overrides": [], "mypy_path": [str(ROOT / "src")], "follow_imports": "silent"}
    lines = [
        f"{key} = {','.join(value) if isinstance(value, list) else value}" for key, value in settings.items() if value
    ]
    (tmp_path / "mypy.ini").write_text("\n".join(["[mypy]", *lines]))
    checked = (ROOT / "src" / "trunkline" / "adapters", HERE / "adapters" / "typed.py")
    cache = ("--cache-dir", environment("adapters") / "mypy_cache", "--config-file", tmp_path / "mypy.ini")
    out = await run(python_of("adapters"), "-m", "mypy", *cache, *checked, home=tmp_path)
    assert out.startswith("Success")


@contextlib.asynccontextmanager
async def example(path: str, *, name: str, model: Serving, home: Path) -> AsyncIterator[AsyncOpenAI]:
    """A client of an example that is served, with the scripted model behind it."""
    environ = {"OPENAI_BASE_URL": f"{model.url}/v1", "OPENAI_API_KEY": "sk-test", "HERMES_HOME": str(home / ".hermes")}
    command = (python_of(name), "-m", "trunkline", "serve", f"{ROOT / 'examples' / path}:agent", "--port", "0")
    async with (
        listening(*command, home=home, environ=environ) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client,
    ):
        yield client


async def chat(client: AsyncOpenAI, text: str) -> tuple[str, int]:
    """A streamed answer's text and how many tokens it took."""
    stream = await client.chat.completions.create(
        model=(await client.models.list()).data[0].id,
        messages=[{"role": "user", "content": text}],
        stream=True,
        stream_options={"include_usage": True},
    )
    said, tokens = "", 0
    async for chunk in stream:
        said += "".join(choice.delta.content or "" for choice in chunk.choices)
        tokens = tokens if chunk.usage is None else chunk.usage.total_tokens
    return said, tokens


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_its_example(framework: str, model: Serving, tmp_path: Path) -> None:
    async with example(f"{framework}_agent.py", name="adapters", model=model, home=tmp_path) as client:
        said, tokens = await chat(client, "hello")
        assert said == "Good morning."
        assert tokens > 2
        answer = await client.responses.create(model=f"{framework}_agent", input="weather")
        assert [item.type for item in answer.output] == [
            "message", "function_call", "function_call", "function_call_output", "function_call_output", "message",
        ]  # fmt: skip
        assert answer.output_text == "One moment. Sunny in both."
        with pytest.raises(InternalServerError) as failed:
            await client.responses.create(model=f"{framework}_agent", input="quota")
        assert failed.value.code == "agent_error"
        assert "out of quota" in failed.value.message
        with pytest.raises(InternalServerError) as endless:
            await client.responses.create(model=f"{framework}_agent", input="for ever")
        assert endless.value.status_code == 502


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_its_example_shows_its_tool_over_the_script_of_the_page(framework: str, tmp_path: Path) -> None:
    page = [piece for piece in pieces(ROOT / "docs" / "frameworks.md") if isinstance(piece, Block)]
    (script,) = [block.text for block in page if block.file == "model.toml"]
    (shown,) = [commands(block)[0] for block in page if block.language == "console"]
    asked = json.loads(shown.text.split(" -d ")[1].strip("'")) | {"model": f"{framework}_agent"}
    async with (
        serving(MODEL, base_dir=tmp_path, scripts={"script.toml": script}) as model,
        example(f"{framework}_agent.py", name="adapters", model=model, home=tmp_path) as client,
        aiohttp.ClientSession() as session,
        session.post(f"{client.base_url}chat/completions", json=asked) as answer,
    ):
        assert shows(shown.output or "", await answer.text())


@pytest.mark.parametrize("framework", ["openai_agents", "pydantic_ai"])
async def test_a_tool_waits_for_leave(framework: str, model: Serving, tmp_path: Path) -> None:
    async with (
        example(f"{framework}_agent.py", name="adapters", model=model, home=tmp_path) as client,
        aiohttp.ClientSession() as session,
    ):
        said, asked = "", []
        shown = {"stream_options": {"include_tool_events": True}}
        stream = await client.responses.create(
            model=f"{framework}_agent", input="close it", stream=True, extra_body=shown
        )
        async for event in stream:
            if event.type == "response.output_text.delta":
                said += event.delta
            elif "approval.requested" in event.type:
                asked.append(event.type)
                response_id = event.model_dump()["response_id"]
                async with session.post(
                    f"{client.base_url}runs/{response_id}/approval", json={"choice": "once"}
                ) as answer:
                    assert answer.status == 200, await answer.text()
        assert (said, asked) == ("Closed.", ["trunkline.approval.requested"])


@pytest.mark.parametrize("name", ["hermes", "nanobot"])
async def test_the_agent_of_another_server(name: str, model: Serving, tmp_path: Path) -> None:
    """The real one, as it is: its answer streams, its tools show, and it stops when its client leaves."""
    settings = {
        "agents": {"defaults": {"workspace": str(tmp_path / "work"), "model": "gpt-5-mini", "provider": "custom"}},
        "providers": {"custom": {"apiKey": "sk-test", "apiBase": f"{model.url}/v1"}},
    }
    (tmp_path / ".nanobot").mkdir()
    (tmp_path / ".nanobot" / "config.json").write_text(json.dumps(settings))
    (tmp_path / "work").mkdir()
    for notes in (tmp_path / "notes.txt", tmp_path / "work" / "notes.txt"):
        notes.write_text("buy milk\n")
    path = {"hermes": "hermes/hermes.py", "nanobot": "nanobot/nanobot_agent.py"}[name]
    async with example(path, name=name, model=model, home=tmp_path) as client:
        served = (await client.models.list()).data[0].id
        said, tokens = await chat(client, "hello")
        assert said == "Good morning."
        assert tokens > 100  # what it tells its model about itself
        answer = await client.responses.create(model=served, input="read my notes")
        assert [item.type for item in answer.output] == [
            "message", "function_call", "function_call_output", "message",
        ]  # fmt: skip
        assert "buy milk" in answer.output[2].model_dump()["output"]
        assert answer.output[3].model_dump()["content"][0]["text"].strip() == "Buy milk."
        leaving = await client.responses.create(model=served, input="hang", stream=True)
        async for event in leaving:
            if event.type == "response.output_text.delta":
                break
        await leaving.close()
        assert (await chat(client, "hello"))[0] == "Good morning."


async def test_an_application_of_fastapi(tmp_path: Path) -> None:
    command = (
        python_of("adapters"),
        "-m",
        "uvicorn",
        "--app-dir",
        ROOT / "examples" / "fastapi",
        "app:app",
        "--port",
        "0",
    )
    async with (
        listening(*command, home=tmp_path) as url,
        aiohttp.ClientSession() as session,
        AsyncOpenAI(base_url=f"{url}/ai/v1", api_key="none", max_retries=0) as client,
    ):
        assert await chat(client, "hello") == ("You said: hello", 0)
        answers = await asyncio.gather(*[client.responses.create(model="support", input=str(n)) for n in range(20)])
        assert [answer.output_text for answer in answers] == [f"You said: {n}" for n in range(20)]
        async with session.get(url) as page:
            assert await page.json() == "An application with an agent in it."
        async with session.get(f"{url}/openapi.json") as described:
            assert list((await described.json())["paths"]) == ["/"]
