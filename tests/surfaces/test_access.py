"""Who may call: keys and their tenants, browser origins, request ids, and the headers every response has."""

import json

import pytest

from tests.conftest import Serve
from tests.serving import REQUEST_ID, Serving

KEYED = """
[server]
api_keys = ["sk-default-key"]
[[server.keys]]
name = "alice"
key = "sk-alice"
[[server.keys]]
name = "root"
key = "sk-root"
admin = true
[backends.talk]
type = "scripted"
"""


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic c2stZGVmYXVsdC1rZXk=", "sk-default-key", "Bearer sk-default-key2",
     "Bearer sk-alice-\u00e8", "Bearer \u00ff\u00fe\u00fd"],
)  # fmt: skip
async def test_without_a_right_key_every_route_is_401(serve: Serve, authorization: str | None) -> None:
    async with serve(KEYED) as server:
        for method, path in (
            ("POST", "/v1/chat/completions"),
            ("GET", "/v1/models"),
            ("GET", "/v1/usage"),
            ("GET", "/x"),
        ):
            line = b"" if authorization is None else b"Authorization: " + authorization.encode("latin-1") + b"\r\n"
            async with server.connect() as wire:
                await wire.send(
                    f"{method} {path} HTTP/1.1\r\nHost: x\r\n".encode() + line + b"Content-Length: 0\r\n\r\n"
                )
                reply = await wire.reply()
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert reply.error["code"] == "invalid_api_key"
            assert reply.error["type"] == "invalid_request_error"


async def test_health_needs_no_key(serve: Serve) -> None:
    async with serve(KEYED) as server:
        for path in ("/health", "/v1/health", "/health/ready"):
            assert (await server.get(path)).status == 200


async def test_every_right_key_is_its_tenant(serve: Serve) -> None:
    async with serve(KEYED) as server:
        for key in (b"sk-default-key", b"sk-alice", b"sk-root"):
            async with server.connect() as wire:
                body = json.dumps({"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}).encode()
                await wire.send(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nauthorization: bearer "
                    + key
                    + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
                    + body
                )
                assert (await wire.reply()).status == 200
        assert [line.split("tenant=")[1].split()[0] for line in server.access_lines] == ["default", "alice", "root"]
        own = (await server.get("/v1/usage", headers={"authorization": "Bearer sk-default-key"})).json()["data"]
        assert [row["tenant"] for row in own] == ["default"]
        everyone = (await server.get("/v1/usage", headers={"authorization": "Bearer sk-root"})).json()["data"]
        assert {row["tenant"] for row in everyone} == {"default", "alice", "root"}


async def test_a_key_is_never_logged(serve: Serve) -> None:
    async with serve(KEYED) as server:
        await server.get("/v1/models", headers={"authorization": "Bearer sk-default-key"})
        await server.get("/v1/models", headers={"authorization": "Bearer sk-other-secret"})
        assert "sk-" not in "".join(server.access_lines)


LISTED = (
    '[server]\ncors_origins = ["https://app.example", "http://localhost:3000"]\n[backends.talk]\ntype = "scripted"\n'
)
ANY = '[server]\ncors_origins = ["*"]\n[backends.talk]\ntype = "scripted"\n'
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://app.example.evil", "http://app.example", ""]
)
async def test_an_origin_that_is_not_listed_is_refused_without_cors_headers(serve: Serve, origin: str) -> None:
    async with serve(LISTED) as server:
        for reply in (
            await server.chat(headers={"origin": origin}),
            await server.get("/v1/models", headers={"origin": origin}),
            await server.get("/health", headers={"origin": origin}),
            await server.request("OPTIONS", "/v1/chat/completions", headers={"origin": origin, **PREFLIGHT}),
        ):
            assert reply.status == 403
            assert reply.error["code"] == "origin_not_allowed"
            assert not any(name.startswith("access-control-") for name in reply.headers)


async def test_the_refusal_names_the_origin_in_the_answer_and_in_the_log(serve: Serve) -> None:
    async with serve(LISTED) as server:
        reply = await server.chat(headers={"origin": "https://evil.example"})
        assert reply.error["message"] == (
            "the origin 'https://evil.example' is not allowed; list it in server.cors_origins"
        )
        long = await server.chat(headers={"origin": f"https://é{'x' * 4000}"})
        assert long.error["message"].startswith("the origin 'https://??xxx")
        assert len(long.error["message"]) < 400
        opaque = await server.chat(headers={"origin": "null"})
        assert opaque.error["message"].endswith("have the page served by a web server, and list its origin")
        first, second, third = server.access_lines
    assert first.endswith("error=origin_not_allowed origin=https://evil.example")
    assert len(second) < 500
    assert third.endswith("origin=null")


async def test_no_origin_is_allowed_by_default(echo: Serving) -> None:
    assert (await echo.chat(headers={"origin": "http://localhost"})).status == 403
    assert (await echo.chat()).status == 200


async def test_a_listed_origin_gets_the_headers_on_answers_errors_and_streams(serve: Serve) -> None:
    async with serve(LISTED) as server:
        for reply in (
            await server.chat(headers={"origin": "https://app.example"}),
            await server.chat(headers={"origin": "https://app.example"}, stream=True),
            await server.chat(headers={"origin": "https://app.example"}, model="nope"),
            await server.get("/nope", headers={"origin": "https://app.example"}),
        ):
            assert reply.headers["access-control-allow-origin"] == "https://app.example"
            assert "X-Request-Id" in reply.headers["access-control-expose-headers"]
            assert reply.headers["vary"] == "Origin"
            assert "access-control-allow-credentials" not in reply.headers


async def test_any_origin_is_never_with_credentials(serve: Serve) -> None:
    async with serve(ANY) as server:
        reply = await server.chat(headers={"origin": "https://app.example"})
        assert reply.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.parametrize("toml", [LISTED, ANY], ids=["listed", "any"])
async def test_a_preflight_is_answered_before_the_key_is_asked_for(serve: Serve, toml: str) -> None:
    """Browsers send no key with it. The official SDK sends a dozen headers of its own, all of which must be allowed."""
    async with serve(toml.replace("[server]", '[server]\napi_keys = ["sk-x"]')) as server:
        reply = await server.request(
            "OPTIONS", "/v1/chat/completions", headers={"origin": "https://app.example", **PREFLIGHT}
        )
        assert reply.status == 200
        assert "POST" in reply.headers["access-control-allow-methods"]
        allowed = {name.strip().lower() for name in reply.headers["access-control-allow-headers"].split(",")}
        assert {"authorization", "content-type", "x-stainless-os"} <= allowed
        assert int(reply.headers["access-control-max-age"]) > 0


async def test_a_preflight_cannot_write_headers(serve: Serve) -> None:
    async with serve(ANY) as server:
        asked = {**PREFLIGHT, "access-control-request-headers": "x-a, b\u00e9, c d, " + "x" * 20_000}
        reply = await server.request("OPTIONS", "/v1/models", headers={"origin": "https://app.example", **asked})
        assert reply.status == 200
        assert len(reply.headers["access-control-allow-headers"]) < 5_000
        assert reply.headers["access-control-allow-headers"].isascii()


@pytest.mark.parametrize("given", ["abc-123", "x" * 128, "!~"])
async def test_a_clients_request_id_is_kept(echo: Serving, given: str) -> None:
    reply = await echo.chat(headers={"x-request-id": given})
    assert reply.headers["x-request-id"] == given
    assert given in echo.access_lines[-1]


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", "\u00e9"])
async def test_a_request_id_that_is_none_is_replaced(echo: Serving, given: str) -> None:
    reply = await echo.chat(headers={"x-request-id": given})
    assert REQUEST_ID.fullmatch(reply.headers["x-request-id"])


async def test_every_response_has_the_security_headers_and_no_server(echo: Serving) -> None:
    for reply in (await echo.chat(), await echo.chat(stream=True), await echo.get("/nope"), await echo.get("/health")):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-security-policy"].startswith("default-src 'none'")
        assert reply.headers["x-frame-options"] == "DENY"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert REQUEST_ID.fullmatch(reply.headers["x-request-id"])
        assert "server" not in reply.headers


async def test_proxies_are_told_not_to_buffer_a_stream(echo: Serving) -> None:
    reply = await echo.chat(stream=True)
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-trunkline-route"] == "talk/scripted"


@pytest.mark.parametrize("session", ["../etc", "a b", "x" * 257, "-a", "\u00e9"])
async def test_a_session_id_that_could_be_a_path_is_refused(echo: Serving, session: str) -> None:
    reply = await echo.chat(headers={"x-session-id": session})
    assert (reply.status, reply.error["param"]) == (400, "x-session-id")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/responses", "/v1/responses"),
        ("/embeddings", "/v1/embeddings"),
        ("/v1/v1/responses", "/v1/responses"),
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
    ],
)
async def test_a_base_url_of_another_end_is_told_how_it_ends(echo: Serving, path: str, meant: str) -> None:
    reply = await echo.request("POST", path, b"{}")
    assert reply.status == 404
    assert (
        reply.error["message"] == f"unknown route POST {path}; the base URL ends in /v1, which makes this POST {meant}"
    )


@pytest.mark.parametrize(
    ("path", "routes"),
    [
        (
            "/v1/runs/run_1/cancel",
            ["POST /v1/runs/{id}/approval", "GET /v1/runs/{id}/events", "POST /v1/runs/{id}/stop"],
        ),
        ("/v1/chat/complete", ["POST /v1/chat/completions"]),
        ("/v1/nothing", ["GET /v1/models", "POST /v1/chat/completions", "POST /v1/responses", "GET /health"]),
    ],
)
async def test_a_path_that_is_almost_one_is_told_which_there_are(echo: Serving, path: str, routes: list[str]) -> None:
    reply = await echo.request("POST", path, b"{}")
    assert (reply.status, reply.error["code"]) == (404, "not_found")
    told, _, see = reply.error["message"].partition("; see ")
    assert told == f"unknown route POST {path}"
    assert set(routes) <= set(see.split(", "))
    assert len(see.split(", ")) < 8


async def test_other_unknown_routes_are_told_what_there_is(echo: Serving) -> None:
    for path in ("/v1/chat", "/v2", "/models/one"):
        assert "; see GET /v1/models" in (await echo.get(path)).error["message"]
