"""What the author of a Python agent imports.

    async def agent(turn):
        yield f"You said: {turn.input}"

An agent takes one `Turn` and yields what it has to say as it comes: text as `str`, and the values below for
everything else. A function that returns its answer, with or without `async`, is an agent too. Nothing here knows
about servers or wire formats, so an agent can be tested by calling it with `Turn(input="…")`. docs/agents.md is the
guide.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from typing import Literal, NoReturn, NotRequired, Self, TypeAlias, TypedDict, cast

import msgspec

from trunkline.model.items import AudioPart, FilePart, ImagePart, Item
from trunkline.model.usage import Usage

Json: TypeAlias = object
"""Anything that JSON can say, or that msgspec can write as JSON."""


class Reasoning(msgspec.Struct, frozen=True):
    """A piece of thinking. Clients show it apart from the answer, or not at all."""

    text: str


class ToolStarted(msgspec.Struct, frozen=True):
    """The agent begins to run one of its own tools. A name that begins with `_` stays between the agent and you.

    Attributes:
        call_id: the agent's own id of this run; `ToolFinished` names it again.
        name: the tool.
        arguments: what it is called with, as a mapping or as JSON text.
        label: a few words for a person to read, such as the search term.
    """

    call_id: str
    name: str
    arguments: Mapping[str, Json] | str = {}
    label: str | None = None


class ToolFinished(msgspec.Struct, frozen=True):
    """A tool that the agent started has ended. What is not text is shown as JSON."""

    call_id: str
    output: Json = ""
    failed: bool = False


class FunctionCall(msgspec.Struct, frozen=True):
    """Asks the client to run one of *its* tools (`turn.tools`); needs `client_tools = true` in the backend's settings.

    The answer then ends with `tool_calls`, and the client comes back with the results in a turn of its own.
    """

    name: str
    arguments: Mapping[str, Json] | str = {}
    call_id: str | None = None


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the client can run. `parameters` is JSON Schema."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Json] = {}


class CalledFunction(TypedDict):
    name: str
    arguments: str


class ToolCall(TypedDict):
    """A tool call of the past, as chat APIs write it."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(TypedDict):
    """One message of the conversation, in the form that every chat API takes. `content` is its text."""

    role: Literal["user", "assistant", "tool"]
    content: str
    name: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]


class Cancellation:
    """Whether anybody still wants the answer. The server sets `requested`; agents read `turn.cancelled`."""

    __slots__ = ("requested",)

    def __init__(self) -> None:
        self.requested = False


Attachment = ImagePart | AudioPart | FilePart

CHOICES = ("once", "session", "always", "deny")


class _Chosen(str):
    """A choice, whose truth is a yes: every non-empty string is true, so `if await turn.approve(…)` would go ahead after a "deny".

    Only the choices that everybody has can say which of them is the no.
    """

    __slots__ = ("_offered",)
    _offered: tuple[str, ...]

    def __new__(cls, chosen: str, offered: tuple[str, ...] = CHOICES) -> Self:
        self = super().__new__(cls, chosen)
        self._offered = offered
        return self

    def __bool__(self) -> bool:
        if self in CHOICES and set(self._offered) <= set(CHOICES):
            return self != "deny"
        yes = next((choice for choice in self._offered if choice != "deny"), "yes")
        raise TypeError(
            f"turn.approve(…, choices={list(self._offered)!r}) gave {str.__str__(self)!r}, which may be a yes or a no: "
            f"compare it, as in `if choice == {yes!r}`"
        )


class Choice(_Chosen, Coroutine[object, None, _Chosen]):
    """What was chosen. `turn.approve` gives it at once in a thread; on the event loop it has to be awaited. As a truth value it is
    false for "deny" and true for the rest of the usual choices; choices of your own have to be compared.

    A test whose `ask` answers at once gets one there as well, so it can be awaited in every way a coroutine can.
    """

    __slots__ = ()

    def __await__(self) -> Generator[object, None, _Chosen]:
        yield from ()
        return self._awaited()

    def send(self, value: None) -> object:
        raise StopIteration(self._awaited())

    def throw(self, *error: object) -> object:
        return super().throw(*error)  # type: ignore[call-overload]

    def close(self) -> None:
        """There is nothing under way."""

    def _awaited(self) -> _Chosen:
        return _Chosen(str.__str__(self), self._offered)


class _Unanswered(Coroutine[object, None, _Chosen]):
    """A choice still to come. It can be awaited, gathered and made a task of, and everything else fails: it is no string, so none
    of a string's methods answers, and comparing it is an error, because what is not equal to "deny" would be taken for a yes.
    """

    __slots__ = ("_answer", "_misused", "_offered")

    def __init__(self, answer: Awaitable[str], offered: tuple[str, ...]) -> None:
        self._answer = answer if isinstance(answer, Coroutine) else _awaited(answer)
        self._offered = offered
        self._misused = False

    def __await__(self) -> Generator[object, None, _Chosen]:
        return _Chosen((yield from self._answer.__await__()), self._offered)

    def send(self, value: None) -> object:
        try:
            return self._answer.send(value)
        except StopIteration as answered:
            raise StopIteration(_Chosen(answered.value, self._offered)) from None

    def throw(self, *error: object) -> object:
        try:
            return self._answer.throw(*error)  # type: ignore[call-overload]
        except StopIteration as answered:
            raise StopIteration(_Chosen(answered.value, self._offered)) from None

    def close(self) -> None:
        self._answer.close()

    def __del__(self) -> None:
        if self._misused:  # an error has said so; Python's own warning would name what is none of its author's
            self._answer.close()

    def _early(self, *_: object) -> NoReturn:
        self._misused = True
        raise TypeError(_EARLY)

    __bool__ = __str__ = _early

    def __eq__(self, other: object) -> bool:
        return self is other if isinstance(other, _Unanswered) else self._early()

    def __hash__(self) -> int:
        """For `asyncio.gather`. It is that of "deny": whoever looks for this in a set that denies has it compared, which fails."""
        return hash("deny")

    def __getattr__(self, name: str) -> NoReturn:
        if hasattr(str, name):
            self._misused = True
        raise AttributeError(_EARLY)


_EARLY = "turn.approve(...) has to be awaited: nobody has answered yet"


async def _awaited(answer: Awaitable[str]) -> str:
    return await answer


Ask = Callable[[str, str, tuple[str, ...]], str | Awaitable[str]]
"""Asks the user: a tool, what it would do, the choices. What it gives is the choice, or awaits it."""


def _nobody(_tool: str, _text: str, _choices: tuple[str, ...]) -> str:
    return "deny"


class Turn(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One request, as an agent sees it. Every field has a default, so a test makes just what it needs.

    Attributes:
        input: text of the last user message.
        history: the messages before it, oldest first. When the conversation goes on after it (results of client tools),
            the input has been said already and is part of the history.
        messages: the whole conversation, the input included, as text; instructions, images and files are not in it.
        instructions: what the request instructs, its system and developer messages, joined by newlines.
        items: the conversation in full detail (`trunkline.model.items`), system and developer messages included.
        attachments: images, audio and files of the last user message.
        tools: tools the client can run; empty unless the backend sets `client_tools`.
        tool_choice: `auto`, `none`, `required`, or the name of the tool the client demands.
        params: sampling hints the client sent (`temperature`, `max_output_tokens`, …), for agents with a use for them.
        session_id: the conversation, where the client or the server names one.
        memory_key: the scope of long-term memory, where the client names one.
        metadata: the client's own notes on the request.
        model: the model name the client asked for.
        request_id: the id in the access log and in `x-request-id`.
        tenant: who asks: the owner of the API key. Session ids and memory keys of two tenants have nothing to do with each other.
        cancellation: what `cancelled` reads.
        ask: what `approve` asks; in a test, a function that gives the choice. Without one the answer is "deny".
    """

    input: str = ""
    history: Sequence[ChatMessage] = ()
    messages: Sequence[ChatMessage] = ()
    instructions: str = ""
    items: Sequence[Item] = ()
    attachments: Sequence[Attachment] = ()
    tools: Sequence[Tool] = ()
    tool_choice: str = "auto"
    params: Mapping[str, Json] = {}
    session_id: str | None = None
    memory_key: str | None = None
    metadata: Mapping[str, str] = {}
    model: str = ""
    request_id: str = ""
    tenant: str = "default"
    cancellation: Cancellation = msgspec.field(default_factory=Cancellation)
    ask: Ask = _nobody

    @property
    def cancelled(self) -> bool:
        """True once the client has left. An agent that does not await anything long should look and stop."""
        return self.cancellation.requested

    def approve(self, tool: str, text: str = "", *, choices: Sequence[str] = CHOICES) -> Choice:
        """Asks the user whether this may be done, and gives the choice; "deny" where nobody can or does answer.

        The choice is a string, and in an `if` it is false for "deny" and true for "once", "session" and "always". Choices of your
        own have to be compared.

        `await` it in an async agent. In a thread, where synchronous agents run, it waits by itself.
        """
        if isinstance(choices, str):
            raise TypeError(f"turn.approve needs choices as a list of strings, got {choices!r}")
        offered = tuple(choices)
        answer = self.ask(tool, text, offered)
        return Choice(answer, offered) if isinstance(answer, str) else cast("Choice", _Unanswered(answer, offered))


Output = str | Reasoning | ToolStarted | ToolFinished | FunctionCall | Usage | None
"""What an agent may yield. None and the empty string say nothing."""

__all__ = [
    "Turn",
    "CHOICES",
    "Choice",
    "Ask",
    "Output",
    "Reasoning",
    "ToolStarted",
    "ToolFinished",
    "FunctionCall",
    "Usage",
    "Tool",
    "ChatMessage",
    "ToolCall",
    "Attachment",
    "ImagePart",
    "AudioPart",
    "FilePart",
    "Cancellation",
]
