"""What an agent asks the user, in the name of its turn: `turn.approve`.

The question is open in the engine before its event leaves, so that no answer can come too early. On the event loop
the agent gets something to await; in any other thread it waits, so a synchronous agent needs no second form. Whatever
ends the turn denies what it still asks: nobody will answer.
"""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Awaitable, Sequence

from trunkline.backends.callable.answer import Answer, utf8
from trunkline.backends.callable.channel import Channel
from trunkline.model import events as ev
from trunkline.model.errors import AgentError
from trunkline.model.ids import new_id
from trunkline.ports.approvals import DENY, Question
from trunkline.ports.backend import Context

_log = logging.getLogger("trunkline.agent")


class Questions:
    """Of one turn. Made on the loop."""

    def __init__(self, *, context: Context, channel: Channel, answer: Answer, timeout_s: float) -> None:
        self._context = context
        self._channel = channel
        self._answer = answer
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._open: set[asyncio.Future[str]] = set()

    def ask(self, tool: str, text: str, choices: tuple[str, ...]) -> str | Awaitable[str]:
        """The choice, or on the event loop what awaits it. Raises AgentError for what is no question."""
        _check(tool, text, choices)
        asking = self._asked(utf8(tool), utf8(text), tuple([utf8(choice) for choice in choices]))
        if threading.get_ident() == self._thread:
            return asking
        try:
            return asyncio.run_coroutine_threadsafe(asking, self._loop).result()
        except (concurrent.futures.CancelledError, RuntimeError):  # the loop ends or has ended: the process is stopping
            asking.close()
            return DENY

    def close(self) -> None:
        """On the loop: the turn is over."""
        for answer in list(self._open):
            answer.cancel()

    async def _asked(self, tool: str, text: str, choices: tuple[str, ...]) -> str:
        approvals = self._context.approvals
        if approvals is None or self._channel.over:
            _log.warning(
                "approval denied: there is nobody to ask; tool=%s request_id=%s", tool, self._context.request_id
            )
            return DENY
        call_id = new_id("approval_", self._context.entropy)
        question = Question(call_id=call_id, tool=tool, text=text, choices=choices, timeout_s=self._timeout_s)
        answer = approvals.ask(question)
        if isinstance(answer, str):
            return answer
        self._open.add(answer)
        choice = DENY
        try:
            self._channel.put(self._answer.note, ev.ApprovalRequested(call_id, tool, text, choices))
            choice = await answer
        except asyncio.CancelledError:
            if _is_cancelled():
                raise  # the agent gives up its question, or its client has left
        finally:
            self._open.discard(answer)
            answer.cancel()
            self._channel.put(self._answer.note, ev.ApprovalResolved(call_id, choice))
        return choice


def _is_cancelled() -> bool:
    """Whether the task that asks is to end. It keeps its cancellation, so no frame of that may keep the task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _check(tool: object, text: object, choices: Sequence[object]) -> None:
    if not isinstance(tool, str) or not tool:
        raise AgentError(f"turn.approve needs the name of a tool, got {tool!r}")
    if not isinstance(text, str):
        raise AgentError(f"turn.approve needs a text that says what would be done, got {type(text).__name__}")
    if not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise AgentError(f"turn.approve needs choices as strings, at least one, got {choices!r}")
