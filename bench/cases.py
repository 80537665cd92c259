"""What is measured, as data: the cases, what drives each, and which servers each is asked of.

A new case is an entry of CASES, and where it needs a server's configuration of its own, a file bench/<name>.toml.
Streams last as long as the window that they are measured in, so that each pays for being opened once, as in use.
"""

from typing import Literal

import msgspec

Target = Literal["direct", "nginx", "vllm-router", "smg", "litellm", "bare", "trunkline"]
Kind = Literal["cpu", "memory", "latency", "start", "translate", "store", "background", "readers", "sessions"]

TARGETS: dict[Target, str] = {
    "direct": "the mock itself",
    "nginx": "nginx `proxy_pass`",
    "vllm-router": "vllm-router",
    "smg": "smg",
    "litellm": "litellm",
    "bare": "bare uvicorn + Starlette + aiohttp",
    "trunkline": "trunkline",
}
ROUTERS: tuple[Target, ...] = ("nginx", "vllm-router", "smg", "bare", "trunkline")
RELAYS: tuple[Target, ...] = ("direct", *ROUTERS)
SLOW_RELAYS: tuple[Target, ...] = (*RELAYS, "litellm")  # where the load leaves room for what takes 20 times as long
ANSWERERS: tuple[Target, ...] = ("bare", "trunkline")


class Pacing(msgspec.Struct, frozen=True):
    """How the mock upstream streams: `events` in all, `per_write` of them every `interval_ms`."""

    events: int
    interval_ms: int
    per_write: int = 1

    @property
    def seconds(self) -> float:
        return self.events * self.interval_ms / self.per_write / 1000


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to measure.

    Attributes:
        title: the row of the table.
        unit: what one unit of work is.
        config: bench/<config>.toml, and the part that bench/baseline/bare.py plays.
        targets: the servers that it is asked of.
        kind: which figure: CPU time per unit, memory per connection, latency of the first event, time to start, or CPU
            time of translation alone.
        body: bench/bodies/<body>.json; the name says the path that it goes to and whether it asks for a stream.
        connections: how many work at once.
        pacing: of the mock upstream; None: there is none.
        ramp_s: over how long they are opened, evenly; streams of equal length then keep apart.
        window_s: how long is measured, after `warm_s`; None: as long as the mock streams.
        quick: whether a quick run measures it.
        against: the case that relays the same stream; a row of its own says how many times that this costs, per repeat.
        above: the case with one stream of the kind; a row of its own says how much later an event comes here, per repeat.
        events: how many a stream brings, where no mock says it; 0: as many as the first one.
        together: all connections ask at once, and again at once when all have been answered.
    """

    title: str
    unit: str = "event"
    config: str = "relay"
    targets: tuple[Target, ...] = RELAYS
    kind: Kind = "cpu"
    body: str = "stream"
    connections: int = 200
    pacing: Pacing | None = None
    ramp_s: float = 0.1
    warm_s: float = 1.0
    window_s: float | None = None
    quick: bool = False
    against: str | None = None
    above: str | None = None
    events: int = 0
    together: bool = False

    @property
    def streamed(self) -> bool:
        return self.body.endswith("stream")

    @property
    def path(self) -> str:
        return "/v1/responses" if self.body.startswith("responses") else "/v1/chat/completions"

    @property
    def measured_s(self) -> float:
        return self.window_s or (self.pacing.seconds if self.pacing else 4.0)


def parallel_agents(
    connections: int,
    how: str,
    *,
    config: str,
    targets: tuple[Target, ...],
    above: str | None = None,
) -> Case:
    """That many streams of an agent at once, 20 words in a second each; five such bursts where the server keeps up."""
    return Case(
        title=f"first word, {connections:,} {how} agent stream{'s' if connections > 1 else ''}",
        config=config,
        targets=targets,
        kind="latency",
        body="words20_stream",
        connections=connections,
        ramp_s=0.0,
        warm_s=0.0,
        window_s=5.5,
        above=above,
        events=20,
        together=True,
    )


CASES: dict[str, Case] = {
    "request": Case(
        title="relayed request, 16 connections",
        unit="request",
        targets=SLOW_RELAYS,
        body="request",
        connections=16,
        pacing=Pacing(events=0, interval_ms=0),
        window_s=3.0,
        quick=True,
    ),
    "stream": Case(
        title="relayed event, 200 streams × 50/s",
        pacing=Pacing(events=200, interval_ms=20),
        quick=True,
    ),
    "stream2000": Case(
        title="relayed event, 2,000 streams × 10/s",
        connections=2000,
        ramp_s=3.0,
        pacing=Pacing(events=60, interval_ms=100),
    ),
    "burst": Case(
        title="relayed event, 100 streams × 400/s, 8 per upstream write",
        connections=100,
        pacing=Pacing(events=1600, interval_ms=20, per_write=8),
    ),
    "responses": Case(
        title="translated event, chat → Responses, 200 streams × 50/s",
        targets=("trunkline",),
        body="responses_stream",
        pacing=Pacing(events=200, interval_ms=20),
        quick=True,
        against="stream",
    ),
    "responses-stored": Case(
        title="translated and kept in the store, 200 streams × 50/s",
        targets=("trunkline",),
        body="responses_stored_stream",
        pacing=Pacing(events=200, interval_ms=20),
        against="stream",
    ),
    "responses-burst": Case(
        title="translated event, 100 streams × 400/s, 8 per upstream write",
        targets=("trunkline",),
        body="responses_stream",
        connections=100,
        pacing=Pacing(events=1600, interval_ms=20, per_write=8),
        against="burst",
    ),
    "stream20": Case(
        title="relayed event, 20 streams × 50/s",
        targets=SLOW_RELAYS,
        connections=20,
        pacing=Pacing(events=200, interval_ms=20),
    ),
    "first": Case(
        title="first event, 20 streams of 5 events",
        kind="latency",
        connections=20,
        pacing=Pacing(events=5, interval_ms=20),
        ramp_s=0.08,
        window_s=4.0,
    ),
    "idle500": Case(
        title="open stream, 500 idle",
        unit="stream",
        kind="memory",
        targets=ROUTERS,
        connections=500,
        ramp_s=0.5,
        pacing=Pacing(events=1000, interval_ms=3000),
        warm_s=1.5,
        window_s=0.5,
    ),
    "idle2000": Case(
        title="open stream, 2,000 idle",
        unit="stream",
        kind="memory",
        targets=ROUTERS,
        connections=2000,
        ramp_s=2.0,
        pacing=Pacing(events=1000, interval_ms=3000),
        warm_s=2.0,
        window_s=0.5,
    ),
    "translate": Case(
        title="translated event, decoder and encoder alone",
        targets=("trunkline",),
        kind="translate",
    ),
    "store": Case(
        title="store",
        unit="call",
        config="scripted",
        targets=("trunkline",),
        kind="store",
        window_s=4.0,
    ),
    "background": Case(
        title="event of 50 background responses, 5,000/s",
        config="background",
        targets=("trunkline",),
        kind="background",
        window_s=6.0,
    ),
    "readers": Case(
        title="one of 1,000 readers of an ended response",
        unit="answer",
        config="background",
        targets=("trunkline",),
        kind="readers",
    ),
    "scripted": Case(
        title="scripted request, 16 connections",
        unit="request",
        config="scripted",
        targets=ANSWERERS,
        body="request",
        connections=16,
        window_s=3.0,
    ),
    "scripted-stream": Case(
        title="scripted event, unpaced, 16 streams of 200",
        config="scripted",
        targets=ANSWERERS,
        body="words_stream",
        connections=16,
        window_s=3.0,
    ),
    "scripted-paced": Case(
        title="scripted event, 200 streams × 50/s",
        config="scripted_paced",
        targets=ANSWERERS,
        body="words_stream",
    ),
    "agent": Case(
        title="agent event, 200 streams × 50/s",
        config="agent",
        targets=ANSWERERS,
        body="words200_stream",
        events=200,
        against="stream",
    ),
    "agent-threads": Case(
        title="synchronous agent's event, 200 streams × 50/s",
        config="agent_threads",
        targets=ANSWERERS,
        body="words200_stream",
        events=200,
        against="stream",
    ),
    "agents-async-1": parallel_agents(1, "asynchronous", config="agent", targets=ANSWERERS),
    "agents-async": parallel_agents(64, "asynchronous", config="agent", targets=ANSWERERS, above="agents-async-1"),
    "agents-sync-1": parallel_agents(1, "synchronous", config="agent_threads", targets=ANSWERERS),
    "agents-sync": parallel_agents(64, "synchronous", config="agent_threads", targets=ANSWERERS, above="agents-sync-1"),
    "agents-1000": parallel_agents(1000, "asynchronous", config="agent", targets=ANSWERERS),
    "sessions": Case(
        title="idle session, 5,000 of them",
        unit="session",
        config="sessions",
        targets=("trunkline",),
        kind="sessions",
    ),
    "start": Case(
        title="process start to first answer",
        unit="start",
        config="scripted",
        targets=ANSWERERS,
        kind="start",
        body="request",
        quick=True,
    ),
}
