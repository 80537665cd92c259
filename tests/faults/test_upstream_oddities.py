"""Streams that are unusual or broken in their bytes: what the standard allows is read, what it does not is one honest error."""

import pytest

from tests.conftest import Serve
from tests.fakes.upstream import (
    COMPLETION,
    DONE,
    HELLO,
    STREAM,
    Do,
    FakeUpstream,
    Plan,
    chunk,
    frame,
    json_answer,
    streamed,
    text_frame,
)
from tests.faults.test_upstream_cuts import Heard, hear_chat, hear_responses
from tests.serving import Reply, Serving

TOML = '[backends.up]\ntype = "http"\nendpoints = ["{url}"]\nmodels = ["m"]\n'
LONG = "x" * (5 * 1024 * 1024)
ENDING = text_frame(finish="stop") + DONE
ALLOWED = {
    "CRLF": (HELLO.replace(b"\n", b"\r\n"), "Hello"),
    "CR": (HELLO.replace(b"\n", b"\r"), "Hello"),
    "BOM": (b"\xef\xbb\xbf" + HELLO, "Hello"),
    "comments and names": (b": hi\n\nretry: 5\nid: 1\nevent: chunk\n" + HELLO, "Hello"),
    "no space after the colon": (HELLO.replace(b"data: ", b"data:"), "Hello"),
    "a line of 5 MB": (text_frame(LONG) + ENDING, LONG),
    "NUL in a text": (text_frame("a\0b") + ENDING, "a\0b"),
    "empty events": (b"\n\n\n" + HELLO.replace(b"data: [DONE]", b"data:\n\ndata: [DONE]"), "Hello"),
}
BROKEN = {
    "half a JSON": b'data: {"choices": [{"index": 0, "del\n\n',
    "a bare NUL": b"data: \0\n\n",
    "NULs in the JSON": text_frame("x").replace(b'"index"', b'"in\0dex"'),
    "not UTF-8": text_frame("x").replace(b'"x"', b'"\xff\xfe"'),
    "a list": b"data: []\n\n",
    "a number": b"data: 5\n\n",
    "choices that are none": frame({"choices": [5]}),
    "content that is a number": frame({"choices": [{"index": 0, "delta": {"content": 5}}]}),
    "HTML": b"data: <html>\n\n",
    "nested too deep": b"data: " + b"[" * 100_000 + b"\n\n",
}


async def both(server: Serving, upstream: FakeUpstream, plan: Plan) -> list[Reply]:
    """The same stream on the relaying way and on the translating one."""
    upstream.plan(plan, plan)
    return [
        await server.chat(model="m", stream=True),
        await server.request("POST", "/v1/responses", b'{"model": "m", "input": "hi", "stream": true}'),
    ]


@pytest.mark.parametrize("size", [None, 1000, 7], ids=["at once", "in pieces", "in crumbs"])
@pytest.mark.parametrize(("body", "said"), ALLOWED.values(), ids=ALLOWED.keys())
async def test_what_the_standard_allows_is_read(
    upstream: FakeUpstream, serve: Serve, body: bytes, said: str, size: int | None
) -> None:
    if size is not None:
        size = max(size, len(body) // 500)
    async with serve(TOML.format(url=upstream.url)) as server:
        chat, response = await both(server, upstream, streamed(body, size=size))
        for heard in (hear_chat(_normal(chat)), hear_responses(response)):
            assert (heard.text, heard.whole) == (said, True)


def _normal(reply: Reply) -> Reply:
    """A relayed stream keeps the upstream's line ends and fields; read here as any client's reader would."""
    lines = reply.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    data = [line.removeprefix(b"data:").strip() for line in lines if line.startswith(b"data:")]
    assert all(data), "clients read every data line as JSON"
    return Reply(reply.status, reply.headers, b"".join(b"data: " + one + b"\n\n" for one in data))


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
async def test_what_no_client_could_read_is_one_error_after_what_was_said(
    upstream: FakeUpstream, serve: Serve, body: bytes
) -> None:
    async with serve(TOML.format(url=upstream.url)) as server:
        chat, response = await both(server, upstream, streamed(text_frame("part") + body + ENDING))
        # The official types of a response know few codes, so it has the general one.
        assert hear_chat(chat) == Heard("part", whole=False, error="backend_protocol_error")
        assert hear_responses(response) == Heard("part", whole=False, error="server_error")


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
async def test_before_anything_was_said_it_is_a_status(upstream: FakeUpstream, serve: Serve, body: bytes) -> None:
    async with serve(TOML.format(url=upstream.url)) as server:
        for reply in await both(server, upstream, streamed(body + ENDING)):
            assert (reply.status, reply.error["code"]) == (502, "backend_protocol_error")
        upstream.plan([json_answer(COMPLETION)])
        assert (await server.chat(model="m")).status == 200


async def test_a_whole_answer_does_not_wait_for_a_stream_to_close(upstream: FakeUpstream, serve: Serve) -> None:
    async with serve(TOML.format(url=upstream.url)) as server:
        upstream.plan([STREAM, chunk(HELLO), Do.HOLD])
        reply = await server.chat(model="m")
        assert reply.json()["choices"][0]["message"]["content"] == "Hello"
        assert not upstream.left.is_set()
