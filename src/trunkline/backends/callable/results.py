"""Reads what an agent's run returned: a mapping whose fields say how it went.

Only the fields count, never the words in them: an answer that talks about failing is an answer. Numbers of tokens are
taken under the names of either API; where a mapping has both, `prompt_tokens` and `completion_tokens` are the whole,
as the agents that give both mean it.
"""

from collections.abc import Mapping, Sequence

import msgspec

from trunkline import agent as author
from trunkline.backends.redact import redacted
from trunkline.model.errors import AgentError

KEYS = frozenset({"final_response", "messages", "completed", "partial", "failed", "error", "usage"})
_USAGE_KEYS = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))


class PastTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that ran: what it was called with, and what it gave where that is known. `output` None: still running."""

    call_id: str
    name: str
    arguments: object
    output: object = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a run went. `error` is redacted."""

    text: str
    partial: bool
    completed: bool
    failed: bool
    error: str | None
    usage: author.Usage | None
    tools: Sequence[PastTool]

    @property
    def state(self) -> dict[str, bool]:
        return {"completed": self.completed, "partial": self.partial, "failed": self.failed}


def read_result(value: Mapping[object, object]) -> Result:
    """Raises AgentError for a mapping that is no result."""
    if not KEYS & value.keys():
        raise AgentError(f"agent returned a mapping without 'final_response'; it has {sorted(map(str, value))}")
    given = value.get("final_response")
    text = str.__str__(given) if isinstance(given, str) else given or ""  # a subclass may have a truth of its own
    if not isinstance(text, str):
        raise AgentError(f"agent returned a final_response of {type(text).__name__}; expected str")
    failed, completed = bool(value.get("failed")), value.get("completed") in (None, True)
    partial = bool(value.get("partial")) or not (failed or completed)
    return Result(
        text=text,
        partial=partial,
        completed=completed and not (failed or partial),
        failed=failed,
        error=None if value.get("error") is None else redacted(str(value["error"])),
        usage=_usage(value),
        tools=_tools(value.get("messages")),
    )


def checked_usage(usage: author.Usage) -> author.Usage:
    """Raises AgentError where one of its members is no number of tokens."""
    _count(usage.input_tokens, "Usage.input_tokens")
    _count(usage.output_tokens, "Usage.output_tokens")
    for name in ("cached_tokens", "cache_write_tokens", "reasoning_tokens"):
        if getattr(usage, name) is not None:
            _count(getattr(usage, name), f"Usage.{name}")
    details: object = usage.details
    if not isinstance(details, Mapping) or not all(_is_detail(name) for name in details):
        raise AgentError(
            f"agent gave Usage.details as {redacted(repr(details))}; expected counts by names such as 'input.audio_tokens'"
        )
    for name, count in details.items():
        _count(count, f"Usage.details[{name!r}]")
    return usage


def _is_detail(name: object) -> bool:
    return isinstance(name, str) and name.startswith(("input.", "output."))


def _count(value: object, where: str) -> int:
    """A number of tokens. Raises AgentError for what is none."""
    if type(value) is not int or value < 0:  # neither a bool nor any other subclass is a number in JSON
        raise AgentError(f"agent gave {where} as {redacted(repr(value))}; expected an integer, 0 or more")
    return value


def _usage(value: Mapping[object, object]) -> author.Usage | None:
    """A Usage, a mapping, or counts beside the answer."""
    usage = value.get("usage")
    if isinstance(usage, author.Usage):
        return checked_usage(usage)
    for source in (usage, value):
        if not isinstance(source, Mapping):
            continue
        for input_key, output_key in _USAGE_KEYS:
            if input_key in source or output_key in source:
                return author.Usage(
                    *(0 if source.get(key) is None else _count(source[key], key) for key in (input_key, output_key))
                )
    return None


def _tools(messages: object) -> list[PastTool]:
    """The tool runs in a result's `messages`: chat messages, of which only those of this turn count."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        return []
    this_turn: list[Mapping[str, object]] = []
    for message in messages:
        if isinstance(message, Mapping):
            this_turn = [] if message.get("role") == "user" else [*this_turn, message]
    tools: dict[str, PastTool] = {}
    for message in this_turn:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, Sequence) else ():
            tool = _called(call)
            if tool is not None:
                tools[tool.call_id] = tool
        call_id = str(message.get("tool_call_id", ""))
        if message.get("role") == "tool" and call_id in tools:
            content = message.get("content")
            tools[call_id] = msgspec.structs.replace(tools[call_id], output="" if content is None else content)
    return list(tools.values())


def _called(call: object) -> PastTool | None:
    """A chat message's tool call; None where it says nothing of the kind, or the tool is internal."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return None
    call_id, name = str(call.get("id") or ""), str(function.get("name") or "")
    if not call_id or not name or name.startswith("_"):
        return None
    return PastTool(call_id=call_id, name=name, arguments=function.get("arguments"))
