"""What Open WebUI, LibreChat and a page in a browser send, as they send it.

Open WebUI 0.12.4: backend/open_webui/routers/openai.py, utils/headers.py, utils/tools.py.
LibreChat 0.8: its OpenAI client for custom endpoints.
"""

import json
from typing import Any

import pytest

from tests.conftest import Serve
from tests.serving import Serving, read_frames

AGENT = """
[server]
api_keys = ["sk-mine"]
cors_origins = ["https://app.example"]
[backends.support]
type = "python"
target = "support.py:support"
sessions = true
"""
SOURCE = """
from trunkline.agent import ToolFinished, ToolStarted, Usage

async def support(turn):
    users = [message["content"] for message in turn.messages if message["role"] == "user"]
    yield ToolStarted("call_1", "count", {}, label="users")
    yield ToolFinished("call_1", output=len(users))
    yield f"{len(users)} so far"
    yield Usage(input_tokens=2, output_tokens=3)
"""
SCRIPTS = {"support.py": SOURCE}
KEY = {"authorization": "Bearer sk-mine"}
OPEN_WEBUI = {
    **KEY,
    "content-type": "application/json",
    "accept": "*/*",
    "accept-encoding": "gzip, deflate, br",
    "user-agent": "Python/3.11 aiohttp/3.12.15",
    "x-openwebui-user-name": "Ada%20Lovelace",
    "x-openwebui-user-id": "0f4c1b9e-51ee-4f3e-a0f6-6a7f0d2b8d11",
    "x-openwebui-user-email": "ada@example.com",
    "x-openwebui-user-role": "admin",
    "x-openwebui-chat-id": "7a0e8f7c-6a53-4c7a-9c53-0c9f2a4f1f5e",
    "x-session-id": "7a0e8f7c-6a53-4c7a-9c53-0c9f2a4f1f5e",
    "x-session-key": "0f4c1b9e-51ee-4f3e-a0f6-6a7f0d2b8d11",
}
BUILT_IN = [
    {
        "type": "function",
        "function": {"name": name, "description": "…", "parameters": {"type": "object", "properties": {}}},
    }
    for name in ("get_current_timestamp", "ask_user", "search_chats", "view_note", "create_automation")
]
LIBRECHAT = {
    **KEY,
    "content-type": "application/json",
    "accept": "application/json",
    "user-agent": "OpenAI/JS 5.8.2",
    "x-stainless-lang": "js",
    "x-stainless-package-version": "5.8.2",
    "x-stainless-os": "Linux",
    "x-stainless-arch": "x64",
    "x-stainless-runtime": "node",
    "x-stainless-runtime-version": "v20.19.0",
    "x-stainless-retry-count": "0",
    "x-session-id": "3d5f2c1e-0b9a-4a7e-8f6d-2c1b0a9e8d7c",  # as a version fills it that has the id from the start
    "x-session-key": "68a1f0c2e4b09d5a7c3e1f20",
}
TITLE = (
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n"
    "### Guidelines:\n- The title should clearly represent the main theme or subject of the conversation.\n"
    '### Output:\nJSON format: { "title": "your concise title here" }\n'
    "### Chat History:\n<chat_history>\nUSER: hello\nASSISTANT: 1 so far\n</chat_history>"
)


async def post(server: Serving, body: dict[str, Any], headers: dict[str, str]) -> Any:
    return await server.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers=headers)


def said(frames: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or "" for frame in frames if frame != "[DONE]" for choice in frame["choices"]
    )


async def test_open_webui_finds_the_models(serve: Serve) -> None:
    async with serve(AGENT, scripts=SCRIPTS) as server:
        listed = (await server.get("/v1/models", headers=OPEN_WEBUI)).json()
    assert listed["object"] == "list"
    assert [(model["id"], model["object"], model["owned_by"]) for model in listed["data"]] == [
        ("support", "model", "trunkline")
    ]


async def test_open_webui_talks_in_its_own_conversation(serve: Serve) -> None:
    """Its turns have the whole history each time; its title, tags and follow-ups come in between, and count as nothing."""
    first = {
        "stream": True,
        "model": "support",
        "messages": [{"role": "user", "content": "hello"}],
        "stream_options": {"include_usage": True},
    }
    task = {
        "model": "support",
        "messages": [{"role": "user", "content": TITLE}],
        "stream": False,
        "max_completion_tokens": 1000,
    }
    second = {
        **first,
        "messages": [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "1 so far"},
            {"role": "user", "content": "again"},
        ],
    }
    async with serve(AGENT, scripts=SCRIPTS) as server:
        answer = await post(server, first, OPEN_WEBUI)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["x-session-id"] == OPEN_WEBUI["x-session-id"]
        assert said(answer.frames) == "1 so far"
        assert answer.frames[-2]["usage"]["total_tokens"] == 5
        assert answer.frames[-2]["choices"] == []
        titled = await post(server, task, OPEN_WEBUI)
        assert titled.status == 200
        assert said((await post(server, second, OPEN_WEBUI)).frames) == "2 so far"
        session = f"/v1/sessions/{OPEN_WEBUI['x-session-id']}/messages"
        kept = (await server.get(session, headers=KEY)).json()["data"]
        assert [item["role"] for item in kept if item["type"] == "message"] == ["user", "assistant"] * 2


@pytest.mark.parametrize("stream", [False, True])
async def test_open_webui_brings_tools_of_its_own_to_every_chat(serve: Serve, stream: bool) -> None:
    """Its built-in tools, for a model that calls them. An agent refuses them unless it is told to answer without."""
    told = AGENT + 'client_tools = "ignore"\n'
    body = {"stream": stream, "model": "support", "messages": [{"role": "user", "content": "hello"}], "tools": BUILT_IN}
    async with serve(AGENT, scripts=SCRIPTS) as server:
        refused = await post(server, body, OPEN_WEBUI)
        assert (refused.status, refused.error["param"]) == (400, "tools")
        assert 'client_tools = "ignore"' in refused.error["message"]
    async with serve(told, scripts=SCRIPTS) as server:
        answer = await post(server, body, OPEN_WEBUI)
        assert (answer.status, answer.headers["x-trunkline-ignored"]) == (200, "tools")
        assert (said(answer.frames) if stream else answer.json()["choices"][0]["message"]["content"]) == "1 so far"
        plain = await post(server, {**body, "tools": []}, OPEN_WEBUI)
        assert (plain.status, plain.headers.get("x-trunkline-ignored")) == (200, None)


async def test_an_agent_that_ignores_tools_has_none(serve: Serve) -> None:
    calls = (
        "from trunkline.agent import FunctionCall\nasync def support(turn):\n    yield FunctionCall('view_note', {})\n"
    )
    body = {"model": "support", "messages": [{"role": "user", "content": "hello"}], "tools": BUILT_IN}
    async with serve(AGENT + 'client_tools = "ignore"\n', scripts={"support.py": calls}) as server:
        answer = await post(server, body, OPEN_WEBUI)
        assert (answer.status, answer.error["code"]) == (500, "agent_error")
        assert "does not handle client tools" in answer.error["message"]


async def test_open_webui_shows_tools_as_reasoning_where_that_is_set(serve: Serve) -> None:
    body = {"stream": True, "model": "support", "messages": [{"role": "user", "content": "hello"}]}
    toml = AGENT.replace("[server]", '[server]\ntool_events = "reasoning"')
    async with serve(toml, scripts=SCRIPTS) as server:
        frames = (await post(server, body, OPEN_WEBUI)).frames
    thoughts = [choice["delta"].get("reasoning_content") for frame in frames[:-1] for choice in frame["choices"]]
    assert "count: users\n" in thoughts
    assert said(frames) == "1 so far"


async def test_a_tool_has_a_line_of_its_own_among_the_thoughts(serve: Serve) -> None:
    """Open WebUI shows one block of all that is thought, as Markdown with its line breaks."""
    thinks = """
from trunkline.agent import Reasoning, ToolFinished, ToolStarted

async def support(turn):
    yield Reasoning("They want ")
    yield Reasoning("cats.")
    yield ToolStarted("call_1", "search", {}, label="cats")
    yield ToolFinished("call_1", output="none", failed=True)
    yield Reasoning("None. So dogs.\\n")
    yield ToolStarted("call_2", "search", {}, label="dogs")
    yield ToolFinished("call_2", output="ten")
    yield "Ten."
"""
    body = {"stream": True, "model": "support", "messages": [{"role": "user", "content": "hello"}]}
    toml = AGENT.replace("[server]", '[server]\ntool_events = "reasoning"')
    async with serve(toml, scripts={"support.py": thinks}) as server:
        frames = (await post(server, body, OPEN_WEBUI)).frames
    thought = "".join(
        choice["delta"].get("reasoning_content") or "" for frame in frames[:-1] for choice in frame["choices"]
    )
    assert thought == "They want cats.\nsearch: cats\nsearch failed\nNone. So dogs.\nsearch: dogs\n"


@pytest.mark.parametrize("kind", ["temporary", "local"])
async def test_a_temporary_chat_of_open_webui_is_no_session(serve: Serve, kind: str) -> None:
    """Its id is that of the browser's connection, which the next temporary chat has as well."""
    chat = f"{kind}:Zx8f_0aB-3"
    headers = {**OPEN_WEBUI, "x-session-id": chat}
    body = {"stream": True, "model": "support", "messages": [{"role": "user", "content": "hello"}]}
    async with serve(AGENT, scripts=SCRIPTS) as server:
        for _ in range(2):
            answer = await post(server, body, headers)
            assert said(answer.frames) == "1 so far"
            assert answer.headers["x-session-id"].startswith("api-")
        assert (await server.get("/v1/sessions", headers=KEY)).json()["data"] == []
        path = f"/v1/sessions/{chat}/chat/completions"  # whoever writes this means it
        assert (await server.request("POST", path, json.dumps(body).encode(), headers=KEY)).headers[
            "x-session-id"
        ] == chat
    async with serve(AGENT + "[sessions]\nskip_auxiliary = false\n", scripts=SCRIPTS) as server:
        assert (await post(server, body, headers)).headers["x-session-id"] == chat


async def test_librechat_sends_what_it_sends_to_openai(serve: Serve) -> None:
    body = {
        "model": "support",
        "user": "68a1f0c2e4b09d5a7c3e1f20",
        "temperature": 1,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        ],
    }
    async with serve(AGENT, scripts=SCRIPTS) as server:
        answer = await post(server, body, LIBRECHAT)
        assert (answer.status, said(answer.frames)) == (200, "1 so far")
        assert answer.frames[-2]["usage"]["total_tokens"] == 5
        assert answer.frames[-1] == "[DONE]"
        assert "temperature" in answer.headers["x-trunkline-ignored"]
        title = "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. hello"
        titled = {**body, "messages": [{"role": "user", "content": title}], "stream": False}
        del titled["stream_options"]
        assert (await post(server, titled, LIBRECHAT)).status == 200
        kept = await server.get(f"/v1/sessions/{LIBRECHAT['x-session-id']}/messages", headers=KEY)
        assert sum(item["type"] == "message" and item["role"] == "user" for item in kept.json()["data"]) == 1


async def test_a_page_reads_a_stream_after_its_preflight(serve: Serve) -> None:
    origin = {"origin": "https://app.example"}
    asked = {
        **origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-session-id",
    }
    body = {"model": "support", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    async with serve(AGENT, scripts=SCRIPTS) as server:
        allowed = await server.request("OPTIONS", "/v1/chat/completions", headers=asked)
        assert allowed.status == 200
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        names = {name.strip().lower() for name in allowed.headers["access-control-allow-headers"].split(",")}
        assert {"authorization", "content-type", "x-session-id"} <= names
        answer = await post(server, body, {**KEY, **origin, "sec-fetch-mode": "cors", "x-session-id": "page-1"})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "x-session-id" in answer.headers["access-control-expose-headers"].lower()
        assert answer.headers["vary"].lower() == "origin"
        assert said(read_frames(answer.body)) == "1 so far"
        foreign = await post(server, body, {**KEY, "origin": "https://evil.example"})
        assert foreign.status == 403
        assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize("headers", [OPEN_WEBUI, LIBRECHAT], ids=["open_webui", "librechat"])
async def test_a_header_that_its_template_left_empty_says_nothing(serve: Serve, headers: dict[str, str]) -> None:
    """A temporary chat and a conversation's first message have no id yet."""
    body = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}
    async with serve(AGENT, scripts=SCRIPTS) as server:
        answer = await post(server, body, {**headers, "x-session-id": "", "x-session-key": ""})
        assert answer.status == 200
        temporary = await post(server, body, {**headers, "x-session-id": "local:Zx8f_0aB-3"})
        assert temporary.status == 200
