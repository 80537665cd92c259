"""An answer cut at every byte: reset, ended, half ended or silent, on the relaying way and on the translating ones.

Whatever the byte, a client gets one of two things. Either the whole answer, with its end. Or what had arrived, every whole event
of it and none twice, and then exactly one error; a status where nothing had been said. And the slot is free again.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest

from tests.conftest import Serve
from tests.fakes.fault_proxy import Fault, FaultProxy, Kind, fault_proxy
from tests.fakes.responses_upstream import events_of, message
from tests.fakes.upstream import DONE, END, Do, FakeUpstream, Plan, chunk, frame, json_answer, stream_head
from tests.responses import TERMINAL, events_in
from tests.serving import Reply, Serving, eventually, finish_of, text_of
from trunkline.backends.upstream import Upstream
from trunkline.model.errors import BackendUnavailable
from trunkline.server.streaming import HEAD_WAIT_S

TEXT = ("Hel", "lo, ", "Wörld")
WHOLE = "".join(TEXT)


def _delta(**delta: object) -> dict[str, object]:
    return {"model": "u", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


CHAT = [
    frame(_delta(role="assistant", content="")),
    *[frame(_delta(content=text)) for text in TEXT],
    frame({"model": "u", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    frame({"model": "u", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}),
    DONE,
]
OLLAMA = [
    *[
        json.dumps({"model": "u", "message": {"role": "assistant", "content": text}, "done": False}).encode() + b"\n"
        for text in TEXT
    ],
    b'{"model":"u","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","eval_count":3}\n',
]


def _responses() -> list[bytes]:
    """The events that matter, without the padding of the whole objects."""
    whole = {"id": "resp_u", "object": "response", "model": "u", "status": "completed", "output": [message(WHOLE)]}
    events = [
        event if "response" not in event else {"type": event["type"], "response": {**whole, "status": "in_progress"}}
        for event in events_of([message(*[WHOLE])])[:-1]
    ]
    return [frame(event) for event in [*events, {"type": "response.completed", "response": whole}]]


class Recorded(msgspec.Struct, frozen=True):
    """An answer as it comes from the wire, and what of its text its first bytes hold."""

    dialect: str
    frames: Sequence[bytes]
    kind: str = "text/event-stream"

    @property
    def pieces(self) -> list[bytes]:
        head = stream_head().replace(b"text/event-stream", self.kind.encode())
        return [head, *[chunk(data) for data in self.frames], END]

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))

    def said(self, size: int) -> str:
        """The text of the events that are whole after so many bytes."""
        at, said = len(self.pieces[0]), ""
        for data, piece in zip(self.frames, self.pieces[1:], strict=False):
            if size < at + len(piece) - 2:  # the chunk's own line end may be missing
                break
            said += _text_in(data)
            at += len(piece)
        return said


def _text_in(data: bytes) -> str:
    text = data.removeprefix(b"data: ").strip()
    if text == b"[DONE]":
        return ""
    value: Any = json.loads(text)
    if "type" in value:
        delta: str = value.get("delta", "")
        return delta
    choice = (value.get("choices") or [{}])[0]
    said: str = choice.get("delta", value.get("message", {})).get("content", "")
    return said


RECORDED = {
    "chat": Recorded("openai_chat", CHAT),
    "responses": Recorded("openai_responses", _responses()),
    "ollama": Recorded("ollama_chat", OLLAMA, "application/x-ndjson"),
}
SETTINGS = """
[server]
access_log = false
[backends.up]
type = "http"
endpoints = ["{url}"]
dialect = "{dialect}"
models = ["u"]
retries = 0
{more}
"""


class Heard(msgspec.Struct, frozen=True):
    """What a client made of its answer."""

    text: str
    whole: bool
    error: str | None


def hear_chat(reply: Reply) -> Heard:
    frames = reply.frames
    errors = [one for one in frames if isinstance(one, dict) and "error" in one]
    whole = frames[-1] == "[DONE]"
    assert len(errors) == (0 if whole else 1), frames
    assert finish_of(frames) == (["stop"] if whole else []), frames
    assert whole or frames[-1] is errors[0], frames
    return Heard(text_of(frames), whole, None if whole else errors[0]["error"]["code"])


def hear_responses(reply: Reply) -> Heard:
    events = events_in(reply.body)
    ends = [event for event in events if event.kind in TERMINAL]
    assert ends == events[-1:], events
    final = ends[0].json["response"]
    said = "".join(event.json["delta"] for event in events if event.kind == "response.output_text.delta")
    kept = "".join(part["text"] for item in final["output"] for part in item.get("content", ()))
    assert kept == said, (kept, said)
    whole = final["status"] == "completed"
    return Heard(said, whole, None if whole else final["error"]["code"])


async def ask_chat(server: Serving) -> Reply:
    return await server.chat(model="u", stream=True)


async def ask_responses(server: Serving) -> Reply:
    return await server.request("POST", "/v1/responses", b'{"model": "u", "input": "hi", "stream": true}')


class Way(msgspec.Struct, frozen=True):
    """From an upstream's dialect to a surface."""

    recorded: Recorded
    ask: Callable[[Serving], Any]
    hear: Callable[[Reply], Heard]

    async def heard(self, server: Serving, *, at_least: str | None) -> Heard | None:
        """The promise of this module, for one answer that is asked for now."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        reply = await self.ask(server)
        return self.check(reply, at_least=at_least, late=loop.time() - began_s >= HEAD_WAIT_S)

    def check(self, reply: Reply, *, at_least: str | None, late: bool = False) -> Heard | None:
        """The promise of this module, for one answer. `at_least`: what must have arrived; None where it is not known.

        `late`: it may have failed after HEAD_WAIT_S, when the head of a stream is sent whatever comes.
        """
        if reply.status != 200:
            assert reply.status in (502, 503, 504), reply
            assert reply.error["message"]
            assert not at_least, (at_least, reply)
            return None
        heard = self.hear(reply)
        assert WHOLE.startswith(heard.text), heard
        assert heard.text or late, "a failure before any content is a status"
        if heard.whole:
            assert heard.text == WHOLE, heard
        elif at_least is not None:
            assert heard.text == at_least, (heard, at_least)
        return heard


WAYS = {
    "chat relayed": Way(RECORDED["chat"], ask_chat, hear_chat),
    "chat as responses": Way(RECORDED["chat"], ask_responses, hear_responses),
    "responses rewritten": Way(RECORDED["responses"], ask_responses, hear_responses),
    "responses as chat": Way(RECORDED["responses"], ask_chat, hear_chat),
    "ollama as chat": Way(RECORDED["ollama"], ask_chat, hear_chat),
    "ollama as responses": Way(RECORDED["ollama"], ask_responses, hear_responses),
}
STEP = 11
"""Bytes between two cuts, where the sweep over every single byte is one of the long suites."""


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture
async def proxy(upstream: FakeUpstream) -> AsyncIterator[FaultProxy]:
    # A fault counts the bytes of its connection. Trials of an endpoint that failed come in between and must leave none.
    upstream.models = [json_answer({"data": []}, headers={"Connection": "close"})]
    async with fault_proxy(upstream.url) as between:
        yield between


def settings(way: Way, proxy: FaultProxy, more: str = "") -> str:
    return SETTINGS.format(url=proxy.url(), dialect=way.recorded.dialect, more=more)


async def cut_everywhere(
    way: Way, kind: Kind, upstream: FakeUpstream, proxy: FaultProxy, server: Serving, *, step: int, others: int = 0
) -> None:
    whole = 0
    for size in (*range(0, way.recorded.size, step), way.recorded.size - 1):
        upstream.plan(*[way.recorded.pieces] * 2)  # a connection lost before the head is tried once more
        proxy.fail(*[Fault(kind, size)] * 2)
        # A reset takes what is still on its way with it.
        heard = await way.heard(server, at_least=None if kind == "reset" else way.recorded.said(size))
        whole += heard is not None and heard.whole
        upstream.forget()
        proxy.forget()
    assert whole, "the last bytes say nothing that would be missed"
    assert (await server.get("/health")).json()["active"] == others


@pytest.mark.parametrize("kind", ["reset", "half_close"])
async def test_a_cut_is_told_once_and_loses_nothing(
    way: Way, kind: Kind, upstream: FakeUpstream, proxy: FaultProxy, serve: Serve
) -> None:
    async with serve(settings(way, proxy)) as server:
        await cut_everywhere(way, kind, upstream, proxy, server, step=STEP)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reset", "close", "half_close"])
async def test_a_cut_at_every_single_byte(
    way: Way, kind: Kind, upstream: FakeUpstream, proxy: FaultProxy, serve: Serve
) -> None:
    async with serve(settings(way, proxy)) as server:
        await cut_everywhere(way, kind, upstream, proxy, server, step=1)


SHORT = "first_event_timeout_s = 0.5\nidle_timeout_s = 0.2\n"


async def stall_everywhere(way: Way, upstream: FakeUpstream, proxy: FaultProxy, server: Serving, *, step: int) -> None:
    at_once = asyncio.Semaphore(40)

    async def stalled(size: int) -> None:
        async with at_once:
            upstream.plan(way.recorded.pieces)
            proxy.fail(Fault("stall", size))
            way.check(await way.ask(server), at_least=None, late=True)  # which of the faults it met is not known

    await asyncio.gather(*[stalled(size) for size in range(0, way.recorded.size, step)])
    await eventually(lambda: proxy.stalled == 0)  # nobody holds a connection that says nothing
    assert (await server.get("/health")).json()["active"] == 0


async def test_silence_is_told_once_and_frees_its_slot(
    way: Way, upstream: FakeUpstream, proxy: FaultProxy, serve: Serve
) -> None:
    async with serve(settings(way, proxy, SHORT)) as server:
        await stall_everywhere(way, upstream, proxy, server, step=5 * STEP)


@pytest.mark.slow
async def test_silence_after_every_single_byte(
    way: Way, upstream: FakeUpstream, proxy: FaultProxy, serve: Serve
) -> None:
    async with serve(settings(way, proxy, SHORT)) as server:
        await stall_everywhere(way, upstream, proxy, server, step=1)


async def test_garbage_in_the_middle_is_told_once(
    way: Way, upstream: FakeUpstream, proxy: FaultProxy, serve: Serve
) -> None:
    async with serve(settings(way, proxy, SHORT)) as server:
        for size in range(len(way.recorded.pieces[0]), way.recorded.size, 12 * STEP):
            upstream.plan(way.recorded.pieces)
            proxy.fail(Fault("garble", size))
            await way.heard(server, at_least=way.recorded.said(size))


async def test_other_answers_of_the_same_server_go_on(
    way: Way, upstream: FakeUpstream, proxy: FaultProxy, serve: Serve
) -> None:
    async with serve(settings(way, proxy)) as server:
        gate, pieces = asyncio.Event(), way.recorded.pieces
        held: Plan = [*pieces[:3], gate, *pieces[3:]]
        upstream.plan(*[held] * 20)
        others = [asyncio.create_task(way.ask(server)) for _ in range(20)]
        await eventually(lambda: len(upstream.posts) == 20)
        await cut_everywhere(way, "reset", upstream, proxy, server, step=10 * STEP, others=20)
        gate.set()
        for reply in await asyncio.gather(*others):
            heard = way.check(reply, at_least=WHOLE)
            assert heard is not None
            assert heard.whole


@pytest.mark.parametrize("end", [Do.RESET, Do.CLOSE], ids=["reset", "closed"])
async def test_what_had_arrived_before_the_connection_broke_is_read_first(upstream: FakeUpstream, end: Do) -> None:
    """A client that reads slowly leaves it in the buffer meanwhile."""
    client = Upstream(
        upstream.url,
        name="backend 'up'",
        headers={},
        connect_timeout_s=60,
        first_byte_timeout_s=60,
        idle_timeout_s=60,
        max_connections=1,
        trust_env=False,
    )
    arrived = asyncio.Event()
    upstream.plan([stream_head(), chunk(b"hello "), chunk(b"world"), arrived, end])
    await client.start()
    answer = await client.post("/chat/completions", b"{}", headers={})
    connection = answer._connection
    assert connection is not None
    await eventually(lambda: connection._size == len(b"hello world"))
    arrived.set()
    await eventually(lambda: connection._failure is not None)
    assert await answer.chunk() == b"hello world"
    with pytest.raises(BackendUnavailable, match="broke off"):
        await answer.chunk()
    answer.close()
    await client.close()
