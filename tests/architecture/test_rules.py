"""Every module of the package keeps every rule, and every rule is shown to find what it forbids."""

import textwrap

import pytest

from tests.architecture.exceptions import EXCEPTIONS
from tests.architecture.rules import MAX_CLASS_LINES, MAX_FILE_LINES, MAX_FUNCTION_LINES, RULES, Rule
from tests.architecture.sources import Finding, Source, package_sources

BY_NAME = {rule.__name__: rule for rule in RULES}
SOURCES = package_sources()


def findings(rule: Rule) -> list[Finding]:
    return [finding for source in SOURCES for finding in rule(source)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    excepted = EXCEPTIONS.get(rule.__name__, {})
    broken = [
        f"src/trunkline/{finding.place.partition(':')[0]}:{finding.line}: {finding.place} {finding.what}"
        for finding in findings(rule)
        if finding.place not in excepted
    ]
    assert not broken, "\n".join(
        [
            f"{rule.__doc__}",
            *broken,
            f"(an exception needs a reason in tests/architecture/exceptions.py, {rule.__name__})",
        ]
    )


def test_every_exception_is_still_needed_and_has_a_reason() -> None:
    stale = []
    for name, places in EXCEPTIONS.items():
        needed = {finding.place for finding in findings(BY_NAME[name])}
        stale += [f"{name}: {place}" for place in places if place not in needed]
        assert all(len(reason.split()) > 4 for reason in places.values()), f"{name}: a reason is a sentence"
    assert not stale, f"remove these from tests/architecture/exceptions.py, nothing needs them any more: {stale}"


def body(lines: int) -> str:
    return "    x = 1\n" * lines


BREAKS: list[tuple[str, str]] = [
    ("module_docstrings", "x = 1"),
    ("imports_at_the_top", "def f():\n    import json"),
    ("imports_at_the_top", "try:\n    import orjson\nexcept ImportError:\n    orjson = None"),
    ("imports_at_the_top", "if DEBUG:\n    import pdb"),
    ("imports_at_the_top", "import importlib\nmodule = importlib.import_module('trunkline.engine')"),
    ("imports_at_the_top", "module = __import__('trunkline.engine')"),
    ("narrow_excepts", "try:\n    f()\nexcept:\n    log()"),
    ("narrow_excepts", "try:\n    f()\nexcept Exception as error:\n    log(error)"),
    ("narrow_excepts", "try:\n    f()\nexcept (ValueError, BaseException):\n    log()"),
    ("narrow_excepts", "import builtins\ntry:\n    f()\nexcept builtins.Exception:\n    log()"),
    ("narrow_excepts", "from contextlib import suppress\nwith suppress(Exception):\n    f()"),
    ("no_silent_handlers", "try:\n    f()\nexcept ValueError:\n    pass"),
    ("no_silent_handlers", "try:\n    f()\nexcept Exception:  # never mind\n    pass"),
    ("no_silent_handlers", "for x in y:\n    try:\n        f(x)\n    except KeyError:\n        continue"),
    ("no_silent_handlers", "try:\n    f()\nexcept ValueError:\n    ..."),
    ("no_globals", "def f():\n    global seen\n    seen = 1"),
    ("environment_reads", "import os\nkey = os.environ['KEY']"),
    ("environment_reads", "import os\nkey = os.getenv('KEY')"),
    ("environment_reads", "from os import environ as e\nkey = e['KEY']"),
    ("environment_reads", "import os\npath = os.path.expandvars('$HOME')"),
    ("tasks_have_owners", "import asyncio\nasync def f():\n    asyncio.create_task(g())"),
    ("tasks_have_owners", "import asyncio\nasync def f():\n    task = asyncio.create_task(g())\n    return 1"),
    ("tasks_have_owners", "import asyncio\nasync def f():\n    if x:\n        _ = asyncio.ensure_future(g())"),
    ("tasks_have_owners", "async def f(loop):\n    try:\n        loop.create_task(g())\n    finally:\n        h()"),
    ("no_any_in_signatures", "from typing import Any\ndef f(x: Any) -> None: ..."),
    ("no_any_in_signatures", "import typing\ndef f(x: int) -> dict[str, typing.Any]: ..."),
    ("no_any_in_signatures", "from typing import Any\ndef f(**more: Any) -> None: ..."),
    ("no_any_in_signatures", "from typing import Any\nclass C:\n    def f(self, *, x: 'list[Any]') -> None: ..."),
    ("booleans_by_keyword", "def f(x: int, strict: bool) -> None: ..."),
    ("booleans_by_keyword", "def f(x, strict=False): ..."),
    ("booleans_by_keyword", "class C:\n    def __init__(self, strict: bool | None = None) -> None: ..."),
    ("booleans_by_keyword", "def f(x: int, strict: 'None | bool') -> None: ..."),
    ("sizes", "x = 1\n" * (MAX_FILE_LINES + 1)),
    ("sizes", "class C:\n" + body(MAX_CLASS_LINES)),
    ("sizes", "async def f():\n" + body(MAX_FUNCTION_LINES)),
    ("chance_and_time", "from datetime import datetime"),
    ("chance_and_time", "import random as r"),
    (
        "messages_decide_nothing",
        "try:\n    f()\nexcept OSError as error:\n    if 'truncat' in str(error):\n        g()",
    ),
    ("messages_decide_nothing", "try:\n    f()\nexcept E as error:\n    again = error.message.startswith('busy')"),
    ("messages_decide_nothing", "import re\ntry:\n    f()\nexcept E as e:\n    x = re.search('lost', str(e).lower())"),
    ("telling_names", "class ConnectionManager: ..."),
    ("telling_names", "def do_request(): ..."),
    ("telling_names", "def string_utils(): ..."),
]
BREAKS_IN: list[tuple[str, str, str]] = [
    ("pure_layers", "model/turn.py", "import asyncio"),
    ("pure_layers", "wire/sse.py", "from os import path"),
    ("pure_layers", "dialects/openai_chat/surface.py", "import time"),
    ("pure_layers", "dialects/openai_chat/surface.py", "import orjson"),
    ("telling_names", "server/util.py", '"""A module."""'),
]


@pytest.mark.parametrize(("rule", "text"), BREAKS)
def test_a_rule_finds_what_breaks_it(rule: str, text: str) -> None:
    assert list(BY_NAME[rule](Source("engine/sample.py", textwrap.dedent(text))))


@pytest.mark.parametrize(("rule", "path", "text"), BREAKS_IN)
def test_a_rule_about_a_place_finds_what_breaks_it_there(rule: str, path: str, text: str) -> None:
    assert list(BY_NAME[rule](Source(path, text)))


def test_every_rule_is_shown_to_fail() -> None:
    assert {rule for rule, *_ in [*BREAKS, *BREAKS_IN]} == set(BY_NAME)


WELL_BEHAVED = '''
"""A module that keeps every rule."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trunkline.model.request import Request


class Reader:
    """Reads."""

    def __init__(self, source: str, *, strict: bool = False) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self, settings: Mapping[str, object]) -> "Request | None":
        self._task = asyncio.create_task(self._run())
        with suppress(KeyError):
            del settings["x"]
        return None

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run())
        watcher = asyncio.create_task(self._run())
        try:
            await watcher
        except ValueError as error:
            raise RuntimeError(str(error)) from error
        except KeyError:
            pass  # an answer without it is as good

    def each(self, wanted: Callable[[str], bool]) -> None:
        """A function that gives a boolean is no boolean."""

    def _check(self, strict: bool) -> None:
        """Private, and its callers are near."""
'''


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_code_that_keeps_the_rules_is_left_alone(rule: Rule) -> None:
    assert not list(rule(Source("engine/sample.py", WELL_BEHAVED.strip())))
