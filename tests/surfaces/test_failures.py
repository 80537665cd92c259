"""What a client sees when the answerer fails, is slow, is busy, or when the client itself leaves."""

import asyncio
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.fakes import counter
from tests.fakes.upstream import FakeUpstream, json_answer
from tests.serving import Serving, eventually, finish_of, read_frames, text_of, user

SCRIPTED = '[backends.talk]\ntype = "scripted"\nscript = "script.toml"\n{settings}\n'
PYTHON = '[backends.bot]\ntype = "python"\ntarget = "bot.py:agent"\nmax_concurrency = 2\n{settings}\n'


def scripted(serve: Serve, *steps: str, settings: str = "", rule: str = "", server: str = ""):  # type: ignore[no-untyped-def]
    """A server whose only answer is these steps."""
    script = f"[[rules]]\n{rule}\nsteps = [{', '.join(steps)}]\n"
    return serve(server + SCRIPTED.format(settings=settings), scripts={"script.toml": script})


AGENTS = {
    "coroutine": "async def agent(turn):\n    raise ValueError('no luck, password=hunter22 ' + 'x' * 5000)\n",
    "function": "def agent(turn):\n    raise ValueError('no luck, password=hunter22 ' + 'x' * 5000)\n",
    "generator": "def agent(turn):\n    yield ''\n    raise ValueError('no luck, password=hunter22 ' + 'x' * 5000)\n",
    "async generator": "async def agent(turn):\n    yield ''\n    raise ValueError('no luck, password=hunter22 ' + 'x' * 5000)\n",
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("source", AGENTS.values(), ids=AGENTS.keys())
async def test_an_agent_that_raises_is_a_500_with_its_text_redacted(
    serve: Serve, source: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(PYTHON.format(settings=""), scripts={"bot.py": source}) as server:
        model = (await server.get("/v1/models")).json()["data"][0]["id"]
        reply = await server.chat(model=model, stream=stream)
    assert (reply.status, reply.error["type"], reply.error["code"]) == (500, "server_error", "agent_error")
    assert "no luck" in reply.error["message"]
    assert "hunter22" not in reply.body.decode()
    assert len(reply.error["message"]) <= 600
    assert "Traceback" not in reply.body.decode()
    assert "bot.py" in caplog.text, "the stack belongs in the log"


async def test_an_agent_that_raises_midway_ends_the_stream_with_an_error(serve: Serve) -> None:
    source = "async def agent(turn):\n    yield 'part'\n    raise ValueError('no luck')\n"
    async with serve(PYTHON.format(settings=""), scripts={"bot.py": source}) as server:
        model = (await server.get("/v1/models")).json()["data"][0]["id"]
        reply = await server.chat(model=model, stream=True)
        whole = await server.chat(model=model)
    assert reply.status == 200
    assert text_of(reply.frames) == "part"
    assert "no luck" in reply.frames[-1]["error"]["message"]
    assert finish_of(reply.frames) == []
    assert b"[DONE]" not in reply.body
    assert whole.status == 500


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_bug_of_ours_says_a_safe_sentence_and_the_request_id(
    serve: Serve, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted(serve, '{ error = "bug", message = "secret internals" }') as server:
        reply = await server.chat(stream=stream, headers={"x-request-id": "my-id-1"})
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert "my-id-1" in reply.error["message"]
    assert "secret internals" not in reply.body.decode()
    assert "secret internals" in caplog.text
    assert "my-id-1" in caplog.text


async def test_a_bug_midway_says_no_more_in_the_stream(serve: Serve) -> None:
    async with scripted(serve, '{ text = "part" }', '{ error = "bug", message = "secret internals" }') as server:
        reply = await server.chat(stream=True)
    assert text_of(reply.frames) == "part"
    assert reply.frames[-1]["error"]["code"] == "internal_error"
    assert b"secret" not in reply.body
    assert b"[DONE]" not in reply.body


ERRORS = [
    ("unavailable", 503, "backend_unavailable"),
    ("timeout", 504, "backend_timeout"),
    ("rate_limited", 429, "rate_limit_exceeded"),
    ("protocol", 502, "backend_protocol_error"),
    ("agent", 500, "agent_error"),
    ("incomplete", 502, "agent_incomplete"),
    ("rejected", 418, "upstream_rejected"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("event", ["", ", as_event = true"], ids=["raised", "as an event"])
@pytest.mark.parametrize(("kind", "status", "code"), ERRORS)
async def test_each_error_has_its_status_before_content(
    serve: Serve, kind: str, status: int, code: str, event: str, stream: bool
) -> None:
    step = f'{{ error = "{kind}", message = "said so", status = 418, retry_after_s = 2.5{event} }}'
    async with scripted(serve, step) as server:
        reply = await server.chat(stream=stream)
    assert (reply.status, reply.error["code"], reply.error["message"]) == (status, code, "said so")
    if kind != "rejected":
        assert reply.headers["retry-after"] == "3"
    assert reply.headers["x-trunkline-route"] == "talk/scripted"


@pytest.mark.parametrize("event", ["", ", as_event = true"], ids=["raised", "as an event"])
@pytest.mark.parametrize(("kind", "status", "code"), ERRORS)
async def test_each_error_after_content_is_the_last_frame(
    serve: Serve, kind: str, status: int, code: str, event: str
) -> None:
    step = f'{{ error = "{kind}", message = "said so", status = 418{event} }}'
    async with scripted(serve, '{ text = "part" }', step) as server:
        reply = await server.chat(stream=True)
        whole = await server.chat()
    assert text_of(reply.frames) == "part"
    assert (reply.frames[-1]["error"]["code"], reply.frames[-1]["error"]["message"]) == (code, "said so")
    assert finish_of(reply.frames) == []
    assert b"[DONE]" not in reply.body
    assert (whole.status, whole.error["code"]) == (status, code)


CHOICE_DONE = '{ event = { type = "choice_done", choice = 0, finish_reason = "stop" } }'
COMPLETED = '{ event = { type = "turn_completed" } }'
BROKEN = {
    "no first event": ('{ text = "part" }', 'begin = "missing"'),
    "no last event": ('{ text = "part" }', 'end = "missing"'),
    "cut": ('{ text = "part" }', 'end = "cut"'),
    "a delta of no item": ('{ event = { type = "text", index = 7, text = "x" } }', ""),
    "an item twice": ('{ event = { type = "item_started", index = 0, kind = "message" } }', ""),
    "a choice twice": (f'{{ text = "part" }}, {{ finish = "stop" }}, {CHOICE_DONE}', ""),
    "two ends": (f'{{ text = "part" }}, {{ finish = "stop" }}, {COMPLETED}, {COMPLETED}', ""),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("steps", "rule"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_backend_that_breaks_the_rules_fails_and_never_looks_whole(
    serve: Serve, steps: str, rule: str, stream: bool
) -> None:
    if steps == BROKEN["an item twice"][0]:
        steps = f"{steps}, {steps}"
    async with scripted(serve, steps, rule=rule) as server:
        reply = await server.chat(stream=stream)
    if reply.status == 200:
        assert stream
        assert reply.frames[-1]["error"]["code"] == "backend_protocol_error"
        assert b"[DONE]" not in reply.body
    else:
        assert (reply.status, reply.error["code"]) == (502, "backend_protocol_error")


async def test_a_cancelled_answer_is_not_a_whole_one(serve: Serve) -> None:
    async with scripted(serve, '{ text = "part" }', rule='end = "cancelled"') as server:
        assert (await server.chat()).status == 503
        reply = await server.chat(stream=True)
        assert reply.frames[-1]["error"]["code"] == "cancelled"
        assert b"[DONE]" not in reply.body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_turn_over_its_time_before_content_is_504(serve: Serve, stream: bool) -> None:
    async with scripted(serve, "{ hang = true }", settings="timeout_s = 0.05") as server:
        reply = await server.chat(stream=stream)
        assert (reply.status, reply.error["code"], reply.error["type"]) == (504, "backend_timeout", "timeout_error")
        assert "0.05 s" in reply.error["message"]
        assert server.backend().active == 0


async def test_a_turn_over_its_time_after_content_ends_in_an_error(serve: Serve) -> None:
    async with scripted(serve, '{ text = "part" }', "{ hang = true }", settings="timeout_s = 0.05") as server:
        reply = await server.chat(stream=True)
        assert text_of(reply.frames) == "part"
        assert reply.frames[-1]["error"]["code"] == "backend_timeout"
        assert b"[DONE]" not in reply.body
        assert server.backend().active == 0


BUSY = "max_concurrency = 1\nmax_queue = 1"


async def test_a_full_queue_is_429_with_retry_after(serve: Serve) -> None:
    async with scripted(serve, '{ text = "one" }', "{ hang = true }", settings=BUSY) as server:
        async with server.stream() as first, server.stream():
            await first.head()
            endpoint = server.application.runtime.endpoints[0]
            await eventually(lambda: endpoint.queued == 1)
            for stream in (False, True):
                reply = await server.chat(stream=stream)
                assert (reply.status, reply.error["type"]) == (429, "rate_limit_error")
                assert int(reply.headers["retry-after"]) >= 1
                assert "1 waiting" in reply.error["message"]
            health = (await server.get("/health")).json()
            assert (health["active"], health["queued"], health["busy"], health["capacity"]) == (1, 1, True, 1)
        await eventually(lambda: endpoint.active == 0)


async def test_a_waiter_is_answered_when_the_one_before_it_leaves(serve: Serve) -> None:
    script = '[[rules]]\ntimes = 1\nsteps = [{ text = "one" }, { hang = true }]\n'
    async with serve(SCRIPTED.format(settings=BUSY), scripts={"script.toml": script}) as server:
        async with server.stream() as first:
            await first.head()
            waiting = asyncio.create_task(server.chat("second"))
            await eventually(lambda: server.application.runtime.endpoints[0].queued == 1)
        assert (await waiting).json()["choices"][0]["message"]["content"] == "second"


async def test_a_waiter_that_leaves_gives_up_its_place(serve: Serve) -> None:
    async with scripted(serve, '{ text = "one" }', "{ hang = true }", settings=BUSY) as server:
        endpoint = server.application.runtime.endpoints[0]
        async with server.stream() as first:
            await first.head()
            async with server.stream():
                await eventually(lambda: endpoint.queued == 1)
            await eventually(lambda: endpoint.queued == 0)
            assert server.backend().opened == 1


QUIET = "[server]\nkeepalive_s = 0.02\n"


async def test_a_silent_stream_sends_comments(serve: Serve) -> None:
    async with scripted(serve, '{ text = "one" }', "{ hang = true }", server=QUIET) as server, server.stream() as wire:
        await wire.head()
        seen = await wire.until(b": keepalive\n\n: keepalive\n\n")
        assert read_frames(seen)[0]["choices"][0]["delta"]["content"] == "one"


async def test_the_head_does_not_wait_for_a_backend_that_thinks(serve: Serve) -> None:
    """After a second of silence the client learns that it is being answered, and then that the line is alive."""
    async with scripted(serve, "{ hang = true }", server=QUIET) as server, server.stream() as wire:
        status, headers = await wire.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert headers["x-trunkline-route"] == "talk/scripted"
        await wire.until(b": keepalive\n\n")


async def test_an_error_after_an_early_head_is_an_error_frame(serve: Serve) -> None:
    """The early head has cost the status: the error must be in the stream."""
    async with scripted(serve, "{ hang = true }", server=QUIET, settings="timeout_s = 1.2") as server:
        reply = await server.chat(stream=True)
        assert reply.status == 200
        assert reply.frames == [
            {
                "error": {
                    "message": "backend 'talk' took longer than 1.2 s",
                    "type": "timeout_error",
                    "param": None,
                    "code": "backend_timeout",
                }
            }
        ]


LONG = [
    '{ reasoning = "hm" }',
    '{ text = "one " }',
    '{ call = "f", arguments = ["{", "}"] }',
    '{ text = "two" }',
]


@pytest.mark.parametrize("said", range(len(LONG) + 1))
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_client_that_leaves_stops_the_backend_wherever_it_is(serve: Serve, said: int, stream: bool) -> None:
    async with scripted(serve, *LONG[:said], "{ hang = true }", *LONG[said:]) as server:
        async with server.connect() as wire:
            await wire.send_chat({"model": "scripted", "messages": user("hi"), "stream": stream})
            await eventually(lambda: server.backend().active == 1)
            if stream and said:
                await wire.head()
                await wire.chunk()
        await eventually(lambda: server.backend().active == 0)
        endpoint = server.application.runtime.endpoints[0]
        await eventually(lambda: endpoint.active == 0)
        await eventually(lambda: any("client_disconnected" in line for line in server.access_lines))


LEAVING = """
import asyncio, pathlib
async def agent(turn):
    try:
        yield 'one'
        await asyncio.Event().wait()
    finally:
        pathlib.Path(turn.metadata['mark']).write_text('stopped')
"""


async def test_an_agents_own_clean_up_runs_when_its_client_leaves(serve: Serve, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    async with serve(PYTHON.format(settings=""), scripts={"bot.py": LEAVING}) as server:
        model = (await server.get("/v1/models")).json()["data"][0]["id"]
        async with server.stream(model=model, metadata={"mark": str(mark)}) as wire:
            await wire.head()
            await wire.until(b"one")
        await eventually(mark.exists)
    assert mark.read_text() == "stopped"


async def test_a_client_that_closes_only_its_own_side_is_still_answered(echo: Serving) -> None:
    """`curl` and shell scripts half-close; uvicorn takes that for leaving, so this is written down rather than promised."""
    async with echo.connect() as wire:
        await wire.send_chat({"model": "scripted", "messages": user("hi")})
        assert (await wire.reply()).status == 200


EAGER = """
from tests.fakes import counter
from tests.fakes.upstream import FakeUpstream, json_answer
async def agent(turn):
    for _ in range(100_000):
        counter.made += 1
        yield 'x' * 1000
"""


async def test_a_slow_reader_holds_back_the_agent_and_not_the_servers_memory(serve: Serve) -> None:
    """What has been made and not been read fits in the sockets' buffers: a hundredth of the whole answer."""
    counter.made = 0
    async with serve(PYTHON.format(settings=""), scripts={"bot.py": EAGER}) as server:
        model = (await server.get("/v1/models")).json()["data"][0]["id"]
        async with server.connect() as wire:
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can
            await wire.send_chat({"model": model, "messages": user("hi"), "stream": True})
            made = -1
            while counter.made != made:  # until it stands still
                made = counter.made
                for _ in range(1000):
                    await asyncio.sleep(0)
            assert 0 < made < 20_000
            wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
            await wire.head()
            while counter.made == made:
                assert await wire.chunk()


async def test_a_client_that_never_reads_does_not_keep_its_slot(serve: Serve) -> None:
    counter.made = 0
    toml = "[server]\nkeepalive_s = 0.05\n" + PYTHON.format(settings="").replace(
        "max_concurrency = 2", "max_concurrency = 1"
    )
    async with serve(toml, scripts={"bot.py": EAGER}) as server:
        model = (await server.get("/v1/models")).json()["data"][0]["id"]
        async with server.connect() as stalled, server.connect() as waiting:
            stalled.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can
            await stalled.send_chat({"model": model, "messages": user("hi"), "stream": True})
            await waiting.send_chat({"model": model, "messages": user("hi"), "stream": True})
            assert (await waiting.head())[0] == 200
            assert await waiting.chunk()


STOPS = [
    (["lo wo"], ["Hel", "lo", " wor", "ld"], "Hel"),
    (["world"], ["Hello ", "w", "o", "r", "l", "d!", " more"], "Hello "),
    (["<|end|>"], ["a<|", "en", "d|", ">b"], "a"),
    (["<|end|>"], ["a<|", "en", "d|", "?b"], "a<|end|?b"),
    (["zzz"], ["z", "z"], "zz"),
    (["\n\n", "END"], ["one\n", "two\nEN", "D three"], "one\ntwo\n"),
    (["b", "abc"], ["xa", "bc"], "xa"),
    (["é"], ["caf", "é", " au lait"], "caf"),
    (["Hel"], ["Hel", "lo"], ""),
]


@pytest.mark.parametrize(("stops", "pieces", "said"), STOPS)
@pytest.mark.parametrize("separate", [False, True], ids=["together", "apart"])
async def test_a_stop_sequence_cuts_wherever_it_falls(
    serve: Serve, stops: list[str], pieces: list[str], said: str, separate: bool
) -> None:
    steps = [f'{{ text = "{piece}" }}'.replace("\n", "\\n") for piece in pieces]
    async with scripted(serve, *steps, rule=f"batch = {1 if separate else 64}") as server:
        for stop in (stops, stops[0] if len(stops) == 1 else stops):
            reply = await server.chat(stream=True, stop=stop)
            whole = (await server.chat(stop=stop)).json()["choices"][0]
            assert text_of(reply.frames) == said
            assert finish_of(reply.frames) == ["stop"]
            assert reply.frames[-1] == "[DONE]"
            assert (whole["message"]["content"], whole["finish_reason"]) == (said, "stop")
        await eventually(lambda: server.backend().active == 0)


async def test_a_stop_sequence_ends_the_work_once_every_choice_is_cut(serve: Serve) -> None:
    async with scripted(serve, '{ text = "one STOP" }', "{ hang = true }") as server:
        reply = await server.chat(n=2, stop="STOP")
        assert [choice["message"]["content"] for choice in reply.json()["choices"]] == ["one ", "one "]
        await eventually(lambda: server.backend().active == 0)


async def test_text_held_back_for_a_stop_sequence_is_said_when_the_answer_is_cut(serve: Serve) -> None:
    """Half a stop sequence where a failure ends the answer is text like any other."""
    for as_event in ("", ", as_event = true"):
        async with scripted(serve, '{ text = "one EN" }', f'{{ error = "unavailable"{as_event} }}') as server:
            reply = await server.chat(stop="END", stream=True)
            assert text_of(reply.frames) == "one EN"
            assert reply.frames[-1].keys() == {"error"}


async def test_in_flight_streams_finish_when_the_server_is_told_to_leave(serve: Serve) -> None:
    async with (
        scripted(serve, '{ text = "one" }', "{ pause_s = 0.2 }", '{ text = " two" }') as server,
        server.stream() as wire,
    ):
        await wire.head()
        await wire.until(b"one")
        server.application.drain()
        assert (await server.get("/health/ready")).status == 503
        await wire.until(b"[DONE]")


async def test_streams_beyond_the_grace_end_with_an_error(serve: Serve) -> None:
    async with scripted(serve, '{ text = "one" }', "{ hang = true }") as server, server.stream() as wire:
        await wire.head()
        await wire.until(b"one")
        server.application.abort()
        last = await wire.until(b"\n\n")
        assert read_frames(last)[-1]["error"]["code"] == "server_shutting_down"


async def test_requests_on_one_connection_are_answered_in_order(echo: Serving) -> None:
    """HTTP/1.1 pipelining: the second is sent before the first is answered."""
    async with echo.connect() as wire:
        for word in ("first", "second", "third"):
            await wire.send_chat({"model": "scripted", "messages": user(word), "stream": word == "second"})
        for word in ("first", "second", "third"):
            reply = await wire.reply()
            assert word in reply.body.decode()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('api_key = "sk-123"\n', "backend 'gpu' refused this server's API key"),
        ("", "backend 'gpu' wants an API key, and none is configured for it: api_key in [backends.NAME]"),
    ],
)
async def test_a_key_that_an_upstream_refuses_is_that_backends(
    setting: str, message: str, upstream: FakeUpstream, serve: Serve
) -> None:
    upstream.plan([json_answer({"error": {"message": "key sk-123 is wrong"}}, status="401 No")])
    async with serve(
        f'[backends.gpu]\ntype = "http"\nendpoints = ["{upstream.url}"]\nretries = 0\n{setting}'
    ) as server:
        error = (await server.chat(model="up-model")).error
    assert error["message"] == message
