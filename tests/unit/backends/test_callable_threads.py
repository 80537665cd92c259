"""The thread pool of synchronous agents."""

import os
import sys
import threading
import weakref

import pytest

from trunkline.backends.callable import threads as pool
from trunkline.backends.callable.threads import WorkerThreads
from trunkline.model.errors import BackendUnavailable


def test_a_thread_serves_one_job_after_another() -> None:
    workers = WorkerThreads(size=1, name="t")
    seen: list[int] = []
    for _ in range(3):
        workers.submit(lambda: seen.append(threading.get_ident())).done.wait()
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert workers.close() == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such policy")
def test_an_agents_thread_interrupts_nobody_when_it_wakes_up() -> None:
    workers = WorkerThreads(size=1, name="t")
    policies: list[int] = []
    before = os.sched_getscheduler(0)
    workers.submit(lambda: policies.append(os.sched_getscheduler(0))).done.wait()
    workers.close()
    assert policies == [os.SCHED_BATCH]
    assert os.sched_getscheduler(0) == before  # the loop's own thread


def test_no_more_threads_than_its_size_work_at_once() -> None:
    workers = WorkerThreads(size=2, name="t")
    release, began = threading.Event(), threading.Semaphore(0)

    def work() -> None:
        began.release()
        release.wait()

    jobs = [workers.submit(work) for _ in range(3)]
    began.acquire()
    began.acquire()
    assert not jobs[2].taken
    release.set()
    jobs[2].done.wait()
    workers.close()


def test_an_abandoned_job_that_had_not_begun_never_does() -> None:
    workers = WorkerThreads(size=1, name="t")
    release, ran = threading.Event(), threading.Event()

    def stuck() -> None:
        release.wait()

    first = workers.submit(stuck)
    second = workers.submit(ran.set)
    workers.abandon(second)
    assert second.done.is_set()
    release.set()
    first.done.wait()
    third = workers.submit(lambda: None)
    third.done.wait()
    assert not ran.is_set()
    workers.close()


def test_an_abandoned_thread_is_replaced_and_then_welcome_or_gone() -> None:
    workers = WorkerThreads(size=1, name="t")
    release, began = threading.Event(), threading.Event()

    def stuck() -> None:
        began.set()
        release.wait()

    lost = workers.submit(stuck)
    began.wait()
    workers.abandon(lost)
    workers.abandon(lost)
    assert workers.abandoned == 1
    workers.submit(lambda: None).done.wait()
    release.set()
    lost.done.wait()
    assert workers.abandoned == 0
    for _ in range(5):
        workers.submit(lambda: None).done.wait()
    workers.close()


def test_too_many_lost_threads_are_reported_and_not_added_to() -> None:
    workers = WorkerThreads(size=1, name="bot")
    release = threading.Event()

    def lose_one() -> None:
        began = threading.Event()

        def stuck() -> None:
            began.set()
            release.wait()

        job = workers.submit(stuck)
        began.wait()
        workers.abandon(job)

    for _ in range(pool.MAX_ABANDONED):
        lose_one()
    with pytest.raises(BackendUnavailable, match="agent 'bot': 512 calls have not returned"):
        workers.submit(lambda: None)
    release.set()
    for job in workers.close():
        job.done.wait()


def test_closing_gives_what_still_runs_and_refuses_the_rest() -> None:
    workers = WorkerThreads(size=1, name="bot")
    release, began = threading.Event(), threading.Event()

    def stuck() -> None:
        began.set()
        release.wait()

    running = workers.submit(stuck)
    began.wait()
    waiting = workers.submit(lambda: None)
    assert workers.close() == [running]
    assert waiting.done.is_set()
    with pytest.raises(BackendUnavailable, match="shutting down"):
        workers.submit(lambda: None)
    release.set()
    running.done.wait()


def test_an_idle_thread_holds_nothing_of_its_last_job() -> None:
    class Conversation:
        pass

    def submit(workers: WorkerThreads) -> "weakref.ref[Conversation]":
        conversation = Conversation()
        workers.submit(lambda: seen.append(type(conversation))).done.wait()
        return weakref.ref(conversation)

    seen: list[type] = []
    workers = WorkerThreads(size=1, name="t")
    kept = submit(workers)
    while workers._idle < 1:  # it is done before it is idle again
        pass
    assert kept() is None
    workers.close()


def test_a_job_that_no_thread_can_be_started_for_is_refused_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = WorkerThreads(size=1, name="t")
    ran: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot_start)
        workers.prepare()
        with pytest.raises(
            BackendUnavailable, match="agent 't': no thread can be started for it: can't start new thread"
        ):
            workers.submit(lambda: ran.append("refused"))
    workers.submit(lambda: ran.append("later")).done.wait()
    assert ran == ["later"]
    workers.close()


def test_a_job_waits_for_the_threads_there_are_where_no_more_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = WorkerThreads(size=2, name="t")
    release, began = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        release.wait()

    first = workers.submit(work)
    began.wait()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot_start)
        second = workers.submit(lambda: None)
    release.set()
    first.done.wait()
    second.done.wait()
    workers.close()


def cannot_start(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
