"""`profile = "hermes"`: browsers, sessions, the store and repeated requests, checks 75 to 99 of its contract, in its order."""

import asyncio
import json
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes import hermes_agent
from tests.profiles.hermes import AUTH, BOTH, DEFAULT, HERMES, Names, answered, ask, chat, given, held, said, toml
from tests.serving import Reply, Serving, user

PAGE = "https://app.example"
BROWSER = {"origin": PAGE}
PREFLIGHT = {**BROWSER, "access-control-request-method": "POST"}


# Browsers


@BOTH
async def test_75_without_an_origin_nothing_is_said_of_origins(either: Serving) -> None:
    assert "access-control-allow-origin" not in (await either.get("/health")).headers


@BOTH
async def test_76_and_77_an_origin_that_is_not_listed_is_refused(either: Serving) -> None:
    for method, path, headers in (
        ("GET", "/health", BROWSER),
        ("POST", "/v1/chat/completions", BROWSER),
        ("OPTIONS", "/v1/chat/completions", PREFLIGHT),
    ):
        reply = await either.request(method, path, headers=headers)
        assert reply.status == 403
        assert "access-control-allow-origin" not in reply.headers


@BOTH
async def test_78_to_82_a_listed_origin_is_let_in(serve: Serve, names: Names) -> None:
    async with serve(toml(names, server=f'cors_origins = ["{PAGE}"]')) as server:
        reply = await server.get("/health", headers=BROWSER)
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, PAGE)
        assert reply.headers["vary"] == "Origin"
        streamed = await chat(server, stream=True, headers=BROWSER)
        assert streamed.headers["access-control-allow-origin"] == PAGE
        exposed = streamed.headers["access-control-expose-headers"].lower().split(", ")
        assert {names.session, *[f"x-{names.own}-{name}" for name in ("completed", "partial", "error")]} <= set(exposed)
        preflight = await server.request("OPTIONS", "/v1/chat/completions", headers=PREFLIGHT)
        assert preflight.status == 200
        assert preflight.headers["access-control-allow-origin"] == PAGE
        assert {"GET", "POST", "DELETE"} <= set(preflight.headers["access-control-allow-methods"].split(", "))
        allowed = preflight.headers["access-control-allow-headers"].lower().split(", ")
        assert {"authorization", "content-type", "idempotency-key", names.session, names.memory} <= set(allowed)
        assert preflight.headers["access-control-max-age"] == "600"


# Sessions


@BOTH
async def test_83_every_answer_names_its_session(either: Serving, names: Names) -> None:
    for reply in (
        await chat(either),
        await chat(either, stream=True),
        await ask(either),
        await ask(either, stream=True),
    ):
        assert reply.headers[names.session].startswith("api-")


@BOTH
async def test_84_a_session_that_is_given_is_used(either_keyed: Serving, names: Names) -> None:
    reply = await chat(either_keyed, "show", headers={**AUTH, names.session: "mine"})
    assert (reply.headers[names.session], given(said(reply))["session_id"]) == ("mine", "mine")


@BOTH
async def test_85_a_sessions_history_is_the_servers(either_keyed: Serving, names: Names) -> None:
    headers = {**AUTH, names.session: "mine"}
    await chat(either_keyed, "Hello", headers=headers)
    messages = [*user("made up"), {"role": "assistant", "content": "too"}, *user("show")]
    shown = given(said(await chat(either_keyed, messages=messages, headers=headers)))
    assert [one["content"] for one in shown["history"]] == ["Hello", "You said: Hello"]


@BOTH
async def test_86_a_session_without_its_store_is_empty(serve: Serve, names: Names, tmp_path: Path) -> None:
    more = '[store]\nurl = "sqlite:///kept.db"\n'
    headers = {**AUTH, names.session: "mine"}
    async with serve(toml(names, key=True, more=more)) as server:
        await chat(server, "Hello", headers=headers)
        other = sqlite3.connect(tmp_path / "kept.db", isolation_level=None)
        tables = [name for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if "session" in table:
                other.execute(f"DROP TABLE {table}")
        other.close()
        reply = await chat(server, "show", headers=headers)
    assert given(said(reply))["history"] == []
    assert "x-trunkline-warning" in reply.headers


@BOTH
async def test_87_to_89_a_memory_key_reaches_the_agent(either_keyed: Serving, names: Names) -> None:
    reply = await chat(either_keyed, "show", headers={**AUTH, names.memory: "ann"})
    assert (reply.headers[names.memory], given(said(reply))["memory_key"]) == ("ann", "ann")
    both = await chat(either_keyed, "show", headers={**AUTH, names.memory: "ann", names.session: "mine"})
    shown = given(said(both))
    assert (shown["memory_key"], shown["session_id"]) == ("ann", "mine")
    assert (both.headers[names.memory], both.headers[names.session]) == ("ann", "mine")
    neither = await chat(either_keyed, "show", headers=AUTH)
    assert names.memory not in neither.headers
    assert given(said(neither))["memory_key"] is None


@BOTH
async def test_90_without_a_key_of_the_servers_nobody_chooses(either: Serving, names: Names) -> None:
    for surface in (chat, ask):
        assert (await surface(either, headers={names.memory: "ann"})).status == 403
        status = 403 if names is HERMES else 200
        reply = await surface(either, headers={names.session: "mine"})
        assert reply.status == status
        assert ("TRUNKLINE_API_KEY or API_SERVER_KEY" in reply.body.decode()) == (names is HERMES)


@BOTH
async def test_nor_does_anybody_beside_these(either: Serving, names: Names) -> None:
    """A session that is named in Ollama's API, or with an operation, is one of the same."""
    asked = {"model": "hermes-agent", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
    embedded = {"model": "hermes-agent", "input": "Hello"}
    seen = [
        (await either.request("POST", path, json.dumps(body).encode(), headers={names.session: "mine"})).status
        for path, body in (("/api/chat", asked), ("/api/embed", embedded), ("/v1/embeddings", embedded))
    ]
    assert seen == ([403, 403, 403] if names is HERMES else [200, 400, 400])


@BOTH
@pytest.mark.parametrize("which", ["session", "memory"])
async def test_91_a_line_break_in_a_name(either_keyed: Serving, names: Names, which: str) -> None:
    async with either_keyed.connect() as wire:
        await wire.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-secret\r\n"
            b"%b: a\rb\r\nContent-Length: 2\r\n\r\n{}" % getattr(names, which).encode()
        )
        assert (await wire.reply()).status == 400


@BOTH
@pytest.mark.parametrize("which", ["session", "memory"])
async def test_92_a_name_that_is_too_long(either_keyed: Serving, names: Names, which: str) -> None:
    reply = await chat(either_keyed, headers={**AUTH, getattr(names, which): "x" * 1000})
    assert reply.status == 400


@BOTH
@pytest.mark.parametrize("name", ["../other", "a/b", "a\\b", "."])
async def test_92_a_session_that_could_be_a_path(either_keyed: Serving, names: Names, name: str) -> None:
    assert (await chat(either_keyed, headers={**AUTH, names.session: name})).status == 400


@BOTH
async def test_93_responses_have_memory_too(either_keyed: Serving, names: Names) -> None:
    reply = await ask(either_keyed, "show", headers={**AUTH, names.memory: "ann"})
    assert (reply.headers[names.memory], given(answered(reply))["memory_key"]) == ("ann", "ann")


@BOTH
async def test_94_capabilities_name_the_headers(either: Serving, names: Names) -> None:
    features = (await either.get("/v1/capabilities")).json()["features"]
    assert features["session_continuity_header"].lower() == names.session
    assert features["session_key_header"].lower() == names.memory


# The store


@BOTH
async def test_95_what_was_read_last_stays(serve: Serve, names: Names) -> None:
    async with serve(toml(names, more='[store]\nurl = "memory:"\nmax_responses = 3\n')) as server:
        first, second, third = [(await ask(server)).json()["id"] for _ in range(3)]
        assert (await server.get(f"/v1/responses/{first}")).status == 200
        fourth = (await ask(server)).json()["id"]
        kept = [(await server.get(f"/v1/responses/{one}")).status for one in (first, second, third, fourth)]
    assert kept == [200, 404, 200, 200]


async def test_95_a_hundred_responses_are_kept(hermes: Serving) -> None:
    first = (await ask(hermes)).json()["id"]
    for _ in range(101):
        await ask(hermes)
    assert (await hermes.get(f"/v1/responses/{first}")).status == 404


def modes_of(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.glob("kept.db*")}


@BOTH
async def test_96_the_stores_files_are_its_owners(serve: Serve, names: Names, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        async with serve(toml(names, more='[store]\nurl = "sqlite:///kept.db"\n')) as server:
            await ask(server)
            modes = modes_of(tmp_path)
            assert modes.keys() >= {"kept.db", "kept.db-wal", "kept.db-shm"}
            assert set(modes.values()) == {0o600}
    finally:
        os.umask(before)


# The same request again

ONCE = {"idempotency-key": "k1"}


async def both_wait(server: Serving, *surfaces: Any) -> list[Reply]:
    """The answers to requests that were sent while the first was being answered."""
    async with held():
        first = asyncio.create_task(surfaces[0](server, "wait", headers=ONCE))
        await asyncio.to_thread(hermes_agent.WAITING.wait)
        rest = [asyncio.create_task(surface(server, "wait", headers=ONCE)) for surface in surfaces[1:]]
        hermes_agent.OPEN.set()
        return [await first, *[await one for one in rest]]


@BOTH
@pytest.mark.parametrize("surface", [chat, ask])
async def test_97_the_same_request_runs_once(either: Serving, surface: Any) -> None:
    hermes_agent.RUNS.clear()
    first, second = await both_wait(either, surface, surface)
    third = await surface(either, "wait", headers=ONCE)
    assert hermes_agent.RUNS["wait"] == 1
    assert (first.status, first.json()["id"]) == (200, second.json()["id"])
    assert third.json()["id"] == first.json()["id"]


@BOTH
@pytest.mark.parametrize("surface", [chat, ask])
async def test_98_another_request_under_the_key(either: Serving, names: Names, surface: Any) -> None:
    hermes_agent.RUNS.clear()
    await surface(either, "one", headers=ONCE)
    reply = await surface(either, "two", headers=ONCE)
    if names is DEFAULT:
        assert (reply.status, reply.error["code"]) == (409, "idempotency_key_reused")
        return
    assert reply.status == 200
    await surface(either, "two", headers=ONCE)
    assert hermes_agent.RUNS == {"one": 1, "two": 1}


@BOTH
async def test_99_who_leaves_takes_nothing_from_who_waits(either: Serving) -> None:
    hermes_agent.RUNS.clear()
    body = json.dumps({"model": "hermes-agent", "messages": user("wait")}).encode()
    async with held():
        async with either.connect() as wire:
            await wire.send(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k1\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            await asyncio.to_thread(hermes_agent.WAITING.wait)
            second = asyncio.create_task(chat(either, "wait", headers=ONCE))
        hermes_agent.OPEN.set()
        assert said(await second) == "partial output and the rest"
    assert hermes_agent.RUNS["wait"] == 1
