"""The Responses API of a running server: asking, following a stream, and what every stream of it has to keep.

`check_stream` holds the invariants that any client may rely on, whatever the backend. It is deliberately written from the wire up,
without the project's own readers.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pydantic
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent

from tests.serving import MODEL, Reply, Serving

EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
ITEM: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseItem)
OURS = "trunkline."
"""Begins the names of events that the official types do not have: what an agent asks."""
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


def one_type(events: list[Streamed]) -> None:
    """S1: each frame's event is its type."""
    assert [event.kind for event in events] == [event.json["type"] for event in events]


def counted(events: list[Streamed]) -> None:
    """S2: numbers from 0 without a gap."""
    assert [event.json["sequence_number"] for event in events] == list(range(len(events)))
    assert all(event.id in (None, str(number)) for number, event in enumerate(events))


def in_official_types(events: list[Streamed]) -> None:
    """S3: every event is what the official types say, strictly; every object is whole; the last event is the only terminal one."""
    for event in events:
        if not event.kind.startswith(OURS):
            EVENT.validate_json(_in_official_words(event.text), strict=True)
        assert (event.kind in TERMINAL) == (event is events[-1]), event.kind
        if "response" in event.json:
            check_object(event.json["response"])


def items_are_closed(events: list[Streamed]) -> None:
    """S4 and S10: every item has its place and its end, and is closed before the next opens; but a tool may run meanwhile."""
    opened: dict[int, str] = {}
    running: set[int] = set()
    place = -1
    for event in events:
        said = event.json
        if event.kind == "response.output_item.added":
            assert opened.keys() <= running, "an item opens in another"
            place += 1
            assert said["output_index"] == place
            opened[place] = said["item"]["id"]
        elif event.kind == "response.output_item.done":
            assert opened.pop(said["output_index"]) == said["item"]["id"]
        elif "item_id" in said:
            assert opened[said["output_index"]] == said["item_id"], event.kind
            if event.kind == "response.mcp_call_arguments.done":
                running.add(said["output_index"])
    assert not opened, "an item is left open"


def parts_are_closed(events: list[Streamed]) -> None:
    """S5: every part and its text are closed, within its item, before the next opens."""
    open_part: list[Any] | None = None
    for event in events:
        said = event.json
        match event.kind:
            case "response.content_part.added":
                assert open_part is None, "a part opens in another"
                open_part = [said["content_index"], False]
            case "response.output_text.done" | "response.refusal.done" | "response.reasoning_text.done":
                assert open_part == [said["content_index"], False]
                open_part[1] = True
            case "response.content_part.done":
                assert open_part == [said["content_index"], True], "a part is closed before its text"
                open_part = None
            case "response.output_item.done":
                assert open_part is None, "an item is closed before its part"
            case _:
                pass
    assert open_part is None, "a part is left open"


_TEXTS = {"output_text": "text", "reasoning_text": "text", "reasoning_summary_text": "text", "refusal": "refusal"}
_INPUTS = {
    "function_call_arguments": "arguments",
    "custom_tool_call_input": "input",
    "mcp_call_arguments": "arguments",
}


def _joined_deltas(events: list[Streamed], done_keys: Mapping[str, str]) -> dict[tuple[str, int, int], str]:
    """The deltas by what they are of, item and part; each joined is what its `done` says."""
    joined: dict[tuple[str, int, int], str] = {}
    for event in events:
        name, _, step = event.kind.removeprefix("response.").partition(".")
        if name in done_keys and step in ("delta", "done"):
            said = event.json
            at = name, said["output_index"], said.get("content_index", said.get("summary_index", 0))
            if step == "delta":
                joined[at] = joined.get(at, "") + said["delta"]
            else:
                assert said[done_keys[name]] == joined.get(at, ""), event
    return joined


def answered_from(events: list[Streamed]) -> int:
    """The place of the answer's first item. A run that was restarted says `queued` once more: what came before it is closed and
    counted on from, and not part of the answer."""
    last = max((at for at, event in enumerate(events) if event.kind == "response.queued"), default=0)
    return sum(event.kind == "response.output_item.added" for event in events[:last])


def texts_are_their_deltas(events: list[Streamed]) -> None:
    """S6: the final texts are the joined deltas."""
    joined, first = _joined_deltas(events, _TEXTS), answered_from(events)
    final = json.loads(final_of(events))
    said = {}
    for index, item in enumerate(final["output"], first):
        if item["type"] in ("message", "reasoning"):
            for number, part in enumerate(item.get("content") or ()):
                said[part["type"], index, number] = part.get("text", part.get("refusal"))
            for number, part in enumerate(item.get("summary") or ()):
                said["reasoning_summary_text", index, number] = part["text"]
    assert {at: text for at, text in said.items() if text} == {
        at: text for at, text in joined.items() if at[1] >= first
    }


def output_is_the_done_items(events: list[Streamed]) -> None:
    """S7: the final output is the items as they were done, each what the official types say."""
    ends = [event.json for event in events if event.kind == "response.output_item.done"]
    done = [end["item"] for end in sorted(ends, key=lambda end: int(end["output_index"]))]
    assert json.loads(final_of(events))["output"] == done[answered_from(events) :]
    for item in done:
        ITEM.validate_json(json.dumps(item), strict=True)


def arguments_are_their_deltas(events: list[Streamed]) -> None:
    """S8: a tool's arguments are the same in deltas, when done and in the end."""
    joined = _joined_deltas(events, _INPUTS)
    for index, item in enumerate(json.loads(final_of(events))["output"], answered_from(events)):
        for name, key in _INPUTS.items():
            if item["type"] == name.removesuffix(f"_{key}"):
                assert item[key] == joined.get((name, index, 0), "")


def names_are_ours(events: list[Streamed]) -> None:
    """S9: one id of the response throughout, and ids of items that follow from it, each its own."""
    final = json.loads(final_of(events))
    assert final["id"].startswith("resp_")
    assert {event.json["response"]["id"] for event in events if "response" in event.json} == {final["id"]}
    ids = [event.json["item"]["id"] for event in events if event.kind == "response.output_item.done"]
    assert len(set(ids)) == len(ids)
    assert all(item_id.split("_")[1] == final["id"].removeprefix("resp_") for item_id in ids), ids


def usage_is_told(events: list[Streamed]) -> None:
    """S11: the terminal event of an answer that was not failed or cancelled says its usage."""
    final = json.loads(final_of(events))
    if final["status"] in ("completed", "incomplete"):
        usage = final["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


INVARIANTS: Mapping[str, Callable[[list[Streamed]], None]] = {
    "S1": one_type,
    "S2": counted,
    "S3": in_official_types,
    "S4, S10": items_are_closed,
    "S5": parts_are_closed,
    "S6": texts_are_their_deltas,
    "S7": output_is_the_done_items,
    "S8": arguments_are_their_deltas,
    "S9": names_are_ours,
    "S11": usage_is_told,
}


def check_stream(events: list[Streamed]) -> dict[str, Any]:
    """Every invariant of a stream. Gives the final object."""
    for holds in INVARIANTS.values():
        holds(events)
    final: dict[str, Any] = json.loads(final_of(events))
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
