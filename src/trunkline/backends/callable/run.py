"""One turn of an agent, from the call to the last event."""

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator

from trunkline.agent import Turn
from trunkline.backends.callable.answer import Answer
from trunkline.backends.callable.channel import Channel
from trunkline.backends.callable.forms import AgentFunction
from trunkline.backends.callable.threads import Job, WorkerThreads
from trunkline.backends.redact import redacted
from trunkline.model.errors import AgentError, AgentIncomplete, BackendUnavailable

_log = logging.getLogger("trunkline.agent")


class _Iterated:
    """What a thread gives back when it has put the whole answer itself."""


_ITERATED = _Iterated()


class Run:
    """Calls the agent and puts its events into the channel."""

    def __init__(
        self, *, agent: AgentFunction, name: str, turn: Turn, answer: Answer, channel: Channel, lost_after_s: float
    ) -> None:
        self._agent = agent
        self._name = name
        self._turn = turn
        self._answer = answer
        self._lost_after_s = lost_after_s
        self.channel = channel

    async def drive(self, threads: WorkerThreads, *, on_loop: bool) -> None:
        """The turn's task. What the agent raises ends up in the channel; only a cancellation from outside goes on."""
        try:
            await self._answered(threads, on_loop=on_loop)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                self.channel.end()
                raise
            self.channel.end(self._failed(error))
        except (AgentError, AgentIncomplete, BackendUnavailable) as error:
            self.channel.end(error)
        except BaseException as error:  # noqa: BLE001 - the supervisor of a stranger's code; SystemExit would end the server
            self.channel.end(self._failed(error))
        else:
            self.channel.end()

    def abort(self, error: BackendUnavailable | None = None) -> None:
        """Nobody wants the answer any more: the agent is told, a thread that waits goes on, a reader gets the error."""
        self._turn.cancellation.requested = True
        self.channel.close()
        self.channel.end(error)

    async def _answered(self, threads: WorkerThreads, *, on_loop: bool) -> None:
        value = self._agent(self._turn) if on_loop else await self._in_thread(threads)
        while isinstance(value, Awaitable):
            value = await value
        match value:
            case _Iterated():
                self.channel.put(self._answer.end())
            case AsyncIterable():
                await self._iterate(value)
            case Iterator():
                values = value
                await self._in_thread(threads, lambda: self._iterate_in_thread(values))
                self.channel.put(self._answer.end())
            case _:
                self.channel.put(self._answer.result(value))

    async def _iterate(self, values: AsyncIterable[object]) -> None:
        feed, channel, cancellation = self._answer.feed, self.channel, self._turn.cancellation
        try:
            async for value in values:
                events = feed(value)
                if events and channel.put(events):
                    await channel.drained()
                if cancellation.requested:  # it caught its cancellation and goes on
                    return
        finally:
            aclose: Callable[[], Awaitable[None]] | None = getattr(values, "aclose", None)
            if aclose is not None:
                await aclose()
        channel.put(self._answer.end())

    async def _in_thread(self, threads: WorkerThreads, call: Callable[[], object] | None = None) -> object:
        """What the call gives; by default the agent's, iterated in the same thread if it can be."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[tuple[object, BaseException | None]] = loop.create_future()

        def settle(value: object, error: BaseException | None) -> None:
            if not outcome.done():
                outcome.set_result((value, error))
            elif error is not None:
                self._failed(error)  # nobody is left to tell: the log

        def work() -> None:
            value: object = None
            failure: BaseException | None = None
            try:
                value = (call or self._called_in_thread)()
            except BaseException as error:  # noqa: BLE001 - the thread's supervisor: everything goes to the task
                failure = error
            try:
                loop.call_soon_threadsafe(settle, value, failure)
            except RuntimeError:
                _log.warning("agent returned after the server's end: agent=%s", self._name)

        job = threads.submit(work)
        try:
            value, error = await outcome
        except asyncio.CancelledError:
            threads.abandon(job)
            if not job.done.is_set():
                loop.call_later(self._lost_after_s, self._report_lost, job)
            raise
        if error is not None:
            raise error
        return value

    def _called_in_thread(self) -> object:
        value = self._agent(self._turn)
        if not isinstance(value, Iterator):
            return value
        self._iterate_in_thread(value)
        return _ITERATED

    def _iterate_in_thread(self, values: Iterator[object]) -> None:
        feed, put, cancellation = self._answer.feed, self.channel.put_from_thread, self._turn.cancellation
        try:
            for value in values:
                events = feed(value)
                if (events and not put(events)) or cancellation.requested:
                    return
        finally:
            close: Callable[[], None] | None = getattr(values, "close", None)
            if close is not None:
                close()

    def _failed(self, error: BaseException) -> AgentError:
        """The agent's exception as ours: its text for the client, its traceback for the log."""
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        _log.error("agent raised: agent=%s request_id=%s", self._name, self._turn.request_id, exc_info=error)
        return AgentError(redacted(_text(error)))

    def _report_lost(self, job: Job) -> None:
        if not job.done.is_set():
            _log.warning(
                "agent thread lost: agent=%s request_id=%s; its client left %g s ago and it has not returned, "
                "another thread has its place; let long calls look at turn.cancelled",
                self._name, self._turn.request_id, self._lost_after_s,
            )  # fmt: skip


def _text(error: BaseException) -> str:
    """The exception's text; its type's name where there is none, or where the text alone says nothing."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a stranger's __str__
        text = ""
    if isinstance(error, KeyError):
        return f"KeyError: {text}"
    return text or type(error).__name__
