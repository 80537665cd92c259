"""`profile = "hermes"`: runs, checks 100 to 106 of its contract, in its order. Runs themselves are tested in tests/surfaces."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.conftest import Serve
from tests.profiles.hermes import DEFAULT, held, toml
from tests.serving import Reply, Serving, Wire, user


async def start(server: Serving, text: str = "hi", **body: Any) -> str:
    reply = await server.request("POST", "/v1/runs", json.dumps({"input": text, **body}).encode())
    assert (reply.status, reply.json()["status"]) == (202, "started"), reply
    run_id = reply.json()["run_id"]
    assert isinstance(run_id, str)
    return run_id


async def post(server: Serving, path: str, **body: Any) -> Reply:
    return await server.request("POST", path, json.dumps(body).encode())


async def status(server: Serving, run_id: str) -> Any:
    return (await server.get(f"/v1/runs/{run_id}")).json()


def events_of(body: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in body.decode().split("\n") if line.startswith("data: ")]


async def events(server: Serving, run_id: str) -> list[Any]:
    """All of them: the stream ends with the run."""
    return events_of((await server.get(f"/v1/runs/{run_id}/events")).body)


async def test_100_a_run_is_taken_on(hermes: Serving) -> None:
    assert (await start(hermes)).startswith("run_")


async def test_101_a_run_says_what_happens(hermes: Serving) -> None:
    reply = await hermes.get(f"/v1/runs/{await start(hermes, 'tool')}/events")
    told = events_of(reply.body)
    assert [event["event"] for event in told] == [
        "message.delta",
        "tool.started",
        "tool.completed",
        "message.delta",
        "run.completed",
    ]
    assert (told[1]["tool"], told[2]["tool"], told[2]["error"]) == ("terminal", "terminal", False)
    assert told[-1]["output"] == "Looking. Found."
    assert told[-1]["usage"].keys() >= {"input_tokens", "output_tokens", "total_tokens"}
    assert reply.body.endswith(b": stream closed\n\n")


async def test_101_a_runs_events_can_be_read_again(hermes: Serving) -> None:
    run_id = await start(hermes, "tool")
    assert await events(hermes, run_id) == await events(hermes, run_id) != []


@asynccontextmanager
async def heard_of(hermes: Serving, run_id: str) -> AsyncIterator[Wire]:
    """A reader of the run's events who has had its first words."""
    async with hermes.connect() as wire:
        await wire.send(f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await wire.head()
        await wire.until(b"message.delta")
        yield wire


async def test_102_a_run_can_be_asked_how_it_went(hermes: Serving) -> None:
    run_id = await start(hermes, "compute")
    await events(hermes, run_id)
    run = await status(hermes, run_id)
    assert (run["object"], run["run_id"], run["status"]) == ("hermes.run", run_id, "completed")
    assert (run["output"], run["usage"]["total_tokens"]) == ("It is 42.", 150)
    assert (run["last_event"], run["model"]) == ("run.completed", "hermes-agent")
    assert run["created_at"] <= run["updated_at"]
    assert run["session_id"].startswith("api-")


async def test_103_a_run_can_be_stopped(hermes: Serving) -> None:
    async with held():
        run_id = await start(hermes, "wait")
        async with heard_of(hermes, run_id) as wire:
            stopped = await post(hermes, f"/v1/runs/{run_id}/stop")
            assert (stopped.status, stopped.json()["run_id"], stopped.json()["status"]) == (200, run_id, "stopping")
            await wire.until(b"run.cancelled")
    assert (await status(hermes, run_id))["status"] == "cancelled"


async def test_103_a_response_that_is_cancelled_is_a_run_that_is(hermes: Serving) -> None:
    """Though the response is `incomplete`."""
    async with held():
        run_id = await start(hermes, "wait")
        async with heard_of(hermes, run_id) as wire:
            response = (await hermes.request("POST", f"/v1/responses/{run_id}/cancel")).json()
            assert response["status"] == "incomplete"
            assert b"run.completed" not in await wire.until(b"run.cancelled")
    run = await status(hermes, run_id)
    assert (run["status"], run["last_event"], run["output"]) == ("cancelled", "run.cancelled", "partial output")
    assert "incomplete_details" not in run
    listed = (await hermes.get("/v1/runs?status=cancelled")).json()["data"]
    assert [(one["run_id"], one["status"]) for one in listed] == [(run_id, "cancelled")]
    assert (await events(hermes, run_id))[-1]["event"] == "run.cancelled"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/runs/run_none", None),
        ("GET", "/v1/runs/run_none/events", None),
        ("POST", "/v1/runs/run_none/stop", b"{}"),
        ("POST", "/v1/runs/run_none/approval", b'{"choice": "once"}'),
    ],
)
async def test_104_an_unknown_run(hermes: Serving, method: str, path: str, body: bytes | None) -> None:
    reply = await hermes.request(method, path, body)
    assert (reply.status, reply.error["code"]) == (404, "run_not_found")


async def test_105_a_run_waits_for_an_answer(serve: Serve) -> None:
    async with serve(toml(agent="asking")) as server:
        run_id = await start(server)
        path = f"/v1/runs/{run_id}/approval"
        async with server.connect() as wire:
            await wire.send(f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await wire.head()
            (asked,) = events_of(await wire.until(b"approval.request"))
            assert asked["choices"] == ["once", "session", "always", "deny"]
            assert (await status(server, run_id))["status"] == "waiting_for_approval"
            wrong = await post(server, path, choice="perhaps")
            assert (wrong.status, wrong.error["code"]) == (400, "invalid_approval_choice")
            right = await post(server, path, choice="once")
            assert (right.status, right.json()["object"]) == (200, "hermes.run.approval_response")
            assert right.json()["resolved"] == 1
            ended = events_of(await wire.until(b"run.completed"))
        assert [event["event"] for event in ended] == ["approval.responded", "message.delta", "run.completed"]
        assert ended[-1]["output"] == "once."
        late = await post(server, path, choice="once")
        assert (late.status, late.error["code"]) == (409, "approval_not_pending")


async def test_105_a_chat_stream_can_be_answered_too(serve: Serve) -> None:
    async with serve(toml(agent="asking")) as server, server.connect() as wire:
        await wire.send_chat({"messages": user("hi"), "stream": True})
        await wire.head()
        seen = await wire.until(b"hermes.approval.requested")
        asked = events_of(seen)[0]
        assert asked["approval"]["choices"] == ["once", "session", "always", "deny"]
        await post(server, f"/v1/runs/{asked['id']}/approval", choice="deny")
        await wire.until(b'"deny."'[1:-1])


async def test_106_there_are_only_so_many_runs(hermes: Serving) -> None:
    async with held():
        runs = [await start(hermes, "wait") for _ in range(10)]
        reply = await post(hermes, "/v1/runs", input="wait")
        assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
        assert int(reply.headers["retry-after"]) >= 1
    for run_id in runs:
        await events(hermes, run_id)
    await start(hermes)


@pytest.mark.parametrize(
    ("word", "choice"), [("approve", "once"), ("approved", "once"), ("allow", "once"), (" Always ", "always")]
)
async def test_105_other_words_for_a_choice(serve: Serve, word: str, choice: str) -> None:
    async with serve(toml(agent="asking")) as server:
        run_id = await start(server)
        async with server.connect() as wire:
            await wire.send(f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await wire.head()
            await wire.until(b"approval.request")
            reply = await post(server, f"/v1/runs/{run_id}/approval", choice=word)
            assert (reply.status, reply.json()["choice"]) == (200, choice), reply
            ended = events_of(await wire.until(b"run.completed"))
        assert (ended[0]["choice"], ended[-1]["output"]) == (choice, f"{choice}.")


async def test_105_other_words_are_this_profiles(serve: Serve) -> None:
    async with serve(toml(DEFAULT, agent="asking")) as server:
        reply = await server.request("POST", "/v1/runs", json.dumps({"input": "hi"}).encode())
        run_id = reply.json()["run_id"]
        async with server.connect() as wire:
            await wire.send(f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await wire.head()
            await wire.until(b"approval.request")
            for word in ("approve", "Once"):
                wrong = await post(server, f"/v1/runs/{run_id}/approval", choice=word)
                assert (wrong.status, wrong.error["code"]) == (400, "invalid_approval_choice")


async def test_105_an_agents_own_choice_is_no_other_word(serve: Serve) -> None:
    async with serve(toml(agent="choosing")) as server:
        run_id = await start(server)
        async with server.connect() as wire:
            await wire.send(f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await wire.head()
            await wire.until(b"approval.request")
            reply = await post(server, f"/v1/runs/{run_id}/approval", choice="approve")
            assert (reply.status, reply.json()["choice"]) == (200, "approve"), reply
            ended = events_of(await wire.until(b"run.completed"))
        assert ended[-1]["output"] == "approve."
