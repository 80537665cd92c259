"""What is in the repository is about the project: it names no machine, no registry, and nothing that is not there."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

MACHINE = re.compile(rb"(?<![\w.:/-])/(work|root|tmp/[a-z]{1,3}(?:-\w*)?|Users|home/[a-z][\w-]*)/[\w.-]")
"""An absolute path of somebody's machine. `/tmp/` with a telling name is anybody's."""
REGISTRY = re.compile(
    rb"(pypi\.org|pythonhosted\.org|registry\.npm|npmjs\.(org|com)|artifactory|/simple/|devpi|verdaccio)"
)
NUMBER = re.compile(rb"(?i)\bissue #?\d")
DECISION = re.compile(r"[Dd]ecisions? (\d+)")
LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\(([^)\s]+)\)")
TEXT_ONLY = {".gguf", ".png", ".ico", ".jpg", ".gz"}


def tracked() -> list[Path]:
    """The files of the repository; those of the folder where it is no repository (an unpacked archive)."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not {".venv", "node_modules"} & set(path.parts)]
    return [
        path for path in paths if path.is_file() and path.suffix not in TEXT_ONLY and path != Path(__file__).resolve()
    ]


def found(pattern: re.Pattern[bytes], files: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120].decode(errors='replace')}"
        for path in files
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        if pattern.search(line)
    ]


@pytest.mark.parametrize(
    ("pattern", "sample"),
    [
        (MACHINE, b'open("/%s/main/x.py")' % b"work"),
        (MACHINE, b"see /%s/notes.md" % b"root"),
        (MACHINE, b"/home/ada/trunkline"),
        (MACHINE, b"PYTHONPATH=/%s/x/lib" % b"tmp"),
        (MACHINE, b"logs in /%s/h-12/out" % b"tmp"),
        (REGISTRY, b"https://files.pythonhosted.org/packages/x.whl"),
        (REGISTRY, b'"resolved": "https://registry.npmjs.org/openai"'),
        (REGISTRY, b"--index-url http://10.0.0.1/simple/"),
        (NUMBER, b"# see issue 12"),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[bytes], sample: bytes) -> None:
    assert pattern.search(sample)


@pytest.mark.parametrize("pattern", [MACHINE, REGISTRY, NUMBER], ids=["machine", "registry", "number"])
def test_the_repository_speaks_of_the_project_only(pattern: re.Pattern[bytes]) -> None:
    assert not found(pattern, tracked())


def test_a_decision_that_a_comment_names_is_written_down() -> None:
    written = set(
        re.findall(r"^## (\d+)\b", (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    missing = {
        f"{path.relative_to(ROOT)}: decision {number}"
        for path in tracked()
        if path.suffix in (".py", ".md", ".toml", ".txt")
        for number in DECISION.findall(path.read_text(encoding="utf-8", errors="replace"))
        if number not in written
    }
    assert not missing, f"docs/decisions.md has no entry for {sorted(missing)}"


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = []
    for page in [path for path in tracked() if path.suffix == ".md"]:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for link in LINK.findall(text):
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        waiting += [
            (page.parent / link.partition("#")[0]).resolve()
            for link in LINK.findall(page.read_text(encoding="utf-8"))
            if "://" not in link
        ]
    lost = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md") if path not in seen}
    assert not lost, f"nobody finds these pages: {sorted(lost)}; link them from README.md or a page that it links"
