"""`${NAME}` inside any string of the file is the environment variable of that name; `$$` is a dollar sign.

A variable that is not set is an error, never an empty string: a server that was to have an API key must not start open.
There are no defaults and no nesting: what the file says is what one can read in it.
"""

import re
from collections.abc import Mapping

from trunkline.config.expect import Problem, join

_REFERENCE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|(?P<broken>\{[^}]*\}?))")


class InterpolationError(Exception):
    """A string's `${...}` cannot be replaced; says where and why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def interpolate(value: object, *, environ: Mapping[str, str], path: str = "") -> object:
    """The document with every reference replaced. Raises InterpolationError."""
    match value:
        case str():
            return _interpolate_text(value, environ=environ, path=path)
        case list():
            return [interpolate(item, environ=environ, path=f"{path}[{index}]") for index, item in enumerate(value)]
        case dict():
            return {key: interpolate(item, environ=environ, path=join(path, key)) for key, item in value.items()}
        case _:
            return value


def _interpolate_text(text: str, *, environ: Mapping[str, str], path: str) -> str:
    def replacement(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        if match["broken"]:
            wrong = match[0]
            raise InterpolationError(
                Problem(path, f"expected ${{NAME}}, got {wrong!r} (write $$ for a dollar sign before a brace)")
            )
        name = match["name"]
        if name not in environ:
            raise InterpolationError(Problem(path, f"environment variable {name} is not set; set it before starting"))
        return environ[name]

    return _REFERENCE.sub(replacement, text)
