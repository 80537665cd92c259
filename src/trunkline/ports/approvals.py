"""Asking the people on the other side before something is done.

A backend asks through its `Context.approvals`. It shows the question with `ev.ApprovalRequested` and waits for the future; then
it says with `ev.ApprovalResolved` what was chosen. Where the answer needs no asking the choice comes at once.

    answer = context.approvals.ask(question)
    if isinstance(answer, str): ...            # remembered from before, or nobody is there to see the question
    else: emit requested; choice = await answer; emit resolved

The question is open before it is shown, so that no reply can come too early. A future that is cancelled closes its question.
"""

from asyncio import Future
from typing import Protocol

import msgspec

DENY = "deny"
CHOICES = ("once", "session", "always", DENY)
"""`session` is remembered for the tool in this session, `always` for the tool of this backend. `deny` is always a choice."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """May this be done? After `timeout_s` the answer is "deny". `call_id` is the question's own id."""

    call_id: str
    tool: str
    timeout_s: float
    text: str = ""
    choices: tuple[str, ...] = CHOICES


class Approvals(Protocol):
    """Asks in the name of one turn. On the event loop only."""

    def ask(self, question: Question) -> "str | Future[str]":
        """The choice where it needs no asking; else the question is open and the future is of the choice."""
        ...
