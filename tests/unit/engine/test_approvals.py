"""Questions of agents: who may answer them, what is remembered, when nobody is asked."""

import asyncio

import msgspec
import pytest

from trunkline.engine.approvals import ApprovalRegistry, Asker
from trunkline.model.errors import Conflict, InvalidParameter, TrunklineError
from trunkline.ports.approvals import Question

ASKER = Asker(tenant="alice", turn_id="turn_1", session_id="s1", backend="bot", request_id="req_1", visible=True)


def question(call_id: str = "q1", **fields: object) -> Question:
    return msgspec.convert(
        {"call_id": call_id, "tool": "shell", "text": "rm -r build", "timeout_s": 300, **fields}, Question
    )


def asked(registry: ApprovalRegistry, asker: Asker = ASKER, **fields: object) -> "asyncio.Future[str]":
    answer = registry.of_turn(asker).ask(question(**fields))  # type: ignore[arg-type]
    assert isinstance(answer, asyncio.Future)
    return answer


def other(**fields: object) -> Asker:
    return msgspec.structs.replace(ASKER, **fields)


async def test_a_choice_reaches_who_asked_and_closes_the_question() -> None:
    registry = ApprovalRegistry()
    answer = asked(registry)
    assert [pending.call_id for pending in registry.pending("alice", "turn_1")] == ["q1"]
    assert [resolved.tool for resolved in registry.resolve("alice", "turn_1", "once")] == ["shell"]
    assert registry.pending("alice", "turn_1") == ()
    assert await answer == "once"


async def test_a_question_that_was_just_given_up_cannot_be_answered() -> None:
    registry = ApprovalRegistry()
    asked(registry).cancel()  # nothing else has run since
    assert registry.pending("alice", "turn_1") == ()
    with pytest.raises(Conflict, match="the answer was 'deny'"):
        registry.resolve("alice", "turn_1", "once")


async def test_the_oldest_is_answered_unless_one_is_named_or_all_are() -> None:
    registry = ApprovalRegistry()
    first, second, third, fourth = [asked(registry, call_id=f"q{number}") for number in range(4)]
    registry.resolve("alice", "turn_1", "once")
    registry.resolve("alice", "turn_1", "deny", call_id="q2")
    assert len(registry.resolve("alice", "turn_1", "session", all=True)) == 2
    assert [await first, await second, await third, await fourth] == ["once", "session", "deny", "session"]


def refused(
    registry: ApprovalRegistry, tenant: str, turn_id: str, choice: str, call_id: str | None = None
) -> str | None:
    with pytest.raises(TrunklineError) as caught:
        registry.resolve(tenant, turn_id, choice, call_id=call_id)
    assert isinstance(caught.value, InvalidParameter if caught.value.param else Conflict)
    return caught.value.code


async def test_what_cannot_be_answered_says_why() -> None:
    registry = ApprovalRegistry()
    _ = asked(registry, call_id="q1")
    _ = asked(registry, call_id="q2")
    assert refused(registry, "alice", "turn_1", "perhaps") == "invalid_approval_choice"
    assert refused(registry, "alice", "turn_2", "once") == "approval_not_active"
    assert refused(registry, "alice", "turn_1", "once", "q9") == "approval_not_active"
    registry.resolve("alice", "turn_1", "once", call_id="q1")
    assert refused(registry, "alice", "turn_1", "once", "q1") == "approval_not_pending"
    registry.resolve("alice", "turn_1", "deny")
    assert refused(registry, "alice", "turn_1", "once") == "approval_not_pending"


async def test_who_answers_under_another_id_hears_which_are_waited_for() -> None:
    registry = ApprovalRegistry()
    _ = asked(registry, call_id="q1")
    _ = asked(registry, call_id="q2")
    with pytest.raises(Conflict, match=r"^no approval 'q9' is waited for; waited for: 'q1', 'q2'$"):
        registry.resolve("alice", "turn_1", "once", call_id="q9")
    with pytest.raises(Conflict, match=r"^no approval 'q1' is waited for$"):
        registry.resolve("mallory", "turn_1", "once", call_id="q1")


async def test_no_other_tenant_can_answer() -> None:
    registry = ApprovalRegistry()
    answer = asked(registry)
    assert refused(registry, "mallory", "turn_1", "once", "q1") == "approval_not_active"
    assert registry.pending("mallory", "turn_1") == ()
    assert not answer.done()


@pytest.mark.parametrize(
    ("choice", "asker", "again"),
    [
        ("once", ASKER, True),
        ("deny", ASKER, True),
        ("session", other(turn_id="turn_2", backend="another"), False),
        ("session", other(session_id="s2"), True),
        ("session", other(session_id=None), True),
        ("always", other(turn_id="turn_2", session_id="s2"), False),
        ("always", other(backend="another"), True),
        ("always", other(tenant="bob"), True),
        ("session", other(tenant="bob"), True),
    ],
)
async def test_standing_choices_are_not_asked_again(choice: str, asker: Asker, again: bool) -> None:
    registry = ApprovalRegistry()
    _ = asked(registry)
    registry.resolve("alice", "turn_1", choice)
    answer = registry.of_turn(asker).ask(question("q2"))
    assert (answer if isinstance(answer, str) else None) == (None if again else choice)
    assert isinstance(registry.of_turn(asker).ask(question("q3", tool="browser")), asyncio.Future)


async def test_a_standing_choice_that_the_question_does_not_offer_is_asked() -> None:
    registry = ApprovalRegistry()
    _ = asked(registry)
    registry.resolve("alice", "turn_1", "always")
    assert isinstance(registry.of_turn(ASKER).ask(question("q2", choices=["once", "deny"])), asyncio.Future)


async def test_time_denies() -> None:
    registry = ApprovalRegistry()
    assert await asked(registry, timeout_s=0) == "deny"
    assert refused(registry, "alice", "turn_1", "once", "q1") == "approval_not_pending"


async def test_nobody_to_see_it_denies_at_once(caplog: pytest.LogCaptureFixture) -> None:
    registry = ApprovalRegistry()
    assert registry.of_turn(other(visible=False)).ask(question()) == "deny"
    assert "does not see questions" in caplog.text


async def test_a_server_that_leaves_denies_what_is_open_and_what_comes() -> None:
    registry = ApprovalRegistry()
    answer = asked(registry)
    registry.drain()
    assert await answer == "deny"
    assert registry.of_turn(ASKER).ask(question("q2")) == "deny"


async def test_an_asker_that_gives_up_closes_its_question() -> None:
    registry = ApprovalRegistry()
    answer = asked(registry)
    answer.cancel()
    await asyncio.sleep(0)
    assert registry.pending("alice", "turn_1") == ()
    assert refused(registry, "alice", "turn_1", "once") == "approval_not_pending"
