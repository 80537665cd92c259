"""What `trunkline serve TARGET` serves: the target as the configuration document that a file would have said.

A target is told apart by its form alone, in this order: nothing (the embedded model), a URL (a model server),
`scripted` (the demonstration), `file.py:attribute` or `module:attribute` (a Python agent). Everything else gets a
sentence that says what it looks like and what would be right.
"""

import re
import shlex
from pathlib import Path

from trunkline.config.candidates import agents_in
from trunkline.config.checks import url_problem
from trunkline.config.expect import Document
from trunkline.model.errors import ConfigError

COMMAND_LINE_AGENTS = frozenset({"claude", "codex", "gemini", "opencode", "pi"})
FORMS = "no TARGET (the embedded model), file.py:attribute, module:attribute, an http(s) URL, or 'scripted'"

_AGENT = re.compile(r".+:[A-Za-z_][A-Za-z0-9_.]*")
_ADDRESS = re.compile(r"[A-Za-z0-9.-]+:\d+(/.*)?")


def target_document(target: str | None) -> Document:
    """The configuration that serves this target. Raises ConfigError where it is none.

    Whoever serves a target tries something out: what is stored then lives as long as the process, and no file appears in
    the folder. A configuration file brings a store file.
    """
    return {"store": {"url": "memory:"}, **_served(target)}


def _served(target: str | None) -> Document:
    if target is None:
        return {"backends": {"embedded": {"type": "embedded"}}}
    if "://" in target or _ADDRESS.fullmatch(target):
        return _model_server(target)
    if target == "scripted":
        return {"server": {"default_model": "scripted"}, "backends": {"scripted": {"type": "scripted"}}}
    if _AGENT.fullmatch(target):
        return {"backends": {"agent": {"type": "python", "target": target}}}
    raise ConfigError(_not_a_target(target), key="TARGET")


def _model_server(url: str) -> Document:
    wrong = url_problem(url)
    if wrong:
        raise ConfigError(wrong, key="TARGET")
    return {"backends": {"upstream": {"type": "http", "endpoints": [url]}}}


def _not_a_target(target: str) -> str:
    path = Path(target)
    if target in COMMAND_LINE_AGENTS:
        return f"{target!r} is a command-line agent; this version of trunkline does not serve those; expected {FORMS}"
    if path.suffix == ".toml":
        return f"{target} is a configuration file; serve it with: trunkline serve --config {shlex.quote(target)}"
    if path.is_file():
        return _file_without_attribute(path)
    if path.suffix == ".py":
        return f"no such file: {target}; serve an agent with: trunkline serve {shlex.quote(f'{target}:ATTRIBUTE')}"
    if path.is_dir():
        return f"{target} is a folder; expected {FORMS}"
    if (file := Path(f"{target}.py")).is_file():
        return _file_without_attribute(file)
    return f"expected {FORMS}, got {target!r}"


def _file_without_attribute(path: Path) -> str:
    if path.suffix != ".py":
        return f"{path} is not a Python file; expected {FORMS}"
    try:
        names = agents_in(path)
    except SyntaxError as error:
        return f"agent {path}:{error.lineno}: {type(error).__name__}: {error.msg}"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if not names:
        return f"{path} defines nothing that could be an agent; name one with {path}:ATTRIBUTE"
    command = f"trunkline serve {shlex.quote(f'{path}:{names[0]}')}"
    return f"which agent of {path}? it defines: {', '.join(names)}; serve one with: {command}"
