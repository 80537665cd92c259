"""What an agent does besides answering, in a chat stream: the tools it runs, and what it asks a person.

The API has no chunk for either. They are shown where the client or the server wants it, as named events or as lines of
reasoning for clients that show only that. Where neither is wanted, nothing is asked: the engine denies at once.

A named event is also a chunk with no choices, as the one with usage is, because most clients do not look at an event's name: the
official SDKs hand over what has the `object` of a chunk, others check that `choices` is a list. The member `tool` or `approval`
then says what it is. A profile may have the bare form that its own clients know.
"""

from collections.abc import Mapping
from typing import Literal

from trunkline.dialects.writing import write_json
from trunkline.model import events as ev
from trunkline.model.request import ToolEvents

EMOJI = "\u26a1"
"""Before the name of a tool of which nothing else is known, in the form that wants one."""


class OwnEvents:
    """One stream's. `head` is what its chunks have in common; `name` stands before the events' own names; `emojis` are those of
    tools that have one of their own."""

    def __init__(
        self,
        head: Mapping[str, object],
        *,
        name: str,
        tools: ToolEvents,
        shape: Literal["chunk", "bare"],
        spaced: bool,
        emojis: Mapping[str, str],
    ) -> None:
        self._head = head
        self._name = name
        self._tools = tools
        self._shape = shape
        self._spaced = spaced
        self._emojis = emojis
        self._running: set[str] = set()
        self._asking: dict[str, str] = {}  # the tool of each open question

    def tool_frame(self, event: ev.ToolProgress) -> bytes:
        """The named event of a tool's progress; nothing where none is wanted."""
        if self._tools != "events" or not self._follows(event):
            return b""
        data: dict[str, object] = {"tool": event.name}
        if event.status == "running":
            if self._shape == "bare":
                data["emoji"] = self._emojis.get(event.name, EMOJI)
            data["label"] = event.label or event.name
        data["toolCallId" if self._shape == "bare" else "call_id"] = event.call_id
        data["status"] = event.status
        if event.failed:
            data["failed"] = True
        return self._frame("tool.progress", data, bare=self._shape == "bare")

    def tool_line(self, event: ev.ToolProgress) -> str:
        """The same as a line of reasoning."""
        if self._tools != "reasoning" or not self._follows(event):
            return ""
        if event.status == "running":
            return f"{event.name}: {event.label}\n" if event.label else f"{event.name}\n"
        return f"{event.name} failed\n" if event.failed else ""

    def approval_requested(self, event: ev.ApprovalRequested) -> bytes:
        if self._tools != "events":
            return b""
        asked = {"call_id": event.call_id, "tool": event.tool, "text": event.text, "choices": event.choices}
        return self._frame("approval.requested", {"approval": {**asked, "status": "requested"}})

    def approval_resolved(self, event: ev.ApprovalResolved) -> bytes:
        if self._tools != "events":
            return b""
        answered = {"call_id": event.call_id, "choice": event.choice, "status": "resolved"}
        return self._frame("approval.resolved", {"approval": answered})

    def approval_line(self, event: ev.ApprovalRequested | ev.ApprovalResolved) -> str:
        """The same as a line of reasoning, which also says how to answer: whoever reads it knows nothing of this server."""
        if self._tools != "reasoning":
            return ""
        if isinstance(event, ev.ApprovalResolved):
            return f"{self._asking.pop(event.call_id, 'answered')}: {event.choice}\n"
        self._asking[event.call_id] = event.tool
        what = f"{event.tool} asks: {event.text}" if event.text else f"{event.tool} asks"
        choices = ", ".join(event.choices)
        return f"{what} ({choices}; answer with POST /v1/runs/{self._head['id']}/approval)\n"

    def _follows(self, event: ev.ToolProgress) -> bool:
        """Whether clients may see it: not a tool of the agent's own affairs, and no end of what never began."""
        if event.name.startswith("_"):
            return False
        if event.status == "running":
            self._running.add(event.call_id)
            return True
        began = event.call_id in self._running
        self._running.discard(event.call_id)
        return began

    def _frame(self, kind: str, data: dict[str, object], *, bare: bool = False) -> bytes:
        name = f"{self._name}.{kind}"
        written = write_json(data if bare else {**self._head, "choices": [], **data}, spaced=self._spaced)
        return b"event: %b\ndata: %b\n\n" % (name.encode(), written)
