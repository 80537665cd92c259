"""The Response object, always whole: every key that contracts promise, streamed or not, first event or last.

One function writes it for every reader, so the events of a stream, the answer without streaming and what is stored cannot
differ. What a request did not say is echoed as OpenAI's defaults, because clients read these keys without asking.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from trunkline.dialects.openai_responses import mcp_calls
from trunkline.dialects.openai_responses.parts import write_failure, write_usage
from trunkline.dialects.openai_responses.write_items import EVENT_PREFIX, Wire, output_items, with_output_list
from trunkline.dialects.openai_wire import join_extensions
from trunkline.model import events as ev
from trunkline.model.request import (
    AllowedTools,
    JsonSchema,
    NamedTool,
    OpaqueTool,
    OpaqueToolChoice,
    Request,
    Tool,
    ToolItems,
)
from trunkline.model.turn import Turn
from trunkline.model.usage import Usage

ResponseStatus = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]
SERVICE_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast", "ultrafast"})


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How this server's clients want the dialect.

    Attributes:
        json_spacing: JSON in streams is written `"key": value` instead of `"key":value` (decision 7).
        done_sentinel: `data: [DONE]` follows the terminal event (decision 8).
        usage_details: usage always has its details, 0 where unknown (decision 9).
        shows_approvals: what an agent asks is shown in streams whose clients do not say whether they want it.
        own_name: begins the names of events that the API does not have, and is the name of what an agent says of its run.
        tool_output_lists: in streams, text that a tool returned is a list of parts (decision 10).
        tool_items: as what the runs of a backend's own tools are shown.
    """

    json_spacing: bool = False
    done_sentinel: bool = True
    usage_details: bool = True
    shows_approvals: bool = False
    own_name: str = ev.OWN
    tool_output_lists: bool = False
    tool_items: ToolItems = "function_call"


def shows_approvals(request: Request, settings: Settings) -> bool:
    """Whether what an agent asks is shown: an event of ours, which not every client bears. The log of background work has it."""
    if request.background or request.tool_events is None:
        return request.background or settings.shows_approvals
    return request.tool_events == "events"


class ResponseBuilder:
    """Writes the Response objects of one request."""

    def __init__(self, request: Request, settings: Settings) -> None:
        self._request = request
        self._settings = settings
        self._echo = _echo(request)

    def begun(self, started: ev.TurnStarted, status: ResponseStatus) -> Wire:
        """The object before there is anything of the answer."""
        return self._object(started.turn_id, started.model, started.created_at, status=status)

    def ended(self, turn: Turn, *, now: float, streamed: bool = False) -> Wire:
        """The object of a turn that has ended. `now` in unix seconds."""
        status, reason, error = outcome_of(turn.terminal)
        usage = turn.usage
        if usage is None and status in ("completed", "incomplete"):
            usage = Usage()  # clients read the counts of an answer without asking whether there are any
        write = mcp_calls.output_items if self._settings.tool_items == "mcp_call" else output_items
        output = write(turn, logprobs=self._request.logprobs)
        if streamed and self._settings.tool_output_lists:
            output = [with_output_list(item) for item in output]
        written = self._object(
            turn.turn_id,
            turn.model,
            turn.created_at,
            status=status,
            output=output,
            usage=usage,
            completed_at=int(now) if status == "completed" else None,
            incomplete_details=None if reason is None else {"reason": reason},
            error=error,
        )
        self._add_extensions(written, turn.extensions)
        return written

    def _object(
        self,
        response_id: str,
        model: str,
        created_at: int,
        *,
        status: ResponseStatus,
        output: Sequence[Wire] = (),
        usage: Usage | None = None,
        completed_at: int | None = None,
        incomplete_details: Mapping[str, str] | None = None,
        error: Mapping[str, object] | None = None,
    ) -> Wire:
        details = self._settings.usage_details
        return {
            "id": response_id,
            "object": "response",
            "created_at": created_at,
            "completed_at": completed_at,
            "status": status,
            "error": error,
            "incomplete_details": incomplete_details,
            "model": self._request.model or model,
            "output": output,
            "output_text": _output_text(output),
            "usage": None if usage is None else write_usage(usage, always_details=details),
            **self._echo,
        }

    def _add_extensions(self, written: Wire, extensions: Sequence[ev.Extension]) -> None:
        """Keys of the upstream's object that no field names. The one we have too is the tier that did the work."""
        members = [one for one in extensions if not one.name.startswith(EVENT_PREFIX)]
        for name, value in join_extensions(members).items():
            if name == "service_tier":
                tier = msgspec.json.decode(value)
                if isinstance(tier, str) and tier in SERVICE_TIERS:
                    written[name] = tier
            else:
                written.setdefault(self._settings.own_name if name == ev.OWN else name, value)


def outcome_of(terminal: ev.Terminal) -> tuple[ResponseStatus, str | None, Mapping[str, object] | None]:
    """Status, reason of incompleteness and error. A reason of ours has no word in the API, and clients read it as one of its
    words or not at all."""
    match terminal:
        case ev.TurnCompleted():
            return "completed", None, None
        case ev.TurnIncomplete(reason):
            return "incomplete", reason if reason in ("max_output_tokens", "content_filter") else None, None
        case ev.TurnFailed(error):
            return "failed", None, write_failure(error)
        case ev.TurnCancelled():
            return "cancelled", None, None


def _output_text(output: Sequence[Wire]) -> str:
    texts: list[str] = []
    for item in output:
        content = item.get("content")
        if item["type"] == "message" and isinstance(content, list):
            texts.extend(
                part["text"] for part in content if isinstance(part, dict) and part.get("type") == "output_text"
            )
    return "".join(texts)


def _echo(request: Request) -> Wire:
    """What the object says of its request."""
    echo: Wire = {
        "instructions": request.instructions,
        "previous_response_id": request.previous_response_id,
        "tools": [write_tool(tool) for tool in request.tools],
        "tool_choice": write_tool_choice(request),
        "parallel_tool_calls": True if request.parallel_tool_calls is None else request.parallel_tool_calls,
        "metadata": request.metadata or {},
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "presence_penalty": request.presence_penalty or 0.0,
        "frequency_penalty": request.frequency_penalty or 0.0,
        "top_logprobs": request.top_logprobs or 0,
        "truncation": request.truncation or "disabled",
        "text": {"format": write_format(request), "verbosity": request.verbosity or "medium"},
        "reasoning": {"effort": request.reasoning_effort, "summary": request.reasoning_summary},
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "store": request.store is not False,
        "background": request.background,
        "service_tier": request.service_tier or "auto",
        "safety_identifier": request.safety_identifier,
        "prompt_cache_key": request.prompt_cache_key,
    }
    if request.conversation is not None:
        echo["conversation"] = {"id": request.conversation}
    if request.user is not None:
        echo["user"] = request.user
    return echo


def write_tool(tool: Tool | OpaqueTool) -> object:
    if isinstance(tool, OpaqueTool):
        return tool.payload
    written: Wire = {"type": tool.kind, "name": tool.name}
    if tool.description is not None or tool.kind == "function":
        written["description"] = tool.description
    if tool.kind == "custom":
        if tool.format is not None:
            written["format"] = tool.format
    else:
        # Both are required of a function tool, and may be null.
        written["parameters"] = tool.parameters
        written["strict"] = tool.strict
    for name, value in tool.extra.items():
        written.setdefault(name, value)
    return written


def write_tool_choice(request: Request) -> object:
    match request.tool_choice:
        case None:
            return "auto"
        case NamedTool(name, kind):
            return {"type": kind, "name": name}
        case OpaqueToolChoice(payload=payload):
            return payload
        case AllowedTools(mode, names, payload):
            if "mode" in msgspec.json.decode(payload):  # ours; chat nests it
                return payload
            kinds = {tool.name: tool.kind for tool in request.tools if isinstance(tool, Tool)}
            return {
                "type": "allowed_tools",
                "mode": mode,
                "tools": [{"type": kinds.get(name, "function"), "name": name} for name in names],
            }
        case choice:
            return choice


def write_format(request: Request) -> Wire:
    form = request.response_format
    if not isinstance(form, JsonSchema):
        return {"type": form or "text"}
    return {
        "type": "json_schema",
        "name": form.name,
        "description": form.description,
        "schema": msgspec.Raw(b"{}") if form.schema is None else form.schema,
        "strict": form.strict,
    }
