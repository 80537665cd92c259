"""The reference pages say what the code says, and the sample configuration is accepted."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from trunkline import __version__
from trunkline.cli.main import make_parser
from trunkline.config.load import load_config
from trunkline.config.schema import Config

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "gen_docs.py"


@pytest.fixture(scope="module")
def gen_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_of_the_file_has_its_settings_on_the_page() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for name in Config.__struct_fields__:
        assert re.search(rf"^## `\[+{name}\b", page, re.MULTILINE), name


def test_every_page_is_what_the_code_says(gen_docs: ModuleType) -> None:
    stale = [path.name for path, text in gen_docs.generated().items() if path.read_text("utf-8") != text]
    assert stale == [], "run: python scripts/gen_docs.py"


def test_check_fails_and_names_the_page_that_differs(tmp_path: Path) -> None:
    root = tmp_path
    (root / "scripts").mkdir()
    (root / "docs").mkdir()
    (root / "src").symlink_to(ROOT / "src")
    for page in (ROOT / "docs").glob("*.md"):
        (root / "docs" / page.name).write_bytes(page.read_bytes())
    (root / "scripts" / SCRIPT.name).write_bytes(SCRIPT.read_bytes())
    page = root / "docs" / "configuration.md"
    page.write_text(page.read_text("utf-8").replace("8400", "8401"), encoding="utf-8")
    command = [sys.executable, str(root / "scripts" / SCRIPT.name)]

    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "docs/configuration.md differs from the code" in checked.stderr
    assert "8401" in page.read_text("utf-8")

    subprocess.run(command, capture_output=True, check=True)
    assert subprocess.run([*command, "--check"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("text", ["| `server` |", "TRUNKLINE_PORT", "`endpoints`", "`model_name`"])
def test_the_reference_has_settings_and_variables(text: str) -> None:
    assert text in (ROOT / "docs" / "configuration.md").read_text("utf-8")


def test_every_command_of_the_command_lines_page_is_one() -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    commands = re.findall(r"^    (?:\$ )?trunkline (.+?)(?:  .*)?$", page, flags=re.MULTILINE)
    commands = [command for command in commands if not command.startswith(__version__)]
    assert len(commands) >= 7
    for command in commands:
        make_parser().parse_args(shlex.split(command))


def test_the_sample_configuration_is_accepted() -> None:
    config = load_config(ROOT / "examples" / "trunkline.toml", environ={})
    assert [model.name for model in config.models] == ["small", "fast"]
