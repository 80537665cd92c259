"""Targets: what they name, and what is said when they do not."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trunkline.backends.callable.loading import load_target, parse_target
from trunkline.model.errors import ConfigError


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    """Modules and paths that a test's agents brought go with it."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path[:] = path


def load(target: str, base_dir: Path) -> object:
    return load_target(parse_target(target, base_dir=base_dir), base_dir=base_dir)


def refused(target: str, base_dir: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(target, base_dir)
    return caught.value.message


def test_a_file_is_found_relative_to_the_base_folder(tmp_path: Path) -> None:
    (tmp_path / "bots").mkdir()
    (tmp_path / "bots" / "tl_one.py").write_text("import tl_neighbour\nagent = tl_neighbour.answer\n")
    (tmp_path / "bots" / "tl_neighbour.py").write_text("def answer(turn): return 'x'\n")
    agent = load("bots/tl_one.py:agent", tmp_path)
    assert agent is sys.modules["tl_neighbour"].answer


def test_a_module_is_found_in_the_base_folder(tmp_path: Path) -> None:
    (tmp_path / "tl_pack").mkdir()
    (tmp_path / "tl_pack" / "__init__.py").write_text("")
    (tmp_path / "tl_pack" / "bot.py").write_text("class Bot:\n    def talk(self, turn): return 'x'\nbot = Bot()\n")
    assert load("tl_pack.bot:bot.talk", tmp_path)({}) == "x"  # type: ignore[operator]


def test_a_file_is_run_once_and_is_what_its_neighbours_import(tmp_path: Path) -> None:
    (tmp_path / "tl_once.py").write_text("import tl_reader\nruns = [1]\ndef a(turn): ...\ndef b(turn): ...\n")
    (tmp_path / "tl_reader.py").write_text("def runs():\n    import tl_once\n    return tl_once.runs\n")
    first, second = load("tl_once.py:a", tmp_path), load("tl_once.py:b", tmp_path)
    assert first.__module__ == second.__module__ == "tl_once"
    assert load("tl_once.py:runs", tmp_path) is sys.modules["tl_reader"].runs()


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tl_same.py").write_text(f"name = {folder!r}\n")
    assert (load("a/tl_same.py:name", tmp_path), load("b/tl_same.py:name", tmp_path)) == ("a", "b")


def test_a_file_named_like_a_library_does_not_take_its_place(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("name = 'mine'\n")
    before = sys.modules["msgspec"]
    assert load("msgspec.py:name", tmp_path) == "mine"
    assert sys.modules["msgspec"] is before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("bot.py", "got 'bot.py' (did you mean 'bot.py:agent'?)"),
        ("bot.py:", "got 'bot.py:' (did you mean 'bot.py:agent'?)"),
        (":agent", "expected 'module:attribute' or 'path/file.py:attribute', got ':agent'"),
        ("bot.py:agent()", "got 'bot.py:agent()'"),
        ("bots/one:agent", "'bots/one' is neither a .py file nor the name of a module"),
    ],
)
def test_a_target_of_another_form_is_explained(target: str, message: str, tmp_path: Path) -> None:
    assert message in refused(target, tmp_path)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    assert refused("bots/no.py:agent", tmp_path) == (
        f"agent file 'no.py' does not exist; looked for {tmp_path.resolve() / 'bots' / 'no.py'}"
    )
    (tmp_path / "folder.py").mkdir()
    assert "is a folder" in refused("folder.py:agent", tmp_path)


def test_a_missing_module_says_where_it_was_looked_for(tmp_path: Path) -> None:
    message = refused("tl_nowhere.bot:agent", tmp_path)
    assert message.startswith("cannot import agent: no module named 'tl_nowhere'; looked in ")
    assert str(tmp_path.resolve()) in message


def test_a_missing_attribute_lists_what_the_module_has(tmp_path: Path) -> None:
    (tmp_path / "tl_has.py").write_text(
        "from json import dumps\n"
        "def answer(turn): ...\n"
        "async def stream(turn): ...\n"
        "def _inner(): ...\n"
        "class Bot: ...\n"
        "class Factory:\n    def __call__(self, turn): ...\n"
        "class Conversation:\n    def run_conversation(self, user_message): ...\n"
        "conversation = Conversation()\n"
    )
    has = "'answer', 'stream', 'Factory', 'Conversation', 'conversation'"
    assert refused("tl_has.py:agent", tmp_path) == f"agent 'tl_has.py' has no 'agent'; it has: {has}"
    (tmp_path / "tl_empty.py").write_text("x = 1\n")
    assert refused("tl_empty.py:agent", tmp_path).endswith("it has: nothing that could be an agent")


@pytest.mark.parametrize(
    ("module", "package"), [("agents", "openai-agents"), ("nanobot", "nanobot-ai"), ("run_agent", "hermes-agent")]
)
def test_a_package_that_is_called_otherwise_than_its_module_is_proposed(
    module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    (tmp_path / "tl_framework.py").write_text(f"import {module}\n")
    assert refused("tl_framework.py:agent", tmp_path).endswith(f" -m pip install {package}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "\n\nimport tl_no_such\n",
            (
                "cannot import agent tl_bad.py:3: ModuleNotFoundError: No module named 'tl_no_such'; "
                f"if it is in a package, install that: {shlex.quote(sys.executable)} -m pip install tl-no-such"
            ),
        ),
        (
            "import json.tl_no_such\n",
            "cannot import agent tl_bad.py:1: ModuleNotFoundError: No module named 'json.tl_no_such'",
        ),
        (
            "raise ModuleNotFoundError('not there')\n",
            "cannot import agent tl_bad.py:1: ModuleNotFoundError: not there",
        ),
        ("x = 1\nraise ValueError('no key set')\n", "cannot import agent tl_bad.py:2: ValueError: no key set"),
        ("def agent(turn)\n    pass\n", "cannot import agent tl_bad.py:1: SyntaxError: expected ':'"),
        (
            "import json\n\njson.loads('{')\n",
            "cannot import agent tl_bad.py:3: JSONDecodeError: Expecting property name",
        ),
        ("import tl_worse\n", "cannot import agent tl_worse.py:2: RuntimeError: deep down"),
        ("raise SystemExit\n", "cannot import agent tl_bad.py:1: SystemExit"),
    ],
)
def test_a_failing_import_names_the_authors_line(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tl_bad.py").write_text(source)
    (tmp_path / "tl_worse.py").write_text("\nraise RuntimeError('deep down')\n")
    assert refused("tl_bad.py:agent", tmp_path).startswith(message)
    assert ("pip install" in refused("tl_bad.py:agent", tmp_path)) == ("pip install" in message)
    assert "tl_bad" not in sys.modules
    assert refused("tl_bad:agent", tmp_path).startswith(message.replace("tl_bad.py:agent", "tl_bad"))


def test_a_mended_file_loads_on_the_next_try(tmp_path: Path) -> None:
    file = tmp_path / "tl_mended.py"
    file.write_text("raise ValueError\n")
    refused("tl_mended.py:agent", tmp_path)
    file.write_text("def agent(turn): return 'mended, and longer than before'\n")
    assert callable(load("tl_mended.py:agent", tmp_path))


@pytest.mark.parametrize(
    "source",
    [
        "from tl_help import NAME\n",
        "def NAME():\n    import tl_help\n    return tl_help.NAME\n",
        "def NAME():\n    from tl_help import NAME\n    return NAME\n",
    ],
    ids=["when it is loaded", "in a function", "from, in a function"],
)
def test_an_agent_gets_no_other_agents_helper(source: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tl_first.py").write_text(f"name = {folder!r}\n{source}")
        (tmp_path / folder / "tl_second.py").write_text(source)
        (tmp_path / folder / "tl_help.py").write_text(f"NAME = {folder!r}\n")
    load("a/tl_first.py:NAME", tmp_path)
    load("a/tl_second.py:NAME", tmp_path)
    assert refused("b/tl_first.py:NAME", tmp_path) == (
        f"agent 'tl_first.py' imports 'tl_help', which is {tmp_path}/a/tl_help.py here already, not {tmp_path}/b/tl_help.py "
        "beside it; give one of them another name, or have the folder as a package: target 'b.tl_first:NAME', and in the "
        "file 'from .tl_help import …'"
    )


def test_nor_another_package_of_the_same_name(tmp_path: Path) -> None:
    for folder, plain in (("a", False), ("b", False), ("c", True)):
        package = tmp_path / folder / "tl_tools"
        package.mkdir(parents=True)
        (tmp_path / folder / "tl_user.py").write_text("from tl_tools import search\nfound = search.FOUND\n")
        (package / "search.py").write_text(f"FOUND = {folder!r}\n")
        if plain:
            (package / "__init__.py").write_text("")
    assert load("a/tl_user.py:found", tmp_path) == "a"
    assert "'tl_tools.search', which is " in refused("b/tl_user.py:found", tmp_path)
    assert "'tl_tools', which is " in refused("c/tl_user.py:found", tmp_path)


def test_what_a_library_is_called_is_no_name_for_a_helper(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("NAME = 'mine'\n")
    (tmp_path / "tl_reads.py").write_text("import msgspec\nimport os\nNAME = msgspec.NAME\n")
    (tmp_path / "os.py").write_text("")  # Python itself would not take it either
    message = refused("tl_reads.py:NAME", tmp_path)
    assert message.startswith(f"agent 'tl_reads.py' imports 'msgspec', which is {sys.modules['msgspec'].__file__} here")
    assert message.endswith(
        "; give one of them another name, or have the folder as a package: served from the one above it"
    )


def test_a_folder_that_was_found_first_does_not_lend_its_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tl_lent.py").write_text(f"NAME = {folder!r}\n")
        (tmp_path / folder / f"tl_in_{folder}.py").write_text("")
    (tmp_path / "a" / "tl_late.py").write_text("from tl_lent import NAME\n")
    (tmp_path / "a" / "tl_in_a.py").write_text("x = 1\n")
    (tmp_path / "b" / "tl_in_b.py").write_text("x = 1\n")
    load("a/tl_in_a.py:x", tmp_path)
    load("b/tl_in_b.py:x", tmp_path)
    assert "which is " + str(tmp_path / "b" / "tl_lent.py") in refused("a/tl_late.py:NAME", tmp_path)


def test_a_relative_import_says_how_a_file_is_served_with_its_package(tmp_path: Path) -> None:
    package = tmp_path / "tl_pkg" / "sub"
    package.mkdir(parents=True)
    (package / "rel.py").write_text("x = 1\nfrom .tl_near import NAME\n")
    (package / "tl_near.py").write_text("NAME = 'near'\n")
    (package / "tl_deep.py").write_text("import rel\n")
    start = "cannot import agent rel.py:2: ImportError: attempted relative import with no known parent package; a file "
    start += "served by its path is in no package: "
    assert (
        refused("tl_pkg/sub/rel.py:NAME", tmp_path)
        == f"{start}serve it as 'tl_pkg.sub.rel:NAME', or leave out the dots"
    )
    assert refused("rel.py:NAME", package) == (
        f"{start}serve it as 'PACKAGE.rel:NAME' from the folder above its package, or leave out the dots"
    )
    assert refused("tl_pkg/sub/tl_deep.py:NAME", tmp_path).endswith("leave out the dots")
    assert load("tl_pkg.sub.rel:NAME", tmp_path) == "near"


def test_what_to_install_is_written_for_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/my code/python")
    (tmp_path / "tl_lacking.py").write_text("import tl_absent\n")
    assert refused("tl_lacking.py:agent", tmp_path).endswith("install that: '/my code/python' -m pip install tl-absent")
