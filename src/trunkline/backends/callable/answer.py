"""From what an agent yields to events that keep the grammar, whatever it yields.

One class walks the answer: at most one item is open, text and reasoning open theirs when needed, tools close it. It
is fed where the agent runs (on the loop or in a thread) and gives the events of each value back, so that a mapping
the agent changes later has already been written as JSON. TurnStarted comes with the first event: an agent that fails
before it said anything fails as a plain error, with its own status, and not inside a stream.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from trunkline import agent as author
from trunkline.backends.callable.results import Result, checked_usage, read_result
from trunkline.backends.redact import redacted
from trunkline.model import events as ev
from trunkline.model.errors import AgentError, AgentIncomplete
from trunkline.model.ids import item_id, new_id
from trunkline.model.items import FunctionCallOutput, TextPart
from trunkline.model.turn import terminal_for
from trunkline.ports.backend import Context

EXPECTED = "str, Reasoning, ToolStarted, ToolFinished, FunctionCall, Usage or None"
EXTENSION = "trunkline"


class Streamed(Protocol):
    """What an agent has said through its callbacks before it returned its answer."""

    @property
    def spoken(self) -> bool:
        """Whether that was any text."""
        ...

    @property
    def used_tools(self) -> bool: ...

    def missing(self, final: str) -> str:
        """What of the whole answer has not been said yet."""
        ...


class Answer:
    """Feeds on an agent's values, gives events.

    Args:
        callable_tools: names of the client's tools; None when the backend handles none.
        tools_remedy: where the agent's author says that it shall.

    Attributes:
        answered: whether there is any text in it, or a call that the client has to answer.
        failure: how the run failed, where it told so beside an answer.
        stray: call_id of the first tool that ended and was not running; what ends so is dropped.
    """

    def __init__(
        self, context: Context, *, callable_tools: frozenset[str] | None = None, tools_remedy: str = ""
    ) -> None:
        self._context = context
        self._tools_remedy = tools_remedy
        self._callable_tools = callable_tools
        self._started = False
        self._open: ev.ItemKind | None = None
        self._index = -1
        self._running: dict[str, str] = {}  # call_id -> name of the agent's own tools
        self._hidden: set[str] = set()  # call_ids of running tools that are nobody's business
        self._called = self._worded = False
        self.failure: str | None = None
        self.stray: str | None = None

    @property
    def answered(self) -> bool:
        return self._worded or self._called

    def feed(self, value: object) -> list[ev.Event]:
        """The events of one yielded value. Raises AgentError for a value that means nothing here."""
        if type(value) is str and self._open == "message":
            return [ev.TextDelta(self._index, value if value.isascii() else utf8(value))] if value else []
        events: list[ev.Event] = []
        match value:
            case None:
                pass
            case str():
                self._text(value, events)
            case author.Reasoning():
                self._reasoning(value, events)
            case author.ToolStarted():
                self._tool_started(value, events)
            case author.ToolFinished():
                self._tool_finished(value, events)
            case author.FunctionCall():
                self._function_call(value, events)
            case author.Usage():
                self._usage(value, events)
            case _:
                raise AgentError(f"agent yielded {_kind(value)}; expected {EXPECTED}")
        return events

    def result(self, value: object, streamed: Streamed | None = None) -> list[ev.Event]:
        """The events of what a function returned, to the end of the turn. Raises AgentError, AgentIncomplete."""
        if isinstance(value, Mapping):
            return self._result(read_result(value), streamed)
        if isinstance(value, str):
            return [*self.feed(value if streamed is None else streamed.missing(value)), *self.end()]
        raise AgentError(
            f"agent returned {_kind(value)}; "
            "expected str, a result mapping with 'final_response', or an iterator of what it says"
        )

    def returned(self, value: object) -> list[ev.Event]:
        """The events of what a generator returned, to the end of the turn. Raises AgentError where it has said something before."""
        if self._index >= 0:
            raise AgentError(
                f"agent returned {_kind(value)} after it had yielded; yield it: what a generator returns is its answer only "
                "where it has said nothing"
            )
        return self.result(value)

    def end(self, finish_reason: ev.FinishReason | None = None) -> list[ev.Event]:
        """The events that end the turn."""
        events = self.cut()
        self._close(events)
        self._start(events)
        reason = finish_reason or ("tool_calls" if self._called else "stop")
        events += (ev.ChoiceDone(0, reason), terminal_for((reason,)))
        return events

    def cut(self, _: object = None) -> list[ev.Event]:
        """The turn ends: tools that are still running did not come to an end of their own."""
        events: list[ev.Event] = []
        for call_id, name in self._running.items():
            events.append(ev.ToolProgress(call_id=call_id, name=name, status="completed", failed=True))
            self._output(events, call_id=call_id, name=name)
        self._running.clear()
        return events

    def note(self, event: ev.ApprovalRequested | ev.ApprovalResolved) -> list[ev.Event]:
        """An event that belongs to no item."""
        events: list[ev.Event] = []
        self._start(events)
        return [*events, event]

    def _start(self, events: list[ev.Event]) -> None:
        if not self._started:
            self._started = True
            context = self._context
            events.append(ev.TurnStarted(context.turn_id, context.backend_model, context.created_at))

    def _close(self, events: list[ev.Event]) -> None:
        if self._open is not None:
            self._open = None
            events.append(ev.ItemDone(index=self._index))

    def _new_index(self, events: list[ev.Event]) -> int:
        self._start(events)
        self._close(events)
        self._index += 1
        return self._index

    def _text(self, value: str, events: list[ev.Event]) -> None:
        value = utf8(value)
        if not value:
            return
        if self._open != "message":
            self._new_index(events)
            self._open = "message"
            self._worded = True
            events.append(ev.ItemStarted(index=self._index, kind="message", item_id=self._item_id("msg_")))
        events.append(ev.TextDelta(self._index, value))

    def _reasoning(self, value: author.Reasoning, events: list[ev.Event]) -> None:
        text = _text_field(value.text, "Reasoning.text")
        if not text:
            return
        if self._open != "reasoning":
            self._new_index(events)
            self._open = "reasoning"
            events.append(ev.ItemStarted(index=self._index, kind="reasoning", item_id=self._item_id("rs_")))
        events.append(ev.ReasoningDelta(self._index, text))

    def _tool_started(self, value: author.ToolStarted, events: list[ev.Event]) -> None:
        call_id, name = _name_field(value.call_id, "ToolStarted.call_id"), _name_field(value.name, "ToolStarted.name")
        if name.startswith("_"):
            self._hidden.add(call_id)
            return
        if call_id in self._running:
            raise AgentError(f"agent started tool call {call_id!r} twice; each run needs a call_id of its own")
        arguments = _json_text(value.arguments, f"the arguments of tool {name!r}")
        label = None if value.label is None else _text_field(value.label, "ToolStarted.label")
        self._running[call_id] = name
        self._call(events, call_id=call_id, name=name, arguments=arguments, hosted=True)
        events.append(ev.ToolProgress(call_id=call_id, name=name, status="running", label=label))

    def _tool_finished(self, value: author.ToolFinished, events: list[ev.Event]) -> None:
        call_id = _name_field(value.call_id, "ToolFinished.call_id")
        output = _output_text(value.output, call_id)
        name = self._running.pop(call_id, None)
        if name is None:
            self._not_running(call_id)
            return
        events.append(ev.ToolProgress(call_id=call_id, name=name, status="completed", failed=bool(value.failed)))
        self._output(events, call_id=call_id, name=name, output=output, failed=bool(value.failed))

    def _not_running(self, call_id: str) -> None:
        if call_id in self._hidden:
            self._hidden.discard(call_id)
        elif self.stray is None:
            self.stray = call_id

    def _function_call(self, value: author.FunctionCall, events: list[ev.Event]) -> None:
        name = _name_field(value.name, "FunctionCall.name")
        if self._callable_tools is None:
            raise AgentError(
                f"agent called the client's tool {name!r}, but its backend does not handle client tools; {self._tools_remedy}"
            )
        if name not in self._callable_tools:
            offered = ", ".join(repr(tool) for tool in sorted(self._callable_tools)) or "none in this turn"
            raise AgentError(f"agent called {name!r}, which is no tool of the client; its tools: {offered}")
        call_id = self._id("call_") if value.call_id is None else _name_field(value.call_id, "FunctionCall.call_id")
        arguments = _json_text(value.arguments, f"the arguments of {name!r}")
        self._call(events, call_id=call_id, name=name, arguments=arguments, hosted=False)
        self._called = True

    def _usage(self, value: author.Usage, events: list[ev.Event]) -> None:
        self._start(events)
        events.append(ev.UsageReported(checked_usage(value)))

    def _call(self, events: list[ev.Event], *, call_id: str, name: str, arguments: str, hosted: bool) -> None:
        index = self._new_index(events)
        events.append(
            ev.ItemStarted(
                index=index,
                kind="function_call",
                item_id=self._item_id("fc_"),
                call_id=call_id,
                name=name,
                hosted=hosted,
            )
        )
        if arguments:
            events.append(ev.ArgumentsDelta(index, arguments))
        events.append(ev.ItemDone(index=index))

    def _output(
        self, events: list[ev.Event], *, call_id: str, name: str, output: str | None = None, failed: bool = False
    ) -> None:
        """What a tool gave; None where it never came to an end."""
        index, item_id = self._new_index(events), self._item_id("fco_")
        events.append(
            ev.ItemStarted(
                index=index, kind="function_call_output", item_id=item_id, call_id=call_id, name=name, hosted=True
            )
        )
        item = FunctionCallOutput(
            call_id=call_id,
            content=(TextPart(output or ""),),
            as_string=True,
            name=name,
            hosted=True,
            failed=failed,
            id=item_id,
            status="incomplete" if output is None else "completed",
        )
        events.append(ev.ItemDone(index=index, item=item))

    def _result(self, result: Result, streamed: Streamed | None) -> list[ev.Event]:
        failed, partial = result.failed, result.partial
        said = streamed is not None and streamed.spoken
        if not (result.text or said) and (failed or partial):
            raise AgentIncomplete(result.error or "agent ended without an answer", state=result.state)
        events: list[ev.Event] = []
        if streamed is None or not streamed.used_tools:  # else they have been told as they ran
            self._past_tools(result, events)
        if not (failed and redacted(result.text) == result.error):  # the text is the error, which follows
            self._text(result.text if streamed is None else streamed.missing(result.text), events)
        if result.usage is not None:
            self._usage(result.usage, events)
        if not (failed or partial):
            return [*events, *self.end()]
        self._start(events)
        state = {**result.state, "error": result.error, "error_code": "output_truncated" if partial else "agent_error"}
        events.append(ev.Extension(name=EXTENSION, payload=msgspec.Raw(msgspec.json.encode(state))))
        if partial:
            return [*events, *self.end("length")]
        # Text that comes with `failed` alone is about the failure: shown, but never a completed answer.
        events += self.end("error")[:-1]
        error = AgentError(result.error or redacted(result.text) or "agent failed").info()
        self.failure = error.message
        return [*events, ev.TurnFailed(msgspec.structs.replace(error, state=result.state))]

    def _past_tools(self, result: Result, events: list[ev.Event]) -> None:
        for tool in result.tools:
            call_id, name = utf8(tool.call_id), utf8(tool.name)
            arguments = _json_text(tool.arguments, f"the arguments of {name!r}")
            self._call(events, call_id=call_id, name=name, arguments=arguments, hosted=True)
            output = None if tool.output is None else _output_text(tool.output, call_id)
            self._output(events, call_id=call_id, name=name, output=output)

    def _item_id(self, prefix: str) -> str:
        """Of the item that was opened last."""
        return item_id(prefix, self._context.turn_id, self._index)

    def _id(self, prefix: str) -> str:
        return new_id(prefix, self._context.entropy)


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def utf8(text: str) -> str:
    """The text as UTF-8 can carry it: a surrogate pair becomes its character, a lone surrogate U+FFFD."""
    text = str.__str__(text)  # a subclass becomes a plain string
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _text_field(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise AgentError(f"agent yielded {where} of {_kind(value)}; expected str")
    return utf8(value)


def _name_field(value: object, where: str) -> str:
    if not _text_field(value, where):
        raise AgentError(f"agent yielded an empty {where}")
    return _text_field(value, where)


def _json_text(value: object, what: str) -> str:
    if isinstance(value, str):
        return utf8(value)
    try:
        return msgspec.json.encode({} if value is None else value, enc_hook=_plain).decode()
    except (TypeError, ValueError, RecursionError) as error:  # also UnicodeEncodeError: a lone surrogate within
        raise AgentError(f"agent gave {what} as something that is not JSON: {redacted(str(error))}") from error


def _plain(value: object) -> str:
    """A choice of the user's within is a string of a class of its own, which msgspec does not know."""
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


def _output_text(value: object, call_id: str) -> str:
    return "" if value is None else _json_text(value, f"the output of tool call {call_id!r}")
