"""What counting calls costs: adding one, writing them to the store twice a second, and telling Prometheus.

    python -m bench.accounting

In one process, without sockets and without the line of the access log. The first figure is the fastest of 30 passes; the second is
the CPU time of all threads in a second of a server that answers 16 combinations of tenant and model, less that of the same second
without calls; the third is the text of a scrape alone.
"""

import asyncio
import json
import tempfile
import time
from pathlib import Path

from starlette.types import Message, Send

from trunkline.assembly import assemble
from trunkline.cli.lifespan import Lifespan
from trunkline.config.load import build_config
from trunkline.model.usage import Usage
from trunkline.server.app import Application
from trunkline.telemetry.outcome import Outcome

CALLS, PASSES = 20_000, 30
KEYS = 4
A_SECOND, SECONDS = 500, 5
TENANTS = [f"tenant-{number}" for number in range(KEYS)]


def outcomes() -> list[Outcome]:
    made = []
    for number in range(KEYS):
        outcome = Outcome()
        outcome.model, outcome.backend, outcome.endpoint = f"model-{number}", "gpu", "gpu@127.0.0.1:8000"
        outcome.stream, outcome.first_content_s = True, 1.25
        outcome.usage = Usage(input_tokens=100, output_tokens=20, cached_tokens=3)
        made.append(outcome)
    return made


def add(application: Application, count: int) -> None:
    accounts, made = application.runtime.accounts, outcomes()
    for number in range(count):
        accounts.add(
            "call", "id=-", made[number % KEYS], tenant=TENANTS[number // KEYS % KEYS], started_s=1.0, status=200
        )


async def adding_us(application: Application) -> float:
    passes = []
    for _ in range(PASSES):
        began_s = time.process_time()
        add(application, CALLS)
        passes.append(time.process_time() - began_s)
        await asyncio.sleep(0)
    return min(passes) / CALLS * 1e6


async def seconds_ms(application: Application, *, calls: int) -> float:
    """CPU time of a second in which so many calls end, in ten parts."""
    began_s = time.process_time()
    for _ in range(10 * SECONDS):
        add(application, calls // 10)
        await asyncio.sleep(0.1)
    return (time.process_time() - began_s) / SECONDS * 1e3


async def scrape_ms(application: Application) -> float:
    passes = []
    for _ in range(PASSES):
        scope = {"type": "http", "method": "GET", "path": "/metrics", "query_string": b"", "headers": []}
        sent: list[Message] = []
        began_s = time.process_time()
        await application(scope, _nothing, _into(sent))
        passes.append(time.process_time() - began_s)
        assert sent[0]["status"] == 200, sent
    return min(passes) * 1e3


async def _nothing() -> Message:
    return {"type": "http.request"}


def _into(sent: list[Message]) -> Send:
    async def send(message: Message) -> None:
        sent.append(message)

    return send


async def measure(folder: Path) -> dict[str, float]:
    config = build_config(
        {
            "server": {"access_log": False},
            "store": {"url": "sqlite:///bench.db"},
            "backends": {"talk": {"type": "scripted"}},
        },
        environ={},
    )
    application = assemble(config, base_dir=folder)
    lifespan = Lifespan(application)
    await lifespan.startup()
    try:
        figures = {"adding a call, us": await adding_us(application), "a scrape, ms": await scrape_ms(application)}
        await application.runtime.usage.flush()
        idle_ms = await seconds_ms(application, calls=0)
        busy_ms = await seconds_ms(application, calls=A_SECOND)
        figures[f"a second with {A_SECOND} calls, ms"] = busy_ms - idle_ms
    finally:
        await lifespan.shutdown()
    return {name: round(value, 2) for name, value in figures.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(Path(folder))), indent=2))


if __name__ == "__main__":
    main()
