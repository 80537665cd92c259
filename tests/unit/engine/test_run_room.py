"""Room for background work: so many of each tenant, and nobody takes more memory than is left for the others."""

import pytest

from trunkline.engine.run_room import RunRoom
from trunkline.model.errors import RateLimited


def test_a_tenant_takes_half_of_what_is_free_and_leaves_room_for_the_next() -> None:
    room = RunRoom(max_runs=100, max_held_bytes=80)
    taken = {"ann": 0, "bob": 0}
    for tenant in taken:
        while True:
            try:
                room.check(tenant, 10)
            except RateLimited:
                break
            room.take(tenant, 10)
            taken[tenant] += 1
    assert taken == {"ann": 4, "bob": 2}
    room.check("cid", 10)


def test_what_is_given_back_is_free_again_and_each_counts_for_itself() -> None:
    room = RunRoom(max_runs=2)
    for _ in range(2):
        room.check("ann", 1)
        room.take("ann", 1)
    with pytest.raises(RateLimited, match="2 runs are waiting or being answered"):
        room.check("ann", 1)
    room.check("bob", 1)
    room.give_back("ann", 1)
    room.check("ann", 1)


def test_one_that_is_larger_than_all_there_is_may_come_alone() -> None:
    room = RunRoom(max_runs=2, max_held_bytes=10)
    room.check("ann", 1000)
    room.take("ann", 1000)
    with pytest.raises(RateLimited):
        room.check("ann", 1)
    room.give_back("ann", 1000)
    room.check("ann", 1)
