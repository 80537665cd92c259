"""The resources around chat: models, health, readiness, usage."""

from tests.conftest import Serve
from tests.fakes.upstream import FakeUpstream
from tests.serving import Serving
from trunkline import __version__

SEVERAL = """
[server]
default_model = "fast"
[backends.a]
type = "scripted"
models = ["org/name", "org/deep/name:7b"]
[backends.b]
type = "scripted"
models = ["plain", "org/name"]
[backends.c]
type = "scripted"
[[models]]
name = "fast"
routes = [{ backend = "c" }]
[[models]]
name = "org/fast"
routes = [{ backend = "c", model = "scripted" }]
"""


async def test_models_are_the_configured_and_what_open_backends_offer_each_once(serve: Serve) -> None:
    async with serve(SEVERAL) as server:
        listing = (await server.get("/v1/models")).json()
        assert listing["object"] == "list"
        assert [model["id"] for model in listing["data"]] == [
            "fast", "org/fast", "org/name", "org/deep/name:7b", "plain",
        ]  # fmt: skip
        for model in listing["data"]:
            assert model.keys() >= {"id", "object", "created", "owned_by"}
            assert (model["object"], type(model["created"])) == ("model", int)


async def test_a_model_with_slashes_is_found_written_or_escaped(serve: Serve) -> None:
    async with serve(SEVERAL) as server:
        for path in ("org/name", "org%2Fname", "org/deep/name:7b", "org%2Fdeep%2Fname%3A7b", "fast"):
            reply = await server.get(f"/v1/models/{path}")
            assert reply.status == 200, path
            assert reply.json()["object"] == "model"
        assert (await server.chat(model="org/deep/name:7b")).status == 200


async def test_an_unknown_model_is_404_and_lists_what_there_is(serve: Serve) -> None:
    async with serve(SEVERAL) as server:
        for path in ("scripted", "org", "nope", "org/name/"):
            reply = await server.get(f"/v1/models/{path}")
            assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
            assert "'org/name'" in reply.error["message"]


async def test_the_list_in_an_error_is_bounded(serve: Serve) -> None:
    names = ", ".join(f'"model-{number}"' for number in range(500))
    async with serve(f'[backends.many]\ntype = "scripted"\nmodels = [{names}]\n') as server:
        for reply in (await server.get("/v1/models/nope"), await server.chat(model="nope")):
            assert "480 more" in reply.error["message"]


async def test_a_request_without_model_gets_the_default(serve: Serve) -> None:
    async with serve(SEVERAL) as server:
        for model in (None, "fast"):
            reply = await server.chat(model=model)
            assert (reply.status, reply.json()["model"]) == (200, "fast")
            assert reply.headers["x-trunkline-route"] == "c/scripted"


async def test_health_says_how_busy_it_is(echo: Serving) -> None:
    for path in ("/health", "/v1/health"):
        reply = await echo.get(path)
        assert reply.status == 200
        body = reply.json()
        assert body["status"] == "ok"
        assert body["version"] == __version__
        assert body["busy"] is False
        assert (body["active"], body["queued"], body["capacity"]) == (0, 0, 64)


async def test_ready_is_503_while_nobody_can_answer(serve: Serve) -> None:
    dead = '[backends.up]\ntype = "http"\nendpoints = ["http://127.0.0.1:1/v1"]\n'
    async with serve(dead) as server:
        reply = await server.get("/health/ready")
        assert (reply.status, reply.json()["status"]) == (503, "unavailable")
        assert (await server.get("/health")).status == 200
    async with serve(dead + '[backends.talk]\ntype = "scripted"\n') as server:
        assert (await server.get("/health/ready")).status == 200
        server.application.drain()
        reply = await server.get("/health/ready")
        assert (reply.status, reply.json()["status"]) == (503, "draining")


async def test_usage_counts_what_was_used(echo: Serving) -> None:
    await echo.chat("one two three")
    await echo.chat("one two", stream=True)
    await echo.chat("x", n=0)
    rows = (await echo.get("/v1/usage")).json()["data"]
    assert len(rows) == 1
    row = rows[0]
    assert (row["tenant"], row["model"], row["backend"]) == ("default", "scripted", "talk")
    assert (row["requests"], row["errors"], row["streams"]) == (2, 0, 1)
    assert (row["input_tokens"], row["output_tokens"]) == (5, 5)


async def test_a_backend_that_cannot_list_delays_nobody_elses_requests_twice(
    serve: Serve, upstream: FakeUpstream
) -> None:
    """It is asked again in time, but a model that another backend is known to offer does not wait for it."""
    async with serve(
        f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n[backends.talk]\ntype = "scripted"\n'
    ) as server:
        assert (await server.chat()).status == 200
        asked = len(upstream.requests)
        catalog = server.application._catalog
        catalog._listings.pop("up")  # as after its time
        assert (await server.chat()).status == 200
        assert len(upstream.requests) == asked
