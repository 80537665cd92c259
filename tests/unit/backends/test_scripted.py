"""The scripted backend: echo, limits, choices, every event, every failure, and scripts that say something wrong."""

import asyncio
import typing
from pathlib import Path

import msgspec
import pytest

from trunkline.backends.scripted import (
    ApprovalStep,
    CallStep,
    CloseStep,
    ErrorStep,
    EventStep,
    ExtensionStep,
    FinishStep,
    HangStep,
    ItemStep,
    PauseStep,
    ReasoningStep,
    RefusalStep,
    Rule,
    RunStep,
    Script,
    ScriptedBackend,
    StartStep,
    Step,
    SummaryStep,
    TextStep,
    UsageStep,
    parse_script,
)
from trunkline.config.schema import ScriptedSettings
from trunkline.model import events as ev
from trunkline.model.errors import (
    BackendProtocolError,
    BackendRateLimited,
    BackendRejected,
    BackendUnavailable,
    ConfigError,
    TrunklineError,
)
from trunkline.model.items import FunctionCallOutput, Item, Message, TextPart
from trunkline.model.turn import fold
from trunkline.model.usage import Usage
from trunkline.ports.backend import BackendSetup
from trunkline.testing.answers import (
    CountingEntropy,
    PinnedClock,
    batches_of,
    events_of,
    pinned_context,
    request_of,
    text_in,
)


def scripted(*steps: Step, **rule: object) -> ScriptedBackend:
    return ScriptedBackend(script=Script(rules=(msgspec.structs.replace(Rule(steps=steps), **rule),)))


async def played(*steps: Step, asked: dict[str, object] | None = None, **rule: object) -> list[ev.Event]:
    return await events_of(scripted(*steps, **rule), msgspec.structs.replace(request_of("hi"), **(asked or {})))


async def raw(backend: ScriptedBackend) -> list[ev.Event]:
    """The answer as it is, grammar or not."""
    return [event async for batch in backend.open(request_of("hi"), pinned_context()) for event in batch]


# Echo


async def test_without_a_script_the_last_user_message_comes_back_word_by_word() -> None:
    text = " Hello  big\nworld "
    events = await events_of(ScriptedBackend(), request_of("old", Message(role="assistant"), text))
    deltas = [event.text for event in events if isinstance(event, ev.TextDelta)]
    assert deltas == [" Hello", "  big", "\nworld", " "]
    assert fold(events).usage == Usage(input_tokens=4, output_tokens=3)


async def test_two_runs_are_the_same() -> None:
    request = msgspec.structs.replace(request_of("one two"), n=3, logprobs=True)
    assert await events_of(ScriptedBackend(), request) == await events_of(ScriptedBackend(), request)


async def test_every_choice_echoes() -> None:
    events = await events_of(ScriptedBackend(), msgspec.structs.replace(request_of("a b"), n=3))
    turn = fold(events)
    assert [choice.finish_reason for choice in turn.choices] == ["stop"] * 3
    assert turn.usage == Usage(input_tokens=2, output_tokens=6)


@pytest.mark.parametrize(
    ("limit", "text", "reason"), [(1, "one", "length"), (2, "one two", "length"), (3, "one two three", "stop")]
)
async def test_a_word_is_a_token_of_the_limit(limit: int, text: str, reason: str) -> None:
    request = msgspec.structs.replace(request_of("one two three"), max_output_tokens=limit)
    events = await events_of(ScriptedBackend(), request)
    assert text_in(events) == text
    assert ev.ChoiceDone(0, reason) in events  # type: ignore[arg-type]
    assert events[-1] == (ev.TurnIncomplete("max_output_tokens") if reason == "length" else ev.TurnCompleted())


async def test_logprobs_of_an_echo_are_fixed() -> None:
    request = msgspec.structs.replace(request_of("né two"), logprobs=True, top_logprobs=2)
    tokens = [event for event in await events_of(ScriptedBackend(), request) if isinstance(event, ev.TokensDelta)]
    first = tokens[0].logprobs[0]
    assert (first.token, first.logprob, first.bytes) == ("né", -0.1, tuple("né".encode()))
    assert [(top.token, top.logprob) for top in first.top] == [("né", -0.1), ("<1>", -1.1)]
    assert len(tokens) == 2


async def test_nothing_said_is_nothing_repeated() -> None:
    events = await events_of(ScriptedBackend(), request_of(""))
    assert events[-1] == ev.TurnCompleted()
    assert text_in(events) == ""


# Steps

EVERYTHING = (
    StartStep(start=True),
    ReasoningStep(reasoning="hm"),
    SummaryStep(summary="Thought."),
    TextStep(text="cited", token_ids=(7,), logprob=-0.5, annotation=msgspec.Raw(b'{"type":"url_citation"}')),
    RefusalStep(refusal="no"),
    CallStep(call="f", arguments=("{", "}"), call_id="c1"),
    RunStep(run="search", output="10", label="cats"),
    ItemStep(item="web_search_call", payload=msgspec.Raw(b'{"a":1}')),
    ApprovalStep(approval="shell", text="rm", answer="once"),
    ExtensionStep(extension="x", payload=msgspec.Raw(b"1")),
    UsageStep(usage=Usage(input_tokens=1)),
    PauseStep(pause_s=0),
    CloseStep(close=True),
)


async def test_steps_and_endings_reach_every_event_of_the_union() -> None:
    seen: set[type] = {type(event) for event in await played(*EVERYTHING)}
    seen |= {type(event) for event in await played(FinishStep(finish="length"))}
    seen |= {type(event) for event in await played(end="cancelled")}
    seen |= {type(event) for event in await played(ErrorStep(error="timeout", as_event=True))}
    assert seen == set(typing.get_args(ev.Event))


@pytest.mark.parametrize("kind", typing.get_args(ev.Event), ids=lambda kind: kind.__name__)
async def test_every_event_can_be_given_raw_in_toml(kind: type[msgspec.Struct]) -> None:
    tables: dict[type, dict[str, object]] = {
        ev.TurnStarted: {"turn_id": "t", "model": "m", "created_at": 1},
        ev.ItemStarted: {"index": 0, "kind": "message"},
        ev.AnnotationAdded: {"index": 0, "annotation": {"a": 1}},
        ev.TokensDelta: {"index": 0, "token_ids": [1, 2], "logprobs": [{"token": "x", "logprob": -1.0}]},
        ev.ToolProgress: {"call_id": "c", "name": "n", "status": "running"},
        ev.ItemDone: {"index": 0, "item": {"type": "function_call_output", "call_id": "c"}},
        ev.UsageReported: {"usage": {"input_tokens": 3}},
        ev.ApprovalRequested: {"call_id": "c", "tool": "t", "text": "x", "choices": ["once"]},
        ev.ApprovalResolved: {"call_id": "c", "choice": "once"},
        ev.ChoiceDone: {"choice": 0, "finish_reason": "stop"},
        ev.Extension: {"name": "x", "payload": {"a": [1]}},
        ev.TurnIncomplete: {"reason": "content_filter"},
        ev.TurnFailed: {"error": {"message": "m", "type": "t"}},
        ev.TurnCompleted: {},
        ev.TurnCancelled: {},
    }
    table = {"type": kind.__struct_config__.tag, **tables.get(kind, {"index": 0, "text": "x"})}
    script = parse_script({"rules": [{"begin": "missing", "end": "cut", "steps": [{"event": table}]}]})
    (event,) = await raw(ScriptedBackend(script=script))
    assert type(event) is kind


async def test_raw_events_are_followed() -> None:
    events = await played(
        EventStep(event=ev.ItemStarted(index=0, kind="message")),
        TextStep(text="a"),
        EventStep(event=ev.ItemDone(index=0)),
        TextStep(text="b"),
        EventStep(event=ev.UsageReported(Usage(input_tokens=9))),
    )
    assert text_in(events) == "ab"
    assert [event.index for event in events if isinstance(event, ev.ItemStarted)] == [0, 1]
    assert fold(events).usage == Usage(input_tokens=9)


async def test_choices_interleave() -> None:
    events = await played(TextStep(text="a"), TextStep(text="b", choice=1), TextStep(text="c"), asked={"n": 2})
    assert [(event.index, event.text) for event in events if isinstance(event, ev.TextDelta)] == [
        (0, "a"), (1, "a"), (1, "b"), (0, "c"), (1, "c"),
    ]  # fmt: skip


async def test_a_call_ends_its_choice_with_tool_calls() -> None:
    events = await played(CallStep(call="f", choice=1), TextStep(text="x", choice=0), asked={"n": 2})
    assert {event.choice: event.finish_reason for event in events if isinstance(event, ev.ChoiceDone)} == {
        0: "stop", 1: "tool_calls",
    }  # fmt: skip


async def test_own_tools_are_hosted() -> None:
    events = await played(RunStep(run="search", output="10", failed=True))
    items = [entry.item for entry in fold(events).items]
    assert all(getattr(item, "hosted", False) for item in items)
    output = items[1]
    assert isinstance(output, FunctionCallOutput)
    assert output.content == (TextPart("10"),)
    progress = [event for event in events if isinstance(event, ev.ToolProgress)]
    assert [(event.status, event.failed) for event in progress] == [("running", False), ("completed", True)]


@pytest.mark.parametrize("batch", [1, 7, 64])
async def test_many_events_come_in_batches_of_the_rules_size(batch: int) -> None:
    backend = scripted(TextStep(text="x ", repeat=1000), batch=batch)
    sizes = [len(got) async for got in batches_of(backend, request_of("hi"))]
    assert max(sizes) == batch
    assert sum(sizes) == 1000 + 6


async def test_a_delay_sends_what_is_there_first() -> None:
    backend = scripted(TextStep(text="a"), HangStep(hang=True))
    batches = batches_of(backend, request_of("hi"))
    assert text_in(list(await anext(batches))) == "a"
    waiting = asyncio.create_task(anext(batches))
    await asyncio.sleep(0)
    assert backend.active == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (backend.active, backend.opened) == (0, 1)


async def test_delays_are_kept_between_steps() -> None:
    backend = ScriptedBackend(ScriptedSettings(delay_s=0.001))
    assert len([batch async for batch in batches_of(backend, request_of("a b c"))]) == 3


async def test_a_reader_that_leaves_frees_its_place() -> None:
    backend = scripted(TextStep(text="x", repeat=1000), batch=1)
    batches = batches_of(backend, request_of("hi"))
    await anext(batches)
    assert backend.active == 1
    await batches.aclose()
    assert backend.active == 0


# Failing


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (ErrorStep(error="unavailable"), BackendUnavailable),
        (ErrorStep(error="rate_limited", retry_after_s=3), BackendRateLimited),
        (ErrorStep(error="rejected", status=422, code="bad"), BackendRejected),
        (ErrorStep(error="protocol"), BackendProtocolError),
        (ErrorStep(error="bug", message="oops"), RuntimeError),
    ],
)
async def test_a_failure_can_come_before_anything_and_after_something(step: ErrorStep, error: type[Exception]) -> None:
    with pytest.raises(error):
        await anext(batches_of(scripted(step), request_of("hi")))
    batches = batches_of(scripted(TextStep(text="a"), step), request_of("hi"))
    assert text_in(list(await anext(batches))) == "a"
    with pytest.raises(error) as caught:
        await anext(batches)
    if isinstance(caught.value, TrunklineError):
        assert (caught.value.retry_after_s, caught.value.message) == (step.retry_after_s, step.message)
        assert caught.value.status == (422 if step.error == "rejected" else caught.value.status)


async def test_a_failure_as_an_event_is_the_last_one() -> None:
    events = await played(TextStep(text="a"), ErrorStep(error="timeout", as_event=True))
    assert isinstance(events[-1], ev.TurnFailed)
    assert events[-1].error.status == 504


@pytest.mark.parametrize(
    ("step", "rule", "message"),
    [
        (TextStep(text="x"), {"begin": "missing"}, "came before TurnStarted"),
        (EventStep(event=ev.TextDelta(3, "x")), {}, "names item 3, which is not open"),
        (FinishStep(finish="stop", repeat=2), {}, "ends choice 0 twice"),
        (EventStep(event=ev.TurnCompleted(), repeat=2), {}, "came before every choice was done"),
        (EventStep(event=ev.TurnCancelled(), repeat=2), {}, "came after the terminal event"),
    ],
)
async def test_the_grammar_can_be_broken_on_purpose(step: Step, rule: dict[str, object], message: str) -> None:
    with pytest.raises(BackendProtocolError, match=message):
        await events_of(scripted(step, **rule), request_of("hi"))


@pytest.mark.parametrize(("end", "last"), [("missing", ev.UsageReported), ("cut", ev.TextDelta)])
async def test_the_end_can_be_missing(end: str, last: type) -> None:
    assert type((await raw(scripted(TextStep(text="x"), end=end)))[-1]) is last


async def test_usage_can_be_missing() -> None:
    assert fold(await played(TextStep(text="x"), usage=False)).usage is None


async def test_a_rule_can_be_spent() -> None:
    rules = (Rule(times=1, match="a", steps=(TextStep(text="once"),)), Rule(match="b", steps=(TextStep(text="b"),)))
    backend = ScriptedBackend(script=Script(rules=rules))
    answers = [text_in(await events_of(backend, request_of(text))) for text in ("ab", "ab", "a")]
    assert answers == ["once", "b", "a"]


# Scripts


def setup(base_dir: Path) -> BackendSetup:
    return BackendSetup(name="demo", base_dir=base_dir, clock=PinnedClock(), entropy=CountingEntropy())


async def test_a_script_is_found_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('[[rules]]\nsteps = [{ text = "from the file" }]\n')
    backend = ScriptedBackend(ScriptedSettings(script="s.toml", models=("a", "b")), setup(tmp_path))
    assert text_in(await events_of(backend, request_of("x"))) == "from the file"
    assert [model.id for model in await backend.models()] == ["a", "b"]
    await backend.start()
    await backend.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules = 3", "s.toml: rules: expected a list of tables, as in [[rules]]"),
        ("[[rule]]", "s.toml: rule: unknown key 'rule' (did you mean 'rules'?)"),
        ("[[rules]]\nmatsch = 'x'", "s.toml: rules[0].matsch: unknown key of a rule 'matsch' (did you mean 'match'?)"),
        ("[[rules]]\ntimes = 0", "s.toml: rules[0].times: Expected `int` >= 1"),
        ("[[rules]]\nend = 'never'", "s.toml: rules[0].end: Invalid enum value 'never'"),
        ("[[rules]]\nsteps = 'x'", "s.toml: rules[0].steps: expected a list of steps"),
        ("[[rules]]\nsteps = ['x']", "s.toml: rules[0].steps[0]: expected a table"),
        ("[[rules]]\nsteps = [{ txet = 'x' }]", "rules[0].steps[0]: unknown step 'txet' (did you mean 'text'?)"),
        ("[[rules]]\nsteps = [{}]", "s.toml: rules[0].steps[0]: says nothing; known: text, reasoning"),
        (
            "[[rules]]\nsteps = [{ text = 'x', dely_s = 1 }]",
            "rules[0].steps[0].dely_s: unknown key of a text step 'dely_s' (did you mean 'delay_s'?)",
        ),
        ("[[rules]]\nsteps = [{ text = 'x' }, { text = 3 }]", "rules[0].steps[1].text: Expected `str`, got `int`"),
        ("[[rules]]\nsteps = [{ error = 'sad' }]", "rules[0].steps[0].error: Invalid enum value 'sad'"),
        ("[[rules]]\nsteps = [{ event = { type = 'x' } }]", "rules[0].steps[0].event.type: Invalid value 'x'"),
        ("[[rules]", "s.toml: not valid TOML"),
    ],
)
def test_a_script_that_says_something_wrong_is_refused_by_place(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        ScriptedBackend(ScriptedSettings(script="s.toml"), setup(tmp_path))
    assert message in caught.value.message


def test_a_missing_script_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"backends.demo.script: cannot read the script .*no\.toml: No such file"):
        ScriptedBackend(ScriptedSettings(script="no.toml"), setup(tmp_path))


async def test_a_conversation_counts_all_its_words() -> None:
    items: tuple[Item, ...] = (
        Message(role="system", content=(TextPart("be nice"),)),
        FunctionCallOutput(call_id="c", content=(TextPart("one two three"),)),
    )
    request = msgspec.structs.replace(request_of(*items, "hi"), instructions="be brief")
    usage = fold(await events_of(ScriptedBackend(), request)).usage
    assert usage == Usage(input_tokens=8, output_tokens=1)
