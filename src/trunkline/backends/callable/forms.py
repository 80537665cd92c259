"""Which objects are agents, and where each is called: on the loop or in a thread.

An agent is called with one turn. Objects with callbacks of their own (`process_direct`, `run_conversation`) and
classes as factories have another contract; they are refused by name rather than called in a way that half works.
"""

import functools
import inspect
from collections.abc import Callable
from typing import TypeAlias, cast

from trunkline.agent import Turn
from trunkline.model.errors import ConfigError

AgentFunction: TypeAlias = Callable[[Turn], object]

CALLBACK_METHODS = ("process_direct", "run_conversation")
_WANTED = "expected a function that takes the turn: async generator, coroutine, generator or plain"


def checked(found: object, name: str) -> AgentFunction:
    """The object as an agent. Raises ConfigError that says what it is instead."""
    for method in CALLBACK_METHODS:
        if hasattr(found, method):
            raise ConfigError(
                f"agent {name!r} has {method}(); objects with callbacks are not in this version; {_WANTED}"
            )
    if inspect.isclass(found):
        raise ConfigError(
            f"agent {name!r} is a class; classes as factories are not in this version; "
            f"{_WANTED}, or an instance with such a __call__"
        )
    if not callable(found):
        raise ConfigError(f"agent {name!r} is {type(found).__name__}; {_WANTED}")
    try:
        inspect.signature(found).bind(Turn())
    except TypeError:
        raise ConfigError(f"agent {name!r} takes {inspect.signature(found)}; {_WANTED}") from None
    except ValueError:  # a builtin without a signature: the call will tell
        pass
    return cast(AgentFunction, found)


def runs_on_loop(agent: AgentFunction) -> bool:
    """Whether calling it gives an async generator or a coroutine at once."""
    function: object = agent
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    return inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function)
