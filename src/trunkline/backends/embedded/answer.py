"""The engine's chunks as events.

The engine speaks chat completions, so the dialect's own decoder makes the events; here a chunk is made ready for it:
choices get the request's numbers, usage is summed over the choices (the prompt once), the engine's measurements and
its file name are left out, and a demanded tool call is turned from the text it was written as into the deltas of a
tool call.

Log probabilities are the engine's: natural logarithms before sampling, each with its token id. Text that the engine
holds back (an unfinished character, what may become a stop sequence) comes as one entry: the whole text under its last
token. The entries spell the answer's text; where there are fewer of them than output tokens, that is why. Tokens of a
demanded call come without.
"""

from typing import cast

import msgspec

from trunkline.backends.embedded.calls import CallReader
from trunkline.backends.embedded.engine import CallFailed, Chunk
from trunkline.dialects.openai_chat import ChatBackend
from trunkline.model.errors import (
    BackendError,
    BackendRejected,
    BackendUnavailable,
    InvalidParameter,
    TrunklineError,
)
from trunkline.model.events import Event, TurnStarted
from trunkline.model.ids import Entropy, new_id
from trunkline.model.request import JsonSchema, Request
from trunkline.wire.sse import DONE, encode_event

_Object = dict[str, object]


class Answer:
    """One turn's chunks to its events.

    Args:
        demanded: the answer is a tool call that the grammar demands.
        entropy: where ids of demanded calls come from.
    """

    def __init__(self, request: Request, started: TurnStarted, *, demanded: bool, entropy: Entropy) -> None:
        self._request = request
        self._demanded = demanded
        self._entropy = entropy
        self._decoder = ChatBackend().decoder(started, streamed=True)
        self._calls: dict[int, CallReader] = {}
        self._prompt_usage: _Object | None = None
        self._output_tokens = 0

    def feed(self, chunks: list[Chunk], *, first_choice: int) -> list[Event]:
        """Events of chunks whose choice 0 is the turn's `first_choice`. Raises what the engine reports."""
        frames = []
        for chunk in chunks:
            if "error" in chunk:
                raise engine_error(chunk["error"], self._request)
            if isinstance(usage := chunk.get("usage"), dict):
                self._count(usage)
            choices = [self._choice(wire, first_choice) for wire in cast("list[_Object]", chunk["choices"])]
            frames.append(encode_event(msgspec.json.encode({"choices": choices})))
        return self._decoder.feed(b"".join(frames))

    def close(self) -> list[Event]:
        """The end of the turn. Raises BackendUnavailable when the engine stopped before it."""
        frames = b""
        if self._prompt_usage is not None:
            usage = {**self._prompt_usage, "completion_tokens": self._output_tokens}
            frames = encode_event(msgspec.json.encode({"choices": [], "usage": usage}))
        return self._decoder.feed(frames + DONE)

    def _count(self, usage: _Object) -> None:
        # One report per choice; each names the same prompt, and those that share it with the first call it cached.
        prompt: _Object = {key: usage[key] for key in ("prompt_tokens", "prompt_tokens_details") if key in usage}
        if self._prompt_usage is None or _cached(prompt) < _cached(self._prompt_usage):
            self._prompt_usage = prompt
        self._output_tokens += cast("int", usage["completion_tokens"])

    def _choice(self, wire: _Object, first_choice: int) -> _Object:
        number = cast("int", wire["index"]) + first_choice
        delta = cast("_Object", wire["delta"])
        finish = cast("str | None", wire["finish_reason"])
        if self._demanded:
            return self._call(number, cast("str", delta.get("content") or ""), finish)
        choice: _Object = {"index": number, "delta": delta, "finish_reason": finish}
        logprobs = wire.get("logprobs")
        if isinstance(logprobs, dict) and delta.get("content"):
            if not self._request.top_logprobs:
                for token in cast("list[_Object]", logprobs["content"]):
                    del token["top_logprobs"]
            choice["logprobs"] = logprobs
        return choice

    def _call(self, number: int, text: str, finish: str | None) -> _Object:
        """A demanded call's text as the deltas of a tool call."""
        reader = self._calls.setdefault(number, CallReader())
        named = reader.name is not None
        arguments = reader.feed(text)
        if finish is not None:
            arguments += reader.close(whole=finish == "stop")
        call: _Object = {"index": 0, "function": {"arguments": arguments}}
        if not named and reader.name is not None:
            call["id"] = new_id("call_", self._entropy)
            call["type"] = "function"
            call["function"] = {"name": reader.name, "arguments": arguments}
        delta: _Object = {}
        if arguments or "id" in call:
            delta["tool_calls"] = [call]
        if finish == "stop":
            if reader.name is None:
                raise BackendError("the embedded model ended its answer before the tool call that was demanded")
            finish = "tool_calls"
        return {"index": number, "delta": delta, "finish_reason": finish}


def _cached(usage: _Object) -> int:
    details = usage.get("prompt_tokens_details")
    return cast("int", details.get("cached_tokens", 0)) if isinstance(details, dict) else 0


def engine_error(error: object, request: Request) -> TrunklineError:
    """What the engine reports in place of a chunk."""
    reported = cast("_Object", error) if isinstance(error, dict) else {}
    message = str(reported.get("message", "the embedded engine failed without a word"))
    if reported.get("type") == "exceed_context_size_error":
        limit, tokens = reported.get("n_ctx"), reported.get("n_prompt_tokens")
        return BackendRejected(
            f"This model's maximum context length is {limit} tokens. However, your messages resulted in {tokens}"
            " tokens. Please reduce the length of the messages.",
            status=400,
            code="context_length_exceeded",
            param="messages",
        )
    match reported.get("code"):
        case 400:
            return _refusal(message, request)
        case 503:
            return BackendUnavailable(message)
        case _:
            return BackendError(message)


def call_error(error: CallFailed, request: Request) -> TrunklineError:
    """What the engine raised instead of answering."""
    return _refusal(str(error), request) if error.refused else BackendError(f"the embedded engine failed: {error}")


def _refusal(message: str, request: Request) -> TrunklineError:
    # The engine does not say which parameter it refuses; in practice it is the schema: all others were checked before.
    if isinstance(request.response_format, JsonSchema):
        return InvalidParameter(message, code="invalid_json_schema", param="response_format")
    if request.tools:
        return InvalidParameter(message, code="invalid_function_parameters", param="tools")
    return BackendRejected(message, status=400)
