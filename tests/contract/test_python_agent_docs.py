"""docs/agents.md and examples/: every agent in them runs and answers as shown."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from trunkline import agent as author
from trunkline.backends.callable import PythonBackend
from trunkline.backends.callable.results import KEYS
from trunkline.config.load import build_config
from trunkline.config.schema import PythonSettings
from trunkline.model.errors import TrunklineError
from trunkline.model.items import FunctionCall, FunctionCallOutput, Item, TextPart
from trunkline.model.request import Tool
from trunkline.model.turn import fold
from trunkline.ports.approvals import Question
from trunkline.ports.backend import BackendSetup
from trunkline.testing.answers import CountingEntropy, PinnedClock, events_of, pinned_context, request_of, text_in

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "agents.md").read_text()
EXAMPLES = re.findall(r"```python\n([^`]*)```\n\n```text\n([^`]*)```", PAGE)


async def served(target: str, base_dir: Path, *, client_tools: bool = False) -> PythonBackend:
    setup = BackendSetup(name="bot", base_dir=base_dir, clock=PinnedClock(), entropy=CountingEntropy())
    backend = PythonBackend(PythonSettings(target=target, client_tools=client_tools), setup)
    await backend.start()
    return backend


class Chooses:
    """Somebody who answers every question with the same choice."""

    def __init__(self, choice: str) -> None:
        self._choice = choice

    def ask(self, question: Question) -> str:
        return self._choice


async def answered(
    backend: PythonBackend, *items: Item | str, tools: tuple[str, ...] = (), choice: str = "deny"
) -> list[str]:
    """The answer in the page's words."""
    request = msgspec.structs.replace(request_of(*items), tools=tuple(Tool(name=name) for name in tools))
    context = msgspec.structs.replace(pinned_context(), approvals=Chooses(choice))
    try:
        events = await events_of(backend, request, context)
    except TrunklineError as error:
        return [f"error: {error.status} {error.message}"]
    finally:
        await backend.close()
    text = text_in(events).strip()
    calls = [
        entry.item for entry in fold(events).items if isinstance(entry.item, FunctionCall) and not entry.item.hosted
    ]
    return [f"text: {text}"] * bool(text) + [f"call: {call.name} {call.arguments}" for call in calls]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
async def test_an_example_of_the_page_answers_as_shown(number: int, tmp_path: Path) -> None:
    source, expected = EXAMPLES[number]
    (tmp_path / f"docs_agent_{number}.py").write_text(source)
    lines = [line.rstrip() for line in expected.removesuffix("\n").split("\n")]
    said = [line.removeprefix("user: ") for line in lines if line.startswith("user: ")]
    tools = tuple(line.removeprefix("tools: ") for line in lines if line.startswith("tools: "))
    choices = [line.removeprefix("choice: ") for line in lines if line.startswith("choice: ")]
    backend = await served(f"docs_agent_{number}.py:agent", tmp_path, client_tools=bool(tools))
    shown = await answered(backend, *said, tools=tools, choice=choices[0] if choices else "deny")
    assert shown == lines[len(said) + len(tools) + len(choices) :]


def test_the_page_has_examples_and_its_configuration_loads() -> None:
    assert len(EXAMPLES) >= 8
    (table,) = re.findall(r"```toml\n([^`]*)```", PAGE)
    assert isinstance(build_config(tomllib.loads(table), environ={}).backends["support"], PythonSettings)


def test_the_test_of_the_page_passes() -> None:
    sources = [source for source in re.findall(r"```python\n([^`]*)```", PAGE) if "asyncio.run" in source]
    (source,) = sources
    exec(source, {})


def test_everything_an_agent_gets_yields_and_returns_is_on_the_page() -> None:
    fields = set(author.Turn.__struct_fields__) - {"cancellation"} | {"approve"} | {"cancelled"} | KEYS
    assert [name for name in sorted(fields) if f"`{name}`" not in PAGE and f"`{name}(" not in PAGE] == []
    yields = [author.Reasoning, author.ToolStarted, author.ToolFinished, author.FunctionCall, author.Usage]
    assert [kind.__name__ for kind in yields if f"`{kind.__name__}(" not in PAGE] == []


EXAMPLE_ANSWERS = [
    ("hello.py:agent", "Hi", "text: You said: Hi"),
    ("tools.py:agent", "2 * (3 + 4)", "text: 2 * (3 + 4) = 14"),
    ("tools.py:agent", "cats", "error: 500 cannot calculate 'cats'"),
    ("sync.py:stream", "abc de", "text: cba ed"),
    ("sync.py:answer", "abc", "text: 1 messages so far, the last has 3 characters."),
    ("client_tools.py:agent", "x", "text: Declare a tool, and I will use it."),
]


@pytest.mark.parametrize(("target", "said", "expected"), EXAMPLE_ANSWERS)
async def test_an_example_file_answers(target: str, said: str, expected: str) -> None:
    assert await answered(await served(target, ROOT / "examples"), said) == [expected]


async def test_the_client_tools_example_goes_there_and_back() -> None:
    backend = await served("client_tools.py:agent", ROOT / "examples", client_tools=True)
    assert await answered(backend, "cats", tools=("search",)) == ['call: search {"query":"cats"}']
    call = FunctionCall(call_id="c1", name="search", arguments="{}")
    output = FunctionCallOutput(call_id="c1", content=(TextPart("ten"),))
    backend = await served("client_tools.py:agent", ROOT / "examples", client_tools=True)
    assert await answered(backend, "cats", call, output, tools=("search",)) == ["text: Your tool says: ten"]


def test_the_first_example_is_as_short_as_promised() -> None:
    code = (ROOT / "examples" / "hello.py").read_text().split('"""')[2]
    assert len([line for line in code.splitlines() if line]) <= 5
