"""A target is told apart by its form."""

from pathlib import Path

import pytest

from trunkline.cli.model_names import with_default_model
from trunkline.cli.target import target_document
from trunkline.config.load import build_config
from trunkline.model.errors import ConfigError


@pytest.mark.parametrize(
    ("target", "kind", "default"),
    [
        (None, "embedded", None),
        ("scripted", "scripted", "scripted"),
        ("http://127.0.0.1:11434/v1", "http", None),
        ("https://models.example/v1/", "http", None),
        ("my_agent.py:agent", "python", "my_agent"),
        ("folder/my_agent.py:bot", "python", "bot"),
        ("package.module:agent", "python", "module"),
        ("module:Bots.first", "python", "first"),
    ],
)
def test_each_form_is_one_backend(target: str | None, kind: str, default: str | None) -> None:
    config = build_config(target_document(target), environ={})
    (settings,) = config.backends.values()
    assert settings.__struct_config__.tag == kind
    assert with_default_model(config).server.default_model == default


def test_candidates_are_public_functions_and_objects_the_likeliest_first(tmp_path: Path) -> None:
    file = tmp_path / "bots.py"
    file.write_text(
        "import os\nLIMIT = 3\nfirst = Bot()\ntyped: Bot = Bot()\nclass Bot: ...\n"
        "def second(turn): ...\nasync def my_agent(turn): ...\ndef _hidden(turn): ...\n"
        "class Called:\n    def __call__(self, turn): ...\n"
        "def helper(): ...\ndef join(one, other): ...\ndef of(turn, *, more): ...\n@decorated\ndef wrapped(): ...\n"
        "class Unmade:\n    def __init__(self, model): ...\n    def __call__(self, turn): ...\n"
        "class Adds:\n    def __call__(self, one, other): ...\n"
        "class Talks:\n    x = 1\n    async def process_direct(self, content): ...\n"
    )
    with pytest.raises(
        ConfigError,
        match=r"it defines: my_agent, first, typed, second, Called, wrapped, Talks; serve one with: .*:my_agent",
    ):
        target_document(str(file))


def test_a_file_named_without_its_suffix_is_found(tmp_path: Path) -> None:
    (tmp_path / "bot.py").write_text("def agent(turn): ...\n")
    with pytest.raises(ConfigError, match=r"serve one with: trunkline serve .*/bot\.py:agent$"):
        target_document(str(tmp_path / "bot"))


def test_a_file_without_candidates_says_so(tmp_path: Path) -> None:
    file = tmp_path / "empty.py"
    file.write_text("LIMIT = 3\n")
    with pytest.raises(ConfigError, match="defines nothing that could be an agent"):
        target_document(str(file))


def test_what_is_to_be_pasted_is_quoted_for_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "my bots"
    folder.mkdir()
    (folder / "bot.py").write_text("def agent(turn): ...\n")
    (folder / "empty.py").write_text("")
    for name, command in (
        ("bot.py", f"trunkline serve '{folder}/bot.py:agent'"),
        ("none.py", f"trunkline serve '{folder}/none.py:ATTRIBUTE'"),
        ("some.toml", f"trunkline serve --config '{folder}/some.toml'"),
    ):
        with pytest.raises(ConfigError) as caught:
            target_document(str(folder / name))
        assert caught.value.message.endswith(command)
