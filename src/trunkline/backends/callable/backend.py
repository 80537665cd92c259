"""Answers with a Python agent.

Each turn has a task of its own that runs the agent, or waits for the thread that does, and a channel that carries
events to the reader. The task, not the reader, drives the agent: an agent's cancel scopes and context variables then
live in one task whatever the reader does, and what the agent says without pause travels as one batch.

How it is called follows from its form: async generator functions and coroutine functions on the loop, everything else
in a thread of the backend's own pool (`threads`), where what it returns is iterated too. When the reader leaves, the
task is cancelled, a thread is told at its next yield and no longer counts. What an agent raises is an AgentError with
its text, redacted; the traceback is in the log only. That includes SystemExit and KeyboardInterrupt: asyncio would
stop the whole server for them.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

import msgspec

from trunkline.backends.callable.answer import Answer
from trunkline.backends.callable.channel import Channel
from trunkline.backends.callable.doorbell import Doorbell
from trunkline.backends.callable.form import Form
from trunkline.backends.callable.forms import EVERY_PART, form_of
from trunkline.backends.callable.loading import Target, load_target, parse_target
from trunkline.backends.callable.questions import Questions
from trunkline.backends.callable.run import Run
from trunkline.backends.callable.threads import WorkerThreads
from trunkline.backends.callable.turns import turn_for
from trunkline.config.expect import join
from trunkline.config.schema import PythonSettings
from trunkline.model.errors import BackendUnavailable, ConfigError
from trunkline.model.request import Request
from trunkline.ports.backend import SAMPLING_HINTS, BackendSetup, Capabilities, Context, EventBatch, ModelInfo

STOP_WITHIN_S = 4.0
"""How long a cancelled agent may clean up before nobody waits for it any more; the engine's own patience is longer."""

LOST_AFTER_S = 10.0
"""How long after its client left a thread may go on before the log says so."""

_log = logging.getLogger("trunkline.agent")

Found = TypeVar("Found")


class PythonBackend:
    """One agent.

    Args:
        agent: the agent itself, where the program that embeds us has it; `settings.target` is then only its name.
        stop_within_s: seconds that a cancelled agent gets to clean up.
        lost_after_s: seconds after which the log names a thread that outlives its client.
    """

    def __init__(
        self,
        settings: PythonSettings,
        setup: BackendSetup,
        *,
        agent: object = None,
        stop_within_s: float = STOP_WITHIN_S,
        lost_after_s: float = LOST_AFTER_S,
    ) -> None:
        self._settings = settings
        self._stop_within_s = stop_within_s
        self._lost_after_s = lost_after_s
        self._base_dir = setup.base_dir
        self._handles_tools = settings.client_tools is True
        self._tools_remedy = _tools_remedy(setup.name, given=agent is not None)
        self.capabilities = self._declared(ignores_tools=setup.ignores_tools or settings.client_tools == "ignore")
        self._key = f"backends.{setup.name}.target" if agent is None else "agent"
        self._given = agent
        self._form: Form | None = None
        self._doorbell: Doorbell | None = None
        self._alone: asyncio.Lock | None = None
        self._target = None if agent is not None else self._located(self._parsed)
        self._name = setup.model_name or (self._target.name if self._target is not None else settings.target)
        self._threads = WorkerThreads(size=settings.max_concurrency, name=self._name)
        self._running: dict[asyncio.Task[None], Run] = {}
        self._closed = False

    def check(self) -> None:
        """Imports the agent, without starting anything. Raises ConfigError, with the author's line where it failed."""
        if self._form is None:
            self._form = self._located(self._load)
            self.capabilities = msgspec.structs.replace(self.capabilities, parts=self._form.parts)

    async def start(self) -> None:
        self.check()
        if self._form is not None and not self._form.on_loop:
            self._threads.prepare()

    async def close(self) -> None:
        self._closed = True
        for task, run in self._running.items():
            run.abort(BackendUnavailable(f"agent {self._name!r} is shutting down"))
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=self._stop_within_s)
        remaining = self._threads.close()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._stop_within_s
        while remaining and loop.time() < until:
            await asyncio.sleep(0.01)
            remaining = [job for job in remaining if not job.done.is_set()]
        if self._running or remaining:
            _log.warning(
                "agent did not stop: agent=%s tasks=%d threads=%d waited_s=%g; they end with the process",
                self._name, len(self._running), len(remaining), self._stop_within_s,
            )  # fmt: skip

    async def models(self) -> Sequence[ModelInfo]:
        return (ModelInfo(id=self._name),)

    async def open(self, request: Request, context: Context) -> AsyncIterator[EventBatch]:
        if self._form is None or self._closed:
            raise BackendUnavailable(f"agent {self._name!r} is {'shutting down' if self._closed else 'not started'}")
        loop = asyncio.get_running_loop()
        if self._doorbell is None or self._doorbell.loop is not loop:
            self._doorbell = Doorbell(loop)
            self._alone = asyncio.Lock() if self._form.exclusive else None
        run = self._run(self._form, request, context, Channel(clock=context.clock, doorbell=self._doorbell))
        # Its name is what the log says of it, where it holds the loop or does not end.
        task = asyncio.create_task(run.drive(), name=f"agent={self._name} request_id={context.request_id}")
        self._running[task] = run
        task.add_done_callback(self._running.pop)
        try:
            while batch := await run.channel.take():
                yield batch
        finally:
            if not task.done():
                await self._stop(task, run)
            run.channel.close()  # a thread of the agent's own may still speak, and wait for room

    def _declared(self, *, ignores_tools: bool) -> Capabilities:
        """What is known before the agent is imported."""
        tools = frozenset({"tools", "tool_choice"})
        return Capabilities(
            parameters=tools if self._handles_tools else frozenset(),
            hints=SAMPLING_HINTS | tools if ignores_tools else SAMPLING_HINTS,
            remedies=dict.fromkeys(tools, self._tools_remedy),
            parts=EVERY_PART,
            streaming=self._settings.streaming,
            acts=True,
        )

    def _run(self, form: Form, request: Request, context: Context, channel: Channel) -> Run:
        settings = self._settings
        turn = turn_for(request, context, history=settings.history, client_tools=self._handles_tools)
        callable_tools = frozenset([tool.name for tool in turn.tools]) if self._handles_tools else None
        answer = Answer(context, callable_tools=callable_tools, tools_remedy=self._tools_remedy)
        questions = Questions(context=context, channel=channel, answer=answer, timeout_s=settings.approval_timeout_s)
        return Run(
            form=form,
            name=self._name,
            turn=msgspec.structs.replace(turn, ask=questions.ask),
            answer=answer,
            channel=channel,
            questions=questions,
            threads=self._threads,
            alone=self._alone,
            lost_after_s=self._lost_after_s,
        )

    async def _stop(self, task: asyncio.Task[None], run: Run) -> None:
        run.abort()
        task.cancel()
        _, running = await asyncio.wait({task}, timeout=self._stop_within_s)
        if running:
            _log.warning("agent ignores cancellation: agent=%s waited_s=%g", self._name, self._stop_within_s)

    def _parsed(self) -> Target:
        return parse_target(self._settings.target, base_dir=self._base_dir)

    def _load(self) -> Form:
        if self._target is None:
            return form_of(self._given, self._name)
        return form_of(load_target(self._target, base_dir=self._base_dir), self._settings.target)

    def _located(self, find: Callable[[], Found]) -> Found:
        """What `find` gives; its ConfigError then says which setting led there."""
        try:
            return find()
        except ConfigError as error:
            raise ConfigError(error.message, key=self._key) from error.__cause__


def _tools_remedy(name: str, *, given: bool) -> str:
    """Where an agent's author says that it takes tools. `given`: to `create_app`."""
    made = "an agent that wants its clients' tools has to be"
    if given:
        wanted = f'{made} made with create_app(…, backend={{"client_tools": True}})'
        return f'{wanted}, one that can do without with {{"client_tools": "ignore"}}'
    return (
        f"{made} configured with client_tools = true below [{join('backends', name)}] in a configuration file "
        '(trunkline serve --config FILE), one that can do without with client_tools = "ignore"'
    )


def build(settings: PythonSettings, setup: BackendSetup) -> PythonBackend:
    return PythonBackend(settings, setup, agent=setup.agent)
