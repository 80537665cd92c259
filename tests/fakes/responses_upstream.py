"""A server that speaks Responses as OpenAI does: the events of each kind of item, their padding, what it refuses.

Without a plan it answers what it is asked: a search where it was given the tool, a call where it was given a function and the
user speaks of the weather, else the last user text. Like OpenAI under `store: false` it knows no state: a request that names
any, and reasoning whose id is not the one inside its encrypted content, are refused.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from tests.fakes.upstream import FakeUpstream, Plan, Received, json_answer, listening, streamed

Json = Any
STATE = ("previous_response_id", "conversation", "background", "truncation")
USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 18,
}
CITATION = {
    "type": "url_citation",
    "url": "https://example.com/cats",
    "title": "Cats",
    "start_index": 0,
    "end_index": 4,
}


# Items, as they are when they are done


def reasoning(*summary: str, encrypted: bool = False, item_id: str = "rs_up1") -> Json:
    item: Json = {
        "id": item_id,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text} for text in summary],
    }
    if encrypted:
        item["encrypted_content"] = f"gAAA:{item_id}"
    return item


def message(*texts: str, annotations: Sequence[Json] = (), item_id: str = "msg_up1", **more: Json) -> Json:
    parts = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []} for text in texts]
    if annotations:
        parts[-1]["annotations"] = list(annotations)
    return {"id": item_id, "type": "message", "status": "completed", "role": "assistant", "content": parts, **more}


def refusal(text: str, *, item_id: str = "msg_up1") -> Json:
    return {**message(item_id=item_id), "content": [{"type": "refusal", "refusal": text}]}


def function_call(name: str, arguments: str, *, call_id: str, item_id: str = "fc_up1") -> Json:
    return {
        "id": item_id,
        "type": "function_call",
        "status": "completed",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def custom_call(name: str, text: str, *, call_id: str, item_id: str = "ctc_up1") -> Json:
    return {
        "id": item_id,
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": call_id,
        "name": name,
        "input": text,
    }


def web_search(query: str, *, item_id: str = "ws_up1") -> Json:
    return {
        "id": item_id,
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": query, "queries": [query], "sources": []},
    }


def code_interpreter(code: str, *, item_id: str = "ci_up1") -> Json:
    return {
        "id": item_id,
        "type": "code_interpreter_call",
        "status": "completed",
        "container_id": "cntr_1",
        "code": code,
        "outputs": [{"type": "logs", "logs": "4"}],
    }


def mcp_call(name: str, arguments: str, output: str, *, item_id: str = "mcp_up1") -> Json:
    return {
        "id": item_id,
        "type": "mcp_call",
        "status": "completed",
        "server_label": "wiki",
        "name": name,
        "arguments": arguments,
        "output": output,
        "error": None,
        "approval_request_id": None,
    }


# Events


def _halves(text: str) -> Iterator[str]:
    half = len(text) // 2
    yield from (piece for piece in (text[:half], text[half:]) if piece)


def _part_events(part: Json, place: Json) -> Iterator[Json]:
    kind = part["type"]
    key = "refusal" if kind == "refusal" else "text"
    empty = {**part, key: "", **({"annotations": []} if kind == "output_text" else {})}
    logprobs: Json = {"logprobs": []} if kind == "output_text" else {}
    yield {"type": "response.content_part.added", **place, "part": empty}
    for text in _halves(part[key]):
        yield {"type": f"response.{kind}.delta", **place, "delta": text, **logprobs, "obfuscation": "xK2"}
    for number, annotation in enumerate(part.get("annotations", ())):
        yield {
            "type": "response.output_text.annotation.added",
            **place,
            "annotation_index": number,
            "annotation": annotation,
        }
    yield {"type": f"response.{kind}.done", **place, key: part[key], **logprobs}
    yield {"type": "response.content_part.done", **place, "part": part}


def _text_events(base: str, key: str, text: str, place: Json) -> Iterator[Json]:
    """Text that streams outside of parts: arguments, code, input."""
    for piece in _halves(text):
        yield {"type": f"{base}.delta", **place, "delta": piece, "obfuscation": "aZ"}
    yield {"type": f"{base}.done", **place, key: text}


def _inner_events(item: Json, place: Json) -> Iterator[Json]:
    kind = item["type"]
    match kind:
        case "message":
            for number, part in enumerate(item["content"]):
                yield from _part_events(part, {**place, "content_index": number})
        case "reasoning":
            for number, part in enumerate(item["summary"]):
                at = {**place, "summary_index": number}
                yield {"type": "response.reasoning_summary_part.added", **at, "part": {**part, "text": ""}}
                yield from _text_events("response.reasoning_summary_text", "text", part["text"], at)
                yield {"type": "response.reasoning_summary_part.done", **at, "part": part}
        case "function_call":
            for event in _text_events("response.function_call_arguments", "arguments", item["arguments"], place):
                yield {**event, "name": item["name"]} if event["type"].endswith("done") else event
        case "custom_tool_call":
            yield from _text_events("response.custom_tool_call_input", "input", item["input"], place)
        case "web_search_call":
            for step in ("in_progress", "searching", "completed"):
                yield {"type": f"response.{kind}.{step}", **place}
        case "code_interpreter_call":
            yield {"type": f"response.{kind}.in_progress", **place}
            yield from _text_events("response.code_interpreter_call_code", "code", item["code"], place)
            for step in ("interpreting", "completed"):
                yield {"type": f"response.{kind}.{step}", **place}
        case "mcp_call":
            yield {"type": f"response.{kind}.in_progress", **place}
            yield from _text_events("response.mcp_call_arguments", "arguments", item["arguments"], place)
            yield {"type": f"response.{kind}.completed", **place}
        case _:
            pass


_EMPTY: Json = {"content": [], "summary": [], "arguments": "", "input": "", "code": "", "outputs": None, "output": None}


def _opening(item: Json) -> Json:
    opening = {key: _EMPTY.get(key, value) for key, value in item.items() if key != "encrypted_content"}
    return {**opening, "status": "in_progress"} if "status" in item else opening


def response(output: Sequence[Json], *, status: str = "completed", asked: Json = None, **more: Json) -> Json:
    """The whole object as OpenAI writes it."""
    asked = asked or {}
    return {
        "id": "resp_up1",
        "object": "response",
        "created_at": 1741570283,
        "completed_at": 1741570284 if status == "completed" else None,
        "status": status,
        "background": False,
        "billing": {"payer": "developer"},
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "model": "gpt-up-2026",
        "output": list(output),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "prompt_cache_retention": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": asked.get("tools", []),
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": USAGE if status in ("completed", "incomplete") else None,
        "user": None,
        "metadata": {},
        **more,
    }


def frames_of(events: Sequence[Json]) -> list[bytes]:
    return [
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n".encode()
        for number, event in enumerate(events)
    ]


def events_of(output: Sequence[Json], *, asked: Json = None, end: Json = None) -> list[Json]:
    """The stream's events. `end` is the last one where it is not the completed response."""
    begun = response((), status="in_progress", asked=asked)
    events = [{"type": f"response.{name}", "response": begun} for name in ("created", "in_progress")]
    for index, item in enumerate(output):
        place = {"item_id": item["id"], "output_index": index}
        events.append({"type": "response.output_item.added", "output_index": index, "item": _opening(item)})
        events.extend(_inner_events(item, place))
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    return [*events, end or {"type": "response.completed", "response": response(output, asked=asked)}]


def refused(
    message: str, *, code: str | None = None, param: str | None = None, status: str = "400 Bad Request"
) -> Plan:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return [json_answer({"error": error}, status=status)]


class FakeResponses(FakeUpstream):
    """Answers each POST by itself where no plan says otherwise. `output`: the items of the next answers, whatever is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.output: list[Json] | None = None

    def next_plan(self, request: Received) -> Plan:
        if self.planned:
            return super().next_plan(request)
        asked = request.json()
        refusal_plan = _refusal_of(request.path, asked)
        if refusal_plan is not None:
            return refusal_plan
        output = self.output if self.output is not None else _answer_to(asked)
        if asked.get("stream"):
            return streamed(b"".join(frames_of(events_of(output, asked=asked))), size=700)
        return [json_answer(response(output, asked=asked))]


def _refusal_of(path: str, asked: Json) -> Plan | None:
    if path != "/v1/responses":
        return refused(f"Invalid URL (POST {path})", status="404 Not Found")
    if asked.get("store") is not False or any(asked.get(name) for name in STATE):
        return refused("this server keeps no state", param="store")
    for position, item in enumerate(asked["input"] if isinstance(asked["input"], list) else ()):
        where = f"input[{position}]"
        if item.get("type") == "item_reference":
            return refused(f"Item with id '{item['id']}' not found.", param="input", status="404 Not Found")
        if item.get("type") == "reasoning":
            encrypted = item.get("encrypted_content")
            if encrypted is None:
                return refused(f"Item with id '{item.get('id')}' not found.", param="input", status="404 Not Found")
            if "id" in item and encrypted != f"gAAA:{item['id']}":
                return refused(
                    "The encrypted content could not be verified: item_id did not match the target item id.",
                    code="invalid_encrypted_content",
                )
        if item.get("type", "message") == "message" and "id" not in item and "status" in item:
            return refused(f"Unknown parameter: '{where}.status'.", code="unknown_parameter", param=f"{where}.status")
    return None


def _answer_to(asked: Json) -> list[Json]:
    given = asked["input"]
    last = given if isinstance(given, str) else _last_text(given)
    thought = reasoning("I need the tool. ", encrypted="reasoning.encrypted_content" in asked.get("include", ()))
    tools = {tool["type"] for tool in asked.get("tools", ())}
    if "web_search" in tools:
        found = message("Cats purr.", annotations=[CITATION], phase="final_answer")
        return [thought, web_search(last), found]
    if "function" in tools and "weather" in last:
        call = function_call("get_weather", '{"city": "Paris"}', call_id="call_a")
        return [thought, message("Let me look. ", item_id="msg_up2"), call]
    return [message(last)]


def _last_text(items: Sequence[Json]) -> str:
    for item in reversed(items):
        content = item.get("content", item.get("output"))
        if item.get("role") == "user" or "output" in item:
            return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return ""


@contextlib.asynccontextmanager
async def fake_responses() -> AsyncIterator[FakeResponses]:
    async with listening(FakeResponses()) as upstream:
        yield upstream
