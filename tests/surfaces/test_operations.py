"""Embeddings, completions, speech and the like over HTTP: what passes, who is asked, and what becomes of failures."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.operations import SOUND, OperationsUpstream, form_of, operations_upstream, vector
from tests.fakes.upstream import (
    DONE,
    END,
    STREAM,
    Do,
    Plan,
    answer,
    chunk,
    fake_upstream,
    frame,
    json_answer,
    streamed,
)
from tests.serving import Reply, Serving, Wire, eventually, read_frames

LAB = '[backends.lab]\ntype = "http"\nretries = 0\nendpoints = ["{url}"]\n'
JSON_OPERATIONS: dict[str, dict[str, object]] = {
    "embeddings": {"model": "embedder", "input": "cat"},
    "completions": {"model": "writer", "prompt": "Once"},
    "rerank": {"model": "reranker", "query": "q", "documents": ["a", "bbb"]},
    "moderations": {"model": "guard", "input": "hurt"},
    "audio/speech": {"model": "voice", "input": "hi", "voice": "alloy"},
    "images/generations": {"model": "painter", "prompt": "a cat"},
    "images/edits": {"model": "painter", "prompt": "a hat", "images": [{"image_url": "data:image/png;base64,AA=="}]},
}
FORM_OPERATIONS = ("audio/transcriptions", "audio/translations", "images/edits", "images/variations")


@pytest.fixture
async def lab() -> AsyncIterator[OperationsUpstream]:
    async with operations_upstream() as made:
        yield made


@pytest.fixture
async def server(lab: OperationsUpstream, serve: Serve) -> AsyncIterator[Serving]:
    async with serve(LAB.format(url=lab.url)) as served:
        yield served


async def post(server: Serving, operation: str, body: object, **headers: str) -> Reply:
    return await server.request("POST", f"/v1/{operation}", json.dumps(body).encode(), headers=headers)


async def send(wire: Wire, operation: str, body: object) -> None:
    data = json.dumps(body).encode()
    head = f"POST /v1/{operation} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    await wire.send(head.encode() + data)


def form(*fields: tuple[str, bytes], boundary: bytes = b"frontier") -> bytes:
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        % (boundary, name.encode(), b'; filename="a.wav"' if name in ("file", "image") else b"", value)
        for name, value in fields
    ]
    return b"".join([*parts, b"--%b--\r\n" % boundary])


async def post_form(
    server: Serving, operation: str, body: bytes, *, kind: str = "multipart/form-data; boundary=frontier"
) -> Reply:
    return await server.request("POST", f"/v1/{operation}", body, headers={"content-type": kind})


# What passes


@pytest.mark.parametrize("operation", JSON_OPERATIONS)
async def test_a_request_goes_up_as_it_came(server: Serving, lab: OperationsUpstream, operation: str) -> None:
    body = {**JSON_OPERATIONS[operation], "unknown_key": {"deep": [1, 2.50, "\u00e9"]}, "n": 1}
    reply = await post(server, operation, body)
    assert reply.status == 200, reply.body
    sent = lab.posts[0]
    assert sent.path == f"/v1/{operation}"
    assert sent.json() == body
    assert b"2.50" in sent.body or b"2.5" in sent.body
    assert sent.headers["content-type"] == "application/json"
    assert sent.headers["x-request-id"] == reply.headers["x-request-id"]
    assert reply.headers["x-trunkline-route"] == f"lab/{body['model']}"


@pytest.mark.parametrize("operation", FORM_OPERATIONS)
@pytest.mark.parametrize("last", [False, True], ids=["model first", "model last"])
async def test_a_form_goes_up_as_it_came(server: Serving, lab: OperationsUpstream, operation: str, last: bool) -> None:
    recording = b"\r\n--frontie\r\n\r\n--\x00\xff" * 1000
    fields = [("file", recording), ("prompt", b"x")]
    fields.insert(2 if last else 0, ("model", b"ears"))
    body = form(*fields)
    assert (await post_form(server, operation, body)).status == 200
    assert lab.posts[0].body == body
    assert lab.posts[0].headers["content-type"] == "multipart/form-data; boundary=frontier"


async def test_only_the_models_name_changes_in_a_form(lab: OperationsUpstream, serve: Serve) -> None:
    toml = LAB.format(url=lab.url) + '[[models]]\nname = "h"\nroutes = [{ backend = "lab", model = "a-longer-name" }]\n'
    async with serve(f'[server]\ndefault_model = "h"\n{toml}') as server:
        body = form(("file", b"RIFF"), ("model", b"h"), ("prompt", b"model h"))
        assert (await post_form(server, "audio/transcriptions", body)).status == 200
        assert lab.posts[0].body == body.replace(b"\r\n\r\nh\r\n", b"\r\n\r\na-longer-name\r\n")
        without = form(("file", b"RIFF"))
        assert (await post_form(server, "audio/transcriptions", without)).status == 200
        assert form_of(lab.posts[1]) == {"model": b"a-longer-name", "file": b"RIFF"}
        assert (await post(server, "embeddings", {"input": "cat"})).json()["model"] == "h"
        assert lab.posts[2].json()["model"] == "a-longer-name"


async def test_what_looks_like_an_upstreams_address_is_data(
    server: Serving, lab: OperationsUpstream, serve: Serve
) -> None:
    async with fake_upstream() as elsewhere:
        tempting = {
            "base_url": elsewhere.url,
            "api_base": elsewhere.url,
            "api_key": "sk-mine",
            "headers": {"authorization": "Bearer sk-mine"},
            "extra_headers": {"host": "elsewhere"},
        }
        reply = await post(
            server, "embeddings", {**JSON_OPERATIONS["embeddings"], **tempting}, authorization="Bearer sk-mine"
        )
        assert reply.status == 200
        assert elsewhere.requests == []
    assert lab.posts[0].json() == {**JSON_OPERATIONS["embeddings"], **tempting}
    assert "authorization" not in lab.posts[0].headers


async def test_the_model_in_an_answer_is_the_one_asked_for(server: Serving) -> None:
    for operation in ("embeddings", "completions", "moderations"):
        reply = await post(server, operation, JSON_OPERATIONS[operation])
        assert reply.json()["model"] == JSON_OPERATIONS[operation]["model"]
        assert reply.headers["content-type"] == "application/json"


async def test_what_is_no_json_comes_back_as_it_is(server: Serving, lab: OperationsUpstream) -> None:
    reply = await post(server, "audio/speech", JSON_OPERATIONS["audio/speech"])
    assert (reply.body, reply.headers["content-type"]) == (SOUND, "audio/mpeg")
    assert reply.headers["content-length"] == str(len(SOUND))
    chunked = (
        b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nopenai-processing-ms: 7\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    lab.plan([chunked, chunk(SOUND), chunk(b"end"), END])
    reply = await post(server, "audio/speech", JSON_OPERATIONS["audio/speech"])
    assert (reply.body, reply.headers["content-type"]) == (SOUND + b"end", "audio/wav")
    assert reply.headers["openai-processing-ms"] == "7"


@pytest.mark.parametrize("kind", ["", "audio/\u00e9", "\udcff"])
async def test_a_media_type_that_is_none_is_bytes(server: Serving, lab: OperationsUpstream, kind: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 2\r\n\r\n".encode(errors="surrogateescape")
    lab.plan([head + b"hi"])
    reply = await post(server, "audio/speech", JSON_OPERATIONS["audio/speech"])
    assert (reply.status, reply.headers["content-type"], reply.body) == (200, "application/octet-stream", b"hi")


@pytest.mark.parametrize("length", [b"", b"Content-Length: 7\r\n"], ids=["as it should be", "with a length"])
async def test_no_content_is_no_content(server: Serving, lab: OperationsUpstream, length: bytes) -> None:
    lab.plan([b"HTTP/1.1 204 No Content\r\nContent-Type: audio/mpeg\r\n" + length + b"\r\n"])
    reply = await post(server, "audio/speech", JSON_OPERATIONS["audio/speech"])
    assert (reply.status, reply.body) == (204, b"")
    assert not reply.headers.keys() & {"content-length", "content-type", "transfer-encoding"}
    assert " status=204 " in server.access_lines[-1]


async def test_a_list_is_a_whole_answer_too(server: Serving, lab: OperationsUpstream) -> None:
    lab.plan([json_answer([{"index": 0, "score": 0.5}])])
    reply = await server.request("POST", "/rerank", json.dumps(JSON_OPERATIONS["rerank"]).encode())
    assert reply.json() == [{"index": 0, "score": 0.5}]
    assert lab.posts[0].path == "/v1/rerank"


async def test_sound_is_passed_on_while_it_is_made(server: Serving, lab: OperationsUpstream) -> None:
    go_on = asyncio.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nTransfer-Encoding: chunked\r\n\r\n"
    lab.plan([head, chunk(b"first"), go_on, chunk(b"second"), END])
    async with server.connect() as wire:
        await send(wire, "audio/speech", JSON_OPERATIONS["audio/speech"])
        assert (await wire.head())[0] == 200
        assert await wire.chunk() == b"first"
        go_on.set()
        assert await wire.chunk() == b"second"


async def test_usage_is_counted_in_whichever_form_it_comes(server: Serving) -> None:
    for operation in ("embeddings", "completions", "rerank", "images/generations"):
        await post(server, operation, JSON_OPERATIONS[operation])
    await post(
        server,
        "completions",
        {**JSON_OPERATIONS["completions"], "stream": True, "stream_options": {"include_usage": True}},
    )
    rows = {row["model"]: row for row in (await server.get("/v1/usage")).json()["data"]}
    counted = {model: (row["input_tokens"], row["output_tokens"]) for model, row in rows.items()}
    assert counted == {"embedder": (1, 0), "writer": (10, 4), "reranker": (9, 0), "painter": (4, 100)}
    assert "route=lab/writer" in server.access_lines[-2]
    assert "finish=stop" in server.access_lines[-2]


# Streams of completions


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_a_stream_passes_in_any_split(server: Serving, lab: OperationsUpstream, size: int) -> None:
    said = [
        b": a comment\n\n",
        frame({"model": "org/x", "choices": [{"index": 0, "text": "Hel", "finish_reason": None}], "kept": 2.50}),
        b'event: more\ndata: {"model":"org/x","choices":[{"index":0,"text":"lo","finish_reason":"length"}]}\r\n\r\n',
    ]
    lab.plan(streamed(b"".join([*said, DONE]), size=size))
    reply = await post(server, "completions", {**JSON_OPERATIONS["completions"], "stream": True})
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.body.startswith(said[0])
    assert b"event: more\n" in reply.body
    assert reply.body.endswith(DONE)
    frames = [json.loads(line[6:]) for line in reply.body.split(b"\n") if line.startswith(b"data: {")]
    assert [one["choices"][0]["text"] for one in frames] == ["Hel", "lo"]
    assert {one["model"] for one in frames} == {"writer"}
    assert "finish=length" in server.access_lines[-1]


WORD = frame({"model": "w", "choices": [{"index": 0, "text": "Hel", "finish_reason": None}]})


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        ([Do.RESET], "backend_unavailable"),
        ([END], "backend_unavailable"),
        ([chunk(b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'), END], "backend_error"),
        ([chunk(b"data: {nonsense\n\n"), END], "backend_protocol_error"),
    ],
    ids=["reset", "no finish reason", "an error object", "no JSON"],
)
async def test_a_stream_that_fails_after_its_first_word_says_so_and_ends(
    server: Serving, lab: OperationsUpstream, rest: Plan, code: str
) -> None:
    lab.plan([STREAM, chunk(WORD), *rest])
    reply = await post(server, "completions", {**JSON_OPERATIONS["completions"], "stream": True})
    frames = read_frames(reply.body)
    assert frames[0]["choices"][0]["text"] == "Hel"
    assert [one["error"]["code"] for one in frames[1:]] == [code]
    assert f"error={code}" in server.access_lines[-1]


async def test_a_stream_that_is_none_comes_back_as_what_it_is(server: Serving, lab: OperationsUpstream) -> None:
    """Whisper ignores `stream`, and so do other servers."""
    lab.plan([json_answer({"model": "x", "choices": [{"index": 0, "text": "Hello", "finish_reason": "stop"}]})])
    reply = await post(server, "completions", {**JSON_OPERATIONS["completions"], "stream": "true"})
    assert reply.json()["choices"][0]["text"] == "Hello"
    assert lab.posts[0].json()["stream"] is True


# Failures


@pytest.mark.parametrize(
    ("plan", "status", "code"),
    [
        ([Do.RESET], 503, "backend_unavailable"),
        ([json_answer({"error": {"message": "no"}}, status="500 Oops")], 502, "backend_error"),
        ([json_answer({"error": {"message": "no"}}, status="401 No")], 502, "upstream_unauthorized"),
        ([json_answer({"error": {"message": "no"}}, status="422 No")], 422, "upstream_rejected"),
        (
            [json_answer({"error": {"message": "no", "code": "model_not_found"}}, status="404 No")],
            404,
            "model_not_found",
        ),
        ([json_answer({"detail": "Not Found"}, status="404 Not Found")], 404, "unsupported_operation"),
        (
            [json_answer({"error": {"message": "start with --embeddings"}}, status="501 No")],
            404,
            "unsupported_operation",
        ),
        ([json_answer({"error": {"message": "quota", "code": 429}})], 429, "rate_limit_exceeded"),
        ([answer(b"{nonsense")], 502, "backend_protocol_error"),
        ([answer(b'{"model": "\xff"}')], 502, "backend_protocol_error"),
        ([answer(b"", status="302 Found", headers={"Location": "/x"})], 503, "backend_unavailable"),
    ],
)
async def test_a_failure_is_a_status_and_an_envelope(
    server: Serving, lab: OperationsUpstream, plan: Plan, status: int, code: str
) -> None:
    lab.plan(plan, plan)
    reply = await post(server, "embeddings", JSON_OPERATIONS["embeddings"])
    assert (reply.status, reply.error["code"] or "") in ((status, code), (status, "")), reply.body
    assert server.application.runtime.endpoints[0].active == 0


async def test_our_key_is_not_in_what_a_client_reads(lab: OperationsUpstream, serve: Serve) -> None:
    async with serve(LAB.format(url=lab.url) + 'api_key = "lab-key-12345"\n') as server:
        lab.plan([json_answer({"error": {"message": "bad key lab-key-12345"}}, status="400 Bad")])
        reply = await post(server, "embeddings", JSON_OPERATIONS["embeddings"])
        assert b"lab-key" not in reply.body
        lab.plan([STREAM, chunk(WORD), chunk(b'data: {"error": {"message": "lab-key-12345"}}\n\n'), END])
        reply = await post(server, "completions", {**JSON_OPERATIONS["completions"], "stream": True})
        assert b"error" in reply.body
        assert b"lab-key" not in reply.body


@pytest.mark.parametrize(
    ("settings", "plan"),
    [
        ("first_event_timeout_s = 0.05", [asyncio.Event()]),
        ("idle_timeout_s = 0.05", [STREAM, chunk(b": hello\n\n"), Do.HOLD]),
        ("timeout_s = 0.05", [STREAM, chunk(b": hello\n\n"), Do.HOLD]),
    ],
    ids=["no head", "silence", "too long in all"],
)
async def test_what_takes_too_long_is_a_timeout(
    lab: OperationsUpstream, serve: Serve, settings: str, plan: Plan
) -> None:
    async with serve(LAB.format(url=lab.url) + settings) as server:
        await server.get("/v1/models")
        lab.plan(plan)
        reply = await post(server, "completions", {**JSON_OPERATIONS["completions"], "stream": True})
        assert (reply.status, reply.error["code"]) == (504, "backend_timeout")
        assert server.application.runtime.endpoints[0].active == 0


async def test_a_client_that_leaves_stops_the_work(server: Serving, lab: OperationsUpstream) -> None:
    lab.plan([STREAM, chunk(WORD), Do.HOLD])
    async with server.connect() as wire:
        await send(wire, "completions", {**JSON_OPERATIONS["completions"], "stream": True})
        await wire.head()
        await wire.until(b"Hel")
    await lab.left.wait()
    await eventually(lambda: server.application.runtime.endpoints[0].active == 0)
    await eventually(lambda: "error=client_disconnected" in server.access_lines[-1])


async def test_a_stream_beyond_the_grace_ends_with_an_error(server: Serving, lab: OperationsUpstream) -> None:
    lab.plan([STREAM, chunk(WORD), Do.HOLD])
    async with server.connect() as wire:
        await send(wire, "completions", {**JSON_OPERATIONS["completions"], "stream": True})
        await wire.head()
        await wire.until(b"Hel")
        server.application.abort()
        assert read_frames(await wire.until(b"\n\n"))[-1]["error"]["code"] == "server_shutting_down"


async def test_sound_beyond_the_grace_is_cut_off(server: Serving, lab: OperationsUpstream) -> None:
    lab.plan(
        [b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(b"la"), Do.HOLD]
    )
    async with server.connect() as wire:
        await send(wire, "audio/speech", JSON_OPERATIONS["audio/speech"])
        await wire.head()
        assert await wire.chunk() == b"la"
        server.application.abort()
        assert await wire.reader.read() == b""  # not even the chunk that ends a body


@pytest.mark.parametrize(
    ("plan", "end"),
    [
        (streamed(WORD + frame({"choices": [{"index": 0, "text": "lo", "finish_reason": "stop"}]}) + DONE), b"[DONE]"),
        ([json_answer({"error": {"message": "out of memory"}}, status="500 Oops")], b'"code":"backend_error"'),
        ([json_answer({"model": "x", "choices": []})], b'"code":"backend_protocol_error"'),
    ],
    ids=["a stream", "a failure", "no stream"],
)
async def test_a_completion_that_takes_long_has_its_head_before(
    server: Serving, lab: OperationsUpstream, plan: Plan, end: bytes
) -> None:
    await server.get("/v1/models")
    thinking = asyncio.Event()
    lab.plan([thinking, *plan])
    async with server.connect() as wire:
        await send(wire, "completions", {**JSON_OPERATIONS["completions"], "stream": True})
        assert (await wire.head())[0] == 200  # it leaves after a second
        thinking.set()
        assert end in await wire.until(end)


async def test_a_connection_that_was_closed_meanwhile_is_not_noticed(server: Serving, lab: OperationsUpstream) -> None:
    """Also by a body that is sent in pieces: it can be sent again."""
    body = form(("file", b"x" * 300_000), ("model", b"ears"))
    lab.plan([json_answer({"text": "one"})], [Do.RESET], [json_answer({"text": "two"})])
    texts = [(await post_form(server, "audio/transcriptions", body)).json()["text"] for _ in range(2)]
    assert texts == ["one", "two"]
    assert lab.posts[-1].body == body


# Who is asked


@contextlib.asynccontextmanager
async def two_labs() -> AsyncIterator[Sequence[OperationsUpstream]]:
    async with operations_upstream() as one, operations_upstream() as other:
        yield one, other


@pytest.mark.parametrize(
    "plan",
    [
        [Do.RESET],
        [json_answer({"error": {"message": "loading"}}, status="503 Service Unavailable")],
        [json_answer({"error": {"message": "no embeddings"}}, status="501 Not Implemented")],
        [json_answer({"error": {"message": "quota", "code": 429}})],
        [STREAM, chunk(b": hello\n\n"), Do.RESET],
    ],
    ids=["reset", "503", "501", "an error in a 200", "nothing but a comment"],
)
async def test_what_fails_before_its_first_byte_is_answered_by_the_other(serve: Serve, plan: Plan) -> None:
    async with two_labs() as (bad, good):
        toml = f'[backends.lab]\ntype = "http"\nretries = 0\nendpoints = ["{bad.url}", "{good.url}"]\n'
        async with serve(toml) as server:
            await server.get("/v1/models")
            bad.plan(plan, plan)
            replies = [await post(server, "embeddings", JSON_OPERATIONS["embeddings"]) for _ in range(3)]
            assert [reply.status for reply in replies] == [200] * 3
            assert replies[0].json()["data"][0]["embedding"] == vector("cat")
            assert good.posts


async def test_an_operation_that_fails_does_not_close_the_others(serve: Serve) -> None:
    async with two_labs() as (bad, good):
        toml = f'[backends.lab]\ntype = "http"\nretries = 0\nendpoints = ["{bad.url}", "{good.url}"]\n'
        async with serve(toml) as server:
            await server.get("/v1/models")
            bad.plan([json_answer({"error": {"message": "loading"}}, status="503 Service Unavailable")])
            for _ in range(4):
                assert (await post(server, "embeddings", JSON_OPERATIONS["embeddings"])).status == 200
            asked = len(bad.posts)
            for _ in range(4):
                assert (await post(server, "moderations", JSON_OPERATIONS["moderations"])).status == 200
            assert len(bad.posts) > asked


async def test_a_backend_without_the_operation_is_no_candidate(lab: OperationsUpstream, serve: Serve) -> None:
    toml = (
        LAB.format(url=lab.url)
        + """
[backends.talk]
type = "scripted"
models = ["embedder"]
[[models]]
name = "either"
routes = [{ backend = "talk" }, { backend = "lab", model = "embedder" }]
"""
    )
    async with serve(toml) as server:
        reply = await post(server, "embeddings", {"model": "either", "input": "cat"})
        assert reply.json()["model"] == "either"
        assert reply.headers["x-trunkline-route"] == "lab/embedder"
        assert (await server.chat(model="either")).headers["x-trunkline-route"].startswith("talk/")


async def test_who_has_an_operation_is_said_where_the_model_has_it_not(lab: OperationsUpstream, serve: Serve) -> None:
    talk = '[backends.talk]\ntype = "scripted"\n'
    async with serve(LAB.format(url=lab.url) + talk) as server:
        reply = await post(server, "embeddings", {"model": "scripted", "input": "cat"})
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unsupported_operation", "model")
        assert "'talk' cannot; backends that can: 'lab'" in reply.error["message"]
    async with serve(talk) as server:
        reply = await post(server, "audio/speech", {"model": "scripted", "input": "cat"})
        assert "no backend here can" in reply.error["message"]


async def test_an_ollama_server_is_asked_below_its_v1(lab: OperationsUpstream, serve: Serve) -> None:
    toml = '[backends.desk]\ntype = "http"\ndialect = "ollama_chat"\nendpoints = ["{url}"]\nmodels = ["embedder"]\n'
    async with serve(toml.format(url=lab.url.removesuffix("/v1"))) as server:
        assert (await post(server, "embeddings", JSON_OPERATIONS["embeddings"])).status == 200
        assert lab.posts[0].path == "/v1/embeddings"


async def test_slots_are_shared_with_chat(lab: OperationsUpstream, serve: Serve) -> None:
    hold = asyncio.Event()
    async with serve(LAB.format(url=lab.url) + "max_concurrency = 1\nmax_queue = 0\n") as server:
        await server.get("/v1/models")
        lab.plan([hold, json_answer({"model": "x"})])
        first = asyncio.create_task(post(server, "embeddings", JSON_OPERATIONS["embeddings"]))
        await eventually(lambda: server.application.runtime.endpoints[0].active == 1)
        busy = await server.chat(model="embedder")
        assert (busy.status, busy.headers["retry-after"]) == (429, "1")
        hold.set()
        assert (await first).status == 200


# What is wrong with a request


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b'{"model": "\xff"}', "invalid_json", None),
        (b'{"model": "embedder", "input": "\xff"}', "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
        (b"[1]", "invalid_type", None),
        (b"{}", "missing_required_parameter", "model"),
        (b'{"model": null}', "missing_required_parameter", "model"),
        (b'{"model": 7}', "invalid_type", "model"),
        (b'{"model": 1e400}', "invalid_json", None),
        (b'{"model": "nobodys"}', "model_not_found", "model"),
    ],
)
async def test_a_body_that_cannot_be_read_is_told_why(
    server: Serving, body: bytes, code: str, param: str | None
) -> None:
    reply = await server.request("POST", "/v1/embeddings", body)
    assert reply.status == (404 if code == "model_not_found" else 400)
    assert (reply.error["code"], reply.error["param"]) == (code, param)


FORMS: Mapping[str, tuple[bytes, str | None]] = {
    "empty": (b"", None),
    "not a form": (b'{"model": "ears"}', None),
    "another boundary": (form(("model", b"ears"), boundary=b"else"), None),
    "cut off in the file": (form(("model", b"ears"), ("file", b"RIFF"))[:-20], None),
    "cut off in a head": (b'--frontier\r\nContent-Disposition: form-data; name="mo', None),
    "no line break": (b"--frontier model\r\n\r\nears\r\n--frontier--", None),
    "a part without a name": (b"--frontier\r\nContent-Type: text/plain\r\n\r\nx\r\n--frontier--", None),
    "too many parts": (form(*[("a", b"")] * 1001), None),
    "two models": (form(("model", b"ears"), ("model", b"voice")), "model"),
    "a model that is no text": (form(("model", b"\xff\xfe")), "model"),
    "no model": (form(("file", b"RIFF")), "model"),
    "an empty model": (form(("model", b"")), "model"),
}


@pytest.mark.parametrize(("body", "param"), FORMS.values(), ids=FORMS.keys())
async def test_a_form_that_cannot_be_read_is_told_why(
    server: Serving, lab: OperationsUpstream, body: bytes, param: str | None
) -> None:
    reply = await post_form(server, "audio/transcriptions", body)
    assert (reply.status, reply.error["param"]) == (400, param), reply.body
    assert lab.posts == []


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("embeddings", "multipart/form-data; boundary=frontier"),
        ("audio/transcriptions", "application/json"),
        ("audio/transcriptions", "audio/wav"),
        ("images/variations", ""),
    ],
)
async def test_another_media_type_is_415(server: Serving, operation: str, kind: str) -> None:
    reply = await post_form(server, operation, form(("model", b"ears")), kind=kind)
    assert (reply.status, reply.error["code"]) == (415, "unsupported_media_type")
    assert "takes" in reply.error["message"]


async def test_a_form_without_a_boundary_is_400(server: Serving) -> None:
    reply = await post_form(server, "audio/transcriptions", form(("model", b"ears")), kind="multipart/form-data")
    assert (reply.status, reply.error["code"]) == (400, "invalid_form")


async def test_json_that_curl_calls_a_form_is_read(server: Serving) -> None:
    body = json.dumps(JSON_OPERATIONS["embeddings"]).encode()
    reply = await post_form(server, "embeddings", body, kind="application/x-www-form-urlencoded")
    assert reply.status == 200


async def test_a_recording_over_the_limit_is_413(lab: OperationsUpstream, serve: Serve) -> None:
    async with serve("[server]\nmax_body_bytes = 1000\n" + LAB.format(url=lab.url)) as server:
        body = form(("model", b"ears"), ("file", b"x" * 1000))
        reply = await post_form(server, "audio/transcriptions", body)
        assert (reply.status, reply.error["code"]) == (413, "body_too_large")
        async with server.connect() as wire:
            await wire.send(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(3):
                await wire.send(b"190\r\n" + b"x" * 400 + b"\r\n")
            assert (await wire.reply()).status == 413


async def test_keys_and_methods_are_those_of_every_route(lab: OperationsUpstream, serve: Serve) -> None:
    async with serve('[server]\napi_keys = ["sk-a"]\n' + LAB.format(url=lab.url)) as server:
        for operation in JSON_OPERATIONS:
            assert (await post(server, operation, JSON_OPERATIONS[operation])).error["code"] == "invalid_api_key"
        key = {"authorization": "Bearer sk-a"}
        reply = await server.get("/v1/embeddings", headers=key)
        assert (reply.status, reply.headers["allow"]) == (405, "POST")


async def test_a_backend_that_may_not_stream_says_so(lab: OperationsUpstream, serve: Serve) -> None:
    async with serve(LAB.format(url=lab.url) + "streaming = false\n") as server:
        body: dict[str, Any] = {**JSON_OPERATIONS["completions"], "stream": True}
        reply = await post(server, "completions", body)
        assert (reply.status, reply.error["param"]) == (400, "stream")
