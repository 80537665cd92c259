"""What an agent's callbacks speak through, from the loop or from any thread.

Agents with callbacks were written for one server each, and call them in that server's way: awaited or not, with
`None` where a piece of text ends, from worker threads, after the answer has been given. Everything here may be
awaited and need not be; what comes too late is dropped and logged once; a tool's id that the agent uses again becomes
one of its own.

What has been streamed is remembered, because such agents also return their answer: of that only what is missing is
said.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from itertools import pairwise

import msgspec

from trunkline import agent as author
from trunkline.backends.callable.answer import Answer
from trunkline.backends.callable.channel import Channel
from trunkline.model.errors import AgentError

STOP_PATIENCE_S = 5.0

_log = logging.getLogger("trunkline.agent")


class Said:
    """Awaitable, for callbacks that are awaited; on the loop it then waits for a reader that is behind."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel | None = None) -> None:
        self._channel = channel

    def __await__(self) -> Generator[object, None, None]:
        if self._channel is not None:
            yield from self._channel.drained().__await__()


_SAID = Said()


class Voice:
    """The callbacks of one turn. Made on the loop.

    Attributes:
        broken: what the agent said that means nothing, if anything; agents swallow what their callbacks raise.
        media: files of the turn's attachments.
        used_tools: whether it has spoken of any tool.
    """

    def __init__(self, *, channel: Channel, answer: Answer, name: str, request_id: str) -> None:
        self._channel = channel
        self._answer = answer
        self._name = name
        self._request_id = request_id
        self._thread = threading.get_ident()
        self._late = False
        self._interrupted = False
        self._pieces: list[str] = []
        self._ends: list[int] = []  # where in the pieces a segment ended
        self._ids: set[str] = set()
        self._running: dict[str, deque[str]] = {}  # the agent's own id -> ids on the wire
        self._previews: dict[str, deque[str | None]] = {}
        self._failed: dict[str, int] = {}
        self.broken: AgentError | None = None
        self._stopping = threading.Lock()
        self._stoppable: object = None
        self.media: Sequence[str] = ()
        self.used_tools = False

    def say(self, value: object) -> Said:
        """Raises AgentError for a value that means nothing."""
        channel = self._channel
        if channel.over:
            return self._too_late()
        try:
            if threading.get_ident() != self._thread:
                channel.put_from_thread(self._answer.feed, value)
            elif channel.put(self._answer.feed, value):
                return Said(channel)
        except AgentError as error:
            self.broken = self.broken or error
            raise
        return _SAID

    # Callbacks

    def text(self, delta: object = None, *_: object, **__: object) -> Said:
        """A piece of the answer; None where a segment ends."""
        if delta is None:
            return self.segment_end()
        if isinstance(delta, str) and not self._channel.over:
            self._pieces.append(delta)
        return self.say(delta)

    def segment_end(self, *_: object, **__: object) -> Said:
        """A segment of text ends, not the answer."""
        self._ends.append(len(self._pieces))
        return _SAID

    def reasoning(self, text: object = None, *_: object, **__: object) -> Said:
        return _SAID if not isinstance(text, str) else self.say(author.Reasoning(text))

    def tool_start(
        self, call_id: object = None, name: object = "", args: object = None, *_: object, **__: object
    ) -> Said:
        if not call_id:
            return _SAID
        self._ends.append(len(self._pieces))
        own, tool = str(call_id), str(name)
        wire = own if own not in self._ids else f"{own}-{len(self._ids)}"
        self._ids.add(wire)
        self._running.setdefault(own, deque()).append(wire)
        self.used_tools = True
        previews = self._previews.get(tool)
        return self.say(
            author.ToolStarted(
                wire, tool, _json({} if args is None else args), label=previews.popleft() if previews else None
            )
        )

    def tool_complete(
        self, call_id: object = None, name: object = "", args: object = None, result: object = None, **__: object
    ) -> Said:
        running = self._running.get(str(call_id))
        if not running:
            return _SAID
        failed = self._failed.get(str(name), 0)
        if failed:
            self._failed[str(name)] = failed - 1
        return self.say(author.ToolFinished(running.popleft(), _json(result), failed=failed > 0))

    def tool_progress(
        self, event: object = None, name: object = None, preview: object = None, args: object = None, **more: object
    ) -> Said:
        """Tells beside `tool_start` and `tool_complete`, just before them, what those do not: a few words, and failure."""
        tool = str(name)
        if event == "tool.started":
            self._previews.setdefault(tool, deque()).append(preview if isinstance(preview, str) and preview else None)
        elif event == "tool.failed" or (event == "tool.completed" and more.get("is_error")):
            self._failed[tool] = self._failed.get(tool, 0) + 1
        return _SAID

    def progress(
        self, text: object = None, *, tool_events: object = None, reasoning: object = False, **__: object
    ) -> Said:
        """Tools at work as a list of events, each with its phase; and thinking, which is not the answer either."""
        if reasoning:
            return self.reasoning(text)
        said = _SAID
        events = [event for event in tool_events if isinstance(event, dict)] if isinstance(tool_events, list) else []
        for event in events:
            call_id, name = event.get("call_id"), event.get("name")
            if event.get("phase") == "start":
                if len(events) == 1:
                    said = self.tool_progress("tool.started", name, text)
                said = self.tool_start(call_id, name, event.get("arguments"))
            else:
                if event.get("phase") == "error":
                    said = self.tool_progress("tool.failed", name)
                said = self.tool_complete(call_id, name, None, event.get("result") or event.get("error"))
        return said

    # Stopping it

    @contextlib.contextmanager
    def stoppable(self, agent: object) -> Iterator[None]:
        """While this is open the turn can be stopped by the object's `interrupt()`, if it has one."""
        with self._stopping:
            self._stoppable = agent
        try:
            yield
        finally:
            # An interrupt under way is waited for: late, it would stop the object's next turn. Not for ever: it may wait for us.
            got = self._stopping.acquire(timeout=STOP_PATIENCE_S)
            self._stoppable = None
            if got:
                self._stopping.release()
            if self._interrupted:
                _call(agent, "clear_interrupt")

    def stop(self) -> None:
        """On the loop: nobody wants the answer any more. In a thread of its own, for it may wait for what it stops."""
        if self._stoppable is not None:
            threading.Thread(target=self._stop, name=f"stop-{self._name}", daemon=True).start()

    def _stop(self) -> None:
        with self._stopping:
            if self._stoppable is not None:
                self._interrupted = True
                _call(self._stoppable, "interrupt")

    # What it returned

    @property
    def spoken(self) -> bool:
        """Whether any of the answer's text has been streamed."""
        return any(piece.strip() for piece in self._pieces)

    def missing(self, final: str) -> str:
        """What of the whole answer has not been streamed."""
        if not self.spoken:
            return final
        if not final.strip():
            return ""
        whole = "".join(self._pieces)
        segments = ["".join(self._pieces[begin:end]) for begin, end in pairwise([0, *self._ends, len(self._pieces)])]
        if _ends_with(whole, final) or any(segment.split() == final.split() for segment in segments):
            return ""
        for said in (whole.lstrip(), segments[-1].lstrip()):
            if said and final.lstrip().startswith(said):
                return final.lstrip()[len(said) :]
        return final if whole[-1].isspace() else f"\n\n{final}"

    def _too_late(self) -> Said:
        if not self._late:
            self._late = True
            _log.warning("agent spoke after its end: agent=%s request_id=%s; ignored", self._name, self._request_id)
        return _SAID


def _call(agent: object, method: str) -> None:
    function = getattr(agent, method, None)
    if not callable(function):
        return
    try:
        function()
    except Exception:  # noqa: BLE001 - a stranger's method, in a thread that nobody waits for
        _log.exception("agent failed in %s()", method)


def _ends_with(whole: str, final: str) -> bool:
    """Whether it ends with the same words, however they are spaced: "I know" does not end with "no"."""
    said, last = " ".join(whole.split()), " ".join(final.split())
    return said.endswith(last) and not (said[: -len(last)][-1:].isalnum() and last[0].isalnum())


def _json(value: object) -> str:
    """As it is now, and whatever it holds: what runs a tool may change it later, and a callback may not fail for it."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except (TypeError, ValueError, RecursionError):
        return msgspec.json.encode(repr(value)).decode()
