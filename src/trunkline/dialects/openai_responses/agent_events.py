"""Events that the Responses API has no name for: what an agent's own tools do, and what it asks before it acts.

The calls and their outputs are items already. Beside them `NAME.tool.progress` says when a tool began and ended, under which
label, and whether it failed; `NAME.approval.requested` and `.resolved` show an open question and its answer. `NAME` is what a
profile calls this server. They are counted like every other event and belong to no item, so whoever does not know them loses
nothing. Chat streams say the same in the same members.
"""

from collections.abc import Mapping

from trunkline.model import events as ev

Written = tuple[str, Mapping[str, object]]
"""An event's type and its members."""


class AgentEvents:
    """Writes them for one answer. Times are unix seconds."""

    def __init__(self, own_name: str) -> None:
        self._own_name = own_name
        self._began: dict[str, float] = {}

    def write(
        self, event: ev.ToolProgress | ev.ApprovalRequested | ev.ApprovalResolved, *, response_id: str, now: float
    ) -> Written:
        match event:
            case ev.ToolProgress():
                return f"{self._own_name}.tool.progress", self._progress(event, now=now)
            case ev.ApprovalRequested():
                asked = {
                    "call_id": event.call_id,
                    "tool": event.tool,
                    "text": event.text,
                    "choices": event.choices,
                }
                return f"{self._own_name}.approval.requested", {"response_id": response_id, "approval": asked}
            case ev.ApprovalResolved():
                answered = {"call_id": event.call_id, "choice": event.choice}
                return f"{self._own_name}.approval.resolved", {"response_id": response_id, "approval": answered}

    def _progress(self, event: ev.ToolProgress, *, now: float) -> Mapping[str, object]:
        members: dict[str, object] = {"call_id": event.call_id, "tool": event.name, "status": event.status}
        if event.status == "running":
            self._began[event.call_id] = now
            members["label"] = event.label
        else:
            members["duration_s"] = round(max(0.0, now - self._began.pop(event.call_id, now)), 3)
            members["failed"] = event.failed
        return members
