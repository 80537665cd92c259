"""The official Node SDK against a running server. The program does everything once; each test reads its part of the report."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.node_program import report_of
from tests.serving import REQUEST_ID, eventually, serving

SCRIPT = r"""
[[rules]]
match = "weather in"
steps = [
  { text = "Let me look. " },
  { call = "get_weather", arguments = ['{"city": ', '"Paris"}'], call_id = "call_a" },
  { call = "get_time", call_id = "call_b" },
]
[[rules]]
match = "run the tool"
times = 1
steps = [{ call = "add", arguments = ['{"a": 2, ', '"b": 3}'], call_id = "call_c" }]
[[rules]]
match = "run the tool"
steps = [{ text = "It is 5." }]
[[rules]]
match = "as json"
steps = [{ text = '{"name": "Ada", ' }, { text = '"age": 36}' }]
[[rules]]
match = "use a tool"
steps = [
  { run = "search", label = "cats" },
  { approval = "shell", text = "rm -r build", answer = "once" },
  { text = "Done." },
]
[[rules]]
match = "fail midway"
steps = [{ text = "part" }, { error = "unavailable", message = "gone" }]
[[rules]]
match = "be busy"
steps = [{ error = "rate_limited", message = "slow down", retry_after_s = 7 }]
[[rules]]
match = "break"
steps = [{ error = "bug" }]
[[rules]]
match = "hang"
steps = [{ text = "on" }, { hang = true }]
"""
TOML = '[server]\napi_keys = ["sk-test"]\n[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n'


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the program saw, as the JSON it printed."""
    return asyncio.run(_report(tmp_path_factory.mktemp("node")))


async def _report(folder: Path) -> object:
    async with serving(TOML, base_dir=folder, scripts={"script.toml": SCRIPT}) as server:
        seen = await report_of("chat.mjs", server)
        await eventually(lambda: server.backend().active == 0)
        return seen


def test_create(report: dict[str, Any]) -> None:
    completion = report["create"]["completion"]
    assert completion["choices"][0]["message"]["content"] == "hello there"
    assert completion["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    assert REQUEST_ID.fullmatch(report["create"]["requestID"])


def test_stream(report: dict[str, Any]) -> None:
    chunks = report["stream"]
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks[:3]] == ["one", " two", " three"]
    assert chunks[3]["choices"][0]["finish_reason"] == "stop"
    assert chunks[4]["choices"] == []
    assert chunks[4]["usage"]["completion_tokens"] == 3


def test_the_helper_hands_over_what_an_agent_does_meanwhile(report: dict[str, Any]) -> None:
    assert report["agent"]["meanwhile"] == ["search", "search", "requested", "resolved"]
    (choice,) = report["agent"]["final"]["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Done.", "stop")


def test_the_helper_accumulates_text_and_calls(report: dict[str, Any]) -> None:
    assert "".join(report["helper"]["content"]) == "Let me look. "
    choice = report["helper"]["final"]["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in choice["message"]["tool_calls"]
    ]
    assert calls == [("call_a", "get_weather", '{"city": "Paris"}'), ("call_b", "get_time", "{}")]


def test_tools_are_run_and_their_results_sent_back(report: dict[str, Any]) -> None:
    assert report["runTools"] == {
        "content": "It is 5.",
        "called": [[2, 3]],
        "roles": ["user", "assistant", "tool", "assistant"],
    }


def test_choices_logprobs_and_json(report: dict[str, Any]) -> None:
    assert report["n"] == [[0, "same"], [1, "same"]]
    assert "".join(token["token"] for token in report["logprobs"]["content"]) == "one two"
    assert report["parsed"] == {"name": "Ada", "age": 36}


@pytest.mark.parametrize(
    ("what", "name", "status", "code"),
    [
        ("bad", "BadRequestError", 400, "empty_array"),
        ("unknown", "NotFoundError", 404, "model_not_found"),
        ("unauthorized", "AuthenticationError", 401, "invalid_api_key"),
        ("busy", "RateLimitError", 429, "rate_limit_exceeded"),
        ("broken", "InternalServerError", 500, "internal_error"),
        ("midway", "APIError", None, "backend_unavailable"),
    ],
)
def test_errors_are_the_sdks_own(report: dict[str, Any], what: str, name: str, status: int | None, code: str) -> None:
    error = report["errors"][what]
    assert (error["name"], error["status"], error["code"]) == (name, status, code)


def test_models_and_headers(report: dict[str, Any]) -> None:
    assert report["models"] == ["scripted"]
    assert report["model"]["id"] == "scripted"
    assert report["headers"]["x-trunkline-ignored"] == "temperature"
    assert report["headers"]["x-trunkline-route"] == "talk/scripted"


def test_a_key_goes_as_a_header_as_the_page_says(report: dict[str, Any]) -> None:
    """docs/idempotency.md: the SDK's own option `idempotencyKey` is not sent."""
    assert report["keyed"] == [[None, "replayed"], [None, None]]


def test_leaving_a_stream(report: dict[str, Any]) -> None:
    assert report["left"] == "on"
