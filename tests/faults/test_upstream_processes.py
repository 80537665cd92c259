"""Upstreams as processes of their own that are killed and come back, certificates that are wrong, names that do not resolve."""

import asyncio
import shutil
import signal
import ssl
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web

from tests.cli.program import Program
from tests.conftest import Serve
from tests.fakes.upstream import COMPLETION, HELLO
from tests.faults.test_endpoints import distrusted, pool
from tests.serving import Reply, Serving, eventually

SCRIPT = """
[[rules]]
steps = [{ text = "a " , repeat = 20, delay_s = 0.005 }, { text = "b" }]
"""
SAID = "a " * 20 + "b"


def upstream_program(folder: Path, *, port: str = "0") -> Program:
    """A model server: this very program with a script."""
    folder.mkdir(exist_ok=True)
    (folder / "script.toml").write_text(SCRIPT)
    (folder / "up.toml").write_text(
        '[server]\naccess_log = false\n[store]\nurl = "memory:"\n'
        '[backends.model]\ntype = "scripted"\nscript = "script.toml"\nmodels = ["up-model"]\n'
    )
    return Program("--config", "up.toml", "--port", port, cwd=folder)


async def test_one_of_two_servers_is_killed_under_load_and_comes_back(tmp_path: Path, serve: Serve) -> None:
    with upstream_program(tmp_path / "one") as one, upstream_program(tmp_path / "two") as two:
        urls = [f"{program.url.removesuffix('/v1')}/v1" for program in (one, two)]
        async with serve(pool(*urls, more="max_concurrency = 8\nmax_queue = 200")) as server:
            await server.get("/v1/models")
            endpoint = server.application.runtime.endpoints[0]
            asking = [
                asyncio.create_task(server.chat(model="up-model", stream=number % 2 == 0)) for number in range(60)
            ]
            await eventually(lambda: endpoint.active == 8)
            one.process.send_signal(signal.SIGKILL)
            replies = await asyncio.gather(*asking)
            broken = [reply for reply in replies if not _whole(reply)]
            assert len(broken) <= 8  # only what that server had begun to say
            assert all(_broke_off(reply) for reply in broken), broken
            assert await distrusted(server) == [endpoint.label]
            assert (await server.get("/health")).json()["active"] == 0
            later = await asyncio.gather(*[server.chat(model="up-model") for _ in range(20)])
            assert all(_whole(reply) for reply in later)

            one.process.wait()
            with upstream_program(tmp_path / "one", port=one.url.rpartition(":")[2].rstrip("/")):
                seen: Counter[str] = Counter()
                while not seen[endpoint.label]:  # its next trial comes by itself
                    reply = await server.chat(model="up-model")
                    assert _whole(reply)
                    seen[reply.headers["x-trunkline-route"].partition("/")[0]] += 1
                assert await distrusted(server) == []


def _whole(reply: Reply) -> bool:
    if reply.status != 200:
        return False
    if reply.headers["content-type"].startswith("text/event-stream"):
        return reply.frames[-1] == "[DONE]" and reply.text == SAID
    said: str = reply.json()["choices"][0]["message"]["content"]
    return said == SAID


def _broke_off(reply: Reply) -> bool:
    """A stream that had begun: its text as far as it came, and one error."""
    return reply.status == 200 and bool(reply.text) and SAID.startswith(reply.text) and "error" in reply.frames[-1]


class Counting:
    """A model server that counts what it works on at once, for each model."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.total = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model = body["model"]
        self.now[model] += 1
        self.total += 1
        self.most[model] = max(self.most[model], self.now[model])
        try:
            for _ in range(20):
                await asyncio.sleep(0)
            if not body.get("stream"):
                return web.json_response({**COMPLETION, "model": model})
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(HELLO)
            return response
        finally:
            self.now[model] -= 1

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in ("a", "b")]})

    async def start(self) -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.answer)
        app.router.add_get("/v1/models", self.models)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"


async def test_two_hundred_clients_never_exceed_what_an_endpoint_may_have_of_a_model(serve: Serve) -> None:
    counters = [Counting(), Counting()]
    started = [await one.start() for one in counters]
    try:
        async with serve(pool(*[url for _, url in started], more="max_concurrency = 3\nmax_queue = 500")) as server:
            await server.get("/v1/models")
            replies = await asyncio.gather(
                *[server.chat(model="ab"[number % 2], stream=number % 3 == 0) for number in range(200)]
            )
            assert [reply.status for reply in replies] == [200] * 200
            assert [one.most for one in counters] == [{"a": 3, "b": 3}] * 2
            assert sum(one.total for one in counters) == 200
            assert (await server.get("/health")).json()["active"] == 0
    finally:
        for runner, _ in started:
            await runner.cleanup()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed but itself, with its key beside it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    asked = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    command = [openssl, *asked.split(" "), "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "cert.pem"


async def _tls(certificate: Path) -> tuple[web.AppRunner, str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", Counting().answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    return runner, f"https://127.0.0.1:{runner.addresses[0][1]}/v1"


def _one(url: str) -> str:
    return f'[backends.up]\ntype = "http"\nendpoints = ["{url}"]\nmodels = ["m"]\nretries = 0\n'


async def refused(server: Serving) -> str:
    """What a client is told, the same streamed or not."""
    replies = [await server.chat(model="m", stream=stream) for stream in (False, True)]
    assert [(reply.status, reply.error["code"]) for reply in replies] == [(503, "backend_unavailable")] * 2
    return str(replies[0].error["message"])


async def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path, serve: Serve) -> None:
    runner, url = await _tls(certificate)
    try:
        async with serve(_one(url)) as server:
            assert "certificate" in await refused(server)
    finally:
        await runner.cleanup()


async def test_a_certificate_of_ones_own_is_trusted_by_the_files_of_the_environment(
    certificate: Path, tmp_path: Path
) -> None:
    """SSL_CERT_FILE is OpenSSL's own way to say whom this process trusts."""
    runner, url = await _tls(certificate)
    (tmp_path / "tls.toml").write_text('[store]\nurl = "memory:"\n' + _one(url))
    try:
        with Program(
            "--config", "tls.toml", "--port", "0", cwd=tmp_path, environ={"SSL_CERT_FILE": str(certificate)}
        ) as program:
            said = await asyncio.to_thread(program.ask, "hi", model="m")
            assert said == "Hello"
    finally:
        await runner.cleanup()


async def test_plain_http_where_tls_is_expected_is_told(certificate: Path, serve: Serve) -> None:
    runner, url = await Counting().start()
    try:
        async with serve(_one(url.replace("http:", "https:"))) as server:
            await refused(server)
    finally:
        await runner.cleanup()


async def test_a_name_that_does_not_resolve_is_told(serve: Serve) -> None:
    async with serve(_one("http://nobody.invalid:8000/v1")) as server:
        assert await refused(server) == "backend 'up' cannot be reached: its host name does not resolve"
