"""Open questions of agents, and who may answer them.

    ask ──▶ open ── resolve ──▶ the choice
              ├── timeout_s, or the server leaves ──▶ "deny", but not of what the next start asks again
              └── the asker's future is cancelled: the turn is over

A question belongs to a tenant and a turn; nobody else can see or answer it. What was answered with `session` or `always` is
remembered and not asked again: for the tool in that session of the tenant, or for the tool of that backend. Both memories are
bounded and live as long as the process: forgetting means to ask once more. Where nobody can see a question the answer is "deny" at
once, because an agent that waits for nobody only looks slow. Its client is told, as far as a head is still to be sent.
"""

import asyncio
import logging
from collections.abc import Callable, Hashable

import msgspec

from trunkline.model.errors import Conflict, InvalidParameter
from trunkline.ports.approvals import DENY, Question
from trunkline.telemetry.outcome import Outcome

REMEMBERED = 10_000
_VISIBLE = "streams with stream_options.include_tool_events show them, and so do runs (POST /v1/runs)"
UNSEEN = f"a question of the agent was denied: this client does not see questions; {_VISIBLE}"
LetGo = Callable[[str, str], bool]
"""Has the work on a tenant's turn stop as it is, if it is begun again by the next start; says whether it is."""
logger = logging.getLogger("trunkline.approvals")


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """The turn that asks. `visible`: whether its client sees questions at all. `outcome`: where it is told that one was denied."""

    tenant: str
    turn_id: str
    session_id: str | None
    backend: str
    request_id: str
    visible: bool
    outcome: Outcome = msgspec.field(default_factory=Outcome)


class _Open(msgspec.Struct, frozen=True, eq=False):
    question: Question
    asker: Asker
    answer: "asyncio.Future[str]"


class _Bounded:
    """The newest of what was said, by key."""

    def __init__(self) -> None:
        self._said: dict[Hashable, str] = {}

    def get(self, key: Hashable) -> str | None:
        return self._said.get(key)

    def put(self, key: Hashable, said: str) -> None:
        self._said.pop(key, None)
        self._said[key] = said
        if len(self._said) > REMEMBERED:
            del self._said[next(iter(self._said))]


class ApprovalRegistry:
    """Every open question of this process."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], dict[str, _Open]] = {}  # tenant and turn -> questions, oldest first
        self._answered = _Bounded()  # tenant, turn and question -> choice; tenant and turn -> the last one
        self._standing = _Bounded()
        self._draining = False
        self._let_go: LetGo = _never

    def of_turn(self, asker: Asker) -> "TurnApprovals":
        return TurnApprovals(self, asker)

    def pending(self, tenant: str, turn_id: str) -> tuple[Question, ...]:
        """The turn's open questions, oldest first."""
        return tuple([entry.question for entry in self._open_of((tenant, turn_id))])

    def resolve(
        self,
        tenant: str,
        turn_id: str,
        choice: str,
        *,
        call_id: str | None = None,
        all: bool = False,  # noqa: A002 - the wire's word
    ) -> tuple[Question, ...]:
        """Answers the question of this id, all open ones of the turn, or its oldest. Gives what was answered.

        Raises Conflict `approval_not_pending` where it has been answered already, `approval_not_active` where the turn has no such
        question, and InvalidParameter `invalid_approval_choice` for what is none of its choices.
        """
        entries = every = self._open_of((tenant, turn_id))
        if call_id is not None:
            entries = [entry for entry in every if entry.question.call_id == call_id]
        if not entries:
            raise self._not_open(tenant, turn_id, call_id, instead=every)
        chosen = entries if all else entries[:1]
        for entry in chosen:
            allowed = _allowed(entry.question)
            if choice not in allowed:
                raise InvalidParameter(
                    f"Invalid approval choice {choice!r}; expected one of: {', '.join(allowed)}",
                    code="invalid_approval_choice",
                    param="choice",
                )
        for entry in chosen:
            self._remember(entry, choice)
            entry.answer.set_result(choice)
            self._close(entry)
        return tuple([entry.question for entry in chosen])

    def drain(self, let_go: LetGo | None = None) -> None:
        """The server leaves: what is open is denied, and whatever is asked from now on. Not so for turns that `let_go` lets go of:
        what they ask stays open until their work has stopped, as they ask it again."""
        self._draining = True
        self._let_go = let_go or _never
        for turn, entries in list(self._open.items()):
            if not self._let_go(*turn):
                for entry in list(entries.values()):
                    self._deny(entry, "the server is shutting down")

    def ask(self, asker: Asker, question: Question) -> "str | asyncio.Future[str]":
        """As `ports.approvals.Approvals.ask`."""
        for key in _standing_keys(asker, question.tool).values():
            known = self._standing.get(key)
            if known in _allowed(question):
                return known
        if self._draining and not self._let_go(asker.tenant, asker.turn_id):
            _log_denied(asker, question, "the server is shutting down")
            return DENY
        if not asker.visible:
            _log_denied(asker, question, f"its client does not see questions; {_VISIBLE}")
            asker.outcome.warning = asker.outcome.warning or UNSEEN
            return DENY
        loop = asyncio.get_running_loop()
        entry = _Open(question, asker, loop.create_future())
        self._open.setdefault((asker.tenant, asker.turn_id), {})[question.call_id] = entry
        timer = loop.call_later(
            question.timeout_s, self._deny, entry, f"nobody answered within {question.timeout_s:g} s"
        )

        def over(_: "asyncio.Future[str]") -> None:
            timer.cancel()
            self._close(entry)

        entry.answer.add_done_callback(over)
        return entry.answer

    def _open_of(self, turn: tuple[str, str]) -> list[_Open]:
        """The turn's open questions. One that its asker has given up in this very step of the loop is none of them."""
        for entry in list(self._open.get(turn, {}).values()):
            if entry.answer.done():
                self._close(entry)
        return list(self._open.get(turn, {}).values())

    def _deny(self, entry: _Open, why: str) -> None:
        if not entry.answer.done():
            _log_denied(entry.asker, entry.question, why)
            entry.answer.set_result(DENY)
            self._close(entry)

    def _close(self, entry: _Open) -> None:
        """What is closed is no longer pending, from this moment on and not from when its asker wakes."""
        turn = (entry.asker.tenant, entry.asker.turn_id)
        entries = self._open.get(turn, {})
        if entries.pop(entry.question.call_id, None) is None:
            return
        if not entries:
            del self._open[turn]
        choice = DENY if entry.answer.cancelled() else entry.answer.result()
        self._answered.put((*turn, entry.question.call_id), choice)
        self._answered.put(turn, choice)

    def _remember(self, entry: _Open, choice: str) -> None:
        key = _standing_keys(entry.asker, entry.question.tool).get(choice)
        if key is not None:
            self._standing.put(key, choice)

    def _not_open(self, tenant: str, turn_id: str, call_id: str | None, *, instead: list[_Open]) -> Conflict:
        before = self._answered.get((tenant, turn_id) if call_id is None else (tenant, turn_id, call_id))
        what = "no approval" if call_id is None else f"no approval {call_id!r}"
        if before is not None:
            return Conflict(f"{what} is waited for any more: the answer was {before!r}", code="approval_not_pending")
        others = ", ".join(repr(entry.question.call_id) for entry in instead)
        return Conflict(
            f"{what} is waited for" + (f"; waited for: {others}" if others else ""), code="approval_not_active"
        )


class TurnApprovals:
    """The registry as one turn's backend sees it."""

    def __init__(self, registry: ApprovalRegistry, asker: Asker) -> None:
        self._registry = registry
        self._asker = asker

    def ask(self, question: Question) -> "str | asyncio.Future[str]":
        return self._registry.ask(self._asker, question)


def _never(_tenant: str, _turn_id: str) -> bool:
    return False


def _allowed(question: Question) -> tuple[str, ...]:
    return question.choices if DENY in question.choices else (*question.choices, DENY)


def _standing_keys(asker: Asker, tool: str) -> dict[str, Hashable]:
    """Under what a choice is remembered, by the choice. Without a session there is nothing to remember it for."""
    keys: dict[str, Hashable] = {"always": ("always", asker.tenant, asker.backend, tool)}
    if asker.session_id is not None:
        keys["session"] = ("session", asker.tenant, asker.session_id, tool)
    return keys


def _log_denied(asker: Asker, question: Question, why: str) -> None:
    logger.warning(
        "approval denied: %s; tool=%s turn=%s request=%s", why, question.tool, asker.turn_id, asker.request_id
    )
