"""docs/scripted.md: every script in it runs and gives what the page says."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from trunkline.backends.scripted import STEPS, Rule, ScriptedBackend, Step, parse_script
from trunkline.config.load import build_config
from trunkline.model.errors import BackendProtocolError, TrunklineError
from trunkline.model.events import Event
from trunkline.model.items import FunctionCall, FunctionCallOutput, Message, Reasoning, RefusalPart, TextPart
from trunkline.model.turn import fold
from trunkline.testing.answers import batches_of, request_of

PAGE = (Path(__file__).parents[3] / "docs" / "scripted.md").read_text()
EXAMPLES = re.findall(r"```toml\n([^`]*)```\n\n```text\n([^`]*)```", PAGE)


def shown(events: list[Event]) -> list[str]:
    """The answer in the page's words."""
    turn = fold(events)
    lines: list[str] = []
    outputs = {
        entry.item.call_id: entry.item.content for entry in turn.items if isinstance(entry.item, FunctionCallOutput)
    }
    for choice in turn.choices:
        for entry in turn.items:
            if entry.choice != choice.index:
                continue
            match entry.item:
                case Reasoning(text=text):
                    lines.append(f"reasoning: {text}")
                case FunctionCall(hosted=True) as call:
                    (output,) = outputs[call.call_id]
                    assert isinstance(output, TextPart)
                    lines.append(f"run: {call.name} {call.arguments} -> {output.text}")
                case FunctionCall() as call:
                    lines.append(f"call: {call.name} {call.arguments}")
                case Message(content=content):
                    for part in content:
                        assert isinstance(part, TextPart | RefusalPart)
                        lines.append(f"{'text' if isinstance(part, TextPart) else 'refusal'}: {part.text}".rstrip())
                case _:
                    pass
        if choice.finish_reason is not None:
            lines.append(f"finish: {choice.finish_reason}")
    return lines


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
async def test_an_example_gives_what_the_page_shows(number: int) -> None:
    script, expected = EXAMPLES[number]
    backend = ScriptedBackend(script=parse_script(tomllib.loads(script)))
    wanted = [line.rstrip() for line in expected.removesuffix("\n").split("\n")]
    given = dict(line.split(": ", 1) for line in wanted)
    request = msgspec.structs.replace(
        request_of(given["user"]),
        n=int(given.get("n", "1")),
        max_output_tokens=int(given["max_tokens"]) if "max_tokens" in given else None,
    )
    events: list[Event] = []
    end: list[str] = []
    try:
        async for batch in batches_of(backend, request):
            events += batch
    except BackendProtocolError as error:
        end = [f"broken: {error.message}"]
    except TrunklineError as error:
        end = [f"error: {error.status} {error.message}"]
    except AssertionError:
        end = ["broken: no end"]
    if "usage" in given:
        usage = fold(events).usage
        assert usage is not None
        end = [f"usage: {usage.input_tokens} {usage.output_tokens}"]
    assert shown(events) + end == [line for line in wanted if line.split(": ")[0] not in ("user", "n", "max_tokens")]


def test_the_page_has_examples_and_its_configuration_loads() -> None:
    assert len(EXAMPLES) >= 8
    (table,) = re.findall(r"```toml\n(\[backends[^`]*)```", PAGE)
    assert "demo" in build_config(tomllib.loads(table), environ={}).backends


def test_the_python_example_runs() -> None:
    (source,) = re.findall(r"```python\n([^`]*)```", PAGE)
    names: dict[str, object] = {}
    exec(source, names)
    assert isinstance(names["backend"], ScriptedBackend)


def test_every_step_and_every_key_is_on_the_page() -> None:
    keys = set(Rule.__struct_fields__) | set(Step.__struct_fields__) | set(STEPS)
    for kind in STEPS.values():
        keys |= set(kind.__struct_fields__)
    missing = [key for key in sorted(keys) if f"`{key}`" not in PAGE and f"`{key} = " not in PAGE]
    assert missing == []
