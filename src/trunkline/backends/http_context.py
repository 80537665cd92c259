"""What a model server says about a context without answering it: how many tokens it has, and the same made shorter.

Servers differ in where they say it, so a dialect lists the ways, best first, as data. A server is not asked again where it has
nothing. The last way to count is an answer of the least length, whose usage has the number: it works everywhere, and costs what
reading the input costs.

    llama.cpp   /v1/chat/completions/input_tokens    (builds since June 2026)
    vLLM        /tokenize                            beside /v1; what it makes of images it does not say
    OpenAI      /v1/responses/input_tokens, /v1/responses/compact
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from trunkline.backends.upstream import Answer
from trunkline.dialects.openai_responses.parts import read_usage
from trunkline.dialects.reading import NOT_JSON, Json
from trunkline.model.errors import BackendError, BackendProtocolError
from trunkline.ports.backend import Compacted

ABSENT = frozenset({401, 403, 404, 405, 501})
"""What servers and the proxies before them answer where there is nothing, or nothing for us."""

MAX_BYTES = 16 * 1024 * 1024
LEAST_OUTPUT_TOKENS = 16
"""What OpenAI's Responses API takes at least."""

_BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])
_COUNTED = frozenset(
    {
        "model",
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "reasoning",
        "personality",
    }
)
_COMPACTED = frozenset(
    {
        *("model", "input", "instructions", "service_tier", "image"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    }
)
_TOKENIZED = frozenset({"model", "messages", "tools", "chat_template_kwargs"})

Post = Callable[[str, bytes], Awaitable[Answer]]
Refuse = Callable[[Answer], Awaitable[BackendError]]


class Counting(msgspec.Struct, frozen=True, kw_only=True):
    """One way to have tokens counted.

    Attributes:
        path: where to ask, after the base URL.
        body: what to ask, from the body of a turn; None where this way would not be exact.
        read: the number, from the answer; None where it is not there.
    """

    path: str
    body: Callable[[bytes], bytes | None]
    read: Callable[[bytes], int | None]


class ContextEndpoints:
    """Asks one server. `refuse` makes the error of an answer that is none."""

    def __init__(self, counting: Sequence[Counting], compact_path: str | None, *, refuse: Refuse) -> None:
        self._counting = counting
        self._compact_path = compact_path
        self._refuse = refuse
        self._absent: set[str] = set()

    async def count_tokens(self, body: bytes, post: Post) -> int:
        """The input tokens of a turn with this body. Raises the BackendError that answering it would."""
        *better, last = self._counting
        for way in better:
            asked = way.body(body) if way.path not in self._absent else None
            count = None if asked is None else await self._ask(way, asked, post)
            if count is not None:
                return count
        asked = last.body(body)
        count = None if asked is None else await self._ask(last, asked, post, must=True)
        if count is None:
            raise BackendProtocolError("the upstream does not say how many tokens its input has")
        return count

    async def compact(self, body: bytes, post: Post) -> Compacted | None:
        """None where the server does not do it. Raises BackendError."""
        path = self._compact_path
        if path is None or path in self._absent:
            return None
        answer = await post(path, _only(body, _COMPACTED))
        try:
            if answer.status == 200:
                return _read_compacted(await answer.read(at_most_bytes=MAX_BYTES))
            if answer.status in ABSENT - {401, 403}:
                self._absent.add(path)
                return None
            raise await self._refuse(answer)
        finally:
            answer.close()

    async def _ask(self, way: Counting, body: bytes, post: Post, *, must: bool = False) -> int | None:
        answer = await post(way.path, body)
        try:
            if answer.status == 200:
                return way.read(await answer.read(at_most_bytes=MAX_BYTES))
            if must:
                raise await self._refuse(answer)
            if answer.status in ABSENT:
                self._absent.add(way.path)
            return None
        finally:
            answer.close()


def _only(body: bytes, names: frozenset[str]) -> bytes:
    return msgspec.json.encode({name: value for name, value in _BODY.decode(body).items() if name in names})


def _with(body: bytes, members: Mapping[str, object]) -> bytes:
    return msgspec.json.encode({**_BODY.decode(body), **members})


def _briefly(body: bytes) -> bytes:
    options = _BODY.decode(_BODY.decode(body).get("options", msgspec.Raw(b"{}")))
    return _with(body, {"options": {**options, "num_predict": 1}})


def _for_tokenize(body: bytes) -> bytes | None:
    members = {name: value for name, value in _BODY.decode(body).items() if name in _TOKENIZED}
    messages: Json = msgspec.json.decode(members["messages"])
    assert isinstance(messages, list)
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and any(not isinstance(one, dict) or one.get("type") != "text" for one in content):
            return None
    return msgspec.json.encode({**members, "add_generation_prompt": True})


def _count(*path: str) -> Callable[[bytes], int | None]:
    def read(data: bytes) -> int | None:
        try:
            value: Json = msgspec.json.decode(data)
        except NOT_JSON:
            return None
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value if type(value) is int else None

    return read


def _read_compacted(data: bytes) -> Compacted:
    try:
        read = msgspec.json.decode(data, type=_Compaction)
        usage: Json = msgspec.json.decode(read.usage)
    except NOT_JSON:
        raise BackendProtocolError("the upstream compacted a conversation into what is no list of items") from None
    return Compacted(tuple(read.output), read_usage(usage if isinstance(usage, dict) else {}))


class _Compaction(msgspec.Struct):
    output: list[msgspec.Raw]
    usage: msgspec.Raw = msgspec.Raw(b"{}")


CHAT_COUNTING = (
    Counting(path="/chat/completions/input_tokens", body=lambda body: body, read=_count("input_tokens")),
    Counting(path="/../tokenize", body=_for_tokenize, read=_count("count")),
    Counting(
        path="/chat/completions",
        body=lambda body: _with(body, {"max_completion_tokens": 1}),
        read=_count("usage", "prompt_tokens"),
    ),
)
OLLAMA_COUNTING = (Counting(path="/api/chat", body=_briefly, read=_count("prompt_eval_count")),)
RESPONSES_COUNTING = (
    Counting(path="/responses/input_tokens", body=lambda body: _only(body, _COUNTED), read=_count("input_tokens")),
    Counting(
        path="/responses",
        body=lambda body: _with(body, {"max_output_tokens": LEAST_OUTPUT_TOKENS}),
        read=_count("usage", "input_tokens"),
    ),
)
