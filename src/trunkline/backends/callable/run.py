"""One turn of an agent, from the call to the last event."""

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

from trunkline.agent import Turn
from trunkline.backends.callable.answer import Answer
from trunkline.backends.callable.channel import Channel
from trunkline.backends.callable.form import Form
from trunkline.backends.callable.media import Unreadable, save
from trunkline.backends.callable.questions import Questions
from trunkline.backends.callable.threads import Job, WorkerThreads
from trunkline.backends.callable.voice import Voice
from trunkline.backends.redact import redacted
from trunkline.model.errors import AgentError, AgentIncomplete, BackendUnavailable, TrunklineError
from trunkline.model.events import Event

_log = logging.getLogger("trunkline.agent")


class _Iterated:
    """What a thread gives back when it has put what the agent yielded. `returned` is what the agent returned after it."""

    def __init__(self, returned: object) -> None:
        self.returned = returned


class Run:
    """Calls the agent and puts its events into the channel."""

    def __init__(
        self,
        *,
        form: Form,
        name: str,
        turn: Turn,
        answer: Answer,
        channel: Channel,
        questions: Questions,
        threads: WorkerThreads,
        alone: asyncio.Lock | None,
        lost_after_s: float,
    ) -> None:
        self._form = form
        self._name = name
        self._turn = turn
        self._answer = answer
        self._questions = questions
        self._threads = threads
        self._alone = alone
        self._lost_after_s = lost_after_s
        self._voice = Voice(channel=channel, answer=answer, name=name, request_id=turn.request_id)
        self.channel = channel

    async def drive(self) -> None:
        """The turn's task. What the agent raises ends up in the channel; only a cancellation from outside goes on."""
        try:
            async with self._files():
                await self._answered()
        except asyncio.CancelledError as error:
            if self._turn.cancellation.requested:
                self.channel.end()
                raise
            self._end(self._failed(error))  # its own doing
        except (AgentError, AgentIncomplete) as error:
            self._log_failure(error.message)
            self._end(error)
        except (BackendUnavailable, Unreadable) as error:
            self._end(error)
        except BaseException as error:  # noqa: BLE001 - the supervisor of a stranger's code; SystemExit would end the server
            self._end(self._failed(error))
        else:
            self.channel.end()
        finally:
            self._questions.close()
            if self._answer.stray is not None:
                _log.warning(
                    "agent finished a tool that is not running: agent=%s request_id=%s call_id=%r; dropped, as others of this turn",
                    self._name, self._turn.request_id, self._answer.stray,
                )  # fmt: skip

    def abort(self, error: BackendUnavailable | None = None) -> None:
        """Nobody wants the answer any more: the agent is told, a thread that waits goes on, a reader gets the error."""
        self._turn.cancellation.requested = True
        self._questions.close()
        self.channel.close()
        self.channel.end(error)
        self._voice.stop()

    def _end(self, error: TrunklineError) -> None:
        self.channel.finish(self._answer.cut, None)
        self.channel.end(error.again())  # the frames that this one went through hold the channel

    @contextlib.asynccontextmanager
    async def _files(self) -> AsyncIterator[None]:
        """The attachments as files, where the agent wants them so; they are there until the turn has ended."""
        if self._form.media != "files" or not self._turn.attachments:
            yield
            return
        with tempfile.TemporaryDirectory(prefix="trunkline-", ignore_cleanup_errors=True) as folder:
            await self._in_thread(lambda: self._save(Path(folder)))
            yield

    def _save(self, folder: Path) -> None:
        try:
            self._voice.media = save(self._turn.attachments, folder)
        except OSError:
            if not self._turn.cancelled:
                raise
        finally:
            if self._turn.cancelled:  # the folder is being removed meanwhile, and something of it may be left
                shutil.rmtree(folder, ignore_errors=True)

    async def _answered(self) -> None:
        if self._alone is not None:
            await self._alone.acquire()
        value = await self._given()
        match value:
            case _Iterated():
                self.channel.finish(self._ended, value.returned)
            case AsyncIterable():
                await self._iterate(value)
            case Iterator():
                values = value
                returned = await self._in_thread(lambda: self._iterate_in_thread(values))
                self.channel.finish(self._ended, returned)
            case _:
                if self._voice.broken is not None:
                    raise self._voice.broken.again()
                self.channel.finish(self._result, value)
        if self._answer.failure is not None:
            self._log_failure(self._answer.failure)
        elif not (self._answer.answered or self._turn.cancelled):
            _log.warning("agent ended without any text: agent=%s request_id=%s", self._name, self._turn.request_id)

    def _ended(self, returned: object) -> list[Event]:
        return self._answer.end() if returned is None else self._answer.returned(returned)

    def _result(self, value: object) -> list[Event]:
        return self._answer.result(value, self._voice)

    async def _given(self) -> object:
        """What the agent gives when it is called, awaited to its end."""
        if not self._form.on_loop:
            return await _awaited(await self._in_thread(self._called_in_thread, over=self._leave))
        try:
            return await _awaited(self._form.call(self._turn, self._voice))
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._alone is not None:
            self._alone.release()

    async def _iterate(self, values: AsyncIterable[object]) -> None:
        feed, put, cancellation = self._answer.feed, self.channel.put, self._turn.cancellation
        try:
            async for value in values:
                if put(feed, value):
                    await self.channel.drained()
                if cancellation.requested:  # it caught its cancellation and goes on
                    return
        finally:
            aclose: Callable[[], Awaitable[None]] | None = getattr(values, "aclose", None)
            if aclose is not None:
                await aclose()
        self.channel.finish(self._ended, None)

    async def _in_thread(self, call: Callable[[], object], *, over: Callable[[], None] = lambda: None) -> object:
        """What the call gives. `over` is called on the loop, once, when the thread has returned or will never begin."""
        loop = asyncio.get_running_loop()
        settled: asyncio.Future[None] = loop.create_future()
        outcome: list[tuple[object, BaseException | None]] = []

        def settle(value: object, error: BaseException | None) -> None:
            over()
            if not settled.done():
                outcome.append((value, error))
                settled.set_result(None)
            else:
                unheard(error)

        def unheard(error: BaseException | None) -> None:
            if error is not None:
                self._failed(error)  # nobody is left to tell: the log

        def work() -> None:
            value: object = None
            failure: BaseException | None = None
            try:
                value = call()
            except BaseException as error:  # noqa: BLE001 - the thread's supervisor: everything goes to the task
                failure = error
            try:
                loop.call_soon_threadsafe(settle, value, failure)
            except RuntimeError:
                _log.warning("agent returned after the server's end: agent=%s", self._name)
            finally:
                failure = None  # its traceback holds this frame

        try:
            job = self._threads.submit(work)
        except BackendUnavailable:
            over()
            raise
        try:
            await settled
        except asyncio.CancelledError:
            self._threads.abandon(job)
            if outcome:  # it has just returned; what is left in there would hold its own frames
                unheard(outcome.pop()[1])
            if not job.taken:
                over()
            elif not job.done.is_set():
                loop.call_later(self._lost_after_s, self._report_lost, job)
            raise
        value, error = outcome.pop()
        try:
            if error is not None:
                raise error
            return value
        finally:
            del error  # its traceback holds this frame

    def _called_in_thread(self) -> object:
        value = self._form.call(self._turn, self._voice)
        if not isinstance(value, Iterator):
            return value
        return _Iterated(self._iterate_in_thread(value))

    def _iterate_in_thread(self, values: Iterator[object]) -> object:
        """What the generator returns at its end, if anything."""
        feed, put, cancellation = self._answer.feed, self.channel.put_from_thread, self._turn.cancellation
        try:
            while True:
                try:
                    value = next(values)
                except StopIteration as end:
                    return end.value
                if not put(feed, value) or cancellation.requested:
                    return None
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

    def _log_failure(self, message: str) -> None:
        _log.error("agent failed: agent=%s request_id=%s: %s", self._name, self._turn.request_id, message)

    def _report_lost(self, job: Job) -> None:
        if not job.done.is_set():
            _log.warning(
                "agent thread lost: agent=%s request_id=%s; its client left %g s ago and it has not returned, "
                "another thread has its place; let long calls look at turn.cancelled",
                self._name, self._turn.request_id, self._lost_after_s,
            )  # fmt: skip


async def _awaited(value: object) -> object:
    while isinstance(value, Awaitable):
        given = await value
        if given is value:  # something that awaits itself, and would for ever
            break
        value = given
    return value


def _text(error: BaseException) -> str:
    """The exception's text; its type's name where there is none, or where the text alone says nothing."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a stranger's __str__
        text = ""
    if isinstance(error, SystemExit):
        return (
            "the agent called sys.exit (SystemExit)"
            if error.code is None
            else f"the agent called sys.exit (SystemExit: {text})"
        )
    if isinstance(error, KeyError):
        return f"KeyError: {text}"
    return text or type(error).__name__
