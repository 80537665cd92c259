"""Threads for synchronous agents: a pool that a thread which never returns cannot shrink.

Not `ThreadPoolExecutor`, for two reasons. Its threads are joined when the interpreter exits, so one agent stuck in a
call would keep the server from ever stopping; these are daemons. And its workers cannot be replaced: here a job whose
client has left is *abandoned*, and its thread no longer counts, so the next turn gets a thread at once. When the
abandoned job does return, its thread goes back to work if there is room, and ends if there is not. A bound on
abandoned threads keeps a broken agent from filling the process with them: beyond it new jobs are refused, and say
why.
"""

import contextlib
import contextvars
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable

from trunkline.model.errors import BackendUnavailable

MAX_ABANDONED = 512
PREPARED = 64

_log = logging.getLogger("trunkline.agent")


class Job:
    """One call in a thread. `done` is set when it has returned."""

    __slots__ = ("abandoned", "context", "done", "run", "taken")

    def __init__(self, run: Callable[[], None]) -> None:
        self.run = run
        self.context = contextvars.copy_context()  # the caller's
        self.done = threading.Event()
        self.taken = False
        self.abandoned = False


class WorkerThreads:
    """At most `size` threads at work, besides those abandoned."""

    def __init__(self, *, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._threads = 0  # counted ones, idle or at work
        self._idle = 0
        self._abandoned: set[Job] = set()
        self._at_work: set[Job] = set()
        self._closed = False

    @property
    def abandoned(self) -> int:
        """Jobs nobody waits for that have not returned."""
        return len(self._abandoned)

    def prepare(self) -> None:
        """Starts threads ahead of the first turns: starting one costs the loop more than waking one."""
        with self._changed, contextlib.suppress(RuntimeError):  # there may be no more: a turn that gets none says so
            while self._threads < min(self._size, PREPARED) and not self._closed:
                self._hire()

    def submit(self, run: Callable[[], None]) -> Job:
        """Has a thread call `run`, which must not raise.

        Raises BackendUnavailable when too many threads are lost, or there is none and the process may start no more.
        """
        job = Job(run)
        with self._changed:
            if self._closed:
                raise BackendUnavailable(f"agent {self._name!r} is shutting down")
            if len(self._abandoned) >= MAX_ABANDONED:
                raise BackendUnavailable(
                    f"agent {self._name!r}: {MAX_ABANDONED} calls have not returned since their clients left; restart"
                )
            self._waiting.append(job)
            try:
                self._staff()
            except RuntimeError as error:
                if not self._threads:
                    self._waiting.remove(job)
                    raise BackendUnavailable(
                        f"agent {self._name!r}: no thread can be started for it: {error}"
                    ) from error
            self._changed.notify()
        return job

    def abandon(self, job: Job) -> None:
        """Nobody waits for the job any more: one not begun never begins, another stops to count."""
        with self._changed:
            if job.done.is_set() or job.abandoned:
                return
            job.abandoned = True
            if not job.taken:
                self._waiting.remove(job)
                job.done.set()
                return
            self._at_work.discard(job)
            self._abandoned.add(job)
            self._threads -= 1
            with contextlib.suppress(RuntimeError):  # who waits gets the next thread that is free
                self._staff()

    def close(self) -> list[Job]:
        """No further jobs; idle threads end. Gives the jobs still in a thread."""
        with self._changed:
            self._closed = True
            while self._waiting:
                self._waiting.popleft().done.set()
            self._changed.notify_all()
            return [*self._at_work, *self._abandoned]

    def _staff(self) -> None:
        """Starts a thread for a waiting job that no idle thread will take. Raises RuntimeError where there may be no more."""
        if len(self._waiting) > self._idle and self._threads < self._size:
            self._hire()

    def _hire(self) -> None:
        threading.Thread(target=self._work, name=f"agent-{self._name}", daemon=True).start()
        self._threads += 1

    def _work(self) -> None:
        _give_way()
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Whether the thread may go on working. A call of its own: a thread that waits holds nothing of its last job."""
        job = self._next()
        if job is None:
            return False
        job.context.run(job.run)
        return self._returned(job)

    def _next(self) -> Job | None:
        with self._changed:
            while not self._waiting:
                if self._closed:
                    self._threads -= 1
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            job = self._waiting.popleft()
            job.taken = True
            self._at_work.add(job)
            return job

    def _returned(self, job: Job) -> bool:
        """Whether the thread may go on working."""
        with self._changed:
            job.done.set()
            self._at_work.discard(job)
            if not job.abandoned:
                return True
            self._abandoned.discard(job)
            if self._threads >= self._size or self._closed:
                return False
            self._threads += 1
            return True


def _give_way() -> None:
    """Has this thread wait for its turn when it wakes up, where Linux would have it interrupt who runs on its core.

    That is often the loop, which holds the interpreter's lock: the thread would stop it only to wait for it. Its share of
    the processor stays the same. Threads and processes that the agent starts from here inherit this.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
