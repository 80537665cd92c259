"""Relaying a chat completion as bytes, with a tee that reads only what it must.

A stream is cut at event boundaries and passed on. Most reads hold nothing but text deltas; a few substring searches find those
that need a look: usage, a finish reason, an error object, [DONE]. Those are decoded, and so is every read of an upstream that
spaces its JSON in a way the searches do not know. The model's name is respliced as
an exact fragment: unescaped quotes cannot occur inside a JSON string, so the fragment is only ever a member.

What is decoded is also mended where a client of this dialect would read it otherwise than the translating way does: finish
reasons of a vendor's own, tool calls that share an index or lack it. All other members of such a chunk stay as they are.

A stream must not end as if all were well when it is not (decision 4): an error object becomes a failure event and nothing of
the upstream passes after it; an end without a finish reason is a failure; a missing [DONE] after one is supplied. What came in
the same read before a failure still passes.
"""

import re
from typing import Any

import msgspec

from trunkline.backends.mend import Calls, mend_message, mend_reason
from trunkline.dialects.decoding import decode_object
from trunkline.dialects.openai_chat import parts
from trunkline.dialects.reading import NOT_JSON, Object
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, BackendProtocolError, BackendUnavailable
from trunkline.model.ids import Entropy
from trunkline.model.request import Request
from trunkline.ports.backend import RelayBatch
from trunkline.wire.sse import DONE, MAX_FRAME_BYTES, SseReader, each_frame, split_frames

_MODEL = re.compile(rb'"model":\s*("(?:[^"\\]|\\.)*")')
_NO_USAGE = re.compile(rb',\s*"usage":\s*null')
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_WHOLE = (b"}\n\n", b"}\r\n\r\n")
_BOM = b"\xef\xbb\xbf"
_SAID = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls")


class StreamTee:
    """Bytes of one streamed answer in, bytes for the client out. Fed in any split."""

    def __init__(self, request: Request, *, entropy: Entropy) -> None:
        self._request = request
        self._entropy = entropy
        self._rest: list[bytes] = []  # of an event that is not whole yet
        self._rest_bytes = 0
        self._content = False
        self._named = False
        self._plain = False  # the upstream's JSON is spaced as _interesting expects
        self._model: tuple[bytes, bytes] | None = None  # the upstream's fragment and ours
        self._unasked: bytes | None = (
            None  # how it says in each chunk that there is no usage yet, which only we asked for
        )
        self._finished: set[int] = set()
        self._calls: dict[int, Calls] = {}
        self._begun = False
        self.ended = False

    @property
    def finished(self) -> bool:
        """Whether every choice that was asked for has its finish reason."""
        return len(self._finished) >= self._request.n

    def feed(self, data: bytes) -> RelayBatch:
        if self.ended:
            return RelayBatch(b"")
        if data.find(b"\n") >= 0 or data.find(b"\r") >= 0:
            frames, rest = split_frames(b"".join([*self._rest, data]) if self._rest else data)
            self._rest, self._rest_bytes = [rest] if rest else [], len(rest)
        else:  # an event is not whole without a line end: a long one is joined once, not with every read
            frames = b""
            self._rest.append(data)
            self._rest_bytes += len(data)
        if self._rest_bytes > MAX_FRAME_BYTES:
            raise BackendProtocolError(f"upstream sent an event larger than {MAX_FRAME_BYTES} bytes")
        if (
            self._content
            and self._plain
            and not self._finished
            and frames.endswith(_WHOLE)
            and not _interesting(frames)
        ):
            return RelayBatch(self._written(frames), (), True)
        return self._look(frames)

    def close(self) -> RelayBatch:
        """The end of the upstream's body."""
        if self.ended:
            return RelayBatch(b"")
        return self._end(whole=self.finished)

    def _end(self, *, whole: bool) -> RelayBatch:
        self.ended = True
        if not whole:
            return self._fail(BackendUnavailable("the upstream ended its answer before a finish reason"))
        return RelayBatch(DONE, (ev.TurnCompleted(),), self._content)

    def _look(self, frames: bytes) -> RelayBatch:
        """Decodes every frame of this read."""
        kept: list[bytes] = []
        seen: list[ev.Event] = []
        if frames and not self._begun:
            self._begun = True
            frames = frames.removeprefix(_BOM)  # clients' readers take it for a part of the first line
        try:
            for frame in each_frame(frames):
                self._frame(frame, kept, seen)
                if self.ended:
                    break
        except BackendError as error:
            self.ended = True
            seen.append(ev.TurnFailed(error.info()))
        return RelayBatch(b"".join(kept), tuple(seen), self._content)

    def _frame(self, frame: bytes, kept: list[bytes], seen: list[ev.Event]) -> None:
        events = SseReader().feed(frame)
        if not events:  # a comment, or an event without data
            kept.append(frame)
            return
        data = events[0].data
        if data.startswith(b"[DONE]"):
            end = self._end(whole=bool(self._finished))  # some servers answer with fewer choices than were asked for
            kept.append(end.data)
            seen.extend(end.events)
            return
        if not data:  # clients would read it as JSON
            return
        chunk = decode_object(data)
        error = chunk.get("error")
        if error is None and chunk.get("object") == "error":  # older vLLM
            error = chunk
        if error is not None:
            raise parts.read_error(200, error)
        if "choices" not in chunk and not self._named:
            raise BackendProtocolError("upstream sent JSON that is not a chat completion: it has no 'choices'")
        self._learn(chunk, frame)
        mended, wanted = self._read(chunk, seen)
        if mended:
            if self._unasked is not None and chunk.get("usage") is None:
                chunk.pop("usage", None)
            frame = b"data: " + msgspec.json.encode(chunk) + b"\n\n"
        if wanted:
            kept.append(self._written(frame))

    def _read(self, chunk: Object, seen: list[ev.Event]) -> tuple[bool, bool]:
        """Notes what a chunk says. Whether it was mended; whether the client wants it, since one may exist only because we
        asked the upstream for usage."""
        usage, choices = chunk.get("usage"), chunk.get("choices")
        if isinstance(usage, dict):
            seen.append(ev.UsageReported(parts.read_usage(usage)))
        if not isinstance(choices, list) or not choices:
            return False, not isinstance(usage, dict) or self._request.include_usage
        mended = False
        for choice in choices:
            if not isinstance(choice, dict):
                raise BackendProtocolError("upstream sent a choice that is not an object")
            index, reason, delta = choice.get("index"), choice.get("finish_reason"), choice.get("delta")
            number = index if isinstance(index, int) else 0
            if isinstance(delta, dict):
                mended = self._delta(number, delta) or mended
            if isinstance(reason, str):
                mended = mend_reason(choice, reason) or mended
                self._finished.add(number)
                seen.append(ev.ChoiceDone(number, parts.FINISH_REASONS.get(reason, "stop")))
        return mended, True

    def _delta(self, number: int, delta: Object) -> bool:
        """Whether it was mended."""
        content, calls = delta.get("content"), delta.get("tool_calls")
        if content is not None and not isinstance(content, str | list):
            raise BackendProtocolError("upstream sent 'content' that is not a string")
        if number in self._finished and (content or calls):
            raise BackendProtocolError(f"upstream sent content after the finish reason of choice {number}")
        if any(delta.get(key) for key in _SAID):
            self._content = True
        if not isinstance(calls, list) or not calls:
            return False
        return self._calls.setdefault(number, Calls(self._entropy)).mend(calls)

    def _learn(self, chunk: Object, frame: bytes) -> None:
        """Finds how this upstream writes what is changed, and spaces its JSON, once: in the first chunk that has a name.

        Azure's first chunk has none.
        """
        if self._named or (not chunk.get("choices") and not chunk.get("model")):
            return
        self._named = True
        self._plain = b'"choices":[' in frame or b'"choices": [' in frame
        if not self._request.include_usage and chunk.get("usage", ...) is None:
            nulls = _NO_USAGE.findall(frame)
            self._unasked = nulls[0] if len(nulls) == 1 else None
        model, asked = chunk.get("model"), self._request.model
        if not isinstance(model, str) or asked is None or model == asked:
            return
        for match in _MODEL.finditer(frame):
            if msgspec.json.decode(match.group(1)) == model:
                ours = match.group(0)[: match.start(1) - match.start(0)] + msgspec.json.encode(asked)
                self._model = (match.group(0), ours)
                return

    def _written(self, frames: bytes) -> bytes:
        if self._model is not None:
            frames = frames.replace(*self._model)
        return frames if self._unasked is None else frames.replace(self._unasked, b"")

    def _fail(self, error: BackendUnavailable) -> RelayBatch:
        return RelayBatch(b"", (ev.TurnFailed(error.info()),), self._content)


class _Choice(msgspec.Struct):
    finish_reason: str


class _Completion(msgspec.Struct):
    """What must be known of a completion that needs no mending. Its texts are checked to be JSON and not read."""

    model: str
    choices: list[_Choice]
    usage: dict[str, Any] | None = None
    object: str = ""
    error: None = None


_COMPLETION = msgspec.json.Decoder(_Completion)


def relay_body(body: bytes, request: Request, *, entropy: Entropy) -> RelayBatch:
    """A whole completion for the client: `model` respliced, every other byte of every value as it came."""
    seen = _seen_in(body, request)
    return _mended_body(body, request, entropy) if seen is None else RelayBatch(body, seen, True)


def _seen_in(body: bytes, request: Request) -> tuple[ev.Event, ...] | None:
    """The events of a completion that may pass as it came, as most may; None where it must be looked at more closely."""
    if body.find(b'"tool_calls"') >= 0:
        return None
    try:
        completion = _COMPLETION.decode(body)
        body.decode()
    except NOT_JSON:
        return None
    if completion.model != (request.model or completion.model) or completion.object == "error":
        return None
    seen: list[ev.Event] = []
    for position, choice in enumerate(completion.choices):
        reason = parts.FINISH_REASONS.get(choice.finish_reason)
        if reason != choice.finish_reason or reason == "error":
            return None
        seen.append(ev.ChoiceDone(position, reason))
    if not seen:
        return None
    if completion.usage is not None:
        seen.append(ev.UsageReported(parts.read_usage(completion.usage)))
    return (*seen, ev.TurnCompleted())


def _mended_body(body: bytes, request: Request, entropy: Entropy) -> RelayBatch:
    chunk = decode_object(body)
    if chunk.get("error") is not None:
        raise parts.read_error(200, chunk["error"])
    if chunk.get("object") == "error":  # older vLLM
        raise parts.read_error(200, chunk)
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        raise BackendProtocolError("upstream sent JSON that is not a chat completion: it has no 'choices'")
    seen: list[ev.Event] = []
    mended = False
    for position, choice in enumerate(choices):
        reason = choice.get("finish_reason") if isinstance(choice, dict) else None
        if isinstance(choice, dict) and isinstance(reason, str):
            mended = mend_reason(choice, reason) or mended
            mended = mend_message(choice.get("message"), entropy) or mended
            seen.append(ev.ChoiceDone(position, parts.FINISH_REASONS.get(reason, "stop")))
    if len(seen) < max(1, len(choices)):
        raise BackendUnavailable("the upstream ended its answer before a finish reason")
    usage = chunk.get("usage")
    if isinstance(usage, dict):
        seen.append(ev.UsageReported(parts.read_usage(usage)))
    seen.append(ev.TurnCompleted())
    if mended or (request.model is not None and chunk.get("model") != request.model):
        members = _MEMBERS.decode(body)
        members["model"] = msgspec.Raw(msgspec.json.encode(request.model or chunk.get("model")))
        if mended:
            members["choices"] = msgspec.Raw(msgspec.json.encode(choices))
        body = msgspec.json.encode(members)
    return RelayBatch(body, tuple(seen), True)


def _interesting(frames: bytes) -> bool:
    """Whether a read may hold more than deltas. Cheaper than one regular expression by an order of magnitude, and with `find`:
    `in` first tries whether bytes are a number, by an exception that costs more than the search."""
    find = frames.find
    return (
        find(b'"finish_reason":"') >= 0
        or find(b'"finish_reason": "') >= 0
        or find(b'"usage":{') >= 0
        or find(b'"usage": {') >= 0
        or find(b'"tool_calls":[{') >= 0
        or find(b'"tool_calls": [{') >= 0
        or find(b'"error"') >= 0
        or find(b"[DONE]") >= 0
    )
