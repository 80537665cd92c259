"""An agent mounted in an application that is there already, as its clients and the program around it meet it."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from tests.embed.uvicorn_server import on_uvicorn
from trunkline.agent import Output, Turn, Usage
from trunkline.embed import EmbeddedApp, create_app
from trunkline.model.errors import ConfigError


async def support(turn: Turn) -> AsyncIterator[Output]:
    yield "You said: "
    yield turn.input
    yield Usage(input_tokens=3, output_tokens=4)


def shout(turn: Turn) -> Iterator[str]:
    yield turn.input.upper()


async def quiet(turn: Turn) -> str:
    return turn.input


async def own_page(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("the app's own")


def around(mounted: Any, **keywords: Any) -> Starlette:
    """An application with a page of its own and ours below /ai."""
    return Starlette(routes=[Route("/", own_page), Mount("/ai", mounted)], **keywords)


async def asked(url: str, text: str = "hi", **body: Any) -> tuple[int, Any]:
    """Status and body of one chat completion."""
    whole = {"messages": [{"role": "user", "content": text}], **body}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=whole) as answer,
    ):
        return answer.status, await answer.json()


def said(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


async def test_the_sdk_finds_the_agent_below_the_path_it_is_mounted_at() -> None:
    async with on_uvicorn(around(create_app(support))) as url:
        async with AsyncOpenAI(base_url=f"{url}/ai/v1", api_key="none", max_retries=0) as client:
            assert [model.id async for model in client.models.list()] == ["support"]
            answer = await client.chat.completions.create(
                model="support", messages=[{"role": "user", "content": "hello"}]
            )
            assert answer.choices[0].message.content == "You said: hello"
            assert answer.usage is not None
            assert answer.usage.total_tokens == 7
            stream = await client.chat.completions.create(
                model="support", messages=[{"role": "user", "content": "again"}], stream=True
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            assert "".join(pieces) == "You said: again"
            first = await client.responses.create(model="support", input="one")
            second = await client.responses.create(model="support", input="two", previous_response_id=first.id)
            assert second.output_text == "You said: two"
            assert (await client.responses.retrieve(second.id)).output_text == "You said: two"
            async with client.responses.stream(model="support", input="three") as streamed:
                assert (await streamed.get_final_response()).output_text == "You said: three"
        async with aiohttp.ClientSession() as session, session.get(url) as page:
            assert await page.text() == "the app's own"


async def test_a_websocket_is_below_that_path_too() -> None:
    async with on_uvicorn(around(create_app(support))) as url, aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{url}/ai/v1/responses") as socket:
            await socket.send_json({"type": "response.create", "model": "support", "input": "hello"})
            types: list[str] = []
            while not types or types[-1] != "response.completed":
                types.append((await socket.receive_json())["type"])
        assert types[0] == "response.created"


async def test_what_is_not_there_is_refused_in_our_envelope() -> None:
    async with (
        on_uvicorn(around(create_app(support))) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/ai/v1/nothing") as answer,
    ):
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")


async def test_a_program_is_told_how_its_agent_gets_its_clients_tools() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    async with on_uvicorn(around(create_app(support))) as url:
        status, refused = await asked(f"{url}/ai", tools=tools)
        assert status == 400
        assert refused["error"]["message"].endswith(
            'create_app(…, backend={"client_tools": True}), one that can do without with {"client_tools": "ignore"}'
        )
    async with on_uvicorn(around(create_app(support, backend={"client_tools": "ignore"}))) as url:
        assert (await asked(f"{url}/ai", tools=tools))[0] == 200


async def test_several_agents_share_one_mount() -> None:
    async with on_uvicorn(around(create_app({"support": support, "shout": shout}))) as url:
        assert said((await asked(f"{url}/ai", model="shout"))[1]) == "HI"
        assert said((await asked(f"{url}/ai", model="support"))[1]) == "You said: hi"
        assert (await asked(f"{url}/ai", model="other"))[0] == 404
        assert (await asked(f"{url}/ai"))[1]["error"]["param"] == "model"


async def test_mounts_do_not_know_each_other() -> None:
    app = Starlette(routes=[Mount("/a", create_app(support)), Mount("/b/c", create_app(shout))])
    async with on_uvicorn(app) as url:
        assert said((await asked(f"{url}/a"))[1]) == "You said: hi"
        assert said((await asked(f"{url}/b/c"))[1]) == "HI"


@pytest.mark.parametrize("root", ["/proxy", "/ai", "/v1"])
async def test_a_root_path_of_the_server_changes_nothing(root: str) -> None:
    async with on_uvicorn(around(create_app(support)), root_path=root) as url:
        assert said((await asked(f"{url}/ai"))[1]) == "You said: hi"
    async with on_uvicorn(create_app(support), root_path=root) as url:
        assert said((await asked(url))[1]) == "You said: hi"


async def test_keys_are_asked_for_below_the_mount_alone() -> None:
    app = around(create_app(support, api_keys=["sk-1"]))
    async with on_uvicorn(app) as url, aiohttp.ClientSession() as session:
        assert (await asked(f"{url}/ai"))[0] == 401
        async with session.get(f"{url}/ai/v1/models", headers={"authorization": "Bearer sk-1"}) as answer:
            assert answer.status == 200
        async with session.get(f"{url}/ai/health") as answer:
            assert answer.status == 200
        async with session.get(url) as answer:
            assert answer.status == 200


async def test_it_says_nothing_for_the_whole_host() -> None:
    async with on_uvicorn(around(create_app(support))) as url, aiohttp.ClientSession() as session:
        for path in ("/ai/health", "/ai/nowhere"):
            async with session.get(url + path) as answer:
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert "strict-transport-security" not in answer.headers  # it binds the host, which is not the agent's


async def test_it_starts_with_the_first_request_and_only_once(tmp_path: Path) -> None:
    app = create_app(support, store_url=f"sqlite:///{tmp_path}/agent.db")
    async with on_uvicorn(around(app)) as url:
        assert not (tmp_path / "agent.db").exists()
        answers = await asyncio.gather(*[asked(f"{url}/ai") for _ in range(8)])
        assert {status for status, _ in answers} == {200}
        assert (tmp_path / "agent.db").exists()


async def test_a_client_that_leaves_during_the_start_takes_nothing_with_it() -> None:
    app = create_app(support)
    scope = {"type": "http", "method": "GET", "path": "/health", "headers": [], "query_string": b""}

    async def never() -> Any:
        await asyncio.Event().wait()

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    leaving = asyncio.create_task(app(scope, never, send))
    await asyncio.sleep(0)
    leaving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await leaving
    assert not sent
    await app(scope, never, send)
    assert sent[0]["status"] == 200
    async with app.lifespan():
        pass


@pytest.mark.parametrize("alone", [True, False])
async def test_with_a_lifespan_it_starts_and_ends_with_the_server(tmp_path: Path, *, alone: bool) -> None:
    app = create_app(support, store_url=f"sqlite:///{tmp_path}/agent.db")
    async with on_uvicorn(app if alone else around(app, lifespan=app.lifespan)) as url:
        assert (tmp_path / "agent.db").exists()
        assert (await asked(url if alone else f"{url}/ai"))[0] == 200
    async with create_app(support, store_url=f"sqlite:///{tmp_path}/agent.db").lifespan():
        pass  # nobody holds the file any more


async def test_after_its_lifespan_nothing_is_answered_and_nothing_starts_anew(tmp_path: Path) -> None:
    app = create_app(support, store_url=f"sqlite:///{tmp_path}/agent.db", server={"access_log": True})
    async with on_uvicorn(around(app)) as url:
        async with app.lifespan():
            assert (await asked(f"{url}/ai"))[0] == 200
        for _ in range(2):
            status, answer = await asked(f"{url}/ai")
            assert (status, answer["error"]["code"]) == (503, "server_shutting_down")
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                await session.ws_connect(f"{url}/ai/v1/responses")
        async with create_app(support, store_url=f"sqlite:///{tmp_path}/agent.db").lifespan():
            pass  # nobody holds the file any more
        async with app.lifespan():
            assert (await asked(f"{url}/ai"))[0] == 200


async def test_background_work_finishes_before_the_lifespan_ends() -> None:
    begun, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(turn: Turn) -> AsyncIterator[Output]:
        begun.set()
        await go_on.wait()
        yield "late"
        done.set()

    app = create_app(slow)
    async with on_uvicorn(around(app, lifespan=app.lifespan)) as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/ai/v1/responses", json={"input": "x", "background": True}) as answer:
            assert (await answer.json())["status"] in ("queued", "in_progress")
        await begun.wait()
        asyncio.get_running_loop().call_soon(go_on.set)
    assert done.is_set()


async def test_what_does_not_finish_in_its_grace_is_ended() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(turn: Turn) -> AsyncIterator[Output]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        yield ""

    app = create_app(endless, server={"shutdown_grace_s": 0})
    async with on_uvicorn(around(app, lifespan=app.lifespan)) as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/ai/v1/responses", json={"input": "x", "background": True}) as answer:
            assert answer.status == 200
        await begun.wait()
    assert cancelled.is_set()


def test_without_a_lifespan_it_ends_with_the_loop_and_starts_again_on_the_next(tmp_path: Path) -> None:
    app = create_app(support, store_url=f"sqlite:///{tmp_path}/agent.db")

    async def once() -> None:
        async with on_uvicorn(around(app)) as url:
            assert said((await asked(f"{url}/ai"))[1]) == "You said: hi"

    for _ in range(2):
        asyncio.run(once())

    async def another() -> None:
        async with create_app(support, store_url=f"sqlite:///{tmp_path}/agent.db").lifespan():
            pass  # nobody holds the file any more

    asyncio.run(another())


def test_one_that_nobody_holds_any_more_still_ends_with_its_loop(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/agent.db"

    async def dropped() -> None:
        async with on_uvicorn(around(create_app(support, store_url=url))) as at:
            assert said((await asked(f"{at}/ai"))[1]) == "You said: hi"
        gc.collect()

    async def another() -> None:
        async with create_app(support, store_url=url).lifespan():
            pass  # nobody holds the file any more

    asyncio.run(dropped())
    asyncio.run(another())


async def test_two_loops_at_once_are_refused() -> None:
    app = create_app(support)

    async def started() -> None:
        async with app.lifespan():
            pass

    async with app.lifespan():
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, started())


async def test_a_start_that_fails_is_tried_again(tmp_path: Path) -> None:
    app = create_app(support, store_url=f"sqlite:///{tmp_path}/agent.db")
    (tmp_path / "agent.db").mkdir()
    with pytest.raises(ConfigError, match=r"agent\.db"):
        async with app.lifespan():
            pass
    (tmp_path / "agent.db").rmdir()
    async with app.lifespan():
        pass


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: create_app(None), "agent: expected an agent, got None"),
        (lambda: create_app({"a": support, "b": None}), "agent: expected an agent for 'b', got None"),
        (lambda: create_app(support, model_name=""), "model_name: "),
        (lambda: create_app(support, api_keys=[]), "api_keys: there is none in it"),
        (lambda: create_app(support, profile="openia"), "did you mean 'openai'"),
        (lambda: create_app(support, backend={"client_tool": True}), "did you mean 'client_tools'"),
        (lambda: create_app(support, server={"cors_origin": []}), "did you mean 'cors_origins'"),
        (lambda: create_app(support, server=[]), "server"),
        (lambda: create_app(support, sever={}), "did you mean 'server'"),
        (lambda: create_app(support, server={"port": 80}), "server.port: the program around it listens"),
        (lambda: create_app(support, server={"host": "::"}), "server.host: the program around it listens"),
        (lambda: create_app(support, store_url="agent.db"), "store.url"),
        (lambda: create_app(support, api_keys="sk-1"), "api_keys"),
        (lambda: create_app({}), r"^agent: expected at least one agent in the mapping, as in \{'support': support\}$"),
        (lambda: create_app({1: support}), "^agent: expected names as keys of the mapping, got 1$"),
        (
            lambda: create_app("bot.py:agent"),
            "^agent: expected the agent itself, got the str 'bot.py:agent'; import it",
        ),
        (
            lambda: create_app({"a": support, "b": "bot:b"}),
            "^agent: expected the agent itself for 'b', got the str 'bot:b'",
        ),
        (
            lambda: create_app(support(Turn())),
            "^agent: agent 'support' is what calling it gives, an async generator; leave out the call$",
        ),
        (lambda: create_app(shout(Turn())), "^agent: agent 'shout' is what calling it gives, a generator; leave out"),
        (lambda: create_app(quiet(Turn())), "^agent: agent 'quiet' is what calling it gives, a coroutine; leave out"),
        (lambda: create_app(42), "^agent: agent 'int' is int; expected a function"),
        (lambda: create_app(support, model="m"), r"^model: unknown argument 'model' \(did you mean 'model_name'\?\)$"),
        (lambda: create_app(support, name="m"), r"unknown argument 'name' \(did you mean 'model_name'\?\)"),
        (
            lambda: create_app(support, api_key="x"),
            r"unknown argument 'api_key' \(did you mean 'api_keys'\?\); known: 'api_keys', ",
        ),
        (
            lambda: create_app(support, cors_origins=[]),
            r"^cors_origins: is a setting of the server: server=\{'cors_origins': …\}$",
        ),
        (
            lambda: create_app(support, timeout_s=5),
            r"^timeout_s: is a setting of the agents: backend=\{'timeout_s': …\}$",
        ),
        (
            lambda: create_app({"a": support, "b": shout}, server={"default_model": "c"}),
            "^server.default_model: unknown model 'c'; known: 'a', 'b'$",
        ),
        (lambda: create_app({"a b": support}), "a backend's name is letters"),
        (lambda: create_app({"a": support}, model_name="b"), "model_name: names a single agent"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_served(make: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make()


def test_an_agent_is_called_as_serve_would_call_it() -> None:
    def named(app: EmbeddedApp) -> str | None:
        assert app._built is not None
        return app._built.runtime.settings.default_model

    async def agent(turn: Turn) -> str:
        return turn.input

    assert named(create_app(support)) == "support"
    assert named(create_app(agent)) == "test_mounted"
    assert named(create_app(agent, model_name="Help desk")) == "Help desk"
    assert named(create_app({"one": agent})) == "one"
    assert named(create_app(agent, profile="nanobot")) == "nanobot"
    assert named(create_app(agent, profile="nanobot", model_name="bot")) == "bot"


class Between(BaseHTTPMiddleware):
    """A middleware of the kind that applications have: it takes the answer apart and puts it together again."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        answer = await call_next(request)
        answer.headers["x-between"] = "yes"
        return answer


async def test_an_agent_behind_the_applications_middleware_stops_when_its_client_leaves() -> None:
    stopped = asyncio.Event()

    async def endless(turn: Turn) -> AsyncIterator[Output]:
        yield "first"
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    app = around(create_app(endless), middleware=[Middleware(Between)])
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with on_uvicorn(app) as url, aiohttp.ClientSession() as session:
        answer = await session.post(f"{url}/ai/v1/chat/completions", json=body)
        assert answer.headers["x-between"] == "yes"
        assert b"first" in await answer.content.readline()
        answer.close()
        await stopped.wait()
