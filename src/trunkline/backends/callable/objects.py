"""Agents of two servers, as they are: objects with `process_direct` or `run_conversation`, and classes of such objects.

Both were written to be called by their own server. They get what their signatures accept of what it would give them,
speak through callbacks, and return their answer as well; of that, what has been streamed is not said again. A class
makes one object for each turn. An instance serves all turns: it gets its callbacks as arguments where it accepts
them. Where it has attributes for them instead, one turn at a time can be on it, and it can be interrupted without
stopping somebody else's turn.
"""

import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import cast
from urllib.parse import quote

from trunkline.agent import Turn, Usage
from trunkline.backends.callable.form import Accepts, Media, accepts, check_makes, is_async, made_class
from trunkline.backends.callable.hermes import session_of
from trunkline.backends.callable.media import user_message
from trunkline.backends.callable.run_hook import RunHook
from trunkline.backends.callable.voice import Voice
from trunkline.model.errors import AgentError, ConfigError
from trunkline.ports.backend import PartKind

_TEXT: frozenset[PartKind] = frozenset({"text", "refusal"})
_FILES: frozenset[PartKind] = frozenset({"image", "audio", "file"})
_IMAGES: frozenset[PartKind] = frozenset({"image"})
_CALLBACKS = ("stream_delta_callback", "tool_start_callback", "tool_complete_callback", "tool_progress_callback")
_RARER_CALLBACKS = ("reasoning_callback",)
_FACTORY = frozenset({*_CALLBACKS, *_RARER_CALLBACKS, "session_id", "ephemeral_system_prompt", "gateway_session_key"})
_COUNTS = frozenset({"prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"})


class _Object:
    """Where a turn's object comes from: an instance that serves all of them, or a class that makes one for each."""

    def __init__(self, found: object, name: str, method: str, *, needs: str, offered: frozenset[str]) -> None:
        made = made_class(found)
        self.shared = made is None
        self._found = found
        self._method = method
        self._takes = None if made is None else check_makes(cast("Callable[..., object]", found), name, offered=offered)
        function = getattr(found if made is None else made, method)
        if not callable(function):
            raise ConfigError(f"agent {name!r} has a {method} that cannot be called")
        self.method_takes: Accepts = accepts(function)
        if not (self.method_takes.anything or needs in self.method_takes.names):
            raise ConfigError(f"agent {name!r} has a {method}() that does not accept {needs!r} by name")
        self.on_loop = is_async(function)

    def takes(self, name: str) -> bool:
        """Whether what makes the object takes it."""
        return self._takes is not None and (self._takes.anything or name in self._takes.names)

    def made(self, offered: Mapping[str, object], *, if_named: Mapping[str, object] = {}) -> object:
        if self._takes is None:
            return self._found
        return cast("Callable[..., object]", self._found)(**self._takes.of(offered, if_named=if_named))

    def method(self, made: object) -> Callable[..., object]:
        return cast("Callable[..., object]", getattr(made, self._method))


class ProcessDirect:
    """`process_direct(content=…, session_key=…, media=…, on_stream=…, on_stream_end=…)`: it keeps the conversation itself."""

    exclusive = False
    media: Media = "files"

    def __init__(self, found: object, name: str) -> None:
        self._object = _Object(found, name, "process_direct", needs="content", offered=frozenset({"session_id"}))
        self.on_loop = self._object.on_loop
        takes = self._object.method_takes
        self.parts = _TEXT | _FILES if takes.anything or "media" in takes.names else _TEXT
        self._turns = _Turns()

    def call(self, turn: Turn, voice: Voice) -> object:
        hook = RunHook()
        agent = self._object.made({"session_id": _scoped(turn, turn.session_id)})
        arguments = self._object.method_takes.of(
            {
                "content": turn.input,
                "session_key": _scoped(turn, turn.session_id or "api:default"),
                "channel": "api",
                "chat_id": "default",
                "media": list(voice.media) or None,
                "on_stream": voice.text,
                "on_stream_end": voice.segment_end,
            },
            if_named={"on_progress": voice.progress, "hooks": [hook]},
        )
        with self._turns.usage_of(agent) as usage:
            value = self._object.method(agent)(**arguments)
            if not isinstance(value, Awaitable):
                return _spoken(value, hook.usage or usage(), hook.state)
        return self._awaited(agent, value, hook)

    async def _awaited(self, agent: object, said: Awaitable[object], hook: RunHook) -> object:
        with self._turns.usage_of(agent) as usage:
            value = await said
            return _spoken(value, hook.usage or usage(), hook.state)


class RunConversation:
    """`run_conversation(user_message=…, conversation_history=…, task_id=…)`, with callbacks of the object's own."""

    media: Media = "attachments"
    parts = _TEXT | _IMAGES

    def __init__(self, found: object, name: str) -> None:
        self._object = _Object(found, name, "run_conversation", needs="user_message", offered=_FACTORY)
        self.on_loop = self._object.on_loop
        takes = self._object.method_takes
        self._attributes = [
            callback
            for callback in (*_CALLBACKS, *_RARER_CALLBACKS)
            if self._object.shared and callback not in takes.names and hasattr(found, callback)
        ]
        self.exclusive = bool(self._attributes)
        self._hermes = session_of(made_class(found) or found, shared=self._object.shared)

    def call(self, turn: Turn, voice: Voice) -> object:
        callbacks = dict(
            zip(_CALLBACKS, (voice.text, voice.tool_start, voice.tool_complete, voice.tool_progress), strict=True)
        )
        rarer: dict[str, object] = {"reasoning_callback": voice.reasoning}
        prompt, session_id = turn.instructions or None, _scoped(turn, turn.session_id)
        memory_key = _scoped(turn, turn.memory_key)
        agent = self._object.made(
            {
                **callbacks,
                "session_id": session_id,
                "ephemeral_system_prompt": prompt,
                "gateway_session_key": memory_key,
            },
            if_named=rarer,
        )
        attributes = {name: callback for name, callback in {**callbacks, **rarer}.items() if name in self._attributes}
        arguments = self._object.method_takes.of(
            {
                "user_message": user_message(turn.input, turn.attachments),
                "conversation_history": [dict(message) for message in turn.history],
                "task_id": _scoped(turn, turn.session_id or turn.request_id),
                **(
                    {
                        name: callback
                        for name, callback in callbacks.items()
                        if self._object.shared and name not in attributes
                    }
                ),
            },
            if_named={
                **(rarer if self._object.shared else {}),
                **(
                    {}
                    if prompt is None or self._object.takes("ephemeral_system_prompt")
                    else {"system_message": prompt}
                ),
            },
        )
        method = self._object.method(agent)
        if self.on_loop:
            return self._awaited(agent, cast("Callable[..., Awaitable[object]]", method), arguments, attributes)
        own = self.exclusive or not self._object.shared
        around = self._hermes.around(agent, turn, session_id=session_id, memory_key=memory_key)
        with around, _attached(agent, attributes), voice.stoppable(agent if own else None):
            if turn.cancelled:  # its client left before there was anything to interrupt
                return ""
            counted = self._counted(agent)
            value = method(**arguments)
            return self._with_usage(value, agent, counted)

    async def _awaited(
        self,
        agent: object,
        method: Callable[..., Awaitable[object]],
        arguments: Mapping[str, object],
        attributes: Mapping[str, object],
    ) -> object:
        with _attached(agent, attributes):
            counted = self._counted(agent)
            value = await method(**arguments)
            return self._with_usage(value, agent, counted)

    def _counted(self, agent: object) -> tuple[int, int] | None:
        """What the object has used in its life so far; None where it does not count."""
        counts = (getattr(agent, "session_prompt_tokens", None), getattr(agent, "session_completion_tokens", None))
        return counts if isinstance(counts[0], int) and isinstance(counts[1], int) else None  # type: ignore[return-value]

    def _with_usage(self, value: object, agent: object, before: tuple[int, int] | None) -> object:
        """The result, with what this turn has used: the object's own counts go on from turn to turn, and may be in it."""
        after = self._counted(agent)
        if after is None or not isinstance(value, Mapping):
            return value
        result = {key: field for key, field in value.items() if key not in _COUNTS}
        if self.exclusive or not self._object.shared:
            first, second = before or (0, 0)
            result["usage"] = Usage(input_tokens=max(0, after[0] - first), output_tokens=max(0, after[1] - second))
        return result


class _Turns:
    """Turns on an object that keeps the usage of the last one in one place: it is a turn's own only if no other was near."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0
        self._begun = 0

    @contextlib.contextmanager
    def usage_of(self, agent: object) -> Iterator[Callable[[], object]]:
        """Gives a function that tells the turn's usage, None where that is not certain."""
        before = getattr(agent, "_last_usage", None)
        with self._lock:
            alone = self._active == 0
            self._active += 1
            self._begun += 1
            number = self._begun

        def usage() -> object:
            after = getattr(agent, "_last_usage", None)
            certain = alone and self._begun == number and after is not before
            return after if certain and isinstance(after, Mapping) else None

        try:
            yield usage
        finally:
            with self._lock:
                self._active -= 1


@contextlib.contextmanager
def _attached(agent: object, attributes: Mapping[str, object]) -> Iterator[None]:
    """The callbacks on the object; afterwards whatever was there."""
    before = {name: getattr(agent, name) for name in attributes}
    for name, callback in attributes.items():
        setattr(agent, name, callback)
    try:
        yield
    finally:
        for name, callback in before.items():
            setattr(agent, name, callback)


def _spoken(value: object, usage: object, state: Mapping[str, object]) -> object:
    """What it returned as a result mapping: nothing, a text, or a message with the text as its content."""
    if isinstance(value, Mapping):
        return value
    text = value if value is None or isinstance(value, str) else getattr(value, "content", value)
    if text is not None and not isinstance(text, str):
        raise AgentError(
            f"agent returned {type(value).__name__}; expected str, None or a message with its text as .content"
        )
    return {"final_response": text, "usage": usage, **state}


def _scoped(turn: Turn, key: str | None) -> str | None:
    """A key of the agent's own memory: what two tenants call the same are two conversations.

    No two pairs of tenant and key become one: a quoted name has no colon, so it ends at the first. The tenant `default` has its
    keys as they are, but for those that begin as a scoped one does; no session's id does.
    """
    if key is None or (turn.tenant == "default" and not key.startswith("@")):
        return key
    return f"@{quote(turn.tenant, safe='')}:{key}"
