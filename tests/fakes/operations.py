"""A model server's other operations: embeddings, text completions, reranking, speech, transcription, images, moderation.

Answers as OpenAI, vLLM and llama.cpp give them, computed from what was asked, so that a test sees its own input come back.
"""

import base64
import contextlib
import re
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

from tests.fakes.upstream import DONE, FakeUpstream, Plan, Received, answer, frame, json_answer, listening, streamed

MODELS = ("embedder", "writer", "reranker", "voice", "ears", "painter", "guard")
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
SOUND = bytes(range(256)) * 400
SUBTITLES = b"1\n00:00:00,000 --> 00:00:01,000\nGood morning\n"


def vector(text: object) -> list[float]:
    """One of whole numbers, so that nothing is lost on the way."""
    return [float(len(str(text))), 1.0, -2.0]


def _embeddings(asked: Mapping[str, Any]) -> bytes:
    texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
    texts = [texts] if texts and isinstance(texts[0], int) else texts

    def written(text: object) -> object:
        numbers = vector(text)
        if asked.get("encoding_format") == "base64":
            return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
        return numbers

    data = [{"object": "embedding", "index": place, "embedding": written(text)} for place, text in enumerate(texts)]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return json_answer({"object": "list", "data": data, "model": f"org/{asked['model']}", "usage": usage})


def completion(model: str, text: str, *, finish: str | None = "stop", **more: object) -> dict[str, object]:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return {
        "id": "cmpl-up",
        "object": "text_completion",
        "created": 5,
        "model": f"org/{model}",
        "choices": [choice],
        **more,
    }


def _completions(asked: Mapping[str, Any]) -> Plan:
    model, text = asked["model"], f"{asked['prompt']} and so on"
    if not asked.get("stream"):
        return [json_answer(completion(model, text, usage=USAGE))]
    frames = [frame(completion(model, word, finish=None)) for word in text.split(" ")]
    frames.append(frame(completion(model, "")))
    if (asked.get("stream_options") or {}).get("include_usage"):
        frames.append(frame({**completion(model, ""), "choices": [], "usage": USAGE}))
    return streamed(b"".join([*frames, DONE]), size=50)


def _rerank(asked: Mapping[str, Any]) -> bytes:
    ranked = sorted(enumerate(asked["documents"]), key=lambda one: -len(one[1]))
    results = [{"index": place, "relevance_score": float(len(text))} for place, text in ranked]
    return json_answer({"id": "rerank-up", "model": asked["model"], "results": results, "usage": {"total_tokens": 9}})


def form_of(request: Received) -> dict[str, bytes]:
    """The fields of a form, read in another way than ours."""
    boundary = request.headers["content-type"].partition("boundary=")[2].strip('"').encode()
    fields: dict[str, bytes] = {}
    pieces = request.body.split(b"--" + boundary)
    assert pieces[0] == b""
    assert pieces[-1] in (b"--", b"--\r\n")
    for piece in pieces[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'[ ;]name="([^"]*)"', head)
        assert name is not None
        fields[name[1].decode()] = content.removesuffix(b"\r\n")
    return fields


def _transcription(fields: Mapping[str, bytes]) -> Plan:
    match fields.get("response_format", b"json"):
        case b"srt":
            return [answer(SUBTITLES, kind="text/plain; charset=utf-8")]
        case _ if fields.get("stream") == b"true":
            usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 3, "total_tokens": 17}
            return streamed(
                frame({"type": "transcript.text.delta", "delta": "Good "})
                + frame({"type": "transcript.text.delta", "delta": "morning"})
                + frame({"type": "transcript.text.done", "text": "Good morning", "usage": usage})
                + DONE
            )
        case _:
            text = f"Good morning in {len(fields['file'])} bytes"
            return [json_answer({"text": text, "usage": {"type": "duration", "seconds": 2}})]


def _images(asked: Mapping[str, object]) -> bytes:
    picture = base64.b64encode(b"\x89PNG of it").decode()
    usage = {"input_tokens": 4, "output_tokens": 100, "total_tokens": 104, "input_tokens_details": {"text_tokens": 4}}
    return json_answer({"created": 5, "data": [{"b64_json": picture}], "usage": usage, "asked": sorted(asked)})


def _moderation(asked: Mapping[str, Any]) -> bytes:
    flagged = "hurt" in str(asked["input"])
    result = {"flagged": flagged, "categories": {"violence": flagged}, "category_scores": {"violence": float(flagged)}}
    return json_answer({"id": "modr-up", "model": f"{asked['model']}-007", "results": [result]})


class OperationsUpstream(FakeUpstream):
    """Answers each operation; a plan comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.models = [json_answer({"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]})]

    def next_plan(self, request: Received) -> Plan:
        if self.planned:
            return super().next_plan(request)
        assert request.headers["content-length"] == str(len(request.body))
        operation = request.path.removeprefix("/v1/")
        if request.headers["content-type"].startswith("multipart/form-data"):
            fields = form_of(request)
            return [_images(fields)] if operation.startswith("images/") else _transcription(fields)
        asked = request.json()
        match operation:
            case "embeddings":
                return [_embeddings(asked)]
            case "completions":
                return _completions(asked)
            case "rerank":
                return [_rerank(asked)]
            case "audio/speech":
                return [answer(SOUND, kind="audio/mpeg")]
            case "images/generations" | "images/edits":
                return [_images(asked)]
            case "moderations":
                return [_moderation(asked)]
            case _:
                return [json_answer({"error": {"message": "Not Found"}}, status="404 Not Found")]


@contextlib.asynccontextmanager
async def operations_upstream() -> AsyncIterator[OperationsUpstream]:
    async with listening(OperationsUpstream()) as upstream:
        yield upstream
