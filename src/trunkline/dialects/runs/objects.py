"""A run as an object: what is known of it at this moment, in a profile's words."""

from collections.abc import Mapping, Sequence

import msgspec

from trunkline.dialects.runs.events import Ended, failure_of
from trunkline.dialects.runs.names import run_id_of
from trunkline.dialects.writing import write_json

_ENDED = msgspec.json.Decoder(Ended)
_METADATA = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Question(msgspec.Struct, frozen=True):
    """One that waits for an answer."""

    call_id: str
    tool: str
    text: str
    choices: tuple[str, ...]


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a run. Times are unix seconds; `status` is one of a response, `requires_action` or `stopping`."""

    response_id: str
    status: str
    model: str
    session_id: str | None
    created_at: int
    updated_at: int
    last_event: str | None
    questions: Sequence[Question] = ()


class RunObjects:
    """Writes runs. `statuses`: the profile's words for ours, where they differ."""

    def __init__(self, *, name: str, statuses: Mapping[str, str], accepted: str, json_spacing: bool) -> None:
        self._name = name
        self._statuses = statuses
        self._accepted = accepted
        self._spaced = json_spacing

    def accepted(self, report: RunReport) -> bytes:
        """The answer to its creation. One that is found again is shown as it is now."""
        return write_json({**self._members(report), "status": self._accepted}, spaced=self._spaced)

    def brief(self, report: RunReport) -> bytes:
        """As a list shows it, or a request to stop it: without its output."""
        return write_json(self._members(report), spaced=self._spaced)

    def whole(self, report: RunReport, response: bytes) -> bytes:
        """With what its Response object says."""
        ended = _ENDED.decode(response)
        members = self._members(report)
        done = ended.status not in ("queued", "in_progress")
        members["output"] = ended.output_text if done else None
        members["usage"] = ended.usage
        members["metadata"] = _METADATA.decode(response).get("metadata")
        if ended.status == "failed":
            members |= failure_of(ended)
        if ended.run_status == "incomplete":
            members["incomplete_details"] = ended.incomplete_details
        return write_json(members, spaced=self._spaced)

    def resolved(self, response_id: str, choice: str, answered: Sequence[str]) -> bytes:
        """The answer to an answer: which questions it settled."""
        return write_json(
            {
                "object": f"{self._name}.approval_response",
                "run_id": run_id_of(response_id),
                "choice": choice,
                "resolved": len(answered),
                "call_ids": answered,
            },
            spaced=self._spaced,
        )

    def _members(self, report: RunReport) -> dict[str, object]:
        run_id = run_id_of(report.response_id)
        return {
            "object": self._name,
            "id": run_id,
            "run_id": run_id,
            "response_id": report.response_id,
            "status": self._statuses.get(report.status, report.status),
            "model": report.model,
            "session_id": report.session_id,
            "created_at": report.created_at,
            "updated_at": report.updated_at,
            "last_event": report.last_event,
            **({"approvals": report.questions} if report.questions else {}),
        }
