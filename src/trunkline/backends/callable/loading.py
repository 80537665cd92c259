"""Finds the object that a target names: `module:attribute` or `path/file.py:attribute`.

The agent's folder goes on `sys.path`, as `python file.py` would put it there, so an agent imports its neighbours. A
file is loaded once however many backends name it, under its own name where that is free. Whatever goes wrong is a
ConfigError whose first words are where: the line of the author's code nearest to the failure, not a line of ours or
of a library.
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType, ModuleType

import msgspec

from trunkline.backends.callable.neighbours import check_neighbours, claim, neighbours
from trunkline.config.agent_names import agent_name
from trunkline.config.candidates import agents_in
from trunkline.model.errors import ConfigError

PACKAGES = MappingProxyType(
    {
        "PIL": "pillow",
        "agents": "openai-agents",
        "bs4": "beautifulsoup4",
        "cv2": "opencv-python",
        "dotenv": "python-dotenv",
        "nanobot": "nanobot-ai",
        "run_agent": "hermes-agent",
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
    }
)
"""Of modules that agents import, the packages with other names: what is called like the module may be a stranger's."""


class Target(msgspec.Struct, frozen=True):
    """A target taken apart. Exactly one of `path` and `module` is set."""

    text: str
    attribute: str
    path: Path | None = None
    module: str | None = None

    @property
    def name(self) -> str:
        """A short name for the agent."""
        return agent_name(self.text)


def parse_target(text: str, *, base_dir: Path) -> Target:
    """Raises ConfigError unless it has the form of a target."""
    place, _, attribute = text.rpartition(":")
    if not place or not all(part.isidentifier() for part in attribute.split(".")):
        hint = _hint(text.rstrip(":"), base_dir=base_dir)
        raise ConfigError(f"expected 'module:attribute' or 'path/file.py:attribute', got {text!r}{hint}")
    if place.endswith(".py"):
        return Target(text, attribute, path=(base_dir / Path(place).expanduser()).resolve())
    if not all(part.isidentifier() for part in place.split(".")):
        raise ConfigError(f"{place!r} is neither a .py file nor the name of a module, in target {text!r}")
    return Target(text, attribute, module=place)


def _hint(text: str, *, base_dir: Path) -> str:
    """What of a file may have been meant."""
    if not text.endswith(".py"):
        return ""
    try:
        names = agents_in(base_dir / Path(text).expanduser())
    except (OSError, SyntaxError):
        names = []
    has = f"; it defines: {', '.join(names)}" if names else ""
    return f"{has} (did you mean '{text}:{names[0] if names else 'agent'}'?)"


def load_target(target: Target, *, base_dir: Path) -> object:
    """Imports what the target names. Raises ConfigError; runs the author's module."""
    if target.path is not None:
        module = _load_file(target.path, target.attribute, base_dir=base_dir)
    else:
        module = _load_module(target, base_dir=base_dir)
    found: object = module
    for part in target.attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigError(_missing(target, module)) from None
    return found


def _as_module(path: Path, attribute: str, *, base_dir: Path) -> str | None:
    """The target that has the file in its package; None where that begins above the base folder."""
    base_dir = base_dir.resolve()
    parts = path.relative_to(base_dir).with_suffix("").parts if path.is_relative_to(base_dir) else ()
    packaged = len(parts) > 1 and all(part.isidentifier() for part in parts)
    return f"{'.'.join(parts)}:{attribute}" if packaged else None


def _load_file(path: Path, attribute: str, *, base_dir: Path) -> ModuleType:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"agent file {path.name!r} {what}; looked for {path}")
    _add_to_path(path.parent)
    name = _module_name(path)
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    as_module, beside = _as_module(path, attribute, base_dir=base_dir), neighbours(path)
    check_neighbours(path, beside, as_module=as_module)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader
    packaged = repr(as_module) if as_module else f"'PACKAGE.{path.stem}:{attribute}' from the folder above its package"
    alone = f"; a file served by its path is in no package: serve it as {packaged}, or leave out the dots"
    try:
        _run(lambda: loader.exec_module(module), shown=path.name, folder=path.parent, alone=alone)
        check_neighbours(path, beside, as_module=as_module)
    except ConfigError:
        sys.modules.pop(name, None)
        raise
    claim(beside, agent_module=name)
    return module


def _load_module(target: Target, *, base_dir: Path) -> ModuleType:
    assert target.module is not None
    name = target.module
    base_dir = base_dir.resolve()
    _add_to_path(base_dir)
    top = name.partition(".")[0]
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        raise ConfigError(
            f"cannot import agent: no module named {top!r}; looked in {base_dir} and where Python finds modules"
        )
    modules: list[ModuleType] = []
    _run(lambda: modules.append(importlib.import_module(name)), shown=name, folder=base_dir)
    return modules[0]


def _add_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


def _module_name(path: Path) -> str:
    """The file's own name, so that its neighbours' `import` finds the same module; made unique where it is taken."""
    name = path.stem
    holder = sys.modules.get(name)
    file = getattr(holder, "__file__", None)
    free = holder is None and name not in sys.stdlib_module_names
    if free or (file is not None and Path(file).resolve() == path):
        return name
    return f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _run(load: Callable[[], None], *, shown: str, folder: Path, alone: str = "") -> None:
    """Runs the author's module; what it raises becomes a ConfigError that says where. Ctrl-C stays Ctrl-C.

    `alone`: what to say of an import relative to a package, where there is none.
    """
    try:
        load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything, SystemExit included
        what = _what(error) + (alone if _is_relative_import(error) else "")
        raise ConfigError(f"cannot import agent {_where(error, shown=shown, folder=folder)}: {what}") from error


def _is_relative_import(error: BaseException) -> bool:
    """Whether it was raised by `from .neighbour import …`, and not by what that has found."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own_kind = type(error) is ImportError and error.name is None
    return own_kind and bool(frames) and re.match(r"from\s+\.", frames[-1].line or "") is not None


def _where(error: BaseException, *, shown: str, folder: Path) -> str:
    """`file.py:12`, the author's line nearest to the failure."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_relative(error.filename, folder)}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if _is_own(frame.filename, folder)]
    if not own:
        return shown
    return f"{_relative(own[-1].filename, folder)}:{own[-1].lineno}"


def _is_own(filename: str, folder: Path) -> bool:
    path = Path(filename)
    return path.is_relative_to(folder) and "site-packages" not in path.parts and path != Path(__file__)


def _relative(filename: str, folder: Path) -> str:
    path = Path(filename)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else filename


def _what(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return what + _remedy(error.name) if isinstance(error, ModuleNotFoundError) else what


def _remedy(module: str | None) -> str:
    """How to get a module that is nowhere. Which Python serves is not obvious: `make` has one of its own."""
    if not module or "." in module:  # part of a package that is there
        return ""
    package = PACKAGES.get(module) or module.replace("_", "-")
    return f"; if it is in a package, install that: {shlex.quote(sys.executable)} -m pip install {package}"


def _may_be_agent(value: object) -> bool:
    if hasattr(value, "run_conversation") or hasattr(value, "process_direct"):
        return True
    return "__call__" in dir(value) if inspect.isclass(value) else callable(value)


def _missing(target: Target, module: ModuleType) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and _may_be_agent(value)
    ]
    place = target.path.name if target.path is not None else target.module
    has = ", ".join(repr(name) for name in own) if own else "nothing that could be an agent"
    return f"agent {place!r} has no {target.attribute!r}; it has: {has}"
