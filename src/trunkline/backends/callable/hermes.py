"""What an agent of hermes-agent (seen in 0.14.0 and 0.19.0) gets around its turn from its own server, beside callbacks.

Its tools ask before they run a command that destroys something, or a script: whoever is registered for the session
that their context names. Where no session is around them they ask nobody, and go ahead. So each turn is a session of
its own, and what is registered for it is the turn's `approve`. hermes-agent is told "once" whatever was chosen:
`session` and `always` are remembered where all agents' are, for the client that said so, and not in its configuration.

Its `interrupt()` ends the request to the model by shutting its sockets. It looks for them in the client's transport;
where no proxy is set they are in transports mounted for each scheme, so those are looked through as well. And it takes
the interrupt back as its run ends, while the thread of the request may still be about to ask again, as after any
connection that breaks; an agent whose turn is over stays interrupted.
"""

import contextlib
import functools
import importlib
import itertools
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Protocol

from trunkline.agent import Turn
from trunkline.backends.callable.form import accepts
from trunkline.ports.approvals import CHOICES, DENY

_ONCE, _ELICITATION = "once", "mcp_elicitation"
_numbers = itertools.count()
_log = logging.getLogger("trunkline.agent")


class _Waiting(Protocol):
    """A question of a tool."""

    data: object
    result: str | None
    event: threading.Event


class NoSession:
    """For every other agent."""

    def around(
        self, agent: object, turn: Turn, *, session_id: str | None, memory_key: str | None
    ) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class HermesSession:
    """Makes turns sessions of hermes-agent. `shared`: one object serves all of them."""

    def __init__(self, approval: ModuleType, context: ModuleType, *, shared: bool) -> None:
        self._shared = shared
        # There is no public way to answer one question of several.
        self._lock: threading.Lock = approval._lock  # noqa: SLF001
        self._waiting: Mapping[str, Sequence[_Waiting]] = approval._gateway_queues  # noqa: SLF001
        self._name: Callable[[str], object] = approval.set_current_session_key
        self._enter: Callable[..., object] = context.set_session_vars
        self._takes = accepts(context.set_session_vars)
        self._register: Callable[[str, object], None] = approval.register_gateway_notify
        self._leave: Callable[[str], None] = approval.unregister_gateway_notify

    @contextlib.contextmanager
    def around(self, agent: object, turn: Turn, *, session_id: str | None, memory_key: str | None) -> Iterator[None]:
        """In the turn's thread. What is set there belongs to the thread's context, which ends with the turn."""
        if not self._shared:
            _stop_for_good(agent, turn)
        key = f"trunkline-{next(_numbers)}"
        named = {
            "chat_id": session_id or "",
            "session_key": memory_key or session_id or "",
            "session_id": session_id or "",
        }
        self._enter(**self._takes.of({"platform": "api_server", "async_delivery": False, **named}))
        self._name(key)
        self._register(key, functools.partial(self._ask, turn, key))
        try:
            yield
        finally:
            self._leave(key)

    def _ask(self, turn: Turn, key: str, asked: Mapping[str, object]) -> None:
        """In the thread of the tool, which afterwards looks for its answer. Tools may ask side by side: each gets its own."""
        choice = turn.approve(_subject(asked), _text(asked), choices=_choices(asked))
        with self._lock:
            waiting = [entry for entry in self._waiting.get(key, ()) if entry.data is asked]
        for entry in waiting:
            entry.result = DENY if choice == DENY else _ONCE
            entry.event.set()


def session_of(agent: object, *, shared: bool) -> HermesSession | NoSession:
    """What is around the turns of this agent, or of those of this class."""
    made = agent if isinstance(agent, type) else type(agent)
    if not any((one.__module__, one.__name__) == ("run_agent", "AIAgent") for one in made.__mro__):
        return NoSession()
    try:
        return HermesSession(
            sys.modules["tools.approval"], importlib.import_module("gateway.session_context"), shared=shared
        )
    except (KeyError, ImportError, AttributeError) as error:
        _log.warning("hermes-agent asks nobody before its tools run: this version has no %s", error)
        return NoSession()


def _stop_for_good(agent: object, turn: Turn) -> None:
    """Has an interrupt reach all that the agent does for this turn."""
    own = vars(agent)
    shut, clear = getattr(agent, "_force_close_tcp_sockets", None), getattr(agent, "clear_interrupt", None)
    if callable(shut):
        own["_force_close_tcp_sockets"] = functools.partial(_shut_all, shut)
    if callable(clear):
        own["clear_interrupt"] = functools.partial(_clear, own, turn, clear)


def _clear(own: dict[str, object], turn: Turn, clear: Callable[[], None]) -> None:
    clear()  # also what it marked the thread with
    if turn.cancelled:
        own["_interrupt_requested"] = True


def _shut_all(shut: Callable[[object], int], client: object) -> int:
    mounted = getattr(getattr(client, "_client", None), "_mounts", None)
    transports = [] if not isinstance(mounted, dict) else [one for one in mounted.values() if one is not None]
    return shut(client) + sum(
        shut(SimpleNamespace(_client=SimpleNamespace(_transport=transport))) for transport in transports
    )


def _subject(asked: Mapping[str, object]) -> str:
    """What a choice is remembered for: the kinds of danger, not the tool, of which most calls need no leave."""
    kinds = asked.get("pattern_keys")
    return "; ".join(map(str, kinds)) if isinstance(kinds, list) and kinds else "hermes-agent"


def _text(asked: Mapping[str, object]) -> str:
    command, why = str(asked.get("command", "")), str(asked.get("description", ""))
    return f"{command}\n{why}" if why and why not in _subject(asked) else command


def _choices(asked: Mapping[str, object]) -> tuple[str, ...]:
    """Some questions are about one case: a command that its model of its own has refused, whatever an MCP server wants to know."""
    if asked.get("smart_denied") or asked.get("pattern_keys") == [_ELICITATION]:
        return _ONCE, DENY
    return (
        CHOICES if asked.get("allow_permanent", True) else tuple([choice for choice in CHOICES if choice != "always"])
    )
