"""The official Node SDK's Responses against a running server."""

from tests.conftest import Serve
from tests.sdk.node_program import report_of
from tests.serving import eventually

SCRIPT = '[[rules]]\nmatch = "hang"\nsteps = [{ text = "on" }, { hang = true }]\n'
TOML = '[server]\napi_keys = ["sk-test"]\n[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n'


async def test_responses(serve: Serve) -> None:
    async with serve(TOML, scripts={"script.toml": SCRIPT}) as server:
        report = await report_of("responses.mjs", server)
        await eventually(lambda: server.backend().active == 0)
    assert report == {
        "create": {"text": "hello there", "same": "hello there"},
        "helper": {"text": "one two three", "final": "one two three"},
        "chained": True,
        "resumed": True,
        "cancelled": "cancelled",
        "items": ["hello there"],
        "gone": ["NotFoundError", "response_not_found"],
    }
