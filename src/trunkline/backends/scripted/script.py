"""A script as values, and from a TOML file to those values.

A script is a list of rules, tried in order; a rule is a list of steps. What a step does is said by the key that only
its kind has (`text`, `call`, `error`, …), so a table reads as a sentence and needs no `type`. A table goes through JSON
into its Struct: that is what turns a `payload` into the wire's JSON and an `event` into the event itself.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeVar

import msgspec

from trunkline.config.expect import join, unknown
from trunkline.model.errors import (
    AgentError,
    AgentIncomplete,
    BackendError,
    BackendProtocolError,
    BackendRateLimited,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
)
from trunkline.model.events import Event, FinishReason
from trunkline.model.usage import Usage

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]

ERRORS: Mapping[str, type[BackendError]] = MappingProxyType(
    {
        "unavailable": BackendUnavailable,
        "timeout": BackendTimeout,
        "rate_limited": BackendRateLimited,
        "protocol": BackendProtocolError,
        "agent": AgentError,
        "incomplete": AgentIncomplete,
    }
)
"""Kinds of scripted errors with a status of their own. `rejected` has the script's, `bug` is a plain exception."""


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every step may say.

    Attributes:
        choice: which choice it belongs to; absent: all of the `n` that were asked for.
        repeat: how often it happens.
        delay_s: seconds of silence before each time; absent: the backend's `delay_s`.
    """

    choice: Annotated[int, msgspec.Meta(ge=0)] | None = None
    repeat: Count = 1
    delay_s: Seconds | None = None


class TextStep(Step, frozen=True, kw_only=True):
    """A piece of the answer. `token_ids` and `logprob` are its exact tokens; `annotation` is a citation on it."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprob: float | None = None
    annotation: msgspec.Raw = msgspec.Raw()  # empty: none; msgspec reads no object into `Raw | None`


class ReasoningStep(Step, frozen=True, kw_only=True):
    reasoning: str


class SummaryStep(Step, frozen=True, kw_only=True):
    """A piece of the summary of the reasoning; `part` counts its paragraphs."""

    summary: str
    part: int = 0


class RefusalStep(Step, frozen=True, kw_only=True):
    refusal: str


class CallStep(Step, frozen=True, kw_only=True):
    """A call of a client's tool, its arguments in pieces: JSON, or whatever text a custom tool takes."""

    call: str
    arguments: tuple[str, ...] = ("{}",)
    call_id: str | None = None


class RunStep(Step, frozen=True, kw_only=True):
    """A tool that the backend runs itself, from start to end."""

    run: str
    arguments: str = "{}"
    output: str = ""
    label: str | None = None
    failed: bool = False
    call_id: str | None = None


class ItemStep(Step, frozen=True, kw_only=True):
    """An item whose type is not among ours."""

    item: str
    payload: msgspec.Raw = msgspec.Raw(b"{}")
    dialect: str = "openai_responses"


class ApprovalStep(Step, frozen=True, kw_only=True):
    """Asks for leave to use a tool. `answer` is what comes back; absent: nothing does."""

    approval: str
    text: str = ""
    choices: tuple[str, ...] = ("once", "session", "always", "deny")
    answer: str | None = None
    call_id: str | None = None


class ExtensionStep(Step, frozen=True, kw_only=True):
    """Belongs to the turn, or to `choice` where the script names one."""

    extension: str
    payload: msgspec.Raw = msgspec.Raw(b"{}")


class UsageStep(Step, frozen=True, kw_only=True):
    """Reported instead of the count of words."""

    usage: Usage


class FinishStep(Step, frozen=True, kw_only=True):
    """Ends the choice."""

    finish: FinishReason


class ErrorStep(Step, frozen=True, kw_only=True):
    """Fails. With `as_event` the failure is the stream's last event instead of an exception."""

    error: Literal["unavailable", "timeout", "rate_limited", "protocol", "agent", "incomplete", "rejected", "bug"]
    message: str = "scripted failure"
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 400
    code: str | None = None
    retry_after_s: Seconds | None = None
    as_event: bool = False


class HangStep(Step, frozen=True, kw_only=True):
    """Silence until the reader leaves."""

    hang: Literal[True]


class PauseStep(Step, frozen=True, kw_only=True):
    pause_s: Seconds


class StartStep(Step, frozen=True, kw_only=True):
    """The turn's first event, on its own. Without this step it comes with whatever is first."""

    start: Literal[True]


class CloseStep(Step, frozen=True, kw_only=True):
    """Closes the open item, so that the next text begins another."""

    close: Literal[True]


class EventStep(Step, frozen=True, kw_only=True):
    """Any event, as it is; nothing checks that it fits."""

    event: Event


STEPS: Mapping[str, type[Step]] = MappingProxyType(
    {
        "text": TextStep,
        "reasoning": ReasoningStep,
        "summary": SummaryStep,
        "refusal": RefusalStep,
        "call": CallStep,
        "run": RunStep,
        "item": ItemStep,
        "approval": ApprovalStep,
        "extension": ExtensionStep,
        "usage": UsageStep,
        "finish": FinishStep,
        "error": ErrorStep,
        "hang": HangStep,
        "pause_s": PauseStep,
        "start": StartStep,
        "close": CloseStep,
        "event": EventStep,
    }
)
"""A kind of step by its own key. An approval has a `text` too: the more telling key wins."""

Made = TypeVar("Made", bound=msgspec.Struct)

_BY_WEIGHT = ("approval", *(key for key in STEPS if key != "approval"))


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answer and when to give it.

    Attributes:
        match: a part of the last user message's text; absent: any.
        times: how often the rule applies before it is spent; absent: always.
        steps: the answer; none: the last user message, word by word.
        usage: whether usage is reported: words of the conversation and of the answer, unless a step says otherwise.
        batch: how many events travel together where nothing delays them.
        begin: `missing` leaves out the turn's first event.
        end: `auto` ends every choice and the turn as their finish reasons ask; `completed` and `cancelled` end the turn
            so whatever they say; `missing` ends the choices but not the turn; `cut` just stops.
    """

    match: str | None = None
    times: Count | None = None
    steps: tuple[Step, ...] = ()
    usage: bool = True
    batch: Count = 64
    begin: Literal["auto", "missing"] = "auto"
    end: Literal["auto", "completed", "cancelled", "missing", "cut"] = "auto"


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """Rules, tried in order. A message that none of them matches is repeated word by word."""

    rules: tuple[Rule, ...] = ()


def load_script(path: Path, *, key: str | None = None) -> Script:
    """Reads a script. Raises ConfigError that names file and place; `key` is the setting that named the file."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the script {path}: {error.strerror}", key=key) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid TOML: {error}", file=str(path)) from None
    return parse_script(document, file=str(path))


def parse_script(document: Mapping[str, object], *, file: str | None = None) -> Script:
    """Makes a script of a decoded TOML document. Raises ConfigError."""
    for key in document:
        if key != "rules":
            raise ConfigError(unknown(key, ["rules"], what="key"), file=file, key=key)
    tables = document.get("rules", [])
    if not isinstance(tables, list):
        raise ConfigError("expected a list of tables, as in [[rules]]", file=file, key="rules")
    return Script(rules=tuple(_rule(table, file=file, path=f"rules[{index}]") for index, table in enumerate(tables)))


def _rule(table: object, *, file: str | None, path: str) -> Rule:
    if not isinstance(table, dict):
        raise ConfigError("expected a table", file=file, key=path)
    _known(table, Rule, file=file, path=path, what="key of a rule")
    steps = table.get("steps", [])
    if not isinstance(steps, list):
        raise ConfigError("expected a list of steps", file=file, key=join(path, "steps"))
    made = tuple(_step(step, file=file, path=f"{path}.steps[{index}]") for index, step in enumerate(steps))
    rest = {key: value for key, value in table.items() if key != "steps"}
    return msgspec.structs.replace(_decoded(rest, Rule, file=file, path=path), steps=made)


def _step(table: object, *, file: str | None, path: str) -> Step:
    if not isinstance(table, dict):
        raise ConfigError('expected a table, as in { text = "Hello" }', file=file, key=path)
    kind = next((key for key in _BY_WEIGHT if key in table), None)
    if kind is None:
        seen = next((key for key in table if key not in Step.__struct_fields__), None)
        reason = unknown(seen, STEPS, what="step") if seen is not None else f"says nothing; known: {', '.join(STEPS)}"
        raise ConfigError(reason, file=file, key=path)
    _known(table, STEPS[kind], file=file, path=path, what=f"key of a {kind} step")
    return _decoded(table, STEPS[kind], file=file, path=path)


def _known(table: Mapping[str, object], kind: type[msgspec.Struct], *, file: str | None, path: str, what: str) -> None:
    for key in table:
        if key not in kind.__struct_fields__:
            raise ConfigError(unknown(key, kind.__struct_fields__, what=what), file=file, key=join(path, key))


def _decoded(table: Mapping[str, object], kind: type[Made], *, file: str | None, path: str) -> Made:
    try:
        return msgspec.json.decode(msgspec.json.encode(table), type=kind)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$.")
        raise ConfigError(what, file=file, key=f"{path}.{place.rstrip('`')}" if place else path) from None
