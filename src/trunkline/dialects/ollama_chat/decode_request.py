"""Bodies of POST /api/chat and POST /api/generate, read and checked.

Both are the same table of parameters around messages or a prompt. What this API knows and no field of a request names is kept in
`extra`, an option as `options.<name>`: a backend of this dialect gets it, and elsewhere `x-trunkline-ignored` names it. Only
what asks for another answer is refused there: a prompt that is completed as it stands (`raw`, `template`, `suffix`,
`context`) has no place in a conversation, and a rendered template is no answer.

Numbers that stand for "as you like" (`seed: -1`, `num_predict` below 1) ask nothing. `think: true` is the middle effort,
`think: false` none. A body without messages, or without a prompt, asks no question but that the model be loaded: `asks_to_load`.
"""

import re
from typing import Literal

import msgspec

from trunkline.dialects import reading
from trunkline.dialects.draft import Draft, Reader, switch
from trunkline.dialects.ollama_chat.encode_request import OPTION
from trunkline.dialects.ollama_chat.media import read_media
from trunkline.dialects.ollama_chat.messages import read_messages
from trunkline.dialects.reading import Json
from trunkline.model.errors import InvalidParameter
from trunkline.model.items import Message, TextPart
from trunkline.model.request import JsonSchema, Request, Tool

EFFORTS = ("low", "medium", "high", "max")
MAX_TOP_LOGPROBS = 20
_DURATION = re.compile(r"[+-]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)")  # as Go's time.ParseDuration


def decode_chat_request(body: bytes) -> Request:
    """Raises RequestError; `param` is the path of what is wrong."""
    draft = Draft(body)
    messages = draft.source.get("messages")
    if messages is not None:
        read = read_messages(reading.array(messages, "messages"))
        draft.fields["items"], draft.fields["places"] = read
    return _read(draft, {"messages"})


def decode_generate_request(body: bytes) -> Request:
    """A prompt as the one user message, `system` as the instructions. Raises RequestError; `param` is the path of what is wrong."""
    draft = Draft(body)
    source = draft.source
    prompt, images = source.get("prompt"), source.get("images")
    text = "" if prompt is None else reading.text(prompt, "prompt")
    media = () if images is None else read_media(images, "images")
    if text or media:
        parts = (TextPart(text), *media) if text else media
        draft.fields["items"] = (Message(role="user", content=parts, as_string=not media),)
        draft.fields["places"] = ("prompt" if text else "images",)
    system = source.get("system")
    if system is not None and reading.text(system, "system"):
        draft.fields["instructions"] = system
    return _read(draft, {"prompt", "images", "system"})


def asks_to_load(request: Request) -> Literal["load", "unload"] | None:
    """Whether the request, of either kind, asks no question but that the model be loaded, or freed (`keep_alive: 0`)."""
    if request.items:
        return None
    keep_alive: Json = msgspec.json.decode(request.extra.get("keep_alive", msgspec.Raw(b"null")))
    if isinstance(keep_alive, str):
        return "load" if re.search("[1-9]", keep_alive) else "unload"
    return "unload" if keep_alive == 0 and keep_alive is not None else "load"


def _read(draft: Draft, done: set[str]) -> Request:
    draft.fields["model"] = draft.read_model() or None
    draft.fields.setdefault("items", ())
    draft.fields["stream"] = True  # absent means streamed
    draft.read(READERS, apart={"model", *done}, named=_NAMED)
    if not draft.fields.get("logprobs"):  # as Ollama: of no meaning without it
        draft.fields.pop("top_logprobs", None)
        draft.asked.pop("top_logprobs", None)
    return draft.request()


def _changes_the_answer(key: str) -> Reader:
    def read(draft: Draft, value: Json) -> None:
        if value not in ("", False) and value != []:
            draft.extra[key] = reading.raw(value)
            draft.ask(key)

    return read


def _format(draft: Draft, value: Json) -> None:
    if value == "":
        return
    if value == "json":
        draft.put("response_format", "json_object", "format")
    elif isinstance(value, dict):
        draft.put("response_format", JsonSchema(name="answer", schema=reading.raw(value)), "format")
    else:
        raise InvalidParameter("Invalid 'format': expected \"json\" or a JSON schema (an object).", param="format")


def _think(draft: Draft, value: Json) -> None:
    if isinstance(value, bool):
        draft.put("reasoning_effort", "medium" if value else "none", "think")
    elif isinstance(value, str):
        draft.put("reasoning_effort", reading.one_of(value, "think", EFFORTS), "think")
    else:
        reading.wrong_type("think", "a boolean or a level", value)


def _keep_alive(draft: Draft, value: Json) -> None:
    if isinstance(value, str):
        if not _DURATION.fullmatch(value):
            raise InvalidParameter(
                f"Invalid 'keep_alive': expected seconds or a duration such as \"5m\", but got '{reading.shorten(value)}'.",
                param="keep_alive",
            )
    elif type(value) is not int and type(value) is not float:
        reading.wrong_type("keep_alive", "a number of seconds or a duration", value)
    draft.extra["keep_alive"] = reading.raw(value)


def _logprobs(draft: Draft, value: Json) -> None:
    if reading.boolean(value, "logprobs"):
        draft.put("logprobs", True, "logprobs")


def _top_logprobs(draft: Draft, value: Json) -> None:
    count = reading.integer(value, "top_logprobs", low=0, high=MAX_TOP_LOGPROBS)
    if count:
        draft.put("top_logprobs", count, "top_logprobs")


def _tools(draft: Draft, value: Json) -> None:
    tools = tuple([_tool(one, f"tools[{position}]") for position, one in enumerate(reading.array(value, "tools"))])
    if tools:
        draft.put("tools", tools, "tools")


def _tool(value: Json, path: str) -> Tool:
    source = reading.mapping(value, path)
    kind = source.get("type")
    if kind is not None:
        reading.one_of(kind, f"{path}.type", ("function",))
    path = f"{path}.function"
    function = reading.mapping(reading.field(source, "function", path.removesuffix(".function")), path)
    parameters = function.get("parameters")
    return Tool(
        name=reading.tool_name(function, path),
        description=reading.optional_text(function, "description", path),
        parameters=None if parameters is None else reading.raw(reading.mapping(parameters, f"{path}.parameters")),
    )


def _options(draft: Draft, value: Json) -> None:
    for key, option in reading.mapping(value, "options").items():
        path = f"{OPTION}{key}"
        match key:
            case _ if option is None:
                continue
            case "temperature" | "top_p" | "presence_penalty" | "frequency_penalty":
                draft.put(key, reading.number(option, path), path)
            case "seed":
                seed = reading.integer(option, path)
                if seed != -1:
                    draft.put("seed", seed, path)
            case "num_predict":
                count = reading.integer(option, path)
                if count > 0:
                    draft.put("max_output_tokens", count, path)
            case "stop":
                stops = tuple([reading.text(one, f"{path}[{n}]") for n, one in enumerate(reading.array(option, path))])
                if any(stops):
                    draft.put("stop", tuple([stop for stop in stops if stop]), path)
            case _:
                draft.extra[path] = reading.raw(option)


READERS: dict[str, Reader] = {
    **{key: _changes_the_answer(key) for key in ("_debug_render_only", "context", "raw", "suffix", "template")},
    "format": _format,
    "keep_alive": _keep_alive,
    "logprobs": _logprobs,
    "options": _options,
    "stream": switch("stream"),
    "think": _think,
    "tools": _tools,
    "top_logprobs": _top_logprobs,
}
_NAMED = READERS.keys() | {"model", "messages", "prompt", "system"}
