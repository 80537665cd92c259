"""Idempotency keys through what happens to a server: `kill -9`, a store that cannot be written, clients that come and go."""

import asyncio
import contextlib
import http.client
import json
import random
import signal
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.faults.disk import locked, no_room
from tests.serving import Reply, Serving, eventually, serving, user

AGENT = """
import asyncio

turns = []

async def agent(turn):
    turns.append(turn)
    number = len(turns)
    for word in ("this ", "is ", f"answer {number}"):
        yield word
        if turn.input == "hang":
            await asyncio.Event().wait()
        await asyncio.sleep(0)
"""
SETTINGS = '[store]\nurl = "sqlite:///keys.db"\n[backends.b]\ntype = "python"\ntarget = "{agent}:agent"\n'


@pytest.fixture
def settings(tmp_path: Path) -> str:
    (tmp_path / "counting.py").write_text(AGENT)
    return SETTINGS.format(agent=tmp_path / "counting.py")


def body_of(text: str) -> dict[str, object]:
    return {"messages": user(text)}


async def ask(server: Serving, text: str = "hello", *, key: str = "k", stream: bool = False) -> Reply:
    body = json.dumps({**body_of(text), "model": "counting", "stream": stream}).encode()
    return await server.request("POST", "/v1/chat/completions", body, headers={"idempotency-key": key})


@pytest.mark.parametrize("broken", ["full", "locked"])
async def test_an_answer_whose_key_cannot_be_kept_is_given_all_the_same(
    broken: str, settings: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(settings, base_dir=tmp_path) as server:
        made = await ask(server, key="before")
        with no_room() if broken == "full" else locked(tmp_path / "keys.db"):
            reply = await ask(server)
            assert reply.json()["choices"][0]["message"]["content"] == "this is answer 2"
        assert [record.message for record in caplog.records if "not kept under its key" in record.message]
        again = await ask(server)
        assert again.json()["choices"][0]["message"]["content"] == "this is answer 3"
        assert (await ask(server, key="before")).json() == made.json()


async def test_whoever_comes_and_goes_a_key_is_answered_once(settings: str, tmp_path: Path) -> None:
    """Many clients, few keys: some leave before their answer begins, some in the middle of it, some stay."""
    chance = random.Random(5)
    async with serving(settings, base_dir=tmp_path) as server:

        async def client(number: int) -> tuple[str, str] | None:
            key = f"key-{number % 7}"
            asking = asyncio.create_task(ask(server, key, key=key, stream=chance.random() < 0.5))
            for _ in range(chance.randrange(40)):
                await asyncio.sleep(0)
            if chance.random() < 0.4:
                asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                reply = await asking
                assert reply.status == 200
                if reply.headers["content-type"] == "text/event-stream":
                    return key, reply.text
                return key, reply.json()["choices"][0]["message"]["content"]
            return None

        answers = [one for one in await asyncio.gather(*[client(number) for number in range(80)]) if one is not None]
        await eventually(lambda: not server.application.busy)
        last = [
            (f"key-{number}", (await ask(server, f"key-{number}", key=f"key-{number}")).json()) for number in range(7)
        ]
    kept = {key: answer["choices"][0]["message"]["content"] for key, answer in last}
    assert len(set(kept.values())) == 7, "each was answered once, by a turn of its own"
    assert all(kept[key] == text for key, text in answers)
    assert sorted(kept.values()) == [f"this is answer {number}" for number in range(1, 8)]


def _post(
    program: Program, text: str, *, stream: bool = False
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = program.connect()
    body = json.dumps({**body_of(text), "model": "counting", "stream": stream})
    headers = {"content-type": "application/json", "idempotency-key": text}
    connection.request("POST", "/v1/chat/completions", body, headers)
    return connection, connection.getresponse()


def _whole(program: Program, text: str) -> tuple[str | None, str]:
    connection, answer = _post(program, text)
    with contextlib.closing(connection):
        assert answer.status == 200
        return answer.getheader("x-trunkline-idempotent"), json.loads(answer.read())["id"]


def test_kill_9_loses_no_answer_that_was_given_and_keeps_none_that_was_not(settings: str, tmp_path: Path) -> None:
    config = tmp_path / "trunkline.toml"
    config.write_text(settings)
    with Program("--config", str(config), "--port", "0", cwd=tmp_path) as program:
        _, made = _whole(program, "hello")
        connection, answer = _post(program, "hang", stream=True)
        assert answer.readline()  # it has begun
        program.send(signal.SIGKILL)
        program.process.wait()
        connection.close()
    (tmp_path / "counting.py").write_text(AGENT.replace('"hang"', '"never"'))
    with Program("--config", str(config), "--port", "0", cwd=tmp_path) as program:
        assert _whole(program, "hello") == ("replayed", made)
        how, first = _whole(program, "hang")
        assert how is None
        assert _whole(program, "hang") == ("replayed", first)
        assert program.stop() == 0
