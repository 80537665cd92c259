"""Operations of a model server over HTTP: a client's bytes go up with another model's name, the answer's bytes come down.

Of an answer only as much is read as the client must not be misled about and the meter wants: the model's name, which is put back
to what the client asked for; usage; an error object where an answer should be. Three kinds of answers are told apart by their
media type: JSON is read whole, server-sent events are looked at one by one, and everything else (sound, pictures, subtitles) is
passed on as it comes.

A server may list a model and not have the operation. It is not blamed for that, and another one that lists the model is asked.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import get_args

import msgspec

from trunkline.backends.upstream import Answer, Upstream
from trunkline.dialects import openai_wire
from trunkline.dialects.openai_chat.parts import FINISH_REASONS
from trunkline.dialects.reading import NOT_JSON, Json
from trunkline.model import events as ev
from trunkline.model.errors import BackendError, BackendProtocolError, BackendRejected, BackendUnavailable
from trunkline.model.usage import Usage
from trunkline.ports.backend import Context, RelayBatch, WholeRelay
from trunkline.ports.operations import Operation, OperationAnswer, OperationRequest
from trunkline.wire.sse import DONE, MAX_FRAME_BYTES, SseReader, each_frame, encode_event, split_frames

ALL: frozenset[Operation] = frozenset(get_args(Operation))
JSON = "application/json"
EVENTS = "text/event-stream"
ABSENT = frozenset({404, 405, 501})
"""What servers answer that do not have an operation; llama.cpp says 501 where it was started without embeddings."""
NO_CONTENT = frozenset({204, 205})
MAX_ERROR_BYTES = 65_536
ERROR_WITHIN_S = 5.0
MAX_JSON_BYTES = 128 * 1024 * 1024
"""Of an answer that is read whole: some hold pictures, some thousands of vectors."""

_PASSED_PREFIXES = ("x-ratelimit-", "openai-")
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_BOM = b"\xef\xbb\xbf"
_NULL = msgspec.Raw(b"null")

Members = dict[str, msgspec.Raw]


class _Choice(msgspec.Struct):
    index: object = 0
    finish_reason: object = None


_CHOICES = msgspec.json.Decoder(list[_Choice])


class HttpOperations:
    """Asks one server. `refusal` makes the error of an answer that is none, `cleaned` takes our key out of an error.

    `prefix` leads from the base URL to where the operations are.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        prefix: str,
        refusal: Callable[[Answer], Awaitable[BackendError]],
        cleaned: Callable[[BackendError], BackendError],
    ) -> None:
        self._upstream = upstream
        self._prefix = prefix
        self._refusal = refusal
        self._cleaned = cleaned

    async def perform(self, request: OperationRequest, context: Context) -> OperationAnswer:
        answer = await self._upstream.post(
            f"{self._prefix}/{request.operation}",
            request.body(context.backend_model),
            headers={"Content-Type": request.content_type, "X-Request-Id": context.request_id},
        )
        if not 200 <= answer.status < 300:
            try:
                raise await self._refused(answer, request)
            finally:
                answer.close()
        passed = answer.headers(_PASSED_PREFIXES)
        if answer.status in NO_CONTENT:
            answer.close()
            return OperationAnswer(WholeRelay(RelayBatch(b"", (ev.TurnCompleted(),), True)), passed, media_type=None)
        media_type = answer.header("Content-Type")
        if not media_type.isascii() or not media_type:
            media_type = "application/octet-stream"
        kind = media_type.partition(";")[0].strip().lower()
        if kind == JSON:
            return OperationAnswer(WholeRelay(await self._whole(answer, request)), passed, media_type=JSON)
        if kind == EVENTS:
            return OperationAnswer(self._events(answer, request), passed, media_type=EVENTS)
        if (length := answer.header("Content-Length")) and not answer.header("Content-Encoding"):
            passed["Content-Length"] = length
        if disposition := answer.header("Content-Disposition"):
            passed["Content-Disposition"] = disposition
        return OperationAnswer(self._bytes(answer), passed, media_type=media_type)

    async def _refused(self, answer: Answer, request: OperationRequest) -> BackendError:
        if answer.status not in ABSENT:
            refusal = await self._refusal(answer)
            if refusal.code == "unsupported_operation":  # another trunkline's word for it
                refusal.retryable = True
            return refusal
        body = await answer.excerpt(at_most_bytes=MAX_ERROR_BYTES, within_s=ERROR_WITHIN_S)
        said = openai_wire.decode_error(404, body)
        if said.code == "model_not_found" or said.param == "model":
            return self._cleaned(said)
        error = BackendRejected(
            f"{self._upstream.name} answered {answer.status} to POST /{request.operation} ({said.message}); "
            "it may not have this operation",
            status=404,
            code="unsupported_operation",
        )
        error.retryable = True  # by somebody else: it is not to blame, and will say the same again
        return self._cleaned(error)

    async def _whole(self, answer: Answer, request: OperationRequest) -> RelayBatch:
        try:
            body = await answer.read(at_most_bytes=MAX_JSON_BYTES)
        finally:
            answer.close()
        try:
            seen: list[ev.Event] = []
            try:
                members = _MEMBERS.decode(body)
            except msgspec.ValidationError:  # a list: some servers rerank so
                members = {}
            except NOT_JSON as error:
                raise BackendProtocolError(f"{self._upstream.name} sent what is not JSON: {error}") from None
            _raise_error(members)
            if _note(members, seen, model=request.model):
                body = msgspec.json.encode(members)
        except BackendError as error:
            raise self._cleaned(error) from None
        return RelayBatch(body, (*seen, ev.TurnCompleted()), True)

    async def _bytes(self, answer: Answer) -> AsyncIterator[RelayBatch]:
        try:
            while chunk := await answer.chunk():
                yield RelayBatch(chunk, (), True)
            yield RelayBatch(b"", (ev.TurnCompleted(),), True)
        finally:
            answer.close()

    async def _events(self, answer: Answer, request: OperationRequest) -> AsyncIterator[RelayBatch]:
        tee, whole = EventTee(model=request.model, finishes=request.operation == "completions"), False
        try:
            while chunk := await answer.chunk():
                batch = tee.feed(chunk)
                if batch.data or batch.events:
                    yield batch
                if tee.failure is not None:
                    raise tee.failure
                if tee.ended:
                    whole = True
                    break
            yield tee.close()
        except BackendError as error:
            raise self._cleaned(error) from None
        finally:
            tee.failure = None  # it holds this frame, once it is raised
            if whole:
                answer.finish()
            else:
                answer.close()


class EventTee:
    """Bytes of one stream in, bytes for the client out. Fed in any split.

    `finishes`: it is one of text completions, which are not whole without a finish reason. What came before a failure still
    passes; `failure` is then set.
    """

    def __init__(self, *, model: str, finishes: bool) -> None:
        self._model = model
        self._finishes = finishes
        self._rest: list[bytes] = []  # of an event that is not whole yet
        self._rest_bytes = 0
        self._begun = False
        self._content = False
        self._finished = False
        self.ended = False
        self.failure: BackendError | None = None

    def feed(self, data: bytes) -> RelayBatch:
        if b"\n" in data or b"\r" in data:
            frames, rest = split_frames(b"".join([*self._rest, data]) if self._rest else data)
            self._rest, self._rest_bytes = [rest] if rest else [], len(rest)
        else:  # an event is not whole without a line end: a long one, a picture, is joined once, not with every read
            frames = b""
            self._rest.append(data)
            self._rest_bytes += len(data)
        kept: list[bytes] = []
        seen: list[ev.Event] = []
        if frames and not self._begun:
            self._begun = True
            frames = frames.removeprefix(_BOM)  # clients' readers take it for a part of the first line
        try:
            if max(len(frames), self._rest_bytes) > MAX_FRAME_BYTES:
                raise BackendProtocolError(f"upstream sent an event larger than {MAX_FRAME_BYTES} bytes")
            for frame in each_frame(frames):
                kept.append(self._frame(frame, seen))
                if self.ended:
                    break
        except BackendError as error:
            self.failure = error
        return RelayBatch(b"".join(kept), tuple(seen), self._content)

    def close(self) -> RelayBatch:
        """The end of the upstream's body, or of its stream; a missing [DONE] is supplied."""
        if self._finishes and not (self.ended or self._finished):
            raise BackendUnavailable("the upstream ended its answer before a finish reason")
        done = DONE if self._finishes and not self.ended else b""
        return RelayBatch(done, (ev.TurnCompleted(),), self._content)

    def _frame(self, frame: bytes, seen: list[ev.Event]) -> bytes:
        events = SseReader().feed(frame)
        if not events:  # a comment, or an event without data
            return frame
        event = events[0]
        if event.data.startswith(b"[DONE]"):
            self.ended = True
            return frame
        try:
            members = _MEMBERS.decode(event.data)
        except NOT_JSON as error:
            raise BackendProtocolError(f"upstream sent an event that is not a JSON object: {error}") from None
        _raise_error(members)
        self._content = True
        changed = _note(members, seen, model=self._model)
        self._finished = self._finished or any(isinstance(one, ev.ChoiceDone) for one in seen)
        if not changed:
            return frame
        return encode_event(msgspec.json.encode(members), event=event.event or None, id=event.id)


def _raise_error(members: Members) -> None:
    """Raises the error that stands where an answer should."""
    error = members.get("error", _NULL)
    if bytes(error) != b"null":
        raise openai_wire.read_error(200, _json(error))
    if _json(members.get("type", _NULL)) == "error" or _json(members.get("object", _NULL)) == "error":
        raise openai_wire.read_error(200, {name: _json(value) for name, value in members.items()})


def _note(members: Members, seen: list[ev.Event], *, model: str) -> bool:
    """Notes what the meter wants of an answer or a piece of one, and gives the model the client's name; whether it had another."""
    usage = read_usage(_json(members.get("usage", _NULL)))
    if usage is not None:
        seen.append(ev.UsageReported(usage))
    for position, reason in enumerate(_finish_reasons(members.get("choices"))):
        if reason is not None:
            seen.append(ev.ChoiceDone(position, FINISH_REASONS.get(reason, "stop")))
    named = _json(members.get("model", _NULL))
    if not isinstance(named, str) or named == model:
        return False
    members["model"] = msgspec.Raw(msgspec.json.encode(model))
    return True


def _finish_reasons(choices: msgspec.Raw | None) -> list[str | None]:
    if choices is None:
        return []
    try:
        read = _CHOICES.decode(choices)
    except msgspec.ValidationError:  # not those of text completions
        return []
    return [choice.finish_reason if isinstance(choice.finish_reason, str) else None for choice in read]


def read_usage(source: Json) -> Usage | None:
    """Usage in whichever of its forms: of completions, of pictures and speech, or a total alone, which then is of the input."""
    if not isinstance(source, dict):
        return None
    if "prompt_tokens" in source:
        return openai_wire.read_usage(source, input_name="prompt_tokens", output_name="completion_tokens")
    if "input_tokens" in source:
        return openai_wire.read_usage(source, input_name="input_tokens", output_name="output_tokens")
    total = source.get("total_tokens")
    return Usage(input_tokens=total) if type(total) is int else None


def _json(value: msgspec.Raw) -> Json:
    try:
        decoded: Json = msgspec.json.decode(value)
    except NOT_JSON as error:
        raise BackendProtocolError(f"upstream sent what is not JSON: {error}") from None
    return decoded


__all__ = ["ALL", "EventTee", "HttpOperations", "read_usage"]
