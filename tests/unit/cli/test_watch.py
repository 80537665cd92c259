"""What a reloading server watches."""

import os
from pathlib import Path

from trunkline.cli.watch import changed, snapshot, watched
from trunkline.config.load import build_config


def test_agents_folders_and_scripts_are_watched(tmp_path: Path) -> None:
    config = build_config(
        {
            "backends": {
                "file": {"type": "python", "target": "bots/a.py:agent"},
                "module": {"type": "python", "target": "package.b:agent"},
                "demo": {"type": "scripted", "script": "script.toml"},
                "plain": {"type": "scripted"},
            }
        },
        environ={},
    )
    assert watched(config, base_dir=tmp_path) == [tmp_path / "bots", tmp_path, tmp_path / "script.toml"]


def test_python_files_count_but_not_those_of_caches_hidden_folders_and_virtual_environments(tmp_path: Path) -> None:
    for name in ["a.py", "sub/b.py", ".hidden/c.py", "venv/d.py", "node_modules/e.py", "__pycache__/f.py", "notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    assert sorted(snapshot([tmp_path])) == [tmp_path / "a.py", tmp_path / "sub" / "b.py"]


def test_appearing_vanishing_and_differing_files_are_changes(tmp_path: Path) -> None:
    kept, edited, touched, gone = (tmp_path / f"{name}.py" for name in ("kept", "edited", "touched", "gone"))
    for file in (kept, edited, touched, gone):
        file.write_text("x")
    before = snapshot([tmp_path])
    edited.write_text("xy")
    os.utime(touched, ns=(1, 1))
    gone.unlink()
    new = tmp_path / "new.py"
    new.touch()
    assert changed(before, snapshot([tmp_path])) == sorted([edited, touched, gone, new])


def test_a_file_that_is_not_there_yet_is_a_change_when_it_appears(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    before = snapshot([script])
    script.touch()
    assert changed(before, snapshot([script])) == [script]
