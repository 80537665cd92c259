"""From what an agent yields to events that keep the grammar, whatever it yields.

One class walks the answer: at most one item is open, text and reasoning open theirs when needed, tools close it. It
is fed where the agent runs (on the loop or in a thread) and gives the events of each value back, so that a mapping
the agent changes later has already been written as JSON. TurnStarted comes with the first event: an agent that fails
before it said anything fails as a plain error, with its own status, and not inside a stream.
"""

from collections.abc import Mapping, Sequence

import msgspec

from trunkline import agent as author
from trunkline.backends.redact import redacted
from trunkline.model import events as ev
from trunkline.model.errors import AgentError, AgentIncomplete
from trunkline.model.ids import item_id, new_id
from trunkline.model.items import FunctionCallOutput, TextPart
from trunkline.model.turn import terminal_for
from trunkline.ports.backend import Context

EXPECTED = "str, Reasoning, ToolStarted, ToolFinished, FunctionCall, Usage or None"
EXTENSION = "trunkline"
RESULT_KEYS = frozenset({"final_response", "messages", "completed", "partial", "failed", "error", "usage"})
_USAGE_KEYS = (("input_tokens", "output_tokens"), ("prompt_tokens", "completion_tokens"))


class Answer:
    """Feeds on an agent's values, gives events.

    Args:
        callable_tools: names of the client's tools; None when the backend handles none.
    """

    def __init__(self, context: Context, *, callable_tools: frozenset[str] | None = None) -> None:
        self._context = context
        self._callable_tools = callable_tools
        self._started = False
        self._open: ev.ItemKind | None = None
        self._index = -1
        self._running: dict[str, str] = {}  # call_id -> name of the agent's own tools
        self._called = False

    def feed(self, value: object) -> list[ev.Event]:
        """The events of one yielded value. Raises AgentError for a value that means nothing here."""
        if type(value) is str and self._open == "message":
            return [ev.TextDelta(self._index, value if value.isascii() else _utf8(value))] if value else []
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

    def result(self, value: object) -> list[ev.Event]:
        """The events of what a function returned, to the end of the turn. Raises AgentError, AgentIncomplete."""
        if isinstance(value, Mapping):
            return self._result_mapping(value)
        if isinstance(value, str):
            return [*self.feed(value), *self.end()]
        raise AgentError(
            f"agent returned {_kind(value)}; "
            "expected str, a result mapping with 'final_response', or an iterator of what it says"
        )

    def end(self, finish_reason: ev.FinishReason | None = None) -> list[ev.Event]:
        """The events that end the turn."""
        events: list[ev.Event] = []
        self._close(events)
        self._start(events)
        reason = finish_reason or ("tool_calls" if self._called else "stop")
        events += (ev.ChoiceDone(0, reason), terminal_for((reason,)))
        return events

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
        if not value:
            return
        if self._open != "message":
            self._new_index(events)
            self._open = "message"
            events.append(ev.ItemStarted(index=self._index, kind="message", item_id=self._item_id("msg_")))
        events.append(ev.TextDelta(self._index, _utf8(value)))

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
            return
        events.append(ev.ToolProgress(call_id=call_id, name=name, status="completed", failed=bool(value.failed)))
        self._output(events, call_id=call_id, name=name, output=output)

    def _function_call(self, value: author.FunctionCall, events: list[ev.Event]) -> None:
        name = _name_field(value.name, "FunctionCall.name")
        if self._callable_tools is None:
            raise AgentError(
                f"agent called the client's tool {name!r}, but its backend does not handle client tools; "
                "set client_tools = true"
            )
        if name not in self._callable_tools:
            offered = ", ".join(repr(tool) for tool in sorted(self._callable_tools)) or "none in this turn"
            raise AgentError(f"agent called {name!r}, which is no tool of the client; its tools: {offered}")
        call_id = self._id("call_") if value.call_id is None else _name_field(value.call_id, "FunctionCall.call_id")
        arguments = _json_text(value.arguments, f"the arguments of {name!r}")
        self._call(events, call_id=call_id, name=name, arguments=arguments, hosted=False)
        self._called = True

    def _usage(self, value: author.Usage, events: list[ev.Event]) -> None:
        for count in (
            value.input_tokens,
            value.output_tokens,
            value.cached_tokens,
            value.cache_write_tokens,
            value.reasoning_tokens,
        ):
            _count(count)
        self._start(events)
        events.append(ev.UsageReported(value))

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

    def _output(self, events: list[ev.Event], *, call_id: str, name: str, output: str) -> None:
        index, item_id = self._new_index(events), self._item_id("fco_")
        events.append(
            ev.ItemStarted(
                index=index, kind="function_call_output", item_id=item_id, call_id=call_id, name=name, hosted=True
            )
        )
        item = FunctionCallOutput(
            call_id=call_id, content=(TextPart(output),), as_string=True, name=name, hosted=True, id=item_id
        )
        events.append(ev.ItemDone(index=index, item=item))

    def _result_mapping(self, value: Mapping[object, object]) -> list[ev.Event]:
        if not RESULT_KEYS & value.keys():
            raise AgentError(f"agent returned a mapping without 'final_response'; it has {sorted(map(str, value))}")
        text = value.get("final_response") or ""
        if not isinstance(text, str):
            raise AgentError(f"agent returned a final_response of {_kind(text)}; expected str")
        failed, completed = bool(value.get("failed")), value.get("completed") in (None, True)
        partial = bool(value.get("partial")) or not (failed or completed)
        error = None if value.get("error") is None else redacted(str(value["error"]))
        if not text and (failed or partial):
            raise AgentIncomplete(error or "agent ended without an answer")
        events = self._past_tools(value.get("messages"))
        self._text(text, events)
        usage = _usage_of(value)
        if usage is not None:
            self._usage(usage, events)
        if not (failed or partial):
            return [*events, *self.end()]
        self._start(events)
        state = {"partial": partial, "completed": completed, "failed": failed, "error": error}
        events.append(ev.Extension(name=EXTENSION, payload=msgspec.Raw(msgspec.json.encode(state))))
        if partial:
            return [*events, *self.end("length")]
        # Text that comes with `failed` alone is about the failure: shown, but never a completed answer.
        events += self.end("error")[:-1]
        return [*events, ev.TurnFailed(AgentError(error or redacted(text)).info())]

    def _past_tools(self, messages: object) -> list[ev.Event]:
        """Items for the tool runs in a result's `messages`: chat messages, of which only those of this turn count."""
        events: list[ev.Event] = []
        if not isinstance(messages, Sequence) or isinstance(messages, str):
            return events
        this_turn: list[Mapping[str, object]] = []
        for message in messages:
            if isinstance(message, Mapping):
                this_turn = [] if message.get("role") == "user" else [*this_turn, message]
        names: dict[str, str] = {}
        for message in this_turn:
            calls = message.get("tool_calls")
            for call in calls if isinstance(calls, Sequence) else ():
                call_id, name, arguments = _past_call(call)
                if call_id and name and not name.startswith("_"):
                    names[call_id] = name
                    self._call(events, call_id=call_id, name=name, arguments=arguments, hosted=True)
            call_id = str(message.get("tool_call_id", ""))
            if message.get("role") == "tool" and call_id in names:
                output = _output_text(message.get("content"), call_id)
                self._output(events, call_id=call_id, name=names.pop(call_id), output=output)
        return events

    def _item_id(self, prefix: str) -> str:
        """Of the item that was opened last."""
        return item_id(prefix, self._context.turn_id, self._index)

    def _id(self, prefix: str) -> str:
        return new_id(prefix, self._context.entropy)


def _past_call(call: object) -> tuple[str, str, str]:
    """call_id, name and arguments of a chat message's tool call; empty where it says nothing of the kind."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return "", "", ""
    name = str(function.get("name") or "")
    return str(call.get("id") or ""), name, _json_text(function.get("arguments"), f"the arguments of {name!r}")


def _usage_of(value: Mapping[object, object]) -> author.Usage | None:
    """Usage of a result: a Usage, a mapping, or counts beside the answer, under either API's names."""
    usage = value.get("usage")
    if isinstance(usage, author.Usage):
        return usage
    for source in (usage, value):
        if not isinstance(source, Mapping):
            continue
        for input_key, output_key in _USAGE_KEYS:
            if input_key in source or output_key in source:
                return author.Usage(
                    input_tokens=_count(source.get(input_key)), output_tokens=_count(source.get(output_key))
                )
    return None


def _count(value: object) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or value < 0:
        raise AgentError(f"agent reported usage of {value!r} tokens; expected an integer, 0 or more")
    return value


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _utf8(text: str) -> str:
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
    return _utf8(value)


def _name_field(value: object, where: str) -> str:
    if not _text_field(value, where):
        raise AgentError(f"agent yielded an empty {where}")
    return _text_field(value, where)


def _json_text(value: object, what: str) -> str:
    if isinstance(value, str):
        return _utf8(value)
    try:
        return msgspec.json.encode({} if value is None else value).decode()
    except (TypeError, ValueError, RecursionError) as error:  # also UnicodeEncodeError: a lone surrogate within
        raise AgentError(f"agent gave {what} as something that is not JSON: {redacted(str(error))}") from error


def _output_text(value: object, call_id: str) -> str:
    return "" if value is None else _json_text(value, f"the output of tool call {call_id!r}")
