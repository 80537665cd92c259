"""From a TOML file, the environment and the flags to a `Config` in which everything fits together.

In this order: parse, replace `${NAME}`, lay variables and flags over it, compare with the schema, decode, and check
what no single key can say (`checks`). Each step raises a ConfigError that names the file and the key, or the flag or
variable that brought the value, and says what would be right. Nothing is imported, opened or looked up on the network:
agents and models are found when the backends are made.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import get_args

import msgspec
from msgspec.structs import fields

from trunkline.config.checks import inconsistencies
from trunkline.config.environment import OVERRIDES, Override
from trunkline.config.expect import Document, Problem, problems
from trunkline.config.profiles import PROFILES
from trunkline.config.schema import Backend, BackendSettings, Config, ModelSettings
from trunkline.config.secrets import InterpolationError, interpolate
from trunkline.model.errors import ConfigError

MAX_SHOWN = 20
CONFIG_TYPE = msgspec.inspect.type_info(Config)


def _tables_with() -> Mapping[str, Sequence[str]]:
    """Of each setting, the tables that have it."""
    shared = BackendSettings.__struct_fields__
    tables: list[tuple[str, Iterable[str]]] = [
        (f"[{field.name}]", field.default.__struct_fields__)
        for field in fields(Config)
        if isinstance(field.default, msgspec.Struct)
    ]
    tables += [("[backends.NAME]", shared), ("[[models]]", ModelSettings.__struct_fields__)]
    for kind in get_args(Backend):
        own = [name for name in kind.__struct_fields__ if name not in shared]
        tables.append((f"[backends.NAME] of type {kind.__struct_config__.tag!r}", own))
    found: dict[str, list[str]] = {}
    for table, settings in tables:
        for name in settings:
            found.setdefault(name, []).append(table)
    return found


TABLES_WITH = _tables_with()


class _Source(msgspec.Struct, frozen=True):
    """Where values came from: the file, and for some keys the flag or variable laid over it."""

    file: str | None
    origins: Mapping[str, str]

    def error(self, key: str, message: str) -> ConfigError:
        for overridden, origin in self.origins.items():
            message = message.replace(f"{overridden}[0]", f"{overridden}[0], which {origin} sets")
            if key == overridden or key.startswith(f"{overridden}["):
                return ConfigError(message, key=origin)
        return ConfigError(message, file=self.file, key=key or None)

    def refuse(self, found: Iterable[Problem]) -> None:
        """Raises one error for all of them, a line for each, if there is any."""
        some = [self.error(problem.key, problem.message) for problem in islice(found, MAX_SHOWN + 1)]
        if not some:
            return
        lines = [error.message for error in some[:MAX_SHOWN]]
        if len(some) > MAX_SHOWN:
            lines.append("… and more")
        raise some[0].with_message("\n".join(lines))


def load_config(path: Path, *, environ: Mapping[str, str], flags: Mapping[str, str] | None = None) -> Config:
    """Reads one file.

    Args:
        environ: what `${NAME}` and the TRUNKLINE_* overrides read.
        flags: values given on the command line, by flag (`--port`).

    Raises:
        ConfigError: whatever is wrong, as far as it can be told at once.
    """
    file = str(path)
    document = _parse(path, file=file)
    try:
        replaced = interpolate(document, environ=environ)
    except InterpolationError as error:
        raise ConfigError(error.problem.message, file=file, key=error.problem.key) from None
    assert isinstance(replaced, dict)
    return build_config(replaced, environ=environ, flags=flags, file=file)


def build_config(
    document: Document, *, environ: Mapping[str, str], flags: Mapping[str, str] | None = None, file: str | None = None
) -> Config:
    """Makes a Config of a document whose strings are final. Raises ConfigError."""
    merged, origins = _overlaid(document, environ=environ, flags=flags or {})
    source = _Source(file, origins)
    source.refuse(map(_with_its_tables, problems(merged, CONFIG_TYPE)))
    try:
        config = msgspec.convert(merged, Config)
    except msgspec.ValidationError as error:  # a rule of the schema that the walk does not know yet
        raise ConfigError(str(error), file=file) from error
    source.refuse(inconsistencies(config))
    return config


def _with_its_tables(problem: Problem) -> Problem:
    """The problem; of a setting in the wrong table also which has it."""
    tables = TABLES_WITH.get(problem.unknown or "", ())
    if not tables:
        return problem
    have = "have" if len(tables) > 1 else "has"
    return Problem(problem.key, f"{problem.message}; {' and '.join(tables)} {have} {problem.unknown!r}")


def _parse(path: Path, *, file: str) -> Document:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"no such file (looked in {path.resolve().parent})", file=file) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=file) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}", file=file) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        if path.suffix == ".py":
            raise ConfigError(
                f"is Python, and a configuration is TOML; an agent is served by: trunkline serve {file}:NAME", file=file
            ) from None
        raise ConfigError(f"not valid TOML: {error}", file=file) from None
    except RecursionError:
        raise ConfigError("not valid TOML: nested too deep", file=file) from None
    except ValueError as error:  # Python's own bound on the digits of an integer
        raise ConfigError(f"not valid TOML: {error}", file=file) from None


def _applies(override: Override, tables: Mapping[str, object]) -> bool:
    server = tables.get("server")
    return override.profile is None or (isinstance(server, dict) and server.get("profile") == override.profile)


def _overlaid(
    document: Document, *, environ: Mapping[str, str], flags: Mapping[str, str]
) -> tuple[Document, Mapping[str, str]]:
    """The document under variables and flags, and where each replaced key came from."""
    origins: dict[str, str] = {}
    tables: dict[str, object] = dict(document)
    for override in OVERRIDES:
        if override.flag is not None and override.flag in flags:
            origin, text = override.flag, flags[override.flag]
        elif (
            override.counts(environ.get(override.variable))
            and override.key not in origins
            and _applies(override, tables)
        ):
            origin, text = override.variable, environ[override.variable]
        else:
            continue
        table_name, _, key = override.key.partition(".")
        table = tables.get(table_name, {})
        if not isinstance(table, dict):
            continue  # the schema will say that it is no table
        tables[table_name] = {**table, key: override.value(text)}
        origins[override.key] = origin
    return _with_defaults(tables), origins


def _with_defaults(tables: Document) -> Document:
    """With the settings that the profile has other defaults for."""
    server = tables.get("server")
    name = server.get("profile") if isinstance(server, dict) else None
    profile = PROFILES.get(name) if isinstance(name, str) else None
    merged: dict[str, object] = dict(tables)
    for dotted, value in profile.defaults.items() if profile is not None else ():
        table_name, _, key = dotted.partition(".")
        table = merged.get(table_name, {})
        if isinstance(table, dict):
            merged[table_name] = {key: value, **table}
    return merged
