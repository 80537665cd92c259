"""The layers of ARCHITECTURE.md, as import-linter checks them: kept by the package, broken by one import too many.

Each sample is a copy of the source with that one import added; import-linter must name it. A contract without a sample
fails, so no contract can be written that forbids nothing.
"""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.architecture.sources import PACKAGE, ROOT

CONFIG = ROOT / ".importlinter"
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


class Sample(NamedTuple):
    """Added to `module` (made where it is missing): these lines; named by the report: these words."""

    contract: str
    module: str
    lines: str
    reported: tuple[str, ...]


SAMPLES = (
    Sample("layers", "model/usage.py", "import trunkline.engine.call", ("trunkline.model", "trunkline.engine.call")),
    Sample("layers", "server/app.py", "import trunkline.assembly", ("trunkline.server", "trunkline.assembly")),
    Sample(
        "layers",
        "engine/call.py",
        "import trunkline.server.streaming",
        ("trunkline.engine.call", "trunkline.server.streaming"),
    ),
    Sample("layers", "ports/runtime.py", "import trunkline.config.schema", ("trunkline.ports", "trunkline.config")),
    Sample("layers", "telemetry/usage.py", "import trunkline.testing", ("trunkline.telemetry", "trunkline.testing")),
    Sample("layers", "gadgets.py", '"""A module no layer names."""', ("gadgets",)),
    Sample("pure", "model/ids.py", "import secrets", ("trunkline.model.ids", "secrets")),
    Sample("pure", "wire/sse.py", "import asyncio", ("trunkline.wire.sse", "asyncio")),
    Sample("pure", "dialects/reading.py", "from time import time", ("trunkline.dialects.reading", "time")),
    Sample("pure", "dialects/openai_chat/parts.py", "import logging", ("openai_chat.parts", "logging")),
    Sample("answerers", "server/answering.py", "import trunkline.backends.http", ("answering", "trunkline.backends")),
    Sample("answerers", "stores/memory.py", '"""Kept in memory."""', ()),
    Sample("answerers", "engine/gateway.py", "import trunkline.stores.memory", ("gateway", "trunkline.stores")),
    Sample(
        "dialects", "dialects/other_chat.py", "import trunkline.dialects.openai_chat", ("other_chat", "openai_chat")
    ),
    Sample("surfaces", "server/surfaces/usage.py", "import trunkline.server.surfaces.models", ("usage", "models")),
    Sample(
        "backends", "backends/http.py", "import trunkline.backends.scripted", ("backends.http", "backends.scripted")
    ),
    Sample("backends", "backends/redact.py", "import trunkline.backends.http", ("backends.redact", "backends.http")),
    Sample("backends", "backends/carrier.py", '"""A transport no layer names."""', ("carrier",)),
    Sample("starlette", "engine/call.py", "import starlette.types", ("trunkline.engine.call", "starlette")),
    Sample("cycles", "model/items.py", "import trunkline.model.request", ("trunkline.model", "items", "request")),
)


def contracts() -> list[str]:
    parser = configparser.ConfigParser()
    parser.read(CONFIG, encoding="utf-8")
    return [section.rpartition(":")[2] for section in parser.sections() if section.startswith("importlinter:contract:")]


def lint(source: Path, *contract: str) -> subprocess.CompletedProcess[str]:
    """Import-linter over another copy of the package, by the repository's own rules."""
    chosen = [word for name in contract for word in ("--contract", name)]
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--no-logo", "--config", str(CONFIG), *chosen],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source), "COLUMNS": "200", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The source in another folder, to be spoiled."""
    shutil.copytree(PACKAGE, tmp_path / "src" / "trunkline", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "src"


def add(source: Path, sample: Sample) -> None:
    module = source / "trunkline" / sample.module
    if module.exists():
        module.write_text(f"{module.read_text(encoding='utf-8')}\n{sample.lines}\n", encoding="utf-8")
        return
    module.parent.mkdir(exist_ok=True)
    if not (module.parent / "__init__.py").exists():
        (module.parent / "__init__.py").write_text('"""A package."""\n', encoding="utf-8")
    module.write_text(sample.lines + "\n", encoding="utf-8")


def test_the_package_keeps_every_contract(copy: Path) -> None:
    report = lint(copy)
    assert report.returncode == 0, report.stdout + report.stderr
    assert f"Contracts: {len(contracts())} kept, 0 broken." in report.stdout


def test_every_contract_is_shown_to_fail() -> None:
    assert {sample.contract for sample in SAMPLES} == set(contracts())


@pytest.mark.parametrize(
    "sample", [sample for sample in SAMPLES if sample.reported], ids=lambda s: f"{s.contract}-{s.module}"
)
def test_one_import_too_many_breaks_its_contract(sample: Sample, copy: Path) -> None:
    for earlier in SAMPLES:
        if not earlier.reported and earlier.contract == sample.contract:
            add(copy, earlier)
    add(copy, sample)
    report = lint(copy, sample.contract)
    assert report.returncode == 1, report.stdout + report.stderr
    assert "Contracts: 0 kept, 1 broken." in report.stdout, report.stdout + report.stderr
    words = report.stdout.partition("Broken contracts")[2]
    missing = [word for word in sample.reported if word not in words]
    assert not missing, f"the report does not name {missing}:\n{words}"
