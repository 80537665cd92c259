"""One stream's writer: exactly one head, whatever wants it first, and nothing after the end."""

import asyncio

import pytest
from starlette.types import Message

from trunkline.dialects.codec import EVENT_STREAM, JSON_LINES, Framing
from trunkline.server import streaming
from trunkline.server.streaming import ClientStream
from trunkline.wire.sse import KEEPALIVE


class Sent:
    """Collects what is sent; `gate` holds every send back until it is set."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.stalled = asyncio.Event()

    async def __call__(self, message: Message) -> None:
        await self.gate.wait()
        self.messages.append(message)

    @property
    def kinds(self) -> list[str]:
        return [message["type"].rpartition(".")[2] for message in self.messages]


def stream(sent: Sent, *, keepalive_s: float = 60.0, framing: Framing = EVENT_STREAM) -> ClientStream:
    return ClientStream(
        sent,
        send_body=sent,
        framing=framing,
        keepalive_s=keepalive_s,
        head=lambda: [(b"x-route", b"a")],
        on_stall=sent.stalled.set,
    )


async def test_the_first_write_sends_the_head_once() -> None:
    sent = Sent()
    writer = stream(sent)
    await writer.write(b"data: 1\n\n")
    await writer.end(b"data: 2\n\n")
    assert sent.kinds == ["start", "body", "body"]
    assert (b"x-route", b"a") in sent.messages[0]["headers"]
    assert [message["more_body"] for message in sent.messages[1:]] == [True, False]


async def test_the_timer_and_the_first_frame_in_the_same_moment_send_one_head() -> None:
    sent = Sent()
    writer = stream(sent)
    writer._tick()  # makes the task that sends the early head; it has not run yet
    await writer.write(b"data: 1\n\n")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await writer.end(b"")
    assert sent.kinds == ["start", "body", "body"]


async def test_an_end_before_the_timers_task_ran_sends_one_head() -> None:
    sent = Sent()
    writer = stream(sent)
    writer._tick()
    await writer.end(b"data: 1\n\n")
    await asyncio.sleep(0)
    assert sent.kinds == ["start", "body"]


async def test_a_client_that_reads_slowly_gets_one_comment_and_not_a_pile() -> None:
    sent = Sent()
    writer = stream(sent)
    await writer.write(b"data: 1\n\n")
    sent.gate.clear()
    for _ in range(10):
        writer._tick()
        await asyncio.sleep(0)
    sent.gate.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [message.get("body") for message in sent.messages].count(KEEPALIVE) <= 1
    writer.close()


async def test_a_stream_that_is_busy_sends_no_comment() -> None:
    sent = Sent()
    writer = stream(sent)
    for _ in range(5):
        await writer.write(b"data: 1\n\n")
        writer._tick()
        await asyncio.sleep(0)
    assert KEEPALIVE not in [message.get("body") for message in sent.messages]
    writer.close()


async def test_a_framing_without_comments_gets_none_and_has_its_own_type() -> None:
    sent = Sent()
    writer = stream(sent, framing=JSON_LINES)
    await writer.write(b"{}\n")
    for _ in range(5):
        writer._tick()
        await asyncio.sleep(0)
    await writer.end(b"{}\n")
    assert sent.kinds == ["start", "body", "body"]
    assert (b"content-type", b"application/x-ndjson") in sent.messages[0]["headers"]


async def test_nothing_is_sent_after_close() -> None:
    sent = Sent()
    writer = stream(sent, keepalive_s=0.001)
    await writer.write(b"data: 1\n\n")
    writer._tick()
    writer.close()
    before = len(sent.messages)
    writer._tick()
    await asyncio.sleep(0)
    assert len(sent.messages) == before


async def test_closing_before_the_head_leaves_the_response_to_an_error() -> None:
    sent = Sent()
    writer = stream(sent)
    writer._tick()
    writer.close()
    await asyncio.sleep(0)
    assert sent.messages == []
    assert not writer.begun


def test_the_head_waits_a_second() -> None:
    assert pytest.approx(1.0) == streaming.HEAD_WAIT_S


async def test_a_write_that_never_gets_through_is_a_stall() -> None:
    sent = Sent()
    writer = stream(sent)
    await writer.write(b"data: 1\n\n")
    sent.gate.clear()
    stuck = asyncio.create_task(writer.write(b"data: 2\n\n"))
    await asyncio.sleep(0)
    for _ in range(streaming.STALL_TICKS):
        assert not sent.stalled.is_set()
        writer._tick()
    writer._tick()
    assert sent.stalled.is_set()
    sent.gate.set()
    await stuck
    writer.close()
