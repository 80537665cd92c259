"""An agent with the constructor, the method and the callbacks of hermes-agent's, for tests of its profile.

What it does is chosen by the user's message; `show` answers with what it was given, so that a test can see that from outside.
"""

import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from trunkline.agent import Output, Turn

OPEN = threading.Event()
"""What `wait` waits for, and `go` sets."""

WAITING = threading.Event()
RUNS: dict[str, int] = {}
"""How often each message was worked on."""

ARGUMENTS = {"command": "ls -la"}
LONG_HISTORY = "remember much"


class Agent:
    """One turn's: the server makes a new one for each."""

    def __init__(
        self,
        *,
        session_id: str | None = None,
        ephemeral_system_prompt: str | None = None,
        gateway_session_key: str | None = None,
        stream_delta_callback: Callable[[str | None], None] | None = None,
        tool_start_callback: Callable[[str, str, object], None] | None = None,
        tool_complete_callback: Callable[[str, str, object, object], None] | None = None,
    ) -> None:
        self.session_id = session_id
        self.system = ephemeral_system_prompt
        self.memory_key = gateway_session_key
        self.say = stream_delta_callback or (lambda _text: None)
        self.start = tool_start_callback or (lambda *_call: None)
        self.complete = tool_complete_callback or (lambda *_call: None)
        self.interrupted = threading.Event()

    def interrupt(self, _message: str | None = None) -> None:
        self.interrupted.set()
        OPEN.set()

    def run_conversation(
        self, user_message: Any, conversation_history: list[dict[str, Any]] | None = None, task_id: str | None = None
    ) -> dict[str, Any]:
        if not isinstance(user_message, str):  # a text and images
            return self.show(user_message, [])
        RUNS[user_message] = RUNS.get(user_message, 0) + 1
        history = list(conversation_history or ())
        messages = [*history, {"role": "user", "content": user_message}]
        return getattr(self, user_message.split(maxsplit=1)[0], self.answer)(user_message, messages)

    def answer(self, message: object, messages: list[dict[str, Any]], text: str | None = None) -> dict[str, Any]:
        said = f"You said: {message}" if text is None else text
        return {"final_response": said, "messages": [*messages, {"role": "assistant", "content": said}]}

    def show(self, message: object, messages: list[dict[str, Any]]) -> dict[str, Any]:
        given = {
            "system": self.system,
            "message": message,
            "history": messages[:-1],
            "session_id": self.session_id,
            "memory_key": self.memory_key,
        }
        return self.answer(message, messages, json.dumps(given))

    def count(self, message: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
        counts = {"input_tokens": 200, "output_tokens": 80, "total_tokens": 280}
        return {**self.answer(message, messages), **counts}

    def fail(self, message: str, _messages: list[dict[str, Any]]) -> dict[str, Any]:
        raise RuntimeError("Provider failed")

    def truncate(self, message: str, _messages: list[dict[str, Any]]) -> dict[str, Any]:
        error = "Response truncated due to output length limit"
        return {
            "final_response": "Half of it",
            "completed": False,
            "partial": True,
            "failed": False,
            "error": error,
        }

    def give_up(self, message: str, _messages: list[dict[str, Any]]) -> dict[str, Any]:
        return {"final_response": "", "completed": False, "failed": True, "error": "Provider failed"}

    def collapse(self, message: str, _messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Its text is about the failure."""
        return {"final_response": "I have failed.", "completed": False, "failed": True, "error": "Provider failed"}

    def pause(self, message: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Speaks around a tool; `None` is how it tells a terminal that a box closes."""
        self.say("Before. ")
        self.say(None)
        self.say("After.")
        self.say(None)
        return self.answer(message, messages, "Before. After.")

    def tool(self, message: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
        self.say("Looking. ")
        self.start("call_123", "terminal", ARGUMENTS)
        self.complete("call_123", "terminal", ARGUMENTS, '{"content":"hello"}')
        self.say("Found.")
        calls = [
            {"id": "call_123", "type": "function", "function": {"name": "terminal", "arguments": json.dumps(ARGUMENTS)}}
        ]
        said = [
            {"role": "assistant", "content": "Looking. ", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call_123", "content": '{"content":"hello"}'},
            {"role": "assistant", "content": "Found."},
        ]
        return {"final_response": "Found.", "messages": [*messages, *said]}

    def inner(self, message: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
        self.start("call_internal_1", "_thinking", {"thought": "secret"})
        self.start("call_search_1", "web_search", {"query": "cats"})
        self.complete("call_internal_1", "_thinking", {}, "")
        self.complete("call_search_1", "web_search", {}, "10 results")
        self.complete("call_orphan", "terminal", {}, "")
        return self.answer(message, messages, "Ten.")

    def orphan(self, message: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
        self.start("call_internal_1", "_thinking", {})
        self.complete("call_internal_1", "_thinking", {}, "")
        self.complete("call_orphan", "terminal", {}, "")
        return self.answer(message, messages, "Nothing.")

    def compute(self, message: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Without callbacks: the tool run is in the transcript alone."""
        calls = [{"id": "call_1", "type": "function", "function": {"name": "calculator", "arguments": '{"x":42}'}}]
        said = [
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call_1", "content": "42"},
            {"role": "assistant", "content": "It is 42."},
        ]
        return {
            "final_response": "It is 42.",
            "messages": [*messages, *said],
            "input_tokens": 100,
            "output_tokens": 50,
            "total_tokens": 150,
        }

    def wait(self, message: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
        self.say("partial output")
        WAITING.set()
        OPEN.wait()
        return self.answer(message, messages, "partial output and the rest")

    def go(self, message: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
        OPEN.set()
        return self.answer(message, messages, "gone")


async def asking(turn: Turn) -> AsyncIterator[Output]:
    """A function of the turn, for what hermes-agent asks in ways of its own."""
    yield f"{await turn.approve('shell', 'rm -r build')}."


async def choosing(turn: Turn) -> AsyncIterator[Output]:
    """Asks with choices of its own, one of which is another word for a choice elsewhere."""
    yield f"{await turn.approve('deploy', choices=('approve', 'deny'))}."
