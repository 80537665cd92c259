"""`profile = "hermes"`: what users of hermes-agent's API server have found wrong or missing there, and find right here.

What the numbered checks cover already is tested with them.
"""

import asyncio
import contextlib
import json

import pytest

from tests.conftest import Serve
from tests.profiles.hermes import AUTH, BOTH, HERMES, Names, answered, ask, chat, given, held, named_events, said, toml
from tests.serving import Reply, Serving, user

PARALLEL = 24
"""More than the threads that a default executor has on a small machine."""


@BOTH
async def test_arguments_of_calls_are_streamed(either: Serving) -> None:
    kinds = [name for name, _ in named_events((await ask(either, "tool", stream=True)).body)]
    for kind in (
        "content_part.added",
        "content_part.done",
        "function_call_arguments.delta",
        "function_call_arguments.done",
    ):
        assert f"response.{kind}" in kinds


@BOTH
async def test_what_the_assistant_said_last_is_not_the_question(either: Serving) -> None:
    messages = [*user("show"), {"role": "assistant", "content": "and then"}]
    shown = given(said(await chat(either, messages=messages)))
    assert shown["message"] == "show"


@BOTH
async def test_results_of_tools_are_part_of_the_history(either: Serving) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": "{}"}}
    messages = [
        *user("look"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "found"},
        *user("show"),
    ]
    history = given(said(await chat(either, messages=messages)))["history"]
    assert [message["role"] for message in history] == ["user", "assistant", "tool"]
    assert history[2]["content"] == "found"


@BOTH
async def test_many_agents_that_block_do_not_wait_for_each_other(either: Serving) -> None:
    """Each has said its first word while none has ended: none waits for another's thread."""
    async with held(), contextlib.AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(either.connect()) for _ in range(PARALLEL)]
        for wire in wires:
            await wire.send_chat({"model": "hermes-agent", "messages": user("wait"), "stream": True})
        for wire in wires:
            await wire.head()
            await wire.until(b"partial output")
        await chat(either, "go")
        for wire in wires:
            await wire.until(b"[DONE]")


async def post_run(server: Serving, *, headers: dict[str, str] | None = None, text: str = "show") -> Reply:
    return await server.request("POST", "/v1/runs", json.dumps({"input": text}).encode(), headers=headers)


async def end_of(server: Serving, run_id: str, headers: dict[str, str] | None = None) -> dict[str, object]:
    """The last event of a run, once it has come."""
    reply = await server.get(f"/v1/runs/{run_id}/events", headers=headers)
    lines = [line[6:] for line in reply.body.decode().split("\n") if line.startswith("data: ")]
    last: dict[str, object] = json.loads(lines[-1])
    return last


@BOTH
async def test_a_run_belongs_to_the_session_it_names(either_keyed: Serving, names: Names) -> None:
    headers = {**AUTH, names.session: "mine", names.memory: "ann"}
    run_id = (await post_run(either_keyed, headers=headers)).json()["run_id"]
    shown = given(str((await end_of(either_keyed, run_id, AUTH))["output"]))
    assert (shown["session_id"], shown["memory_key"]) == ("mine", "ann")
    assert (await either_keyed.get(f"/v1/runs/{run_id}", headers=AUTH)).json()["session_id"] == "mine"
    found = (await either_keyed.get("/v1/runs?session_id=mine", headers=AUTH)).json()["data"]
    assert [run["run_id"] for run in found] == [run_id]


@BOTH
async def test_a_run_that_is_asked_for_twice_is_one(either: Serving) -> None:
    headers = {"idempotency-key": "k1"}
    first, second = [(await post_run(either, headers=headers)).json()["run_id"] for _ in range(2)]
    assert first == second


async def test_a_run_that_is_asked_for_twice_is_found_at_the_limit(hermes: Serving) -> None:
    headers = {"idempotency-key": "k1"}
    async with held():
        first = (await post_run(hermes, headers=headers, text="wait")).json()["run_id"]
        rest = [(await post_run(hermes, text="wait")).json()["run_id"] for _ in range(9)]
        assert (await post_run(hermes, text="wait")).status == 429
        assert (await post_run(hermes, headers=headers, text="wait")).json()["run_id"] == first
    for run_id in (first, *rest):
        await end_of(hermes, run_id)


@BOTH
async def test_the_end_of_a_run_has_its_messages(either: Serving) -> None:
    run_id = (await post_run(either, text="tool")).json()["run_id"]
    messages = (await end_of(either, run_id))["messages"]
    assert isinstance(messages, list)
    assert [message["role"] for message in messages] == ["assistant", "tool", "assistant"]


@BOTH
async def test_a_run_is_part_of_its_session(either_keyed: Serving, names: Names) -> None:
    headers = {**AUTH, names.session: "mine"}
    run_id = (await post_run(either_keyed, headers=headers, text="Hello")).json()["run_id"]
    await end_of(either_keyed, run_id, AUTH)
    history = given(said(await chat(either_keyed, "show", headers=headers)))["history"]
    assert [message["content"] for message in history] == ["Hello", "You said: Hello"]


@BOTH
async def test_runs_that_are_asked_for_at_once_are_one(either: Serving) -> None:
    replies = await asyncio.gather(*(post_run(either, headers={"idempotency-key": "k1"}) for _ in range(8)))
    assert {reply.status for reply in replies} == {202}
    assert len({reply.json()["run_id"] for reply in replies}) == 1


@BOTH
@pytest.mark.parametrize("changed", ["text", "session", "memory"])
async def test_a_run_under_a_key_is_of_its_body_and_its_session(
    either_keyed: Serving, names: Names, changed: str
) -> None:
    """What changed is another request: refused, or where clients expect that, another run."""
    headers = {**AUTH, "idempotency-key": "k1"}
    first = (await post_run(either_keyed, headers=headers)).json()["run_id"]
    if changed == "text":
        reply = await post_run(either_keyed, headers=headers, text="Hello")
    else:
        reply = await post_run(either_keyed, headers={**headers, getattr(names, changed): "mine"})
    if names is HERMES:
        assert (reply.status, reply.json()["run_id"] != first) == (202, True)
    else:
        assert (reply.status, reply.error["code"]) == (409, "idempotency_key_reused")


@BOTH
async def test_a_run_is_found_by_its_key_after_a_restart(serve: Serve, names: Names) -> None:
    kept = toml(names, more='[store]\nurl = "sqlite:///kept.db"\n')
    headers = {"idempotency-key": "k1"}
    async with serve(kept) as server:
        first = (await post_run(server, headers=headers)).json()["run_id"]
        await end_of(server, first)
    async with serve(kept) as server:
        assert (await post_run(server, headers=headers)).json()["run_id"] == first
        assert (await end_of(server, first))["event"] == "run.completed"


@BOTH
async def test_what_failed_is_no_answer_whatever_its_text(either: Serving) -> None:
    for reply in (await ask(either, "collapse"), await chat(either, "collapse")):
        assert (reply.status, "Provider failed" in reply.json()["error"]["message"]) == (500, True)
    (*_, (name, last)) = [pair for pair in named_events((await ask(either, "collapse", stream=True)).body) if pair[0]]
    assert (name, last["response"]["status"]) == ("response.failed", "failed")


@BOTH
async def test_client_tools_are_never_ignored_in_silence_by_responses_either(either: Serving, names: Names) -> None:
    assert (await ask(either, tools=[])).status == 200
    tool = {"type": "function", "name": "lookup", "parameters": {"type": "object", "properties": {}}}
    reply = await ask(either, tools=[tool])
    if names is HERMES:
        assert (reply.status, reply.headers["x-trunkline-ignored"]) == (200, "tools")
    else:
        assert (reply.status, reply.error["param"]) == (400, "tools")


@BOTH
async def test_runs_are_listed(either: Serving) -> None:
    ids = {(await post_run(either)).json()["run_id"] for _ in range(3)}
    assert {run["run_id"] for run in (await either.get("/v1/runs")).json()["data"]} == ids


@BOTH
async def test_a_message_can_be_added_to_a_session(either_keyed: Serving, names: Names) -> None:
    headers = {**AUTH, names.session: "mine"}
    await chat(either_keyed, "Hello", headers=headers)
    reply = await either_keyed.request(
        "POST", "/v1/sessions/mine/messages", json.dumps({"messages": user("By the way")}).encode(), headers=AUTH
    )
    assert reply.status == 200, reply
    history = given(said(await chat(either_keyed, "show", headers=headers)))["history"]
    assert "By the way" in [message["content"] for message in history]


@BOTH
async def test_sessions_share_nothing(either_keyed: Serving, names: Names) -> None:
    """Side by side, each with its own history, prompt and memory."""

    async def talk(name: str) -> dict[str, object]:
        headers = {**AUTH, names.session: name, names.memory: name}
        await ask(either_keyed, f"I am {name}", headers=headers)
        return given(answered(await ask(either_keyed, "show", headers=headers)))

    told = await asyncio.gather(*(talk(f"s{n}") for n in range(8)))
    for n, shown in enumerate(told):
        assert (shown["session_id"], shown["memory_key"]) == (f"s{n}", f"s{n}")
        history = shown["history"]
        assert isinstance(history, list)
        assert [message["content"] for message in history] == [f"I am s{n}", f"You said: I am s{n}"]


@pytest.mark.parametrize("names", [HERMES])
async def test_an_approval_is_seen_by_chat_and_responses(serve: Serve, names: Names) -> None:
    async with serve(toml(names, agent="asking")) as server:
        async with server.connect() as wire:
            body = json.dumps({"model": "any", "input": "hi", "stream": True}).encode()
            await wire.send(b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await wire.head()
            seen = await wire.until(b"hermes.approval.requested")
            response_id = "resp_" + seen.split(b'"resp_')[1].split(b'"')[0].decode()
            answer = json.dumps({"choice": "once"}).encode()
            assert (await server.request("POST", f"/v1/runs/{response_id}/approval", answer)).status == 200
            await wire.until(b"response.completed")
        # Where nobody can see the question, it is answered at once.
        assert said(await chat(server)) == "deny."
