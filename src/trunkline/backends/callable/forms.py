"""Which objects are agents: functions of a turn, objects with callbacks of their own, and classes of either."""

import inspect
from collections.abc import Callable
from typing import TypeAlias, cast

from trunkline.agent import Turn
from trunkline.backends.callable.form import Form, Media, check_makes, is_async, made_class
from trunkline.backends.callable.objects import ProcessDirect, RunConversation
from trunkline.backends.callable.voice import Voice
from trunkline.model.errors import ConfigError
from trunkline.ports.backend import PartKind

AgentFunction: TypeAlias = Callable[[Turn], object]

EVERY_PART: frozenset[PartKind] = frozenset({"text", "refusal", "image", "audio", "file"})
_WANTED = (
    "expected a function that takes the turn: async generator, coroutine, generator or plain; "
    "or an object with run_conversation() or process_direct()"
)
_ADAPTED = {
    ("langgraph.", "CompiledStateGraph"): ("langgraph", "langgraph", "..."),
    ("langgraph.", "Pregel"): ("langgraph", "langgraph", "..."),
    ("langgraph.", "StateGraph"): ("langgraph", "langgraph", "graph.compile()"),
    ("agents.agent.", "Agent"): ("openai-agents", "openai_agents", "..."),
    ("pydantic_ai.", "Agent"): ("pydantic-ai", "pydantic_ai", "..."),
}
"""Whose agents need an adapter, by the beginning of their class's module and its name: framework, adapter, what it takes."""


class FunctionForm:
    """A function of the turn, or an object that can be called like one. A class makes such an object for each turn."""

    exclusive = False
    parts = EVERY_PART
    media: Media = "attachments"

    def __init__(self, agent: AgentFunction, *, factory: Callable[[], AgentFunction] | None = None) -> None:
        self._agent = agent
        self._factory = factory
        self.on_loop = is_async(agent)

    def call(self, turn: Turn, voice: Voice) -> object:
        return self._agent(turn) if self._factory is None else self._factory()(turn)


def form_of(found: object, name: str) -> Form:
    """The object as an agent. Raises ConfigError that says what it is instead."""
    if hasattr(found, "process_direct") or hasattr(made_class(found), "process_direct"):
        return ProcessDirect(found, name)
    if hasattr(found, "run_conversation") or hasattr(made_class(found), "run_conversation"):
        return RunConversation(found, name)
    made = made_class(found)
    if made is not None:
        return _factory_form(found, made, name)
    if not callable(found):
        what = _called(found) or f"{type(found).__name__}{_adapter_for(found) or f'; {_WANTED}'}"
        raise ConfigError(f"agent {name!r} is {what}")
    _check_takes_turn(found, name, Turn())
    return FunctionForm(cast(AgentFunction, found))


def _called(found: object) -> str:
    """What to say of `agent(…)` given in place of `agent`."""
    if inspect.iscoroutine(found):
        found.close()  # nobody will await it
        kind = "a coroutine"
    elif inspect.isasyncgen(found):
        kind = "an async generator"
    elif inspect.isgenerator(found):
        kind = "a generator"
    else:
        return ""
    return f"what calling it gives, {kind}; leave out the call"


def _adapter_for(found: object) -> str:
    """Where an agent of another framework is made one of ours, told by its class's name: the framework is not imported here."""
    for made in type(found).__mro__:
        for (module, name), (framework, adapter, taken) in _ADAPTED.items():
            if made.__name__ == name and f"{made.__module__}.".startswith(module):
                return f" of {framework}: from trunkline.adapters.{adapter} import as_agent; agent = as_agent({taken})"
    return ""


def _factory_form(found: object, made: type, name: str) -> Form:
    if "__call__" not in dir(made):
        raise ConfigError(f"agent {name!r} is a class whose instances cannot be called with a turn; {_WANTED}")
    check_makes(cast("Callable[..., object]", found), name, offered=frozenset())
    call = made.__call__
    _check_takes_turn(call, name, None, Turn())
    return FunctionForm(call, factory=cast("Callable[[], AgentFunction]", found))


def _check_takes_turn(function: Callable[..., object], name: str, *arguments: object) -> None:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        raise ConfigError(f"agent {name!r} takes {inspect.signature(function)}; {_WANTED}") from None
    except ValueError:  # a builtin without a signature: the call will tell
        pass
