"""What an agent is to the backend, whatever it is to its author: something that is called with a turn.

A class is a factory: it makes one agent for each turn. What a stranger's function is called with is decided by its
signature, so that an older or newer version of the same agent, which takes fewer or more, is called with what it
knows.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeAlias

import msgspec

from trunkline.agent import Turn
from trunkline.backends.callable.voice import Voice
from trunkline.model.errors import ConfigError
from trunkline.ports.backend import PartKind

Media: TypeAlias = Literal["attachments", "files"]


class Form(Protocol):
    """One agent, as it is called.

    Attributes:
        on_loop: calling it gives an async generator or a coroutine at once; otherwise it is called in a thread.
        exclusive: one turn at a time.
        parts: what of a user's message it can take.
        media: attachments as they are, or saved as files before it is called.
    """

    @property
    def on_loop(self) -> bool: ...

    @property
    def exclusive(self) -> bool: ...

    @property
    def parts(self) -> frozenset[PartKind]: ...

    @property
    def media(self) -> Media: ...

    def call(self, turn: Turn, voice: Voice) -> object:
        """What the agent gives for the turn; what it says before that goes through the voice."""
        ...


class Accepts(msgspec.Struct, frozen=True):
    """What something can be called with by name. `anything`: it also takes names that it does not list."""

    names: frozenset[str]
    required: tuple[str, ...]
    anything: bool

    def of(self, offered: Mapping[str, object], *, if_named: Mapping[str, object] = {}) -> dict[str, object]:
        """What of the offer it takes. `if_named` is only for who lists it: many a `**kwargs` passes on to who does not."""
        taken = {name: value for name, value in offered.items() if self.anything or name in self.names}
        taken.update({name: value for name, value in if_named.items() if name in self.names})
        return taken


def accepts(function: Callable[..., object]) -> Accepts:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a builtin without a signature
        return Accepts(frozenset(), (), anything=True)
    named = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    return Accepts(
        names=frozenset([parameter.name for parameter in named]),
        required=tuple([parameter.name for parameter in named if parameter.default is parameter.empty]),
        anything=any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters),
    )


def made_class(found: object) -> type | None:
    """The class of which calling this makes an instance; None where it is no class, bound arguments or not."""
    while isinstance(found, functools.partial):
        found = found.func
    return found if inspect.isclass(found) else None


def check_makes(found: Callable[..., object], name: str, *, offered: frozenset[str]) -> Accepts:
    """What the class takes. Raises ConfigError where it demands what no turn has."""
    taken = accepts(found)
    missing = [parameter for parameter in taken.required if parameter not in offered]
    if missing:
        raise ConfigError(
            f"agent {name!r} is a class whose instances need {', '.join(repr(parameter) for parameter in missing)}; "
            "a class is called once for each turn: give functools.partial(…) with what it needs, or an instance"
        )
    return taken


def is_async(function: object) -> bool:
    """Whether calling it gives an async generator or a coroutine at once."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    return inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function)
