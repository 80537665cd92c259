"""The connection that carries responses: who may open it, what is written down, and how it ends, whoever leaves first."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from starlette.routing import WebSocketRoute
from websockets.frames import CloseCode

from tests.conftest import Serve
from tests.serving import Serving, Wire, eventually, serving
from tests.sockets import HELD, HOLD, HOLDING, Socket, socket
from trunkline.server.surfaces.responses_socket import Connection, ResponsesSocket

KEYED = """
[server]
api_keys = ["sk-one"]
cors_origins = ["https://app.example"]
[[server.keys]]
name = "alice"
key = "sk-alice"
[backends.talk]
type = "scripted"
"""
KEY: Any = {"additional_headers": {"authorization": "Bearer sk-alice"}}
HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%b\r\n"
)
TEXT, CONTINUED, PINGED, PONGED = 1, 0, 9, 10


def frame(opcode: int, data: bytes = b"", *, last: bool = True, masked: bool = True) -> bytes:
    """A frame on the wire, of a client unless it is not masked."""
    size = bytes([masked << 7 | len(data)]) if len(data) < 126 else bytes([masked << 7 | 126]) + len(data).to_bytes(2)
    return bytes([last << 7 | opcode]) + size + (bytes(4) if masked else b"") + data


async def read_until(wire: Wire, text: bytes) -> None:
    seen = b""
    while text not in seen:
        piece = await wire.reader.read(65536)
        assert piece, f"closed without {text!r}"
        seen = seen[-len(text) :] + piece


PING, CLOSE = frame(PINGED, b"there?"), frame(8, (1000).to_bytes(2))


@pytest.fixture
async def holding(tmp_path: Path) -> AsyncIterator[Serving]:
    HELD.begin()
    async with serving(HOLDING, base_dir=tmp_path, scripts={"bot.py": HOLD}) as served:
        yield served


def only_connection(server: Serving) -> Connection:
    [connection] = server.application.runtime.state.connections
    assert isinstance(connection, Connection)
    return connection


# Who may open it


async def test_without_a_key_it_is_refused_before_it_is_one(serve: Serve) -> None:
    async with serve(KEYED) as server:
        for headers in (b"", b"Authorization: Bearer sk-wrong\r\n"):
            async with server.connect() as wire:
                await wire.send(HANDSHAKE % (b"/v1/responses", headers))
                reply = await wire.reply()
            assert reply.status == 401
            assert reply.error["code"] == "invalid_api_key"
            assert reply.headers["www-authenticate"] == "Bearer"
            assert reply.headers["x-request-id"].startswith("req_")
        assert " status=401 " in server.access_lines[0]


async def test_a_page_of_an_unknown_origin_cannot_open_it(serve: Serve) -> None:
    async with serve(KEYED) as server:
        for origin, status in (("https://evil.example", 403), ("http://127.0.0.1:8400", 403), ("null", 403)):
            with pytest.raises(websockets.InvalidStatus) as raised:
                async with socket(server, **KEY, origin=origin):
                    pass
            assert raised.value.response.status_code == status
            assert b"origin_not_allowed" in (raised.value.response.body or b"")
        async with socket(server, **KEY, origin="https://app.example") as ws:
            await ws.answer("hello")


async def test_a_connection_has_a_request_id_and_each_turn_one_of_its_own(serve: Serve) -> None:
    async with serve(KEYED) as server:
        headers = {**KEY["additional_headers"], "x-request-id": "mine"}
        async with socket(server, additional_headers=headers) as ws:
            assert ws.connection.response is not None
            assert ws.connection.response.headers["x-request-id"] == "mine"
            await ws.answer("one two three")
            await ws.refusal(input=7)
            await ws.send("{")
            await ws.event()
        await eventually(lambda: len(server.access_lines) == 4)
        turn, refused, malformed, whole = server.access_lines
        assert " id=mine.1 method=WS path=/v1/responses status=200 " in turn
        assert " tenant=alice model=scripted route=talk/scripted stream=true " in turn
        assert " input_tokens=3 output_tokens=3 finish=stop" in turn
        assert " id=mine.2 method=WS path=/v1/responses status=400 " in refused
        assert refused.strip().endswith("error=invalid_type")
        assert " id=mine.3 " in malformed
        assert " id=mine method=GET path=/v1/responses status=101 " in whole
        [row] = (await server.get("/v1/usage", headers=KEY["additional_headers"])).json()["data"]
        assert (row["tenant"], row["requests"], row["output_tokens"]) == ("alice", 1, 3)


async def test_what_one_tenant_stored_another_cannot_continue(serve: Serve) -> None:
    async with serve(KEYED) as server:
        async with socket(server, **KEY) as ws:
            mine = await ws.answer("one")
        async with socket(server, additional_headers={"authorization": "Bearer sk-one"}) as ws:
            refused = await ws.refusal("two", previous_response_id=mine["id"])
            assert refused["error"]["code"] == "previous_response_not_found"


async def test_a_session_with_a_bad_name_is_refused(serve: Serve) -> None:
    async with serve() as server:
        with pytest.raises(websockets.InvalidStatus) as raised:
            async with socket(server, additional_headers={"x-session-id": "../x"}):
                pass
        assert raised.value.response.status_code == 400


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (b"/v1/models", b"", 404),
        (b"/v1/nothing", b"", 404),
        (b"/v1/responses/resp_1", b"", 404),
        (b"/v1/responses", b"Sec-WebSocket-Key: again\r\n", 400),
        (b"/v1/responses", b"Sec-WebSocket-Version: 8\r\n", 400),
        (b"/v1/responses", b"x-long: %b\r\n" % (b"y" * 9000), 431),
    ],
)
async def test_a_handshake_that_cannot_be_is_refused_in_json(
    serve: Serve, path: bytes, headers: bytes, status: int
) -> None:
    async with serve() as server, server.connect() as wire:
        await wire.send(HANDSHAKE % (path, headers))
        reply = await wire.reply()
        assert reply.status == status
        assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_without_an_upgrade_it_is_a_405(serve: Serve) -> None:
    async with serve() as server:
        reply = await server.get("/v1/responses")
        assert (reply.status, reply.headers["allow"]) == (405, "POST")
        assert reply.error["code"] == "method_not_allowed"


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.0"])
@pytest.mark.parametrize("split", [False, True])
async def test_a_request_that_offers_another_protocol_keeps_its_body(
    serve: Serve, upgrade: bytes, *, split: bool
) -> None:
    body = json.dumps({"model": "scripted", "messages": [{"role": "user", "content": "hi there"}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    head += b"Upgrade: %b\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: %d\r\n\r\n" % (upgrade, len(body))
    async with serve() as server, server.connect() as wire:
        for _ in range(2):  # and the connection stays good
            for piece in [head, body] if split else [head + body]:
                await wire.send(piece)
            assert (await wire.reply()).json()["choices"][0]["message"]["content"] == "hi there"


async def test_a_frame_far_too_large_closes_the_connection(serve: Serve) -> None:
    async with serve('[server]\nmax_body_bytes = 1000\n[backends.talk]\ntype = "scripted"\n') as server:
        async with socket(server) as ws:
            await ws.send("x" * 2001)
            assert (await ws.closed())[0] == 1009
        async with socket(server) as ws:
            await ws.answer("the next one is welcome")


@pytest.mark.parametrize("then", [b"", CLOSE, PING, b"\xff"])
async def test_text_that_is_not_utf8_closes_the_connection(
    serve: Serve, then: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever came in the same packet. It is the client's mistake, and nothing of the server's log."""
    async with serve() as server:
        async with server.connect() as wire:
            await wire.send(HANDSHAKE % (b"/v1/responses", b""))
            await wire.head()
            await wire.send(frame(TEXT, b"\xff\xfe") + then)
            said = await wire.reader.read()
            assert CloseCode.INVALID_DATA.to_bytes(2) in said or then in (CLOSE, b"\xff")
        await eventually(lambda: not server.application.runtime.state.connections)
        async with socket(server) as ws:
            await ws.connection.send(b"\xff\xfe", text=True)
            assert (await ws.closed())[0] == 1007
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_message_in_very_many_fragments_is_one_message(serve: Serve) -> None:
    body = json.dumps({"type": "response.create", "model": "scripted", "input": "x" * 100_000}).encode()
    async with serve() as server, server.connect() as wire:
        await wire.send(HANDSHAKE % (b"/v1/responses", b""))
        await wire.head()
        pieces = [frame(CONTINUED, body[at : at + 2], last=False) for at in range(2, len(body), 2)]
        await wire.send(frame(TEXT, body[:2], last=False) + frame(CONTINUED, b"", last=False) * 1000)
        await eventually(lambda: bool(server.application.runtime.state.connections))
        protocol: Any = only_connection(server)._send
        await wire.send(b"".join(pieces))
        await eventually(lambda: len(protocol.__self__._message) == len(body))
        assert protocol.__self__.frames == []
        await wire.send(frame(CONTINUED))
        await read_until(wire, b'"type":"response.completed"')


async def test_answers_to_pings_do_not_pile_up_for_a_client_that_reads_nothing(serve: Serve) -> None:
    async with serve() as server, server.connect(receive_bytes=4096) as wire:
        await wire.send(HANDSHAKE % (b"/v1/responses", b""))
        await wire.head()
        await eventually(lambda: bool(server.application.runtime.state.connections))
        connection = only_connection(server)
        protocol: Any = connection._send
        for _ in range(100):
            await wire.send(frame(PINGED, b"x" * 125) * 1000)
        await wire.send(frame(TEXT, b"{}"))
        await eventually(lambda: connection._asked == 1)
        assert protocol.__self__.transport.get_write_buffer_size() < 1_000_000
        await read_until(wire, frame(PONGED, b"x" * 125, masked=False))
        await read_until(wire, b"missing_required_parameter")


# The client leaves


@pytest.mark.parametrize("store", [True, False])
async def test_a_client_that_leaves_stops_its_turns_and_what_they_said_is_kept(holding: Serving, store: bool) -> None:
    async with socket(holding, model="bot") as ws:
        await ws.create("hold", store=store, stream_id="a")
        await ws.create("never begun", stream_id="a")
        created = await ws.until("response.created")
        await ws.until("response.output_text.delta")
    await eventually(lambda: HELD.left == ["hold"])
    await eventually(lambda: len(holding.access_lines) == 2)
    assert holding.access_lines[0].strip().endswith("error=client_disconnected")
    kept = await holding.get(f"/v1/responses/{created['response']['id']}")
    assert kept.status == (200 if store else 404)
    if store:
        assert (kept.json()["status"], kept.json()["output_text"]) == ("incomplete", "Heard: ")
    assert HELD.begun == ["hold"]


async def test_a_client_that_vanishes_is_noticed_too(holding: Serving) -> None:
    async with socket(holding, model="bot") as ws:
        await ws.create("hold")
        await ws.until("response.output_text.delta")
        ws.connection.transport.abort()
        await eventually(lambda: HELD.left == ["hold"])
    await eventually(lambda: not holding.application.runtime.state.connections)


async def test_a_backend_that_shall_finish_does_so_without_its_client(tmp_path: Path) -> None:
    HELD.begin()
    toml = HOLDING + 'on_disconnect = "finish"\n'
    async with serving(toml, base_dir=tmp_path, scripts={"bot.py": HOLD}) as server:
        async with socket(server, model="bot") as ws:
            await ws.create("hold")
            created = await ws.until("response.created")
        HELD.open("hold")
        await eventually(lambda: HELD.done == ["hold"])
        await eventually(lambda: len(server.access_lines) == 2)
        kept = (await server.get(f"/v1/responses/{created['response']['id']}")).json()
        assert (kept["status"], kept["output_text"]) == ("completed", "Heard: hold")


FLOOD = """
from tests.sockets import HELD


async def agent(turn):
    for _ in range(2000):
        HELD.done.append("piece")
        yield "x" * 8_000
"""


async def test_a_client_that_stops_reading_holds_its_backend_up_and_then_counts_as_gone(serve: Serve) -> None:
    HELD.begin()
    async with serve(HOLDING, scripts={"bot.py": FLOOD}) as server:
        async with socket(server, model="bot", max_queue=1) as ws:
            await ws.create("flood", store=False)
            await ws.until("response.output_text.delta")
            protocol: Any = only_connection(server)._send
            transport = protocol.__self__
            await eventually(lambda: transport._stall is not None)
            assert 0 < len(HELD.done) < 2000
            transport._look(
                transport.transport.get_write_buffer_size() + 1
            )  # it has taken a little since: it is only slow
            assert server.application.runtime.state.connections
            transport._look(0)  # as the timer does
            await eventually(lambda: not server.application.runtime.state.connections)
            ws.connection.transport.abort()
        assert len(HELD.done) < 2000
    assert server.access_lines[0].strip().endswith("error=client_disconnected")


# The connection's time is over


async def test_an_idle_connection_ends_when_its_time_is_over(serve: Serve) -> None:
    async with serve() as server:
        for route in server.application.routes:
            if isinstance(route, WebSocketRoute):
                assert isinstance(route.app, ResponsesSocket)
                route.app.limit_s = 0.0
        async with socket(server) as ws:
            event = await ws.event()
            assert (event["type"], event["status"]) == ("error", 400)
            assert event["error"]["code"] == "websocket_connection_limit_reached"
            assert (await ws.closed())[0] == 1001


async def test_a_turn_under_way_ends_before_the_connection_does(holding: Serving) -> None:
    async with socket(holding, model="bot") as ws:
        await ws.create("hold")
        await ws.create("waits")
        await ws.until("response.output_text.delta")
        only_connection(holding).expire()
        refused = await ws.refusal("new", stream_id="b")
        assert refused["error"]["code"] == "websocket_connection_limit_reached"
        HELD.open("hold")
        assert (await ws.rest())[-1]["response"]["output_text"] == "Heard: hold"
        for _ in ("waits", "the connection"):
            assert (await ws.event())["error"]["code"] == "websocket_connection_limit_reached"
        assert (await ws.closed())[0] == 1001
        assert HELD.begun == ["hold"]


# The server leaves


async def drained(server: Serving, ws: Socket) -> None:
    server.application.drain()
    code, reason = await ws.closed()
    assert (code, reason) == (1001, "the server is shutting down")


async def test_an_idle_connection_is_closed_when_the_server_leaves(serve: Serve) -> None:
    async with serve() as server, socket(server) as ws:
        await ws.answer("hello")
        await drained(server, ws)
        with pytest.raises(websockets.InvalidStatus) as raised:
            async with socket(server):
                pass
        assert raised.value.response.status_code == 503


async def test_a_turn_under_way_ends_before_the_server_does(tmp_path: Path) -> None:
    HELD.begin()
    async with serving(HOLDING, base_dir=tmp_path, scripts={"bot.py": HOLD}, grace_s=30) as server:
        async with socket(server, model="bot") as ws:
            await ws.create("hold")
            await ws.create("waits")
            await ws.until("response.output_text.delta")
            server.application.drain()
            refused = await ws.refusal("new", stream_id="b")
            assert (refused["status"], refused["error"]["code"]) == (503, "server_shutting_down")
            HELD.open("hold")
            last = (await ws.rest())[-1]
            assert last["response"]["output_text"] == "Heard: hold"
            assert (await ws.event())["error"]["code"] == "server_shutting_down"
            assert (await ws.closed())[0] == 1001
        assert (await server.get(f"/v1/responses/{last['response']['id']}")).json()["status"] == "completed"


async def test_a_turn_that_outlives_the_grace_is_said_to_have_failed(holding: Serving) -> None:
    async with socket(holding, model="bot") as ws:
        await ws.create("hold")
        await ws.until("response.output_text.delta")
        holding.application.drain()
        holding.application.abort()
        last = (await ws.rest())[-1]
        assert last["type"] == "response.failed"
        assert "shutting down" in last["response"]["error"]["message"]
        assert (await ws.closed())[0] == 1001
    assert HELD.left == ["hold"]
    kept = await holding.get(f"/v1/responses/{last['response']['id']}")
    assert kept.json() == last["response"]


async def test_a_stopping_server_waits_for_nobody_who_is_idle(tmp_path: Path) -> None:
    HELD.begin()
    opened: asyncio.Future[Socket] = asyncio.get_running_loop().create_future()

    async def stay(server: Serving) -> tuple[int | None, str | None]:
        async with socket(server, model="bot") as ws:
            opened.set_result(ws)
            return await ws.closed()

    async with serving(HOLDING, base_dir=tmp_path, scripts={"bot.py": HOLD}, grace_s=60) as server:
        staying = asyncio.create_task(stay(server))
        await opened
    assert (await staying)[0] == 1001
