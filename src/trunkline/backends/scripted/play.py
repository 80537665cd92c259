"""Plays one rule to one request: steps become events, in batches, at the script's pace.

The player keeps what a well-behaved backend keeps (the next item index, each choice's open item), so a script says what
happens and not how it is numbered. Raw events are taken as they are and followed: after one the count goes on from it.
A word is a token: that gives `max_output_tokens` and usage a meaning anybody can count.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import assert_never

from trunkline.backends.scripted import script as sc
from trunkline.model import events as ev
from trunkline.model.errors import BackendRejected, TrunklineError
from trunkline.model.ids import item_id, new_id
from trunkline.model.items import FunctionCallOutput, OpaqueItem, TextPart, ToolKind
from trunkline.model.request import Request, Tool
from trunkline.model.tokens import TokenLogprob, TopLogprob
from trunkline.model.turn import terminal_for
from trunkline.model.usage import Usage
from trunkline.ports.backend import Context, EventBatch

_PER_TURN = (sc.PauseStep, sc.StartStep, sc.UsageStep, sc.EventStep, sc.ExtensionStep)
_APART = (sc.ErrorStep, sc.HangStep)  # what was said before them has been heard
ECHO_LOGPROB = -0.1
_WORD = re.compile(r"\s*\S+")
_PIECE = re.compile(r"\s*\S+|\s+")
_PREFIXES: dict[ev.ItemKind, str] = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_"}


def echo_steps(text: str) -> tuple[sc.Step, ...]:
    """The text again, word by word, every space kept."""
    return tuple(sc.TextStep(text=piece) for piece in _PIECE.findall(text))


class _Choice:
    """Where one choice stands."""

    __slots__ = ("called", "done", "index", "kind", "open", "reason", "words")

    def __init__(self) -> None:
        self.open = False
        self.kind: ev.ItemKind = "message"
        self.index = -1
        self.words = 0
        self.called = False
        self.reason: ev.FinishReason | None = None
        self.done = False


class Player:
    """One answer. `input_words` is the length of the conversation."""

    def __init__(self, rule: sc.Rule, request: Request, context: Context, *, delay_s: float, input_words: int) -> None:
        self._rule = rule
        self._request = request
        self._context = context
        self._delay_s = delay_s
        self._input_words = input_words
        self._out: list[ev.Event] = []
        self._started = rule.begin == "missing"
        self._ended = False
        self._next_index = 0
        self._runs = 0
        self._choices: dict[int, _Choice] = {}
        self._usage_reported = not rule.usage

    async def batches(self) -> AsyncGenerator[EventBatch, None]:
        everyone = range(self._request.n)
        for step in self._rule.steps:
            delay_s = step.pause_s if isinstance(step, sc.PauseStep) else step.delay_s
            if delay_s is None:
                delay_s = self._delay_s
            per_turn = isinstance(step, _PER_TURN)
            for _ in range(step.repeat):
                if delay_s or len(self._out) >= self._rule.batch or isinstance(step, _APART):
                    for batch in self._cut():
                        yield batch
                    await asyncio.sleep(delay_s)  # 0 lets the others go on: a long script must not hold the loop
                if isinstance(step, sc.HangStep):
                    await asyncio.get_running_loop().create_future()
                for choice in (step.choice or 0,) if per_turn or step.choice is not None else everyone:
                    self._play(step, choice)
        self._end()
        for batch in self._cut():
            yield batch

    def _cut(self) -> list[list[ev.Event]]:
        """What gathered, in batches of the rule's size."""
        out, self._out, size = self._out, [], self._rule.batch
        return [out[start : start + size] for start in range(0, len(out), size)]

    def _play(self, step: sc.Step, number: int) -> None:
        match step:
            case sc.TextStep():
                self._text(step, number)
            case sc.ReasoningStep():
                if text := self._allowed(step.reasoning, number):
                    self._emit(ev.ReasoningDelta(self._item("reasoning", number), text))
            case sc.SummaryStep():
                if text := self._allowed(step.summary, number):
                    self._emit(ev.SummaryDelta(self._item("reasoning", number), text, step.part))
            case sc.RefusalStep():
                if text := self._allowed(step.refusal, number):
                    self._emit(ev.RefusalDelta(self._item("message", number), text))
            case sc.CallStep():
                self._call(step, number)
            case sc.RunStep():
                self._run(step, number)
            case sc.ItemStep():
                self._opaque(step, number)
            case sc.ApprovalStep():
                call_id = step.call_id or self._id("call_")
                self._emit(ev.ApprovalRequested(call_id, step.approval, step.text, step.choices))
                if step.answer is not None:
                    self._emit(ev.ApprovalResolved(call_id, step.answer))
            case sc.ExtensionStep():
                self._emit(ev.Extension(name=step.extension, payload=step.payload, choice=step.choice))
            case sc.UsageStep():
                self._usage_reported = True
                self._emit(ev.UsageReported(step.usage))
            case sc.FinishStep():
                self._finish(number, step.finish)
            case sc.ErrorStep():
                self._fail(step)
            case sc.StartStep():
                self._start()
            case sc.CloseStep():
                self._close(number)
            case sc.EventStep():
                self._raw(step.event)
            case sc.PauseStep() | sc.HangStep():
                pass
            case _:
                raise TypeError(f"no such step: {type(step).__name__}")

    def _start(self) -> None:
        if not self._started:
            self._started = True
            context = self._context
            self._out.append(ev.TurnStarted(context.turn_id, context.backend_model, context.created_at))

    def _emit(self, event: ev.Event) -> None:
        self._start()
        self._out.append(event)

    def _choice(self, number: int) -> _Choice:
        choice = self._choices.get(number)
        if choice is None:
            choice = self._choices[number] = _Choice()
        return choice

    def _close(self, number: int) -> None:
        choice = self._choice(number)
        if choice.open:
            choice.open = False
            self._emit(ev.ItemDone(index=choice.index))

    def _item(self, kind: ev.ItemKind, number: int) -> int:
        """The index of the choice's open item of that kind; opens one where there is none."""
        choice = self._choice(number)
        if choice.open and choice.kind == kind:
            return choice.index
        index = self._opened(number)
        choice.open, choice.kind, choice.index = True, kind, index
        self._emit(ev.ItemStarted(index=index, kind=kind, choice=number, item_id=self._item_id(_PREFIXES[kind])))
        return index

    def _opened(self, number: int) -> int:
        """A new item's index, the one before it closed."""
        self._close(number)
        self._next_index += 1
        return self._next_index - 1

    def _allowed(self, text: str, number: int) -> str:
        """As much of the text as `max_output_tokens` leaves room for; the choice then ends with `length`."""
        choice, limit = self._choice(number), self._request.max_output_tokens
        if choice.reason == "length":
            return ""
        words = len(text.split())
        if limit is not None and choice.words + words > limit:
            text = "".join(_WORD.findall(text)[: limit - choice.words])
            words = limit - choice.words
            choice.reason = "length"
        choice.words += words
        return text

    def _text(self, step: sc.TextStep, number: int) -> None:
        text = self._allowed(step.text, number)
        if not text:
            return
        index = self._item("message", number)
        logprobs = self._logprobs(text, step.logprob)
        if step.token_ids or logprobs:
            self._emit(ev.TokensDelta(index, step.token_ids, logprobs))
        self._emit(ev.TextDelta(index, text))
        if bytes(step.annotation):
            self._emit(ev.AnnotationAdded(index, step.annotation))

    def _logprobs(self, text: str, logprob: float | None) -> tuple[TokenLogprob, ...]:
        if logprob is None:
            if not self._request.logprobs:
                return ()
            logprob = ECHO_LOGPROB
        top = [TopLogprob(text, logprob, tuple(text.encode()))] + [
            TopLogprob(f"<{rank}>", logprob - rank, tuple(f"<{rank}>".encode()))
            for rank in range(1, self._request.top_logprobs or 0)
        ]
        return (TokenLogprob(text, logprob, tuple(text.encode()), top=tuple(top[: self._request.top_logprobs or 0])),)

    def _call(self, step: sc.CallStep, number: int) -> None:
        choice = self._choice(number)
        if choice.reason == "length":
            return
        choice.called = True
        index = self._opened(number)
        self._emit(
            ev.ItemStarted(
                index=index,
                kind="function_call",
                choice=number,
                item_id=self._item_id("fc_"),
                call_id=step.call_id or self._id("call_"),
                name=step.call,
                tool=self._tool_kind(step.call),
            )
        )
        for piece in step.arguments:
            self._emit(ev.ArgumentsDelta(index, piece))
        self._emit(ev.ItemDone(index=index))

    def _tool_kind(self, name: str) -> ToolKind:
        """As the client declared it."""
        return next(
            (tool.kind for tool in self._request.tools if isinstance(tool, Tool) and tool.name == name), "function"
        )

    def _run(self, step: sc.RunStep, number: int) -> None:
        if self._runs == self._request.max_tool_calls:  # "any further attempts to call a tool … will be ignored"
            return
        self._runs += 1
        call_id, index = step.call_id or self._id("call_"), self._opened(number)
        self._emit(
            ev.ItemStarted(
                index=index,
                kind="function_call",
                choice=number,
                item_id=self._item_id("fc_"),
                call_id=call_id,
                name=step.run,
                hosted=True,
            )
        )
        self._emit(ev.ArgumentsDelta(index, step.arguments))
        self._emit(ev.ItemDone(index=index))
        self._emit(ev.ToolProgress(call_id=call_id, name=step.run, status="running", label=step.label))
        self._emit(ev.ToolProgress(call_id=call_id, name=step.run, status="completed", failed=step.failed))
        index, item_id = self._opened(number), self._item_id("fco_")
        item = FunctionCallOutput(
            call_id=call_id,
            content=(TextPart(step.output),),
            as_string=True,
            name=step.run,
            hosted=True,
            failed=step.failed,
            id=item_id,
        )
        self._emit(
            ev.ItemStarted(
                index=index,
                kind="function_call_output",
                choice=number,
                item_id=item_id,
                call_id=call_id,
                name=step.run,
                hosted=True,
            )
        )
        self._emit(ev.ItemDone(index=index, item=item))

    def _opaque(self, step: sc.ItemStep, number: int) -> None:
        index, item_id = self._opened(number), self._item_id("item_")
        self._emit(
            ev.ItemStarted(index=index, kind="opaque", choice=number, item_id=item_id, name=step.item, hosted=True)
        )
        item = OpaqueItem(wire_type=step.item, dialect=step.dialect, payload=step.payload, id=item_id)
        self._emit(ev.ItemDone(index=index, item=item))

    def _finish(self, number: int, reason: ev.FinishReason) -> None:
        self._close(number)
        choice = self._choice(number)
        choice.done, choice.reason = True, reason
        self._emit(ev.ChoiceDone(number, reason))

    def _fail(self, step: sc.ErrorStep) -> None:
        error: TrunklineError
        if step.error == "bug":
            raise RuntimeError(step.message)
        if step.error == "rejected":
            error = BackendRejected(step.message, status=step.status, code=step.code)
        else:
            error = sc.ERRORS[step.error](step.message, code=step.code, retry_after_s=step.retry_after_s)
        if not step.as_event:
            raise error
        self._ended = True
        self._emit(ev.TurnFailed(error.info()))

    def _raw(self, event: ev.Event) -> None:
        match event:
            case ev.TurnStarted():
                self._started = True
            case ev.ItemStarted():
                self._next_index = event.index + 1
                choice = self._choice(event.choice)
                choice.open, choice.kind, choice.index = True, event.kind, event.index
            case ev.ItemDone():
                for choice in self._choices.values():
                    choice.open = choice.open and choice.index != event.index
            case ev.ChoiceDone():
                choice = self._choice(event.choice)
                choice.done, choice.reason = True, event.finish_reason
            case ev.UsageReported():
                self._usage_reported = True
            case ev.TurnCompleted() | ev.TurnIncomplete() | ev.TurnFailed() | ev.TurnCancelled():
                self._ended = True
            case _:
                pass
        self._emit(event)

    def _end(self) -> None:
        """What the rule's `end` leaves to be said."""
        if self._ended or self._rule.end == "cut":
            return
        for number in range(self._request.n):
            self._choice(number)
        for number, choice in sorted(self._choices.items()):
            if not choice.done:
                self._finish(number, choice.reason or ("tool_calls" if choice.called else "stop"))
        if not self._usage_reported:
            words = sum(choice.words for choice in self._choices.values())
            self._emit(ev.UsageReported(Usage(input_tokens=self._input_words, output_tokens=words)))
        match self._rule.end:
            case "auto":
                self._emit(terminal_for(choice.reason or "stop" for choice in self._choices.values()))
            case "completed":
                self._emit(ev.TurnCompleted())
            case "cancelled":
                self._emit(ev.TurnCancelled())
            case "missing":
                pass
            case never:
                assert_never(never)

    def _item_id(self, prefix: str) -> str:
        """Of the item that was opened last."""
        return item_id(prefix, self._context.turn_id, self._next_index - 1)

    def _id(self, prefix: str) -> str:
        return new_id(prefix, self._context.entropy)


__all__ = ["ECHO_LOGPROB", "Player", "echo_steps"]
