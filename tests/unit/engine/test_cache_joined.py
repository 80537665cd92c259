"""An answer under way that several calls read is asked of a backend for as long as any of them reads it, and no longer."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.fakes.stores import open_store
from trunkline.config.schema import CacheSettings
from trunkline.engine.cache import AnswerCache
from trunkline.engine.call import Call
from trunkline.engine.flight import Events, Source
from trunkline.model import events as ev
from trunkline.model.request import Request
from trunkline.ports.backend import EventBatch
from trunkline.telemetry.accounts import Accounts
from trunkline.telemetry.outcome import Outcome
from trunkline.telemetry.usage import UsageMeter
from trunkline.testing.answers import CountingEntropy, PinnedClock, user


class Endless(Events):
    """A backend's answer that begins and does not end."""

    closed = False

    async def event_batches(self) -> AsyncIterator[EventBatch]:
        yield [ev.TurnStarted("turn_1", "m", 1)]
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.closed = True


async def test_who_gives_up_before_it_is_admitted_reads_no_longer() -> None:
    admitted, source = asyncio.Event(), Endless()

    async def ask(_: Call) -> Source:
        return source

    async def check(_: Call) -> None:
        pass

    async def never() -> None:
        admitted.set()
        await asyncio.Event().wait()

    clock = PinnedClock()
    call = Call(
        request=Request(model="m", items=(user("Hello"),)),
        body=None,
        dialect="openai_chat",
        turn_id="turn_1",
        created_at=1,
        request_id="req_1",
        tenant="ada",
        outcome=Outcome(),
        cache=True,
    )
    async with open_store(None) as store:
        accounts = Accounts(UsageMeter(store, clock=clock), None, clock=clock)
        cache = AnswerCache(CacheSettings(), (), clock=clock, entropy=CountingEntropy(), accounts=accounts)
        first = await cache.answer(call, ask, check)
        second = msgspec.structs.replace(call, outcome=Outcome(), admitted=never)
        joining = asyncio.create_task(cache.answer(second, ask, check))
        await admitted.wait()
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        await first.aclose()
        assert source.closed
