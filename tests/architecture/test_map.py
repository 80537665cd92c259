"""ARCHITECTURE.md maps what is there: every module of the two upper levels, every dependency with its reason."""

import ast
import re
import sys
import tomllib

import pytest

from tests.architecture.sources import PACKAGE, ROOT

TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
MAP_LINE = re.compile(r"^(?P<indent> *)(?P<names>[\w./]+)(?: +(?P<says>\S.*))?$")


def section(title: str, text: str = TEXT) -> str:
    """The text below a heading, up to the next of its level."""
    _, found, rest = text.partition(f"\n## {title}\n")
    assert found, f"ARCHITECTURE.md has no section {title!r}"
    return re.split(r"\n## ", rest)[0]


def drawn(text: str = TEXT) -> dict[str, str]:
    """Path below src/trunkline to what the map says of it. A folder ends with a slash; what it holds is indented."""
    tree = re.search(r"```text\n(src/trunkline/\n.*?)```", section("The map", text), re.DOTALL)
    assert tree, "the map begins with src/trunkline/"
    paths: dict[str, str] = {}
    folder = ""
    for line in tree[1].splitlines()[1:]:
        match = MAP_LINE.match(line)
        assert match, f"not a line of the map: {line!r}"
        depth = len(match["indent"]) // 2
        name = match["names"]
        path = name if depth == 1 else f"{folder}{name}"
        paths[path] = match["says"] or ""
        if depth == 1 and name.endswith("/"):
            folder = name
    return paths


def built() -> set[str]:
    """Modules and packages of the two upper levels."""
    paths: set[str] = set()
    for path in [*PACKAGE.glob("*"), *PACKAGE.glob("*/*")]:
        name = path.relative_to(PACKAGE).as_posix()
        if path.is_dir() and any(path.glob("*.py")):
            paths.add(f"{name}/")
        elif path.suffix == ".py" and path.name != "__init__.py":
            paths.add(name)
    return paths


def test_the_map_shows_every_module_of_the_two_upper_levels() -> None:
    missing = built() - set(drawn())
    assert not missing, f"add a line for each to the map in ARCHITECTURE.md: {sorted(missing)}"


def test_the_map_shows_nothing_that_is_not_there() -> None:
    gone = set(drawn()) - built()
    assert not gone, f"ARCHITECTURE.md draws what is not built: {sorted(gone)}"


def test_a_line_too_few_or_too_many_is_found() -> None:
    line = "    gateway.py        who answers, when, and what becomes of failures\n"
    assert line in TEXT
    assert "engine/gateway.py" in built() - set(drawn(TEXT.replace(line, "")))
    added = TEXT.replace(line, line + line.replace("gateway", "gatepost"))
    assert "engine/gatepost.py" in set(drawn(added)) - built()


def test_the_map_says_a_few_words_about_each() -> None:
    assert not [path for path, says in drawn().items() if len(says.split()) < 2]


def requirements() -> dict[str, list[str]]:
    """Names of what pyproject.toml asks for, by group."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    groups = {
        "core": project["project"]["dependencies"],
        **project["project"]["optional-dependencies"],
        **project["dependency-groups"],
        "build": project["build-system"]["requires"],
    }
    return {group: [re.split(r"[^\w.-]", wanted)[0] for wanted in names] for group, names in groups.items()}


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, names in requirements().items() for name in names]
)
def test_every_dependency_has_its_sentence(group: str, name: str) -> None:
    entry = re.search(rf"^- \*\*{re.escape(name)}\*\*[^:]*: (.+?)(?=^- |\n\n|\Z)", section("Dependencies"), re.M | re.S)
    assert entry, f"ARCHITECTURE.md, Dependencies: no entry '- **{name}**: …' for a dependency of {group}"
    assert len(entry[1].split()) >= 8, f"the entry of {name} does not say why it is there and what it replaces"


BROUGHT_ALONG = {"agents": "openai_agents", "pydantic_ai": "pydantic_ai_slim"}
"""Imported here under another name than it is installed by."""


def test_every_package_that_is_imported_is_asked_for() -> None:
    groups = ("core", "embedded", "langgraph", "openai-agents", "pydantic-ai", "semantic-cache")
    asked = {name.replace("-", "_") for group in groups for name in requirements()[group]}
    imported = {
        module
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for module in imported_by(node)
        if module not in sys.stdlib_module_names and module != "trunkline"
    }
    unasked = {module for module in imported if BROUGHT_ALONG.get(module, module) not in asked}
    assert not unasked, f"add to the dependencies in pyproject.toml: {sorted(unasked)}"
    assert set(BROUGHT_ALONG) <= imported, "BROUGHT_ALONG names what nothing imports"


def imported_by(node: ast.AST) -> list[str]:
    """Top-level modules that an import statement names."""
    if isinstance(node, ast.Import):
        return [name.name.partition(".")[0] for name in node.names]
    if isinstance(node, ast.ImportFrom) and node.module is not None:
        return [node.module.partition(".")[0]]
    return []


def test_no_dependency_is_explained_that_is_not_there() -> None:
    explained = set(re.findall(r"^- \*\*([\w.-]+)\*\*", section("Dependencies"), re.MULTILINE))
    assert not explained - {name for names in requirements().values() for name in names}
