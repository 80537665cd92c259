"""The Responses API of a running server: asking, following a stream, and what every stream of it has to keep.

`check_stream` holds the invariants that any client may rely on, whatever the backend. It is deliberately written from the wire up,
without the project's own readers.
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pydantic
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent

from tests.serving import MODEL, Reply, Serving

EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
ITEM: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseItem)
TERMINAL = ("response.completed", "response.incomplete", "response.failed")
_KEYS = (
    "id object created_at completed_at status error incomplete_details instructions model previous_response_id tools",
    "tool_choice parallel_tool_calls output metadata temperature top_p presence_penalty frequency_penalty top_logprobs",
    "truncation text reasoning usage max_output_tokens max_tool_calls store background service_tier safety_identifier",
    "prompt_cache_key output_text",
)
KEYS = frozenset(" ".join(_KEYS).split(" "))
NEVER_NULL = (
    *("tools", "tool_choice", "temperature", "top_p", "presence_penalty", "frequency_penalty", "truncation", "text"),
    *("service_tier", "parallel_tool_calls"),
)
GET_WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


class Streamed(msgspec.Struct, frozen=True):
    """One event of a stream: its fields of SSE and its JSON."""

    kind: str
    id: str | None
    text: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def events_in(body: bytes) -> list[Streamed]:
    """The events of a stream without comments. One that has ended says `[DONE]` after its last event, and only then."""
    events: list[Streamed] = []
    frames = [frame for frame in body.split(b"\n\n") if frame and not frame.startswith(b":")]
    for position, frame in enumerate(frames):
        fields = dict(line.split(b": ", 1) for line in frame.split(b"\n"))
        if fields[b"data"] == b"[DONE]":
            assert position == len(frames) - 1
            assert events[-1].kind in TERMINAL
            break
        number = fields.get(b"id")
        events.append(Streamed(fields[b"event"].decode(), None if number is None else number.decode(), fields[b"data"]))
    else:
        assert not events or events[-1].kind not in TERMINAL, "a terminal event without [DONE]"
    return events


def final_of(events: list[Streamed]) -> bytes:
    """The Response object of the terminal event, byte for byte."""
    assert events[-1].kind in TERMINAL, events[-1]
    return bytes(msgspec.json.decode(events[-1].text, type=dict[str, msgspec.Raw])["response"])


def _in_official_words(data: bytes) -> bytes:
    """The one code of a failed response that is ours, as one that the official types know."""
    return data.replace(b'"worker_lost"', b'"server_error"')


def check_object(response: Mapping[str, Any]) -> None:
    """Always the whole object, and what the official types accept strictly."""
    assert response.keys() >= KEYS, KEYS - response.keys()
    assert all(response[key] is not None for key in NEVER_NULL), response
    Response.model_validate_json(_in_official_words(json.dumps(response).encode()), strict=True)
    texts = [
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    ]
    assert response["output_text"] == "".join(texts)
    if response["status"] in ("completed", "incomplete"):
        usage = response["usage"]
        assert usage.keys() >= {"input_tokens", "output_tokens", "total_tokens"}
        assert usage["input_tokens_details"].keys() == {"cached_tokens", "cache_write_tokens"}
        assert usage["output_tokens_details"].keys() == {"reasoning_tokens"}


def check_stream(events: list[Streamed], *, first: int = 0) -> dict[str, Any]:
    """S1 to S11. Gives the final object."""
    open_item: dict[str, Any] | None = None
    open_part: dict[str, Any] | None = None
    deltas = ""
    done_items: list[Any] = []
    ids = set()
    for number, event in enumerate(events, first):
        said = event.json
        assert said["type"] == event.kind
        assert said["sequence_number"] == number
        assert event.id in (None, str(number))
        EVENT.validate_json(_in_official_words(event.text), strict=True)
        assert (event.kind in TERMINAL) == (event is events[-1]), event.kind
        if "response" in said:
            check_object(said["response"])
            ids.add(said["response"]["id"])
        match event.kind:
            case "response.output_item.added":
                assert open_item is None, "an item opens in another"
                assert said["output_index"] == len(done_items)
                open_item, deltas = said["item"], ""
            case "response.output_item.done":
                assert open_item is not None
                assert open_part is None, "an item is closed before its part"
                assert said["output_index"] == len(done_items)
                assert said["item"]["id"] == open_item["id"]
                done_items.append(said["item"])
                if said["item"]["type"] == "function_call":
                    assert said["item"]["arguments"] == deltas
                open_item = None
            case "response.content_part.added":
                assert open_part is None
                open_part, deltas = said["part"], ""
            case "response.content_part.done":
                assert open_part is not None
                assert said["part"].get("text", said["part"].get("refusal")) == deltas
                open_part = None
            case "response.output_text.done" | "response.reasoning_text.done":
                assert said["text"] == deltas
            case "response.refusal.done":
                assert said["refusal"] == deltas
            case "response.function_call_arguments.done":
                assert said["arguments"] == deltas
            case _:
                pass
        if event.kind.endswith(".delta"):
            assert open_item is not None
            assert said["item_id"] == open_item["id"]
            deltas += said["delta"]
    final: dict[str, Any] = json.loads(final_of(events))
    assert open_item is None
    assert open_part is None
    assert final["output"] == done_items
    assert len({item["id"] for item in done_items}) == len(done_items)
    for item in done_items:
        ITEM.validate_json(json.dumps(item), strict=True)
    assert ids == {final["id"]}
    assert final["id"].startswith("resp_")
    return final


class Asking:
    """A client of one server, or of one tenant of it."""

    def __init__(self, server: Serving, *, model: str = MODEL, key: str | None = None) -> None:
        self.server = server
        self._model = model
        self.headers = {} if key is None else {"authorization": f"Bearer {key}"}

    async def post(self, text: object = "hello there", **body: Any) -> Reply:
        whole = {"model": self._model, "input": text, **body}
        return await self.server.request("POST", "/v1/responses", json.dumps(whole).encode(), headers=self.headers)

    async def create(self, text: object = "hello there", **body: Any) -> Any:
        reply = await self.post(text, **body)
        assert reply.status == 200, reply
        check_object(reply.json())
        return reply.json()

    async def stream(self, text: object = "hello there", **body: Any) -> list[Streamed]:
        reply = await self.post(text, stream=True, **body)
        assert reply.status == 200, reply
        assert reply.headers["content-type"] == "text/event-stream"
        return events_in(reply.body)

    async def get(self, response_id: str, query: str = "", *, headers: Mapping[str, str] = {}) -> Reply:
        return await self.server.get(f"/v1/responses/{response_id}{query}", headers={**self.headers, **headers})

    async def resume(self, response_id: str, after: int | None = None, *, last_event_id: str = "") -> list[Streamed]:
        query = "?stream=true" + ("" if after is None else f"&starting_after={after}")
        reply = await self.get(response_id, query, headers={"last-event-id": last_event_id} if last_event_id else {})
        assert reply.status == 200, reply
        return events_in(reply.body)

    async def ended(self, response_id: str) -> Any:
        """The object once its run has ended: its log is followed to the end."""
        await self.resume(response_id)
        return (await self.get(response_id)).json()

    async def cancel(self, response_id: str) -> Reply:
        return await self.server.request("POST", f"/v1/responses/{response_id}/cancel", headers=self.headers)

    async def delete(self, response_id: str) -> Reply:
        return await self.server.request("DELETE", f"/v1/responses/{response_id}", headers=self.headers)

    async def input_items(self, response_id: str, query: str = "") -> Any:
        return (await self.get(response_id, f"/input_items{query}")).json()


def call_output(call_id: str, output: str = "sunny") -> dict[str, str]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def said(text: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": text}
