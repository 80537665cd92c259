"""The upstream client's pool with connections in the hands of a test: what happens at the same moment is told apart."""

import asyncio

from tests.unit.backends.test_upstream_connection import FAR_S, HEAD, LENGTH, Talk, settle
from trunkline.backends.upstream_connection import Connection
from trunkline.backends.upstream_pool import OnLost, Pool


class Dialled:
    """Makes connections whose other end the test holds. `dead`: the other side has closed each before anybody uses it."""

    def __init__(self, *, dead: bool = False) -> None:
        self.talks: list[Talk] = []
        self._dead = dead

    async def __call__(self, on_lost: OnLost) -> Connection:
        talk = Talk()
        talk.connection._on_lost = on_lost
        self.talks.append(talk)
        if self._dead:
            talk.feed(None)
        return talk.connection

    def pool(self, most: int) -> Pool:
        return Pool(self, name="backend 'up'", max_connections=most)


async def used(pool: Pool, talk: Talk, connection: Connection) -> None:
    """One whole exchange."""
    asking = asyncio.create_task(connection.ask(HEAD, b"", deadline_s=FAR_S))
    await settle()
    talk.feed(LENGTH)
    await asking
    await connection.receive(10)
    pool.release(connection)


async def test_a_connection_that_ended_while_it_was_made_is_not_waited_for() -> None:
    dialled = Dialled(dead=True)
    pool = dialled.pool(1)
    connection = await pool.acquire()
    pool.release(connection)
    closing = asyncio.create_task(pool.close())
    await settle()
    assert closing.done()


async def test_a_connection_given_to_who_was_cancelled_at_that_moment_goes_on_to_the_next() -> None:
    dialled = Dialled()
    pool = dialled.pool(1)
    connection = await pool.acquire()
    first, second = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
    await settle()
    await used(pool, dialled.talks[0], connection)
    first.cancel()
    assert await second is connection
    assert first.cancelled()
    assert len(dialled.talks) == 1


async def test_a_place_given_to_who_was_cancelled_at_that_moment_goes_on_to_the_next() -> None:
    dialled = Dialled()
    pool = dialled.pool(1)
    connection = await pool.acquire()
    first, second = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
    await settle()
    pool.release(connection)  # nothing was answered on it: it is closed
    first.cancel()
    assert await second is dialled.talks[1].connection
    assert first.cancelled()


async def test_one_that_closes_while_nobody_uses_it_gives_its_place_back() -> None:
    dialled = Dialled()
    pool = dialled.pool(1)
    connection = await pool.acquire()
    await used(pool, dialled.talks[0], connection)
    dialled.talks[0].feed(None)
    assert pool.idle() is None
    assert await pool.acquire() is dialled.talks[1].connection


async def test_a_connection_that_cannot_be_made_gives_its_place_back() -> None:
    async def refused(_on_lost: OnLost) -> Connection:
        raise ConnectionRefusedError

    pool = Pool(refused, name="backend 'up'", max_connections=1)
    asked = await asyncio.gather(*[pool.acquire() for _ in range(3)], return_exceptions=True)
    assert [type(one) for one in asked] == [ConnectionRefusedError] * 3
