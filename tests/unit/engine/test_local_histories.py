"""Histories that only a connection has: found while they fit, the oldest given up first."""

from trunkline.engine.chaining import HeldBytes, LocalHistories
from trunkline.ports.stores import Segment

TURN = Segment(b"[1]", b"[2]")


def test_the_oldest_gives_way_when_there_are_too_many() -> None:
    local = LocalHistories(max_turns=2)
    for name in ("a", "b", "c"):
        local.keep(name, (TURN,), lane=None)
    assert [local.find(name) for name in ("a", "b", "c")] == [None, (TURN,), (TURN,)]


def test_the_oldest_gives_way_when_they_are_too_large_and_what_they_share_counts_once() -> None:
    turns = [Segment(b"[%s]" % (b"1" * 8), b"[]") for _ in range(4)]  # 12 bytes each
    local = LocalHistories(max_bytes=36)
    for number in range(3):
        local.keep(str(number), turns[: number + 1], lane=None)
    assert local.find("2") == tuple(turns[:3])
    assert local.find("0") == tuple(turns[:1])
    local.keep("other", [Segment(b"[%s]" % (b"2" * 30), b"[]")], lane=None)
    assert [local.find(name) for name in ("0", "1", "2")] == [None, None, None]
    assert local.find("other") is not None


def test_what_does_not_fit_alone_is_not_kept() -> None:
    local = LocalHistories(max_bytes=5)
    local.keep("a", (TURN,), lane=None)
    assert local.find("a") is None


def test_only_its_own_lane_takes_a_response_away() -> None:
    local = LocalHistories()
    local.keep("a", (TURN,), lane="main")
    local.evict("a", lane=None)
    local.evict("a", lane="critic")
    assert local.find("a") == (TURN,)
    local.evict("a", lane="main")
    local.evict("a", lane="main")
    assert local.find("a") is None


def test_connections_of_one_tenant_give_up_their_own_when_they_hold_too_much_together() -> None:
    together = HeldBytes(max_bytes=12)  # two turns
    one, other = (LocalHistories(together=together) for _ in range(2))
    one.keep("a", (TURN,), lane=None)
    other.keep("b", (Segment(b"[3]", b"[4]"),), lane=None)
    other.keep("c", (Segment(b"[5]", b"[6]"),), lane=None)
    assert one.find("a") == (TURN,)
    assert other.find("b") is None
    one.close()
    other.close()
    assert together.bytes == 0


def test_a_long_chain_of_small_turns_costs_each_turn_no_more_than_its_length() -> None:
    local = LocalHistories()
    chain: list[Segment] = []
    for number in range(2000):
        chain.append(Segment(b"[%d]" % number, b"[]"))
        local.keep(str(number), chain, lane=None)
    assert local.find("1999") == tuple(chain)
    assert local.find("1743") is None
