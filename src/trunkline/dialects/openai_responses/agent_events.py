"""What an agent's own tools do and what it asks: the API has no events for that.

The calls of its tools and their outputs are items. How they go is said beside them, as the member `progress` of events that the
API has: `output_item.done` of a call says that its tool has begun and under which label, `output_item.added` of its output that it
has ended, after how long, and whether it failed. No event of another name: the official Node SDK's stream helper takes none.

A question is an event of its own all the same, `NAME.approval.requested` and `.resolved`: who does not see it cannot answer. So it
is for clients that asked for such events, and for the log of background work; others are asked nothing, and the engine denies at
once. `NAME` is what a profile calls this server.
"""

from collections.abc import Mapping

from trunkline.model import events as ev

Written = Mapping[str, object]


class ToolRuns:
    """How the tools of one answer go. Times are unix seconds."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._ended: dict[str, Written] = {}

    def began(self, event: ev.ToolProgress, *, now: float) -> Written:
        """For the call's item."""
        self._began[event.call_id] = now
        return {"call_id": event.call_id, "tool": event.name, "status": event.status, "label": event.label}

    def end(self, event: ev.ToolProgress, *, now: float) -> None:
        duration_s = round(max(0.0, now - self._began.pop(event.call_id, now)), 3)
        self._ended[event.call_id] = {
            "call_id": event.call_id,
            "tool": event.name,
            "status": event.status,
            "duration_s": duration_s,
            "failed": event.failed,
        }

    def ended(self, call_id: str | None) -> Written | None:
        """For the item of the output, once."""
        return None if call_id is None else self._ended.pop(call_id, None)


def question(
    event: ev.ApprovalRequested | ev.ApprovalResolved, *, own_name: str, response_id: str
) -> tuple[str, Written]:
    """The event's type and its members."""
    asked: dict[str, object] = {"call_id": event.call_id}
    if isinstance(event, ev.ApprovalResolved):
        asked["choice"] = event.choice
        return f"{own_name}.approval.resolved", {"response_id": response_id, "approval": asked}
    asked |= {"tool": event.tool, "text": event.text, "choices": event.choices}
    return f"{own_name}.approval.requested", {"response_id": response_id, "approval": asked}
