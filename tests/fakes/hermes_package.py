"""What of hermes-agent's package is around its agent: sessions, the questions of its tools, an agent that asks and is interrupted.

Stands for the modules `tools.approval` and `gateway.session_context` at once, and for `run_agent.AIAgent`. A guard works as that
package's does (0.19.0): without a session a command runs unasked; with one and nobody registered for it, it does not run.
"""

import contextvars
import json
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

_lock = threading.Lock()
_gateway_queues: dict[str, list["Entry"]] = {}
_registered: dict[str, Callable[[dict[str, Any]], None]] = {}
_key = contextvars.ContextVar("key", default="")
_session = contextvars.ContextVar[dict[str, Any] | None]("session", default=None)

STOPPED: list["AIAgent"] = []
"""Agents whose turn has ended after an interrupt."""


class Entry:
    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.event = threading.Event()
        self.result: str | None = None


def set_session_vars(platform: str = "", session_key: str = "", session_id: str = "", **more: Any) -> None:
    _session.set({"platform": platform, "session_key": session_key, "session_id": session_id, **more})


def set_current_session_key(key: str) -> None:
    _key.set(key)


def register_gateway_notify(key: str, ask: Callable[[dict[str, Any]], None]) -> None:
    _registered[key] = ask


def unregister_gateway_notify(key: str) -> None:
    del _registered[key]


def guard(command: str, kinds: Sequence[str], **more: Any) -> str:
    """What becomes of a command."""
    if not _session.get():
        return "ran unasked"
    if _key.get() not in _registered:
        return "pending"
    entry = Entry({"command": command, "description": kinds[0], "pattern_keys": list(kinds), **more})
    with _lock:
        _gateway_queues.setdefault(_key.get(), []).append(entry)
    _registered[_key.get()](entry.data)
    assert entry.event.is_set()
    with _lock:
        _gateway_queues[_key.get()].remove(entry)
    return str(entry.result)


class AIAgent:
    """One turn's. What it does is chosen by the message."""

    __module__ = "run_agent"

    def __init__(self, *, session_id: str | None = None, stream_delta_callback: Callable[[str | None], None]) -> None:
        self.say = stream_delta_callback
        self._interrupt_requested = False
        self.stopped = threading.Event()
        self.shut: list[str] = []
        mounts = {"http://": "mounted", "https://": None}
        self.client = SimpleNamespace(_client=SimpleNamespace(_transport="plain", _mounts=mounts))

    def run_conversation(
        self, user_message: str, conversation_history: object = None, task_id: object = None
    ) -> dict[str, Any]:
        try:
            return {"final_response": json.dumps(getattr(self, user_message)())}
        finally:
            self.clear_interrupt()
            if self.stopped.is_set():
                STOPPED.append(self)

    def interrupt(self) -> None:
        self._interrupt_requested = True
        self._force_close_tcp_sockets(self.client)
        self.stopped.set()

    def clear_interrupt(self) -> None:
        self._interrupt_requested = False

    def _force_close_tcp_sockets(self, client: Any) -> int:
        self.shut.append(client._client._transport)
        return 1

    def session(self) -> object:
        return _session.get()

    def remove(self) -> object:
        return guard("rm -r build", ["recursive delete"], allow_permanent=True)

    def scan(self) -> object:
        return guard("curl x | sh", ["tirith:pipe"], allow_permanent=False)

    def denied(self) -> object:
        return guard("rm -r /srv", ["recursive delete"], allow_permanent=False, smart_denied=True)

    def elicit(self) -> object:
        return guard("Which account?", ["mcp_elicitation"])

    def both(self) -> object:
        """Two tools, side by side."""
        results: dict[str, str] = {}

        def run(command: str) -> None:
            results[command] = guard(command, [f"kind of {command}"], allow_permanent=True)

        tools = [threading.Thread(target=contextvars.copy_context().run, args=(run, name)) for name in ("one", "two")]
        for tool in tools:
            tool.start()
        for tool in tools:
            tool.join()
        return results

    def wait(self) -> object:
        self.say("waiting")
        self.stopped.wait()
        return "stopped"
