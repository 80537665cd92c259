"""What makes two calls the same to the answer cache: a digest of everything that may change the answer.

The request is taken apart from the way it was asked. Ids and statuses of items go, call ids become their order of appearance,
a string and a single text part are one, instructions become the system message they are. So a chat completion and a response of the
same content are the same, streamed or not, unless they hold what no field names: that reaches a backend of the same dialect and is
lost on the way to others. Everything else stays in, also what only might matter: a field that is added to `Request` later makes
calls differ until somebody decides that it does not.
"""

from collections.abc import Iterator
from hashlib import sha256

import msgspec

from trunkline.dialects.openai_responses.mcp_calls import with_tool_runs
from trunkline.engine.call import Call
from trunkline.model.items import FunctionCall, FunctionCallOutput, Item, Message, OpaqueItem, Reasoning, TextPart
from trunkline.model.request import Request, Tool


def key_of(call: Call, request: Request | None = None, *more: str) -> bytes:
    """The digest of a call; of another request in its place, and with more that has to be the same."""
    asked = request or call.request
    unnamed = asked.extra or any(isinstance(tool, Tool) and tool.extra for tool in asked.tools)
    who = msgspec.json.encode(
        (call.tenant, call.named_session, call.memory_key, call.dialect if unnamed else None, more)
    )
    return sha256(who + _canonical(asked)).digest()


def _canonical(request: Request) -> bytes:
    alike = msgspec.structs.replace(
        request,
        items=tuple(_items(request)),
        instructions=None,
        # How it is asked, not what.
        places=(),
        asked={},
        stream=False,
        include_usage=False,
        tool_events=None,
        # What becomes of the answer, where its history came from, which cache of the upstream's may help.
        store=None,
        background=False,
        previous_response_id=None,
        conversation=None,
        prompt_cache_key=None,
        # What is meant where nothing is said.
        tool_choice=None if request.tool_choice == "auto" else request.tool_choice,
        response_format=None if request.response_format == "text" else request.response_format,
        truncation=None if request.truncation == "disabled" else request.truncation,
    )
    # Once there and back, for the client's own JSON within: its spaces and the order of its keys are not content.
    return msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(alike)), order="sorted")


def _items(request: Request) -> Iterator[Item]:
    if request.instructions is not None:
        yield Message(role="system", content=(TextPart(request.instructions),))
    calls: dict[str, str] = {}
    for item in with_tool_runs(request, others=False).items:
        match item:
            case Message():
                if item.content or item.role != "assistant":  # one with calls and no text is no message elsewhere
                    yield msgspec.structs.replace(item, id=None, status="completed", as_string=False)
            case FunctionCall():
                yield msgspec.structs.replace(item, id=None, status="completed", call_id=_ordinal(item.call_id, calls))
            case FunctionCallOutput():
                yield msgspec.structs.replace(
                    item, id=None, status="completed", call_id=_ordinal(item.call_id, calls), as_string=False
                )
            case Reasoning():
                yield msgspec.structs.replace(item, id=None, status="completed")
            case OpaqueItem():
                yield msgspec.structs.replace(item, id=None)


def _ordinal(call_id: str, seen: dict[str, str]) -> str:
    return seen.setdefault(call_id, str(len(seen)))
